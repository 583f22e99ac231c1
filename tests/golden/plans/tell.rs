//! A plan in the words of the scripts.

use std::borrow::Cow;

use pgshunt::gate::machine::Touch;
use pgshunt::router::place::{Place, Values};
use pgshunt::router::plan::{
    Control, Count, Ddl, Effect, Key, KeySource, Kind, Merge, Ordered, Plan, SortKey, Traces,
};
use pgshunt::router::{Wanted, place_of};
use pgshunt::topology::{GroupId, RoutingTable};
use pgshunt::wire::backend::Report;

/// Where the keys' rows live.
pub fn placed(plan: &Plan, values: &dyn Values, routes: &RoutingTable) -> Option<String> {
    if !matches!(plan.kind, Kind::Keys { .. }) {
        return None;
    }
    Some(match place_of(plan, values, routes) {
        Ok(Place::Node { node, touches }) => {
            let shards: Vec<_> = touches
                .iter()
                .map(|t| match t {
                    Touch::Shard { shard, .. } => shard.to_string(),
                    other => format!("{other:?}"),
                })
                .collect();
            format!("on n{node}: shard {}", shards.join(", "))
        }
        Ok(Place::Every { nodes, merge: Merge::Rows(parts), .. }) => {
            let each = nodes
                .iter()
                .zip(&parts.rows)
                .map(|(node, rows)| format!("rows {rows:?} on n{node}"));
            each.collect::<Vec<_>>().join(", ")
        }
        Ok(other) => format!("{other:?}"),
        Err(report) => refusal(&report).join(" | "),
    })
}

/// Rows in one order, and what each node is sent.
fn ordered(group: GroupId, o: &Ordered) -> Vec<String> {
    let key = |k: &SortKey| match (k.descending, k.nulls_first) {
        (false, false) => "up",
        (false, true) => "up from NULL",
        (true, false) => "down to NULL",
        (true, true) => "down",
    };
    let count = |what: &str, c: &Option<Count>| match c {
        None => String::new(),
        Some(Count::Number(n)) => format!(", {what} {n}"),
        Some(Count::Param(index)) => format!(", {what} ${}", index + 1),
    };
    let keys: Vec<_> = o.keys.iter().map(key).collect();
    let (limit, offset) = (count("limit", &o.limit), count("offset", &o.offset));
    let ties = if o.ties { ", with ties" } else { "" };
    let first =
        format!("every node of group {group}, ordered [{}]{limit}{offset}{ties}", keys.join(", "));
    let sent = o.text.iter().map(|text| format!("each is sent {text}"));
    std::iter::once(first).chain(sent).collect()
}

