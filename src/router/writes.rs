//! INSERT, UPDATE and DELETE on a distributed table.

use pg_raw_parse::list::NodeList;
use pg_raw_parse::raw::OverridingKind;
use pg_raw_parse::{ConstValue, Node, nodes};

use super::computed::given;
use super::constant::constant;
use super::context::{Context, refused};
use super::plan::{Key, KeySource, Kind, Merge, SeveralRows};
use super::proof::{Compared, Found, Gives, Outcome, Prover};
use super::scope::Named;
use super::steady::{Steady, unsteady};
use super::tables::Tables;
use crate::topology::DistributedTable;

/// INSERT ... VALUES: a key per row.
pub fn insert(i: &nodes::InsertStmt, cx: Context<'_>, tables: &Tables) -> Kind {
    let Some(rv) = i.relation() else { return Kind::Home };
    let table = match cx.names.look_up(rv) {
        Named::Distributed(t) => t,
        Named::Reference(_) | Named::Leaf(_) | Named::Local | Named::Unclear(_) => {
            return refused(
                "INSERT into a local table from a distributed one is not supported",
                "Read the rows first and insert them then.",
            );
        }
    };
    let plain = "Write INSERT ... VALUES with a constant or parameter for the distribution column.";
    if i.override_ == OverridingKind::OVERRIDING_USER_VALUE {
        // What it gives for an identity column, the key perhaps, is not what is stored.
        return refused(
            "INSERT ... OVERRIDING USER VALUE on a distributed table is not supported",
            "Leave the identity column out of the statement.",
        );
    }
    let Node::SelectStmt(source) = i.select_stmt() else {
        return refused("INSERT ... DEFAULT VALUES leaves the distribution column open", plain);
    };
    if let Some(kind) = of_no_rows(i, source, &table).or_else(|| colocated(i, source, &table, cx)) {
        return kind;
    }
    if i.with_clause().is_some() || tables.references > 1 || tables.local || tables.reference {
        return refused("INSERT with a query on a distributed table is not supported", plain);
    }
    if source.values_lists().is_empty() {
        return refused("INSERT ... SELECT into a distributed table is not supported", plain);
    }
    // A row conflicts with one of its own key only.
    let changed = |t: &&nodes::ResTarget| !is_itself(t, "excluded");
    if let Some(c) = i.on_conflict_clause()
        && let Some(kind) = sets_key(c.target_list().iter().filter(changed), &table)
    {
        return kind;
    }
    let Some(positions) = key_positions(i, &table) else {
        return refused(
            format!("INSERT gives no value for a distribution column of \"{}\"", table.name),
            plain,
        );
    };
    let Some(types) = cx.names.schema.key_types(table.group) else { return Kind::Home };
    let mut keys: Vec<Key> = Vec::with_capacity(source.values_lists().len());
    for row in source.values_lists().iter() {
        let Node::NodeList(row) = row else {
            return refused("INSERT with this form of VALUES is not supported", plain);
        };
        let key: Option<Vec<KeySource>> = positions
            .iter()
            .zip(types)
            .map(|(&at, &ty)| constant(row.get(at)?, ty, cx.text, cx.literals))
            .collect();
        match key {
            Some(key) => keys.push(key.into()),
            None => {
                return refused(
                    "INSERT computes the value of a distribution column",
                    "Give it as a constant or parameter.",
                );
            }
        }
    }
    Kind::Keys { group: table.group, keys: keys.into() }
}

/// `INSERT INTO t SELECT .. WHERE false`, which any node carries out.
fn of_no_rows(
    i: &nodes::InsertStmt,
    source: &nodes::SelectStmt,
    table: &DistributedTable,
) -> Option<Kind> {
    let Node::A_Const(c) = source.where_clause() else { return None };
    let never =
        matches!(c.val(), Some(ConstValue::Boolean(false))) && source.from_clause().is_empty();
    let key: Key = table.key_columns.iter().map(|_| KeySource::Null).collect();
    let kind = Kind::Keys { group: table.group, keys: [key].into() };
    (never && i.with_clause().is_none()).then_some(kind)
}

