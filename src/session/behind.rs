//! The functions behind tables: of triggers, rules, views, defaults, constraints and indexes. A
//! statement that uses such a table calls them, and its text does not show it.
//!
//! Which table has which is asked of the server once for all connections of a pool, and again when a
//! statement that went through here has changed tables. From then on a statement is followed by the
//! same look as if its text had called those functions (`session::check`); the first one too, whose
//! tables are remembered until the answer is there.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::link::{Expect, Fate, Link, Reply};
use super::{Io, Session};
use crate::router::plan::{Plan, Traces};
use crate::router::table_changes;
use crate::wire::backend::data_row;
use crate::wire::{frame, frontend};

/// Names of tables and of functions. A table leads to another one by a foreign key that passes changes
/// on, by inheritance, and by a rule. Of the functions the server came with only those count that
/// leave something; what depends on them is not recorded, so the expressions themselves are read. An
/// UPDATE of pg_settings, and of a view over it, sets parameters.
const SQL: &str = "
WITH RECURSIVE leaving (oid, name) AS (
  SELECT oid, proname FROM pg_proc WHERE oid < 16384::oid AND proname = ANY (ARRAY['set_config',
    'setseed', 'query_to_xml', 'cursor_to_xml', 'pg_advisory_lock', 'pg_advisory_lock_shared', 'pg_try_advisory_lock',
    'pg_try_advisory_lock_shared']::name[])
), direct (rel, name) AS (
  SELECT t.tgrelid, p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
   WHERE NOT t.tgisinternal AND p.oid >= 16384::oid
  UNION SELECT COALESCE(a.adrelid, r.ev_class, c.conrelid, i.indrelid), p.proname
    FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid
    LEFT JOIN pg_attrdef a ON d.classid = 2604::oid AND a.oid = d.objid
    LEFT JOIN pg_rewrite r ON d.classid = 2618::oid AND r.oid = d.objid
    LEFT JOIN pg_constraint c ON d.classid = 2606::oid AND c.oid = d.objid
    LEFT JOIN pg_index i ON d.classid = 1259::oid AND i.indexrelid = d.objid
   WHERE d.refclassid = 1255::oid AND p.oid >= 16384::oid
  UNION SELECT a.adrelid, l.name FROM pg_attrdef a JOIN leaving l
    ON strpos(a.adbin::text, concat(':funcid ', l.oid::text, ' ')) > 0
  UNION SELECT r.ev_class, l.name FROM pg_rewrite r JOIN leaving l
    ON strpos(concat(r.ev_action::text, r.ev_qual::text), concat(':funcid ', l.oid::text, ' ')) > 0
   WHERE r.ev_class >= 16384::oid
  UNION SELECT r.ev_class, l.name FROM pg_rewrite r JOIN leaving l ON l.name = 'set_config'::name
    JOIN pg_class s ON s.relname = 'pg_settings'::name AND s.oid < 16384::oid
     AND strpos(r.ev_action::text, concat(':relid ', s.oid::text, ' ')) > 0
   WHERE r.ev_class >= 16384::oid
), leads (rel, other) AS (
  SELECT confrelid, conrelid FROM pg_constraint WHERE contype = 'f'
  UNION SELECT inhparent, inhrelid FROM pg_inherits
  UNION SELECT r.ev_class, d.refobjid FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
   WHERE d.classid = 2618::oid AND d.refclassid = 1259::oid AND r.ev_class >= 16384::oid
), behind (rel, name) AS (
  SELECT rel, name FROM direct
  UNION SELECT l.rel, b.name FROM behind b JOIN leads l ON l.other = b.rel
)
SELECT DISTINCT c.relname::text, b.name::text FROM behind b JOIN pg_class c ON c.oid = b.rel";

/// With its operators and functions by their full names: the session's search_path is in force.
static QUESTION: LazyLock<String> = LazyLock::new(|| {
    let mut sql = SQL.to_owned();
    for operator in ["=", "<", ">", ">="] {
        let full = format!(" OPERATOR(pg_catalog.{operator}) ");
        sql = sql.replace(&format!(" {operator} "), &full);
    }
    for function in ["strpos(", "concat("] {
        sql = sql.replace(function, &format!("pg_catalog.{function}"));
    }
    for name in ["oid", "text", "name"] {
        sql = sql.replace(&format!("::{name}"), &format!("::pg_catalog.{name}"));
    }
    for table in [
        "proc",
        "trigger",
        "depend",
        "attrdef",
        "rewrite",
        "constraint",
        "index",
        "inherits",
        "class",
    ] {
        for word in ["FROM", "JOIN"] {
            let (short, full) =
                (format!("{word} pg_{table}"), format!("{word} pg_catalog.pg_{table}"));
            sql = sql.replace(&short, &full);
        }
    }
    sql
});

