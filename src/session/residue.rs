//! What a transaction has left behind on its connection, found out from the server itself.
//!
//! A statement's text does not show what the functions it calls do, and whether the last temporary
//! table is gone is not told by a DROP either. So after a transaction that may have left something,
//! or may have ended what an earlier one left, the connection is asked before it is given back:
//! behind the client's ReadyForQuery, unseen by it. What PostgreSQL keeps for a connection and
//! cannot be set elsewhere pins the session; parameters are taken over into the session's own.
//!
//! Asked is nothing after plain statements, nor for functions that the server has judged harmless
//! ([`crate::router::Harmless`]).

use serde::{Deserialize, Serialize};

use super::behind::Question;
use super::link::{Done, Expect, Fate, Link, Reply};
use super::sequences::SEQUENCES;
use super::{Io, Session};
use crate::router::plan::{PREPARE, Traces};
use crate::router::{READING, function_changes, functions_changed, tables_changed};
use crate::wire::backend::data_row;
use crate::wire::{frame, frontend};

/// The statement's name on server connections.
pub(super) const NAME: &[u8] = b"pgs_check";

/// Everything is written with its schema: the session's search_path is in force.
/// $1: look at all parameters; $2: at these; $3: at those named in the code of these functions;
/// $4: judge these functions. A function is harmless when nothing in its code can leave anything
/// and it calls no other that somebody has made.
const SQL: &str = r"
SELECT 'a session advisory lock'::pg_catalog.text, ''::pg_catalog.text, ''::pg_catalog.text
 WHERE EXISTS (SELECT FROM pg_catalog.pg_locks
  WHERE locktype OPERATOR(pg_catalog.=) 'advisory'
    AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())
UNION ALL SELECT 'a temporary object', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend
  WHERE refclassid OPERATOR(pg_catalog.=) 2615::pg_catalog.oid
    AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())
UNION ALL SELECT 'a cursor WITH HOLD', '', ''
 WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)
UNION ALL SELECT 'PREPARE', '', ''
 WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)
UNION ALL SELECT 'LISTEN', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
UNION ALL SELECT 'set', name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings
 WHERE $1::pg_catalog.bool AND source OPERATOR(pg_catalog.=) 'session'
UNION ALL SELECT 'set', 'role', pg_catalog.current_setting('role') WHERE $1
UNION ALL SELECT 'set', 'session_authorization', session_user::pg_catalog.text
  FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a
 WHERE $1 AND session_user OPERATOR(pg_catalog.<>) pg_catalog.pg_get_userbyid(a.usesysid)
UNION ALL SELECT 'set', n, pg_catalog.current_setting(n, true) FROM (
  SELECT n FROM pg_catalog.unnest($2::pg_catalog.text[]) n
  UNION SELECT pg_catalog.lower(m[1]) FROM pg_catalog.pg_proc p,
    LATERAL pg_catalog.regexp_matches(p.prosrc, $re$([a-z_][a-z0-9_$]*\.[a-z0-9_$.]+)$re$, 'gi') m
   WHERE p.proname OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.name[])
 ) AS named WHERE pg_catalog.current_setting(n, true) IS NOT NULL
UNION ALL SELECT 'bind', 'setseed()', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_proc p
  WHERE p.proname OPERATOR(pg_catalog.=) ANY ($4::pg_catalog.name[])
    AND COALESCE(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)
      OPERATOR(pg_catalog.~*) $re$\msetseed\M|\mset\s+((session|local)\s+)?seed\M$re$
    AND p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid)