/// The lines of a plan: the route, then what is not as in a plain read of nothing.
pub fn tell(plan: &Plan) -> Vec<String> {
    let mut lines = match &plan.kind {
        Kind::Keys { group, keys } => {
            let keys: Vec<_> = keys.iter().map(key).collect();
            vec![format!("keys of group {group}: {}", keys.join(", "))]
        }
        Kind::Leaf(shard) => vec![format!("leaf of shard {shard}")],
        Kind::Every { group, merge: Merge::Concat } => {
            vec![format!("every node of group {group}, rows concatenated")]
        }
        Kind::Every { group, merge: Merge::Ordered(o) } => ordered(*group, o),
        Kind::Every { group, merge: Merge::Combine(c) } => {
            let declare = c.cursor.as_ref().map_or("", |cursor| &cursor.head);
            vec![
                format!("every node of group {group}, combined on one"),
                format!("each is sent {}", c.partial),
                format!("and one {declare}{}", c.last),
            ]
        }
        Kind::Every { group, merge: Merge::Collect(c) } => {
            let others = c.others.iter().map(|g| format!(" and {g}")).collect::<String>();
            let one = if c.at_home { "at home" } else { "on one" };
            let mut lines = vec![
                format!("every node of group {group}{others}, collected {one}"),
                format!("each is sent {}", c.partial),
                format!("and one {}", c.statement()),
            ];
            lines.extend(c.takes_parameters.then(|| "each takes parameters".to_owned()));
            lines
        }
        Kind::Every { group, merge: Merge::Fold(folds) } => {
            vec![format!("every node of group {group}, folded: {folds:?}")]
        }
        Kind::Every { merge: Merge::Rows(parts), .. } => vec![format!("rows {:?}", parts.rows)],
        Kind::Every { group, merge: Merge::Changes { returns } } => {
            let rows = if *returns { ", rows concatenated" } else { "" };
            vec![format!("every node of group {group}, changes counted{rows}")]
        }
        Kind::Every { group, merge: Merge::Alike(alike) } => {
            let rows = if alike.returns { ", rows of the first" } else { "" };
            vec![format!("every node of group {group} alike{rows}, {} held", alike.table.quoted)]
        }
        Kind::Every { group, merge: Merge::CopyIn(copy) } => {
            let text = copy.text.as_deref();
            let text = text.map(|t| format!(", as {t}")).unwrap_or_default();
            vec![format!("every node of group {group}, rows dealt by {:?}{text}", copy.form.keys)]
        }
        Kind::Every { group, merge: Merge::CopyOut(out) } => {
            let text = out.text.as_deref();
            let text = text.map(|t| format!(", as {t}")).unwrap_or_default();
            vec![format!("every node of group {group}, data joined{text}")]
        }
        Kind::Every { group, merge: Merge::CopyRows(copy) } => {
            let rows = Kind::Every { group: *group, merge: copy.rows.clone() };
            let mut lines = tell(&Plan { kind: rows, effect: Effect::Reads, ..Plan::nothing() });
            lines[0] = lines[0].trim_end_matches("; reads").to_owned();
            let head = copy.head.replace('\n', " ");
            lines.push(format!("written as {:?}, behind {head}", copy.look));
            lines
        }
        Kind::Home => vec!["home".to_owned()],
        Kind::Any => vec!["any node".to_owned()],
        Kind::Apart => vec!["one after the other".to_owned()],
        Kind::Ddl(Ddl::Maintain(maintain)) => {
            let alone = if maintain.alone.is_some() { ", not in a block" } else { "" };
            vec![format!("each node for itself{alone}")]
        }
        Kind::Ddl(Ddl::Alone) => vec!["DDL on all nodes".to_owned()],
        Kind::Ddl(Ddl::Each(each)) => vec![format!("DDL by each node: {}", each.texts.join("; "))],
        Kind::Ddl(Ddl::Either(each)) => {
            vec![format!("DDL on all nodes; in a transaction: {}", each.texts.join("; "))]
        }
        Kind::Refused(report) => refusal(report),
    };
    if !matches!(plan.kind, Kind::Refused(_)) {
        lines[0] += match plan.effect {
            Effect::Reads => "; reads",
            Effect::Locks => "; locks",
            Effect::Writes => "; writes",
            Effect::Unknown => "; may do anything",
        };
    }
    lines.extend(plan.computed.as_deref().map(|wanted| match wanted {
        Wanted::Keys(_) => "until its distribution columns are computed".to_owned(),
        Wanted::Rows(_) => "until the rows of its query are computed".to_owned(),
    }));
    lines.extend(plan.times.as_ref().map(|told| match &told.defaults {
        Some(_) => format!("tells the time {} times, and by defaults", told.calls),
        None => format!("tells the time {} times", told.calls),
    }));
    let controls: Vec<_> = plan.statements.iter().map(|s| control(&s.control)).collect();
    if controls.iter().any(|c| c != "nothing") {
        lines.push(format!("session: {}", controls.join(", ")));
    }
    let mut facts = Vec::new();
    if !plan.tables.is_empty() {
        facts.push(format!("uses {}", plan.tables.join(", ")));
    }
    if !plan.signals.is_empty() {
        let pids: Vec<_> = plan.signals.iter().map(source).collect();
        facts.push(format!("signals {}", pids.join(", ")));
    }
    for (is_so, what) in [
        (plan.draws, "may draw from sequences"),
        (plan.asks, "asks what was drawn"),
        (plan.copies_in, "takes COPY data"),
    ] {
        if is_so {
            facts.push(what.to_owned());
        }
    }
    if !facts.is_empty() {
        lines.push(facts.join("; "));
    }
    lines
}

fn key(key: &Key) -> String {
    let sources: Vec<_> = key.iter().map(source).collect();
    match sources.as_slice() {
        [one] => one.clone(),
        several => format!("({})", several.join(", ")),
    }
}

fn source(source: &KeySource) -> String {
    let minus = |negative: &bool| if *negative { "-" } else { "" };
    match source {
        KeySource::Param { index, alone: true } => format!("${}", index + 1),
        KeySource::Param { index, alone: false } => {
            format!("${} (its type is not sure)", index + 1)
        }
        KeySource::Literal { index, negative } => format!("{}literal {index}", minus(negative)),
        KeySource::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        KeySource::Integer { negative, digits } => {
            format!("{}{}", minus(negative), String::from_utf8_lossy(digits))
        }
        KeySource::Null => "NULL".to_owned(),
    }
}

fn refusal(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("refused {}: {}", report.sqlstate, report.message)];
    lines.extend(report.detail.iter().map(|d| format!("detail: {d}")));
    lines.extend(report.hint.iter().map(|h| format!("hint: {h}")));
    lines
}

fn control(control: &Control) -> String {
    match control {
        Control::None => "nothing".to_owned(),
        Control::Leaves(traces) => format!("leaves {}", left(traces)),
        other => format!("{other:?}"),
    }
}

/// The traces that there may be.
fn left(traces: &Traces) -> String {
    let mut found = Vec::new();
    let list = |what: &str, names: &[String]| format!("{what} {}", names.join(" "));
    found.extend(traces.pin.map(Cow::Borrowed));
    if !traces.functions.is_empty() {
        found.push(list("what these functions do:", &traces.functions).into());
    }
    if !traces.parameters.is_empty() {
        found.push(list("parameters:", &traces.parameters).into());
    }
    found.extend(traces.declares.iter().map(|name| format!("the cursor {name}").into()));
    found.extend(traces.executes.iter().map(|name| format!("what {name} does").into()));
    for (is_so, what) in [
        (traces.code, "what code does"),
        (traces.notifies, "notifications"),
        (traces.channels, "(asks for channels)"),
        (traces.prepared, "(asks for prepared statements)"),
    ] {
        if is_so {
            found.push(what.into());
        }
    }
    found.join(", ")
}
