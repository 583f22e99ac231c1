//! COPY of tables and queries: where it runs, and how its data is written.
//!
//! COPY FROM STDIN into a distributed table goes to all nodes that hold it, and its rows to the node that
//! each belongs to ([`crate::copy`]), so the options must be understood that say how rows are told apart.
//! COPY TO STDOUT goes to all of them as a query, as PostgreSQL itself wants it of a partitioned table.
//! What options are wrong PostgreSQL says itself, as every node is sent them.

use std::sync::Arc;

use pg_raw_parse::{Node, nodes};
use postgres_protocol::escape::{escape_identifier, escape_literal};

use super::context::{Context, refused};
use super::facts::Facts;
use super::node_bound::is_shared_type;
use super::plan::{CopyIn, CopyOut, CopyRows, Kind, Look, Merge};
use super::scope::Named;
use super::{collect, cursor, hidden, query, reference};
use crate::copy::{Form, KeyColumn, Layout};
use crate::sql::name::within_parentheses;
use crate::topology::{DistributedTable, GroupId};
use crate::wire::backend::Report;

/// COPY FROM STDIN
pub fn copies_in(node: Node<'_>) -> bool {
    matches!(node, Node::CopyStmt(c) if c.is_from && !c.is_program && c.filename().is_none())
}

/// Where COPY runs.
pub fn place(c: &nodes::CopyStmt, cx: Context<'_>) -> Kind {
    let elsewhere = c.is_program || c.filename().is_some();
    let Some(rv) = c.relation() else {
        let kind = query::place(c.query(), cx);
        return match kind {
            // Files and programs are the home node's.
            Kind::Any if elsewhere => Kind::Home,
            Kind::Every { group, merge: Merge::Concat } if !elsewhere => match out(c, None) {
                Ok(out) => Kind::Every { group, merge: Merge::CopyOut(Arc::new(out)) },
                Err(kind) => *kind,
            },
            Kind::Every { group, merge } if !elsewhere => match rows(c, group, merge, cx) {
                Ok((group, copy)) => Kind::Every { group, merge: Merge::CopyRows(Arc::new(copy)) },
                Err(kind) => *kind,
            },
            Kind::Every { .. } => refused(
                "COPY of a query of several nodes with a file or a program is not supported",
                "It would be a node's. Use STDOUT (\\copy in psql).",
            ),
            kind => kind,
        };
    };
    match cx.names.look_up(rv) {
        Named::Local => hidden::relation(rv.relname().unwrap_or_default(), c.is_from, cx.names)
            .unwrap_or(Kind::Home),
        Named::Leaf(shard) => Kind::Leaf(shard),
        Named::Distributed(t) if elsewhere => refused(
            format!(
                "COPY of the distributed table \"{}\" with a file or a program is not supported",
                t.name
            ),
            "It would be a node's. Use STDIN or STDOUT (\\copy in psql).",
        ),
        Named::Distributed(t) => {
            let merge = match c.is_from {
                true => into_table(c, rv, &t, cx).map(|copy| Merge::CopyIn(Arc::new(copy))),
                false => of_table(c, rv, &t, cx).map(|out| Merge::CopyOut(Arc::new(out))),
            };
            merge.map_or_else(|kind| *kind, |merge| Kind::Every { group: t.group, merge })
        }
        Named::Reference(t) => of_reference(c, rv, &t, elsewhere, cx),
        Named::Unclear(name) => refused(
            format!("cannot tell which table \"{name}\" means"),
            "Write the schema before the table's name.",
        ),
    }
}

/// COPY of a reference table: all nodes are given the client's rows, and one gives them.
fn of_reference(
    c: &nodes::CopyStmt,
    rv: &nodes::RangeVar,
    table: &DistributedTable,
    elsewhere: bool,
    cx: Context<'_>,
) -> Kind {
    match (c.is_from, elsewhere) {
        (false, true) => return Kind::Home,
        (false, false) => return Kind::Any,
        (true, true) => {
            return refused(
                format!(
                    "COPY into the reference table \"{}\" from a file or a program is not supported",
                    table.name
                ),
                "It would be a node's. Use STDIN (\\copy in psql).",
            );
        }
        (true, false) => {}
    }
    let given = columns(c, table, cx);
    if let Some(kind) = reference::refused_change(table, |column| given.contains(&column), cx) {
        return kind;
    }
    match into_table(c, rv, table, cx) {
        Ok(copy) => {
            let copy = CopyIn { reference: Some(reference::of(table)), ..copy };
            Kind::Every { group: table.group, merge: Merge::CopyIn(Arc::new(copy)) }
        }
        Err(kind) => *kind,
    }
}