UNION ALL SELECT 'harmless', p.proname::pg_catalog.text, '' FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
  CROSS JOIN LATERAL (SELECT pg_catalog.lower(
    COALESCE(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)) AS source) code
 WHERE p.proname OPERATOR(pg_catalog.=) ANY ($4::pg_catalog.name[])
 GROUP BY p.proname HAVING pg_catalog.bool_and(
  CASE WHEN l.lanname OPERATOR(pg_catalog.=) 'c' THEN
    p.proname OPERATOR(pg_catalog.<>) 'set_limit'
    AND p.proname OPERATOR(pg_catalog.!~) '^(dblink|crosstab|connectby$|xpath_table$)'
    AND EXISTS (SELECT FROM pg_catalog.pg_depend d
      WHERE d.classid OPERATOR(pg_catalog.=) 1255::pg_catalog.oid
        AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
  WHEN l.lanname OPERATOR(pg_catalog.=) 'sql' OR l.lanname OPERATOR(pg_catalog.=) 'plpgsql' THEN
    code.source OPERATOR(pg_catalog.!~)
      $re$set_config|setseed|pg_settings|advisory|session_setup|backup_|_slot|query_to_xml|cursor_to_xml|ts_stat|ts_rewrite|crosstab|connectby|xpath_table|\mtemp|pg_temp|listen|dblink|\m(hold|prepare|execute|load|discard|call)\M|(^|;|\m(begin|then|else|loop|atomic)|\*/|--[^\n]*\n)\s*(re)?set\M$re$
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc q
      WHERE q.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
        AND q.proname OPERATOR(pg_catalog.<>) p.proname
        AND pg_catalog.strpos(code.source, pg_catalog.lower(q.proname::pg_catalog.text))
            OPERATOR(pg_catalog.>) 0)
  ELSE false END)";

/// What is known of the connection's state, and what is to be found out. No answer is under way when
/// it is given to another process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Check {
    /// The transaction's end is followed by a look.
    due: bool,
    traces: Traces,
    /// The question is under way; asked after so many changes of functions.
    #[serde(skip)]
    asked: Option<u64>,
    #[serde(skip)]
    pins: Vec<String>,
    /// Code was run that leaves what the server does not tell of.
    #[serde(skip)]
    binds: bool,
    #[serde(skip)]
    parameters: Vec<(String, String)>,
    #[serde(skip)]
    harmless: Vec<String>,
    /// What is left cannot be told: until it can, each transaction is followed by a look.
    unknown: bool,
    /// A session that is pinned may have temporary objects, which hide tables of their names.
    #[serde(default = "yes")]
    temporary: bool,
    /// A statement of the open transaction has changed functions.
    changes_functions: bool,
    /// Or tables.
    changes_tables: bool,
}

/// What binds a session for as long as the server says so.
const PINS: [&str; 5] =
    ["a session advisory lock", "a temporary object", "a cursor WITH HOLD", PREPARE, "LISTEN"];

/// Reasons of the text, which says more than the server.
const TEMPORARY: [&str; 4] =
    ["a temporary table", "a temporary view", "a temporary sequence", "a temporary object"];

/// What a process that did not note it must be taken to say.
fn yes() -> bool {
    true
}

impl Check {
    pub(super) fn is_due(&self) -> bool {
        self.due || self.asked.is_some()
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// A parameter was set whose value the session does not know yet: one of those by which texts
    /// are read, perhaps.
    pub(super) fn is_path_open(&self) -> bool {
        self.is_due() && self.traces.parameters.iter().any(|p| READING.contains(&p.as_str()))
    }
}

/// What a session's transactions may have left on one connection, and why it is kept for it.
#[derive(Debug, Clone, Default)]
pub struct Residue {
    /// Why the connection must be kept between transactions; ends when the server says that the cause
    /// is gone.
    pub(super) pinned: Option<&'static str>,
    /// Pins until DISCARD ALL: the server cannot be asked whether the cause is gone.
    pub(super) bound: Option<&'static str>,
    /// Kept for the values of sequences that the session has drawn on it.
    pub(super) kept: bool,
    pub(super) check: Check,
    pub(super) behind: Question,
}

impl Residue {
    /// The server is to be asked, or is being asked, what is left.
    pub(super) fn is_due(&self) -> bool {
        self.check.is_due() || self.behind.is_due()
    }

    /// A question is under way.
    pub(super) fn is_asked(&self) -> bool {
        self.check.is_asked() || self.behind.is_asked()
    }

    /// Why the connection is kept, as SHOW CLIENTS says it.
    pub(super) fn why_kept(&self) -> Option<&'static str> {
        self.pinned.or(self.kept.then_some(SEQUENCES))
    }

    /// A statement has completed that binds the session.
    fn is_pinned_by(&mut self, why: &'static str) {
        self.pinned.get_or_insert(why);
        self.check.temporary |= !PINS.contains(&why) || TEMPORARY.contains(&why);
    }

    /// Whether an unqualified name may be that of a temporary table.
    fn may_have_temporary(&self) -> bool {
        let by_itself = |why: &str| !PINS.contains(&why) || TEMPORARY.contains(&why);
        self.pinned.is_some_and(|why| self.check.temporary || by_itself(why))
    }

