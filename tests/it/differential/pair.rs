//! The same statements through pgshunt over three nodes and on one plain PostgreSQL.
//!
//! For each statement pgshunt answers what PostgreSQL answers, or refuses with 0A000 and a hint.
//! A refused statement is not run on the plain side, so both stay in the same state.

use super::wire::{Answer, Param, Reply, Wire};

/// How a statement's answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Rows as a multiset.
    Rows,
    /// Rows in order: the statement has a total one.
    Ordered,
    /// Columns, number of rows and tag: the values are not the statement's alone.
    Shape,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub sql: String,
    pub compare: Compare,
    /// `None`: as a simple query.
    pub params: Option<Vec<Param>>,
    pub binary_result: bool,
    /// The name of a prepared statement, and whether it is to be prepared first.
    pub statement: Option<(String, bool)>,
    pub copy: Option<String>,
    /// It changes several rows: of those that are wrong another one may be told of.
    pub several: bool,
}

impl Step {
    pub fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            compare: Compare::Rows,
            params: None,
            binary_result: false,
            statement: None,
            copy: None,
            several: false,
        }
    }

    fn run(&self, on: &mut Wire, again: bool) -> Reply {
        match &self.params {
            Some(params) => {
                let (name, parse) =
                    self.statement.as_ref().map_or(("", true), |(n, p)| (n, *p || again));
                on.extended(&self.sql, name, parse, params, self.binary_result)
            }
            None => on.simple(&self.sql, self.copy.as_deref()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Equal,
    /// Both failed, with the same SQLSTATE.
    EqualError(String),
    Refused(String),
    Differs(String),
}

pub struct Pair {
    shunt_port: u16,
    plain_port: u16,
    pub shunt: Wire,
    pub plain: Wire,
    /// Direct connections to the nodes.
    pub nodes: Vec<Wire>,
    /// Prepared statements that were refused, so that they are not there on the plain side.
    unprepared: Vec<String>,
    /// The transaction has failed on the plain side: nothing is refused in it but in PostgreSQL's words.
    aborted: bool,
}

/// What is compared at the end of a batch: a table and its columns.
pub struct Table {
    pub name: &'static str,
    pub columns: &'static str,
    pub distributed: bool,
}

impl Pair {
    /// `servers`: the ports of the nodes in use, then the plain server's.
    pub fn new(shunt_port: u16, servers: &[u16]) -> Self {
        let (&plain_port, nodes) = servers.split_last().unwrap();
        Self {
            shunt_port,
            plain_port,
            shunt: Wire::connect(shunt_port),
            plain: Wire::connect(plain_port),
            nodes: nodes.iter().map(|&port| Wire::connect(port)).collect(),
            unprepared: Vec::new(),
            aborted: false,
        }
    }

    /// New sessions on both sides.
    pub fn reconnect(&mut self) {
        self.shunt = Wire::connect(self.shunt_port);
        self.plain = Wire::connect(self.plain_port);
        self.unprepared.clear();
        self.aborted = false;
    }

    /// What must work on both sides.
    pub fn both(&mut self, sql: &str) {
        self.shunt.does(sql);
        self.plain.does(sql);
    }

    pub fn step(&mut self, step: &Step) -> Outcome {
        let name = step.statement.as_ref().map(|(name, _)| name.clone());
        let again = name.is_some() && {
            let before = self.unprepared.len();
            self.unprepared.retain(|n| Some(n) != name.as_ref());
            self.unprepared.len() < before
        };
        let ours = step.run(&mut self.shunt, again);
        if let Some(f) = ours.failure.as_ref().filter(|f| f.sqlstate == "0A000" && f.hint.is_some())
        {
            let message = f.message.clone();
            let aborted = std::mem::take(&mut self.aborted);
            if ours.status != b'I' {
                // A refused statement ends our transaction, and has not happened there.
                self.both("ROLLBACK");
            }
            if let Some(name) = name {
                // It may have been refused at Bind, and be prepared on one side or both.
                let sql = format!("DEALLOCATE {name}");
                self.shunt.simple(&sql, None);
                self.plain.simple(&sql, None);
                self.unprepared.push(name);
            }
            if aborted {
                return Outcome::Differs(format!("{message}, not 25P02"));
            }
            return Outcome::Refused(message);
        }
        if ours.failure.as_ref().is_some_and(|f| f.sqlstate == "0A000") && ours.status == b'I' {
            // PostgreSQL's own, or ours without a hint? Without leaving a trace there.
            self.plain.does("BEGIN");
            let theirs = step.run(&mut self.plain, again);
            self.plain.simple("ROLLBACK", None);
            return match theirs.failure {
                Some(f) if f.sqlstate == "0A000" => Outcome::EqualError(f.sqlstate),
                _ => Outcome::Differs(format!("refused without a hint: {}", show(&ours))),
            };
        }
        let theirs = step.run(&mut self.plain, again);
        self.aborted = theirs.status == b'E';
        let of_rows = |r: &Reply| {
            let code = r.failure.as_ref().map(|f| f.sqlstate.as_str()).unwrap_or_default();
            ["21", "22", "23"].iter().any(|class| code.starts_with(class))
        };
        if step.several && of_rows(&ours) && of_rows(&theirs) && ours.status == theirs.status {
            return Outcome::EqualError("of a row".to_owned());
        }
        match difference(&ours, &theirs, step.compare) {
            Some(what) => {
                if ours.status != theirs.status {
                    self.shunt.simple("ROLLBACK", None);
                    self.plain.simple("ROLLBACK", None);
                }
                Outcome::Differs(what)
            }
            None => match ours.failure {
                Some(f) => Outcome::EqualError(f.sqlstate),
                None => Outcome::Equal,
            },
        }
    }

    /// The first table whose rows are not the same on both sides, if any.
    pub fn state(&mut self, tables: &[Table]) -> Option<String> {
        tables.iter().find_map(|t| {
            let sql = format!("SELECT {} FROM {}", t.columns, t.name);
            let nodes = if t.distributed { self.nodes.len() } else { 1 };
            let mut ours: Vec<_> =
                self.nodes[..nodes].iter_mut().flat_map(|n| rows(n.simple(&sql, None))).collect();
            let mut theirs = rows(self.plain.simple(&sql, None));
            ours.sort_unstable();
            theirs.sort_unstable();
            (ours != theirs).then(|| {
                let only = |a: &[String], b: &[String]| {
                    a.iter().filter(|r| !b.contains(r)).cloned().collect::<Vec<_>>()
                };
                format!(
                    "table {}: {} rows in pgshunt, {} in PostgreSQL; only here {:?}; only there {:?}",
                    t.name,
                    ours.len(),
                    theirs.len(),
                    only(&ours, &theirs),
                    only(&theirs, &ours)
                )
            })
        })
    }
}

fn rows(reply: Reply) -> Vec<String> {
    let failure = reply.failure.map(|f| f.message);
    reply.answers.into_iter().flat_map(|a| a.rows).map(|r| show_row(&r)).chain(failure).collect()
}

pub fn difference(ours: &Reply, theirs: &Reply, compare: Compare) -> Option<String> {
    let code = |r: &Reply| r.failure.as_ref().map(|f| f.sqlstate.clone());
    // Which of two reasons an aborted transaction gives is nobody's concern.
    let aborted = ours.status == b'E' && theirs.status == b'E';
    if aborted && code(ours).as_deref() == Some("25P02") && code(theirs).is_some() {
        return None;
    }
    if code(ours) != code(theirs) {
        return Some(format!("\n  pgshunt:    {}\n  PostgreSQL: {}", show(ours), show(theirs)));
    }
    if ours.status != theirs.status {
        return Some(format!("status {} not {}", ours.status as char, theirs.status as char));
    }
    if ours.failure.is_some() {
        return None;
    }
    let same = ours.param_types == theirs.param_types
        && ours.answers.len() == theirs.answers.len()
        && ours.answers.iter().zip(&theirs.answers).all(|(a, b)| same_answer(a, b, compare));
    (!same).then(|| format!("\n  pgshunt:    {}\n  PostgreSQL: {}", show(ours), show(theirs)))
}

/// The first OID of types that are made, not built in: another one on each server.
const FIRST_OWN: u32 = 16384;

fn same_answer(a: &Answer, b: &Answer, compare: Compare) -> bool {
    let own = |oid: u32| oid >= FIRST_OWN;
    let columns = a.columns.len() == b.columns.len()
        && a.columns.iter().zip(&b.columns).all(|(x, y)| {
            x == y
                || (own(x.type_oid) && own(y.type_oid))
                    && (&x.name, x.modifier, x.format) == (&y.name, y.modifier, y.format)
        });
    if !columns || a.tag != b.tag {
        return false;
    }
    match compare {
        Compare::Ordered => a.rows == b.rows && a.copied == b.copied,
        Compare::Shape => a.rows.len() == b.rows.len(),
        Compare::Rows => {
            let sorted = |rows: &[Vec<Option<Vec<u8>>>]| {
                let mut rows = rows.to_vec();
                rows.sort_unstable();
                rows
            };
            let lines = |copied: &[u8]| {
                let mut lines: Vec<Vec<u8>> =
                    copied.split(|&b| b == b'\n').map(Vec::from).collect();
                lines.sort_unstable();
                lines
            };
            sorted(&a.rows) == sorted(&b.rows) && lines(&a.copied) == lines(&b.copied)
        }
    }
}

fn show(reply: &Reply) -> String {
    if let Some(f) = &reply.failure {
        return format!(
            "{} {} ({})",
            f.sqlstate,
            f.message,
            f.hint.as_deref().unwrap_or("no hint")
        );
    }
    let answer = |a: &Answer| {
        let columns: Vec<String> =
            a.columns.iter().map(|c| format!("{}:{}", c.name, c.type_oid)).collect();
        let mut rows: Vec<String> = a.rows.iter().map(|r| show_row(r)).collect();
        rows.sort_unstable();
        let copied = String::from_utf8_lossy(&a.copied);
        format!("{} [{}] {} {copied}", a.tag, columns.join(","), rows.join(" "))
    };
    reply.answers.iter().map(answer).collect::<Vec<_>>().join(" ; ")
}

pub fn show_row(row: &[Option<Vec<u8>>]) -> String {
    let value = |v: &Option<Vec<u8>>| match v {
        None => "NULL".to_owned(),
        Some(v) => match std::str::from_utf8(v) {
            Ok(text) if !text.contains('\0') => text.to_owned(),
            _ => format!("{v:02x?}"),
        },
    };
    format!("({})", row.iter().map(value).collect::<Vec<_>>().join("|"))
}