/// What is known of a database's tables; of a connection outside of all pools nothing is asked.
#[derive(Debug, Clone, Default)]
pub struct Behind(Option<Arc<ArcSwapOption<Known>>>);

#[derive(Debug)]
struct Known {
    /// After so many changes of tables.
    since: u64,
    functions: BTreeMap<String, Vec<String>>,
}

impl Behind {
    /// Of the connections of one pool.
    pub fn of_pool() -> Self {
        Self(Some(Arc::default()))
    }
}

/// What is to be found out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Question {
    due: bool,
    /// It is under way; asked after so many changes.
    asked: Option<u64>,
    /// Tables that were used before the answer.
    used: Vec<String>,
    #[serde(skip)]
    functions: BTreeMap<String, Vec<String>>,
}

impl Question {
    pub(super) fn is_due(&self) -> bool {
        self.due || self.asked.is_some()
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }
}

impl Session {
    /// The text is about to be sent: what it uses may have functions behind it.
    pub(super) fn uses_tables(&mut self, plan: &Plan) {
        let Some(link) = self.link.as_mut().filter(|_| !plan.tables.is_empty()) else { return };
        let Some(behind) = &link.facts.behind.0 else { return };
        let known = behind.load();
        let functions = match known.as_ref().filter(|k| k.since == table_changes()) {
            Some(known) if known.functions.is_empty() => return,
            Some(known) => of_tables(&known.functions, &plan.tables),
            None => {
                let question = &mut link.residue.behind;
                question.due = true;
                let new = plan.tables.iter().filter(|t| !question.used.contains(t));
                let new: Vec<_> = new.cloned().collect();
                question.used.extend(new);
                return;
            }
        };
        drop(known);
        link.leaves(&Traces { functions, ..Traces::default() });
    }

    /// Asks the server, when there is something to ask and nothing else is under way.
    pub(super) fn ask_what_is_behind(&mut self, io: &mut Io<'_>) {
        let due = |l: &&mut Link| l.residue.behind.due && l.is_free();
        let Some(link) = self.link.as_mut().filter(due) else { return };
        link.residue.behind.due = false;
        link.residue.behind.asked = Some(table_changes());
        link.unnamed = None;
        frontend::put_parse(io.server, b"", QUESTION.as_bytes(), &[]);
        frontend::put_bind(io.server, b"", b"", &[0; 6]);
        frame::put(io.server, b'E', |b| b.extend_from_slice(&[0; 5]));
        frontend::put_empty(io.server, b'S');
        for reply in [Reply::Parse, Reply::Bind, Reply::Behind] {
            link.push(Expect::new(reply, Fate::Check));
        }
        link.push(Expect::new(Reply::Sync, Fate::Tidy));
    }

    /// A row of the answer.
    pub(super) fn is_behind(&mut self, body: &[u8]) {
        let (Some(row), Some(residue)) = (data_row(body), self.residue()) else { return };
        let text = |v: &Option<&[u8]>| String::from_utf8_lossy(v.unwrap_or_default()).into_owned();
        if let [table, function] = row.as_slice() {
            residue.behind.functions.entry(text(table)).or_default().push(text(function));
        }
    }

    /// The answer is complete.
    pub(super) fn know_what_is_behind(&mut self) {
        let Some(link) = &mut self.link else { return };
        let question = &mut link.residue.behind;
        let Question { asked, used, functions, due } = std::mem::take(question);
        question.due = due;
        let of_used = of_tables(&functions, &used);
        if let (Some(since), Some(behind)) = (asked, &link.facts.behind.0) {
            behind.store(Some(Arc::new(Known { since, functions })));
        }
        link.leaves(&Traces { functions: of_used, ..Traces::default() });
    }

    /// The server did not say: the next statement asks again, and this one is looked after.
    pub(super) fn cannot_know_what_is_behind(&mut self) {
        let asked = |l: &&mut Link| l.residue.behind.asked.is_some();
        if let Some(link) = self.link.as_mut().filter(asked) {
            link.residue.behind = Question::default();
            link.leaves(&Traces { code: true, ..Traces::default() });
        }
    }
}

fn of_tables(functions: &BTreeMap<String, Vec<String>>, tables: &[String]) -> Vec<String> {
    tables.iter().filter_map(|t| functions.get(t)).flatten().cloned().collect()
}