    /// Nothing of the connection's state is left (DISCARD ALL).
    pub(super) fn nothing_is_left(&mut self) {
        let Check { changes_functions, changes_tables, .. } = self.check;
        self.check = Check { changes_functions, changes_tables, ..Check::default() };
    }
}

impl Link {
    /// A statement has completed, or failed half-way, that may have left something.
    pub(super) fn leaves(&mut self, traces: &Traces) {
        self.notified |= traces.notifies();
        let residue = &mut self.residue;
        if let Some(why) = traces.pin {
            residue.pinned.get_or_insert(why);
            residue.check.temporary |= TEMPORARY.contains(&why);
        }
        let strange = |f: &&String| !self.facts.harmless.knows(f);
        let functions: Vec<_> = traces.functions.iter().filter(strange).cloned().collect();
        let quiet = functions.is_empty() && traces.parameters.is_empty() && !traces.code;
        if quiet && traces.pin.is_none() {
            return;
        }
        let check = &mut residue.check;
        check.due = true;
        check.temporary |= traces.code || !functions.is_empty();
        check.traces.code |= traces.code;
        check.traces.functions.extend(functions);
        check.traces.parameters.extend(traces.parameters.iter().cloned());
    }
}

impl Session {
    /// What the connection in hand keeps for the session.
    pub(super) fn residue(&mut self) -> Option<&mut Residue> {
        self.link.as_mut().map(|l| &mut l.residue)
    }

    /// A statement has completed, or failed half-way, that may have left something.
    pub(super) fn leaves(&mut self, traces: &Traces) {
        if let Some(link) = &mut self.link {
            link.leaves(traces);
        }
    }

    /// A statement has completed that binds the session.
    pub(super) fn is_pinned_by(&mut self, why: &'static str) {
        if let Some(residue) = self.residue() {
            residue.is_pinned_by(why);
        }
    }

    /// Whether an unqualified name may be that of a temporary table.
    pub(super) fn may_have_temporary(&self) -> bool {
        self.links().any(|l| l.residue.may_have_temporary())
    }

    /// A parameter was set whose value the session does not know yet: one of those by which texts
    /// are read, perhaps.
    pub(super) fn is_path_open(&self) -> bool {
        self.links().any(|l| l.residue.check.is_path_open())
    }

    /// A statement has completed that may have ended what binds the session, or has begun it.
    pub(super) fn look_again(&mut self) {
        if let Some(residue) = self.residue() {
            residue.check.due |= residue.pinned.is_some();
        }
    }

    pub(super) fn functions_change(&mut self) {
        if let Some(residue) = self.residue() {
            residue.check.changes_functions = true;
        }
    }

    pub(super) fn tables_change(&mut self) {
        if let Some(residue) = self.residue() {
            residue.check.changes_tables = true;
        }
    }

    /// The failed statement may have left something all the same: an advisory lock stays.
    pub(super) fn failed_half_way(&mut self, left: &[Done]) {
        use crate::router::plan::Control;
        let Some(link) = &mut self.link else { return };
        for done in left {
            match &done.control {
                Control::Pin(_) => link.residue.check.due = true,
                Control::Bind(_) => link.strange = true,
                Control::Leaves(traces) => {
                    link.leaves(&Traces { pin: None, ..(**traces).clone() });
                    link.residue.check.due = true;
                }
                _ => {}
            }
        }
    }

    /// A transaction has ended.
    pub(super) fn transaction_ended(&mut self) {
        let Some(residue) = self.residue() else { return };
        let check = &mut residue.check;
        if std::mem::take(&mut check.changes_functions) {
            functions_changed();
            // Another one of a name may be in its place.
            tables_changed();
        }
        if std::mem::take(&mut check.changes_tables) {
            tables_changed();
        }
        check.due |= check.unknown;
    }