type Told<T> = Result<T, Box<Kind>>;

fn no<T>(what: impl Into<String>, hint: &str) -> Told<T> {
    Err(Box::new(refused(what, hint)))
}

/// The columns that the data has, in its order.
fn columns<'a>(
    c: &'a nodes::CopyStmt,
    table: &'a DistributedTable,
    cx: Context<'a>,
) -> Vec<&'a str> {
    let named: Vec<&str> = c.attlist().iter().filter_map(|n| n.as_str()).collect();
    if !named.is_empty() {
        return named;
    }
    let all = table.columns.iter().map(|column| column.name.as_str());
    all.filter(|name| !is_generated(table, name, cx)).collect()
}

fn is_generated(table: &DistributedTable, column: &str, cx: Context<'_>) -> bool {
    cx.names.schema.is_generated(&table.schema, &table.name, column)
}

/// COPY FROM STDIN into the table. FREEZE, which PostgreSQL refuses for a partitioned table, is what it may
/// do and need not: the nodes are not told of it.
fn into_table(
    c: &nodes::CopyStmt,
    rv: &nodes::RangeVar,
    table: &DistributedTable,
    cx: Context<'_>,
) -> Told<CopyIn> {
    let form = form(c, table, cx)?;
    let freezes = |o: &&nodes::DefElem| o.defname() == Some("freeze");
    let plain = matches!(c.where_clause(), Node::None);
    if !plain || !c.options().iter().any(|o| freezes(&o)) {
        return Ok(CopyIn { text: None, form, reference: None });
    }
    let list: Vec<String> =
        c.attlist().iter().filter_map(|n| n.as_str()).map(escape_identifier).collect();
    let list = if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) };
    let options = c.options().iter().filter(|o| !freezes(o));
    let text = format!("COPY {}{list} FROM STDIN{}", name_of(rv, table), all_written(options)?);
    Ok(CopyIn { text: Some(text), form, reference: None })
}

/// The table's name as the statement has it.
fn name_of(rv: &nodes::RangeVar, table: &DistributedTable) -> String {
    let name = escape_identifier(&table.name);
    match rv.schemaname() {
        Some(schema) => format!("{}.{name}", escape_identifier(schema)),
        None => name,
    }
}

/// How the data of COPY FROM STDIN is written, and where its keys are.
fn form(c: &nodes::CopyStmt, table: &DistributedTable, cx: Context<'_>) -> Told<Form> {
    condition(c, cx)?;
    if cx.names.schema.has_statement_triggers(&table.schema, &table.name) {
        return no(
            format!(
                "COPY into \"{}\", which has a trigger FOR EACH STATEMENT, is not supported",
                table.name
            ),
            "It would fire on each node. Make it one FOR EACH ROW.",
        );
    }
    let columns = columns(c, table, cx);
    let types = cx.names.schema.key_types(table.group).unwrap_or_default();
    let mut keys = Vec::with_capacity(types.len());
    for (name, &ty) in table.key_columns.iter().zip(types) {
        let Some(at) = columns.iter().position(|column| column == name) else {
            return no(
                format!("COPY gives no value for the distribution column \"{name}\""),
                "Put it into the list of columns, and into the data.",
            );
        };
        keys.push(KeyColumn { at, ty, force_null: false, force_not_null: false });
    }
    let mut form = Form::text(keys.into());
    let mut given = Given::default();
    for option in c.options().iter() {
        given.take(option)?;
    }
    given.put(&mut form)?;
    for key in &mut form.keys {
        let name = columns.get(key.at).copied().unwrap_or_default();
        key.force_null = given.force_null.names(name);
        key.force_not_null = given.force_not_null.names(name);
    }
    Ok(form)
}

/// WHERE is evaluated by each node for its own rows.
fn condition(c: &nodes::CopyStmt, cx: Context<'_>) -> Told<()> {
    if matches!(c.where_clause(), Node::None) {
        return Ok(());
    }
    let facts = Facts::of(c.where_clause(), cx.names, cx.functions);
    let steady = |name: Option<&str>| name.is_some_and(|n| cx.functions.is_steady(n));
    let unsteady = facts.own_answer.is_some()
        || !facts.times.places.is_empty()
        || facts.calls.iter().any(|call| !steady(call.builtin()))
        || !facts.relations.is_empty()
        || !facts.types.iter().all(|t| is_shared_type(t));
    match unsteady {
        false => Ok(()),
        true => no(
            "COPY into a distributed table with this WHERE is not supported",
            "Use only columns, constants, operators and immutable or stable functions of PostgreSQL's own in it.",
        ),
    }
}