/// An INSERT of a query's rows that are all where they are to be inserted: each node inserts those of its own.
fn colocated(
    i: &nodes::InsertStmt,
    source: &nodes::SelectStmt,
    table: &DistributedTable,
    cx: Context<'_>,
) -> Option<Kind> {
    let limits = !matches!((source.limit_count(), source.limit_offset()), (Node::None, Node::None));
    let returns = i.returning_clause().is_some();
    // What is returned would come in the query's order.
    let ordered = returns && !source.sort_clause().is_empty();
    let plain = source.values_lists().is_empty() && source.into_clause().is_none();
    if limits || ordered || !plain || i.with_clause().is_some() || cx.facts.locks_rows {
        return None;
    }
    let mut prover = Prover::by_rows(cx);
    let Gives::Rows(Some(outputs)) = prover.select(source).ok()? else { return None };
    let Found { unproven: None, mixed: None, local: None, group, .. } = prover.found else {
        return None;
    };
    let given = given(i, table, outputs.len())?;
    let stays = |(part, key): (usize, &String)| {
        let at = given.iter().position(|c| c == key);
        at.and_then(|at| outputs.get(at)).is_some_and(|o| o.1 == Some(part))
    };
    let all = group == Some(table.group) && table.key_columns.iter().enumerate().all(stays);
    let steady = all && unsteady(Steady::Everywhere, cx).is_none();
    let changed = |t: &&nodes::ResTarget| !is_itself(t, "excluded");
    let keeps = i
        .on_conflict_clause()
        .is_none_or(|c| sets_key(c.target_list().iter().filter(changed), table).is_none());
    if !(all && keeps) {
        return None;
    }
    let mut by_values = Prover::new(cx);
    by_values.select(source).ok()?;
    if let Found { unproven: None, keys, .. } = by_values.found {
        return Some(Kind::Keys { group: table.group, keys: keys.into() });
    }
    let merge = Merge::Changes { returns };
    steady.then_some(Kind::Every { group: table.group, merge })
}

/// An INSERT of several rows by VALUES.
pub fn several_rows(node: Node<'_>, cx: Context<'_>) -> Option<SeveralRows> {
    let Node::InsertStmt(i) = node else { return None };
    let Node::SelectStmt(source) = i.select_stmt() else { return None };
    let rows = source.values_lists();
    let width = |row: Node<'_>| match row {
        Node::NodeList(row) => Some(row.len()),
        _ => None,
    };
    let first = rows.get(0).and_then(width);
    // What PostgreSQL refuses of several rows, but not of one.
    let uneven = first.is_none() || rows.iter().any(|row| width(row) != first);
    let sets =
        || cx.facts.calls.iter().filter_map(|c| c.name).find(|n| cx.functions.returns_set(n));
    (rows.len() > 1 && !uneven).then(|| SeveralRows {
        returns: i.returning_clause().is_some(),
        unsteady: sets().map(|n| format!("function {n}")).or_else(|| unsteady(Steady::ByRow, cx)),
    })
}

/// Where in a row the distribution columns stand.
fn key_positions(i: &nodes::InsertStmt, table: &DistributedTable) -> Option<Vec<usize>> {
    let named: Vec<&str> = i
        .cols()
        .iter()
        .filter_map(|c| match c {
            Node::ResTarget(t) => t.name(),
            _ => None,
        })
        .collect();
    table
        .key_columns
        .iter()
        .map(|key| {
            if named.is_empty() {
                table.columns.iter().position(|c| c.name == *key)
            } else {
                named.iter().position(|n| n == key)
            }
        })
        .collect()
}