    /// Asks the server, when there is something to ask and nothing else is under way.
    pub(super) fn ask_what_is_left(&mut self, io: &mut Io<'_>) {
        let Some(link) = self.link.as_mut().filter(|l| l.is_free()) else { return };
        let check = &mut link.residue.check;
        if !check.due {
            return;
        }
        check.due = false;
        check.asked = Some(function_changes());
        let all = check.traces.code || !check.traces.functions.is_empty();
        let mut parameters = check.traces.parameters.clone();
        if all {
            parameters.extend(self.settings.custom().map(str::to_owned));
        }
        parameters.retain(|p| !is_of_the_transaction(p));
        let functions = array(&check.traces.functions);
        let push = |link: &mut Link, reply| link.push(Expect::new(reply, Fate::Check));
        if !std::mem::replace(&mut link.facts.checks, true) {
            frontend::put_named(io.server, b'C', b'S', NAME);
            push(link, Reply::Close);
            frontend::put_parse(io.server, NAME, SQL.as_bytes(), &[]);
            push(link, Reply::Parse);
        }
        let values = [
            if all { "t".to_owned() } else { "f".to_owned() },
            array(&parameters),
            functions.clone(),
            functions,
        ];
        frontend::put_bind(io.server, b"", NAME, &bind_values(&values));
        push(link, Reply::Bind);
        frame::put(io.server, b'E', |b| b.extend_from_slice(&[0; 5]));
        push(link, Reply::Check);
        frontend::put_empty(io.server, b'S');
        link.push(Expect::new(Reply::Sync, Fate::Tidy));
    }

    /// A row of the answer.
    pub(super) fn is_left(&mut self, body: &[u8]) {
        let (Some(row), Some(residue)) = (data_row(body), self.residue()) else { return };
        let check = &mut residue.check;
        let mut text =
            row.iter().map(|v| String::from_utf8_lossy(v.unwrap_or_default()).into_owned());
        let (Some(kind), Some(name), Some(value)) = (text.next(), text.next(), text.next()) else {
            return;
        };
        match kind.as_str() {
            "set" => check.parameters.push((name, value)),
            "bind" => check.binds = true,
            "harmless" => check.harmless.push(name),
            _ => check.pins.push(kind),
        }
    }

    /// The answer is complete.
    pub(super) fn know_what_is_left(&mut self) {
        let Some(link) = &mut self.link else { return };
        let residue = &mut link.residue;
        let check = std::mem::take(&mut residue.check);
        residue.check.changes_functions = check.changes_functions;
        residue.check.changes_tables = check.changes_tables;
        let strange = check.traces.functions.iter().any(|f| !check.harmless.contains(f));
        if let Some(since) = check.asked {
            link.facts.harmless.learn(since, check.harmless);
        }
        // What a function sets and does not name in its code is not found: it must not stay either.
        link.strange |= strange || check.traces.code;
        let all = check.traces.code || !check.traces.functions.is_empty();
        self.patience.learn(&check.parameters, all);
        self.settings.adopt(check.parameters, all);
        link.facts.applied = Some(self.settings.current().clone());

        let there = |why: &str| check.pins.iter().any(|p| p == why);
        residue.check.temporary = there("a temporary object");
        let stays = residue.pinned.is_some_and(|why| {
            there(why) || TEMPORARY.contains(&why) && there("a temporary object")
        });
        if !stays {
            residue.pinned = PINS.into_iter().find(|why| there(why));
        }
        if check.binds {
            residue.bound.get_or_insert("setseed()");
        }
        residue.pinned = residue.bound.or(residue.pinned);
    }

    /// The server did not say. The session keeps what it cannot be told apart from.
    pub(super) fn cannot_know_what_is_left(&mut self) {
        let Some(link) = &mut self.link else { return };
        link.expects.pop_front();
        link.take_skipped();
        link.facts.checks = false;
        link.strange = true;
        let residue = &mut link.residue;
        residue.check.asked = None;
        residue.check.unknown = true;
        residue.check.temporary = true;
        residue.pinned.get_or_insert("something that could not be found out");
    }
}

/// Set for a transaction, however they are set.
fn is_of_the_transaction(name: &str) -> bool {
    name.starts_with("transaction_") || name == "seed"
}

/// An array as the server reads it.
fn array(items: &[String]) -> String {
    let quoted =
        items.iter().map(|i| format!("\"{}\"", i.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// The rest of a Bind: values as text, the answer as text.
fn bind_values(values: &[String]) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend_from_slice(&(values.len() as u16).to_be_bytes());
    for v in values {
        out.extend_from_slice(&(v.len() as u32).to_be_bytes());
        out.extend_from_slice(v.as_bytes());
    }
    out.extend_from_slice(&[0, 0]);
    out
}