/// What the options say, as far as it matters here.
#[derive(Default)]
struct Given {
    format: Option<String>,
    delimiter: Option<String>,
    quote: Option<String>,
    escape: Option<String>,
    null: Option<String>,
    default: Option<String>,
    header: bool,
    force_null: Columns,
    force_not_null: Columns,
    force_quote: Columns,
}

#[derive(Default)]
enum Columns {
    #[default]
    None,
    All,
    Named(Vec<String>),
}

impl Columns {
    fn of(node: Node<'_>) -> Self {
        match node {
            Node::A_Star(_) => Self::All,
            Node::NodeList(list) => {
                Self::Named(list.iter().filter_map(|n| n.as_str()).map(str::to_owned).collect())
            }
            _ => Self::None,
        }
    }

    fn names(&self, column: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|n| n == column),
        }
    }
}

impl Given {
    fn take(&mut self, option: &nodes::DefElem) -> Told<()> {
        let name = option.defname().unwrap_or_default();
        let word = option.arg().as_str().map(str::to_owned);
        match name {
            "format" => self.format = word,
            "delimiter" => self.delimiter = word,
            "quote" => self.quote = word,
            "escape" => self.escape = word,
            "null" => self.null = word,
            "default" => self.default = word,
            "header" => self.header = is_header(option)?,
            "force_quote" => self.force_quote = Columns::of(option.arg()),
            "force_null" => self.force_null = Columns::of(option.arg()),
            "force_not_null" => self.force_not_null = Columns::of(option.arg()),
            "encoding" if !is_utf8(word.as_deref().unwrap_or_default()) => {
                return no(
                    "COPY of a distributed table in another encoding than UTF8 is not supported",
                    "Convert the data, or leave ENCODING out.",
                );
            }
            "on_error" if word.as_deref() != Some("stop") => {
                return no(
                    "COPY into a distributed table with ON_ERROR is not supported",
                    "Leave it out: the first row with an error ends the COPY.",
                );
            }
            // PostgreSQL refuses FREEZE of a partitioned table, and the others beside what they are for.
            "encoding" | "on_error" | "freeze" | "log_verbosity" | "reject_limit" => {}
            other => {
                return no(
                    format!(
                        "COPY of a distributed table with the option \"{other}\" is not supported"
                    ),
                    "Leave it out.",
                );
            }
        }
        Ok(())
    }

    /// How the data is written.
    fn look(self) -> Told<Look> {
        let mut form = Form::text(Box::default());
        self.put(&mut form)?;
        let Form { layout, delimiter, null, .. } = form;
        Ok(match layout {
            Layout::Text => Look::Text { delimiter, null },
            Layout::Binary => Look::Binary,
            Layout::Csv { quote, escape } => {
                let quoted = match self.force_quote {
                    Columns::None => None,
                    Columns::All => Some(Vec::new()),
                    Columns::Named(names) => Some(names),
                };
                Look::Csv { delimiter, null, quote, escape, quoted }
            }
        })
    }

    fn put(&self, form: &mut Form) -> Told<()> {
        let byte = |text: &Option<String>, or: u8| match text.as_deref().map(str::as_bytes) {
            // What is no single byte PostgreSQL refuses.
            Some(&[byte]) => byte,
            _ => or,
        };
        match self.format.as_deref() {
            None | Some("text") => {}
            Some("csv") => {
                let quote = byte(&self.quote, b'"');
                form.layout = Layout::Csv { quote, escape: byte(&self.escape, quote) };
                form.delimiter = b',';
                form.null.clear();
            }
            Some("binary") => form.layout = Layout::Binary,
            Some(_) => {
                return no("COPY in this format is not supported", "Use text, csv or binary.");
            }
        }
        form.delimiter = byte(&self.delimiter, form.delimiter);
        if let Layout::Csv { quote, escape } = form.layout
            && [quote, escape].iter().any(|b| matches!(b, b'\r' | b'\n'))
        {
            return no("COPY with a newline for a quote is not supported", "Use another QUOTE.");
        }
        if let Some(null) = &self.null {
            form.null = null.clone().into_bytes();
        }
        form.default = self.default.clone().map(String::into_bytes);
        form.header = self.header;
        Ok(())
    }
}

/// Whether HEADER says that the first line is one.
fn is_header(option: &nodes::DefElem) -> Told<bool> {
    let is = |word: &str, all: &[&str]| all.iter().any(|a| word.eq_ignore_ascii_case(a));
    match option.arg() {
        Node::None => Ok(true),
        Node::Boolean(b) => Ok(b.boolval),
        Node::Integer(n) if matches!(n.ival, 0 | 1) => Ok(n.ival == 1),
        node => match node.as_str() {
            Some(word) if is(word, &["true", "on", "match"]) => Ok(true),
            Some(word) if is(word, &["false", "off"]) => Ok(false),
            _ => no("COPY with this HEADER is not supported", "Use true, false or MATCH."),
        },
    }
}