/// UPDATE or DELETE of a distributed table.
pub struct Change<'a> {
    pub node: Node<'a>,
    pub target: &'a nodes::RangeVar,
    /// The items of FROM or USING.
    pub others: &'a NodeList,
    pub condition: Node<'a>,
    pub returns: bool,
    pub what: &'static str,
}

impl<'a> Change<'a> {
    /// Where it runs: on the shards of its keys, or on all nodes, each of which changes its own rows.
    ///
    /// # Errors
    /// It uses what cannot be used together.
    pub fn place(&self, cx: Context<'a>, compared: &mut Compared) -> Outcome<Kind> {
        let Self { what, returns, .. } = *self;
        let mut found = self.prove(Prover::new(cx))?;
        *compared = std::mem::take(&mut found.compared);
        if let Some(local) = &found.local {
            return Ok(refused(
                format!(
                    "{what} of a distributed table with the local table \"{local}\" is not supported"
                ),
                "Read the local table first and pass the values as parameters.",
            ));
        }
        let Some(group) = found.group else { return Ok(Kind::Home) };
        if found.unproven.is_none() {
            return Ok(Kind::Keys { group, keys: found.keys.into() });
        }
        let Found { unproven, mixed, .. } = self.prove(Prover::by_rows(cx))?;
        if let Some(table) = unproven {
            return Ok(refused(
                format!(
                    "{what} without an equality on the distribution column of \"{table}\" is not supported"
                ),
                "Add `column = value` for the distribution column, or join on it.",
            ));
        }
        let no = |unsteady: String| {
            refused(
                format!("{what} of rows on several nodes with {unsteady} is not supported"),
                "Compute its value first and pass it as a parameter, or add an equality on the \
                 distribution column.",
            )
        };
        // What is computed once for the statement, and not for each row, must be the same everywhere.
        let plain = self.others.is_empty() && !cx.facts.has_selects;
        let each = if plain { Steady::ByRow } else { Steady::Everywhere };
        let unsteady = mixed.map(|m| m.to_string()).or_else(|| unsteady(each, cx));
        Ok(unsteady.map_or(Kind::Every { group, merge: Merge::Changes { returns } }, no))
    }

    fn prove(&self, mut prover: Prover<'a>) -> Outcome<Found> {
        prover.modify(self.node, self.target, self.others.iter(), self.condition)?;
        Ok(prover.found)
    }
}

/// Why an UPDATE cannot be carried out for what it changes, if so.
pub fn refused_update(
    u: &nodes::UpdateStmt,
    target: &nodes::RangeVar,
    cx: Context<'_>,
) -> Option<Kind> {
    let Named::Distributed(table) = cx.names.look_up(target) else {
        return Some(refused(
            "UPDATE of a local table from a distributed one is not supported",
            "Read the values first and update then.",
        ));
    };
    let name = target.alias().and_then(|a| a.aliasname()).unwrap_or(&table.name);
    sets_key(u.target_list().iter().filter(|t| !is_itself(t, name)), &table)
}

/// `SET a = a`, or `SET a = t.a`, of the target `t`.
fn is_itself(set: &nodes::ResTarget, table: &str) -> bool {
    let Node::ColumnRef(c) = set.val() else { return false };
    let field = |at: usize| c.fields().get(at).and_then(Node::as_str);
    let own = match c.fields().len() {
        1 => field(0) == set.name(),
        2 => field(0) == Some(table) && field(1) == set.name(),
        _ => false,
    };
    own && set.indirection().is_empty()
}

/// A row whose key changes belongs elsewhere.
fn sets_key<'a>(
    mut targets: impl Iterator<Item = &'a nodes::ResTarget>,
    table: &DistributedTable,
) -> Option<Kind> {
    let key = targets.find_map(|t| {
        let name = t.name()?;
        table.key_columns.iter().find(|k| *k == name)
    })?;
    Some(refused(
        format!("the distribution column \"{key}\" cannot be changed"),
        "Delete the row and insert it with its new value.",
    ))
}
