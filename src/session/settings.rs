//! Session parameters, tracked so that they follow the session from one server connection to the
//! next.
//!
//! The startup packet's parameters are the base, which RESET returns to. A SET lies over it once
//! its transaction has committed. All of it together, in order, is what a server connection must
//! have in force before it serves this session ([`Settings`]).

use std::fmt::Write;
use std::sync::Arc;

use super::link::{Setting, Settings};
use crate::router::reads_alike;

#[derive(Debug)]
pub struct SessionSettings {
    base: Vec<Setting>,
    committed: Vec<Setting>,
    /// As the open transaction sees them; `None` while it has changed nothing.
    pending: Option<Vec<Setting>>,
    /// Base and committed, as one shared value.
    current: Settings,
    /// The startup packet asks for another encoding than UTF8, or for backslashes in literals. A SET
    /// of these is refused.
    foreign_text: bool,
}

/// `s` as an SQL literal under standard_conforming_strings on or off.
fn literal(s: &str) -> String {
    let quoted = s.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

fn ident(s: &str) -> String {
    // `a.b` is a custom parameter; each part is an identifier of its own.
    s.split('.').map(|p| format!("\"{}\"", p.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

/// Setting these changes who executes; they come last and must be confirmed before anything else.
fn is_role(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

impl SessionSettings {
    pub fn new(startup: &[(String, String)]) -> Self {
        let base = startup
            .iter()
            .map(|(name, value)| Setting {
                name: name.to_ascii_lowercase(),
                // set_config reads a list as the startup packet's value is read; SET would not.
                sql: format!(
                    "SELECT pg_catalog.set_config({}, {}, false)",
                    literal(name),
                    literal(value)
                ),
            })
            .collect::<Vec<_>>();
        let current = Arc::from(base.as_slice());
        let foreign_text = startup.iter().any(|(name, value)| !reads_alike(name, value));
        Self { base, committed: Vec::new(), pending: None, current, foreign_text }
    }

    pub fn foreign_text(&self) -> bool {
        self.foreign_text
    }

    /// What must be in force on a connection at the start of a transaction.
    pub fn current(&self) -> &Settings {
        &self.current
    }

    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    fn edit(&mut self) -> &mut Vec<Setting> {
        self.pending.get_or_insert_with(|| self.committed.clone())
    }

    pub fn set(&mut self, name: &str, sql: &str) {
        let list = self.edit();
        list.retain(|s| s.name != name);
        list.push(Setting { name: name.to_owned(), sql: sql.to_owned() });
    }

    pub fn reset(&mut self, name: &str) {
        self.edit().retain(|s| s.name != name);
    }

    pub fn reset_all(&mut self) {
        // RESET ALL leaves role and session_authorization alone (they are GUC_NO_RESET_ALL).
        self.edit().retain(|s| is_role(&s.name));
    }

    pub fn commit(&mut self) {
        if let Some(list) = self.pending.take() {
            self.committed = list;
            let mut all: Vec<Setting> = self
                .base
                .iter()
                .filter(|b| !self.committed.iter().any(|c| c.name == b.name))
                .cloned()
                .collect();
            all.extend(self.committed.iter().filter(|s| !is_role(&s.name)).cloned());
            all.extend(self.committed.iter().filter(|s| is_role(&s.name)).cloned());
            self.current = all.into();
        }
    }

    pub fn rollback(&mut self) {
        self.pending = None;
    }

    /// Whether going from `applied` to the current settings changes the executing role.
    pub fn changes_role(&self, applied: Option<&Settings>) -> bool {
        let role = |s: &Settings| {
            s.iter().filter(|s| is_role(&s.name)).map(|s| s.sql.clone()).collect::<Vec<_>>()
        };
        applied.is_none_or(|a| !Arc::ptr_eq(a, &self.current) && role(a) != role(&self.current))
    }

    /// The text of the present search_path's SET, if the session has changed it.
    pub fn search_path(&self) -> Option<&str> {
        let list = self.pending.as_deref().unwrap_or(&self.committed);
        list.iter().chain(&self.base).find(|s| s.name == "search_path").map(|s| s.sql.as_str())
    }
}

/// SQL that leads from the settings in force on a connection to the wanted ones.
pub fn reset_sql(applied: Option<&Settings>, wanted: &Settings) -> String {
    let mut sql = String::new();
    let keeps = |s: &Setting| wanted.contains(s);
    match applied {
        None => sql += "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; ",
        Some(applied) => {
            // Roles first: the others may need the rights of the login role to be reset.
            for s in applied.iter().filter(|s| !keeps(s) && is_role(&s.name)) {
                let what = if s.name == "role" { "ROLE" } else { "SESSION AUTHORIZATION" };
                let _ = write!(sql, "RESET {what}; ");
            }
            for s in applied.iter().filter(|s| !keeps(s) && !is_role(&s.name)) {
                if s.name == "session characteristics" {
                    sql += "RESET default_transaction_isolation; \
                            RESET default_transaction_read_only; \
                            RESET default_transaction_deferrable; ";
                } else {
                    let _ = write!(sql, "RESET {}; ", ident(&s.name));
                }
            }
        }
    }
    for s in wanted.iter() {
        if applied.is_none_or(|a| !a.contains(s)) {
            sql += &s.sql;
            sql += "; ";
        }
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(name: &str, value: &str) -> SessionSettings {
        SessionSettings::new(&[(name.into(), value.into())])
    }

    #[test]
    fn a_set_counts_from_its_commit_on() {
        let mut s = startup("DateStyle", "ISO");
        s.set("work_mem", "SET work_mem = '1MB'");
        assert_eq!(s.current().len(), 1, "not committed yet");
        s.rollback();
        s.commit();
        assert_eq!(s.current().len(), 1, "rolled back");
        s.set("datestyle", "SET datestyle = German");
        s.commit();
        assert_eq!(s.current().len(), 1, "the SET lies over the startup value");
        s.reset("datestyle");
        s.commit();
        assert!(s.current()[0].sql.contains("'ISO'"), "RESET returns to the startup value");
    }

    #[test]
    fn from_one_client_to_the_next() {
        let a = startup("application_name", "a'b");
        let mut b = startup("search_path", "x, y");
        assert_eq!(
            reset_sql(Some(a.current()), b.current()),
            "RESET \"application_name\"; SELECT pg_catalog.set_config('search_path', 'x, y', false); "
        );
        b.set("role", "SET ROLE r");
        b.commit();
        assert!(b.changes_role(Some(a.current())));
        assert!(reset_sql(Some(b.current()), a.current()).starts_with("RESET ROLE; "));
        assert!(reset_sql(None, a.current()).contains("'a''b'"));
    }
}