fn is_utf8(name: &str) -> bool {
    let plain = |c: &char| c.is_ascii_alphanumeric();
    let name: String = name.chars().filter(plain).map(|c| c.to_ascii_lowercase()).collect();
    matches!(name.as_str(), "utf8" | "unicode")
}

/// What merging the nodes' data must know of the options. `text`: what the nodes are sent.
fn out(c: &nodes::CopyStmt, text: Option<String>) -> Told<CopyOut> {
    let mut given = Given::default();
    for option in c.options().iter() {
        given.take(option)?;
    }
    let binary = given.format.as_deref() == Some("binary");
    Ok(CopyOut { text, binary, header: given.header })
}

/// COPY TO STDOUT of a query whose answer one node makes.
fn rows(
    c: &nodes::CopyStmt,
    group: GroupId,
    merge: Merge,
    cx: Context<'_>,
) -> Told<(GroupId, CopyRows)> {
    const HINT: &str = "Add an equality on the distribution column, or use a plain SELECT.";
    let of = |what: &str| format!("COPY of {what} of several nodes is not supported");
    let Node::SelectStmt(s) = c.query() else { return no(of("such a statement"), HINT) };
    let mut given = Given::default();
    for option in c.options().iter() {
        given.take(option)?;
    }
    let within = within_parentheses(cx.own_text());
    let text = within.clone().and_then(|w| std::str::from_utf8(cx.own_text().get(w)?).ok());
    let (Some(within), Some(query)) = (within, text) else {
        return no(of("a statement that is written so"), HINT);
    };
    let span = (cx.span.0 + within.start, cx.span.0 + within.end);
    let cx = Context { span, ..cx };
    let gathered = match merge {
        // Its text is to be the query's, and not that of COPY.
        Merge::Collect(_) => {
            collect::collected(cx).map(|(group, c)| (group, Merge::Collect(c.into())))
        }
        merge => cursor::gathered(s, group, merge, cx),
    };
    let (group, rows) = gathered.or_else(|what| no(of(&what), HINT))?;
    let options = all_written(c.options().iter())?;
    // A comment may end with the line.
    let head = format!("COPY (SELECT * FROM ({query}\n) AS q LIMIT 0) TO STDOUT{options}");
    let look = given.look()?;
    Ok((group, CopyRows { rows, query: query.to_owned(), head, look }))
}

/// COPY TO STDOUT of the table: each node is sent the query that gives its rows.
fn of_table(
    c: &nodes::CopyStmt,
    rv: &nodes::RangeVar,
    table: &DistributedTable,
    cx: Context<'_>,
) -> Told<CopyOut> {
    let columns = columns(c, table, cx);
    if let Some(name) = columns.iter().find(|name| is_generated(table, name, cx)) {
        let report = Report::error("42P10", format!("column \"{name}\" is a generated column"));
        let report = report.detail("Generated columns cannot be used in COPY.");
        return Err(Box::new(Kind::Refused(Box::new(report))));
    }
    let list: Vec<String> = columns.iter().map(|name| escape_identifier(name)).collect();
    let (list, name) = (list.join(", "), name_of(rv, table));
    let options = all_written(c.options().iter())?;
    out(c, Some(format!("COPY (SELECT {list} FROM {name}) TO STDOUT{options}")))
}

/// The options behind a COPY, as the grammar reads them back.
fn all_written<'a>(options: impl Iterator<Item = &'a nodes::DefElem>) -> Told<String> {
    let options: Vec<String> = options.map(written).collect::<Told<_>>()?;
    Ok(match options.is_empty() {
        true => String::new(),
        false => format!(" WITH ({})", options.join(", ")),
    })
}

/// An option as the grammar reads it back.
fn written(option: &nodes::DefElem) -> Told<String> {
    let name = escape_identifier(option.defname().unwrap_or_default());
    let value = match option.arg() {
        Node::None => String::new(),
        Node::A_Star(_) => "*".to_owned(),
        Node::Boolean(b) => b.boolval.to_string(),
        Node::Integer(n) => n.ival.to_string(),
        Node::NodeList(list) => {
            let names: Vec<String> =
                list.iter().filter_map(|n| n.as_str()).map(escape_identifier).collect();
            format!("({})", names.join(", "))
        }
        node => match node.as_str() {
            Some(text) => escape_literal(text),
            None => return no("COPY with this option is not supported", "Leave it out."),
        },
    };
    Ok(format!("{name} {value}"))
}
