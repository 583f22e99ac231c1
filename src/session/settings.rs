//! Session parameters, tracked so that they follow the session from one server connection to the
//! next.
//!
//! The startup packet's parameters are the base, which RESET returns to. A SET lies over it once
//! its transaction has committed. All of it together, in order, is what a server connection must
//! have in force before it serves this session ([`Settings`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::link::{Setting, Settings};
use crate::config::units::parse_size;
use crate::router::plan::Control;
use crate::router::{Sees, reads_alike};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionSettings {
    base: Vec<Startup>,
    committed: Vec<Setting>,
    /// What the open transaction has changed; `None`: nothing, and it has no savepoint.
    open: Option<Open>,
    /// Base and committed, as one shared value.
    current: Settings,
    /// The startup packet asks for another encoding than UTF8, or for backslashes in literals, or a
    /// function has set it so. A SET of these is refused.
    foreign_text: bool,
    /// The DateStyle was set, and what came of it is not known yet.
    date_style_set: bool,
}

/// A parameter of the startup packet, and what it assigns in its order: a second DateStyle leaves standing
/// what it does not name.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Startup {
    name: String,
    values: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Open {
    now: Held,
    /// Each savepoint with what held when it was made, oldest first.
    savepoints: Vec<(String, Held)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    list: Arc<Vec<Setting>>,
    /// The search_path until the transaction ends, if it has one of its own; in it `None`: the
    /// startup packet's or the default.
    local_path: Option<Option<String>>,
}

impl Startup {
    /// set_config reads a list as the startup packet's value is read; SET would not.
    fn set_config(&self, local: bool) -> String {
        let name = literal(&self.name);
        let each = self
            .values
            .iter()
            .map(|value| format!("pg_catalog.set_config({name}, {}, {local})", literal(value)));
        format!("SELECT {}", each.collect::<Vec<_>>().join(", "))
    }

    /// The same, as statements that leave the transaction as they find it: a SELECT would give it
    /// its snapshot, and BEGIN could not say its isolation level behind it any more.
    fn set(&self, local: bool) -> Vec<String> {
        if QUOTED_LISTS.contains(&self.name.as_str()) {
            return vec![self.set_config(local)];
        }
        let local = if local { "LOCAL " } else { "" };
        let name = ident(&self.name);
        self.values.iter().map(|value| format!("SET {local}{name} = {}", literal(value))).collect()
    }

    /// The last value, which counts where each takes the place of the one before.
    fn value(&self) -> &str {
        self.values.last().map_or("", String::as_str)
    }

    fn setting(&self) -> Setting {
        Setting { name: self.name.clone(), sql: self.set_config(false) }
    }
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

/// How a search_path is put in force that was not SET, up to the list of schemas.
const ADOPTED_PATH: &str = "SELECT pg_catalog.set_config('search_path', '";

/// SET takes a literal for one element of these lists (`GUC_LIST_QUOTE`).
const QUOTED_LISTS: [&str; 5] = [
    "search_path",
    "temp_tablespaces",
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
];

/// Setting these changes who executes; they come last and must be confirmed before anything else.
fn is_role(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

impl SessionSettings {
    pub fn new(startup: &[(String, String)]) -> Self {
        let mut base: Vec<Startup> = Vec::new();
        for (name, value) in startup {
            let name = name.to_ascii_lowercase();
            match base.iter_mut().find(|b| b.name == name) {
                Some(known) => known.values.push(value.clone()),
                None => base.push(Startup { name, values: vec![value.clone()] }),
            }
        }
        let current = base.iter().map(Startup::setting).collect();
        let foreign_text = base.iter().any(|b| !reads_alike(&b.name, b.value()));
        Self {
            base,
            committed: Vec::new(),
            open: None,
            current,
            foreign_text,
            date_style_set: false,
        }
    }

    pub fn foreign_text(&self) -> bool {
        self.foreign_text
    }

    /// `pgshunt.dynamic_sql` is `local`.
    pub fn local_code(&self) -> bool {
        self.says("pgshunt.dynamic_sql", &["local"])
    }

    /// What the catalogs show: all with `pgshunt.show_shards`, and to pg_dump plain tables.
    pub fn sees(&self) -> Sees {
        let dumps = |s: &Startup| s.name == "application_name" && s.value() == "pg_dump";
        match self.says("pgshunt.show_shards", &["on", "true", "yes"]) {
            true => Sees::Shards,
            false if self.base.iter().any(dumps) => Sees::Dump,
            false => Sees::Tables,
        }
    }

    /// `pgshunt.collect_limit`, in bytes, if it is set to a size.
    pub fn collect_limit(&self) -> Option<usize> {
        let words = self.own_words("pgshunt.collect_limit")?;
        let value = words.rsplit("collect_limit").next()?;
        let size = |part: &str| {
            let part = part.trim();
            let to = part.get(..3).filter(|to| to.eq_ignore_ascii_case("to "));
            let plain = part.get(to.map_or(0, str::len)..)?.replace(' ', "");
            parse_size(&plain).and_then(|bytes| usize::try_from(bytes).ok())
        };
        value.split(['\'', '"', '=', ',', ')', ';']).find_map(size)
    }

    /// How a parameter of pgshunt's own was last set: its value, or the statement that has set it, or with which
    /// set_config() would set what the server says of it.
    fn own_words(&self, name: &str) -> Option<&str> {
        let list = self.open.as_ref().map_or(&self.committed, |o| &*o.now.list);
        match list.iter().find(|s| s.name == name) {
            Some(set) => Some(&set.sql),
            None => self.base.iter().find(|s| s.name == name).map(Startup::value),
        }
    }

    /// Whether a parameter of pgshunt's own was last given one of these words.
    fn says(&self, name: &str, one_of: &[&str]) -> bool {
        let text = self.own_words(name).unwrap_or_default();
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|w| one_of.iter().any(|o| w.eq_ignore_ascii_case(o)))
    }

    /// What must be in force on a connection at the start of a transaction.
    pub fn current(&self) -> &Settings {
        &self.current
    }

    /// What they take, with what a savepoint would go back to.
    pub fn bytes(&self) -> usize {
        const EACH: usize = 256;
        let of = |list: &[Setting]| -> usize {
            list.iter().map(|s| EACH + s.name.len() + s.sql.len()).sum()
        };
        let base: usize = self.base.iter().map(|b| EACH + b.name.len() + b.value().len()).sum();
        let Some(open) = &self.open else { return base + of(&self.committed) };
        let mut lists: Vec<_> = open.savepoints.iter().map(|(_, held)| &held.list).collect();
        lists.push(&open.now.list);
        // Each shares its list with the one before, until something is set.
        lists.dedup_by(|a, b| Arc::ptr_eq(a, b));
        base + lists.into_iter().map(|list| of(list)).sum::<usize>()
    }

    fn open(&mut self) -> &mut Open {
        let committed = &self.committed;
        self.open.get_or_insert_with(|| Open {
            now: Held { list: Arc::new(committed.clone()), local_path: None },
            savepoints: Vec::new(),
        })
    }

    fn edit(&mut self) -> &mut Vec<Setting> {
        Arc::make_mut(&mut self.open().now.list)
    }

    pub fn set(&mut self, name: &str, sql: &str) {
        self.forget_local(name);
        self.forget_role(name);
        self.date_style_set |= name == "datestyle";
        let list = self.edit();
        list.retain(|s| s.name != name);
        list.push(Setting { name: name.to_owned(), sql: sql.to_owned() });
    }

    pub fn reset(&mut self, name: &str) {
        self.forget_local(name);
        self.forget_role(name);
        self.unset(|n| n == name);
    }

    /// A parameter that no library defines stays known once it was set, and is empty after RESET;
    /// RESET makes it so where it was not known either.
    fn unset(&mut self, goes: impl Fn(&str) -> bool) {
        let base: Vec<_> = self.base.iter().map(|b| b.name.clone()).collect();
        let list = self.edit();
        list.retain(|s| !goes(&s.name) || (s.name.contains('.') && !base.contains(&s.name)));
        for s in list.iter_mut().filter(|s| goes(&s.name)) {
            s.sql = format!("RESET {}", ident(&s.name));
        }
    }

    /// SET and RESET SESSION AUTHORIZATION end the role (miscinit.c, SetSessionUserId).
    fn forget_role(&mut self, name: &str) {
        if name == "session_authorization" {
            self.edit().retain(|s| s.name != "role");
        }
    }

    /// The DateStyle that the server has reported by now. A SET of it may name one of its two parts
    /// and leave the other as it was, so it is the outcome that follows the session.
    pub fn learn_date_style<'a>(&mut self, value: impl FnOnce() -> Option<&'a str>) {
        if !std::mem::take(&mut self.date_style_set) {
            return;
        }
        if let Some(value) = value() {
            for s in self.edit().iter_mut().filter(|s| s.name == "datestyle") {
                s.sql = format!("SET datestyle = {}", literal(value));
            }
        }
    }

    /// SET LOCAL: what is reported from here on is the transaction's.
    pub fn set_local(&mut self) {
        self.date_style_set = false;
    }

    /// SET LOCAL search_path; `None`: to its default.
    pub fn set_local_path(&mut self, sql: Option<&str>) {
        self.open().now.local_path = Some(sql.map(str::to_owned));
    }

    fn forget_local(&mut self, name: &str) {
        if let (Some(open), "search_path") = (&mut self.open, name) {
            open.now.local_path = None;
        }
    }

    /// The end of the open transaction, or of a part of it, may change the search_path.
    pub fn path_is_open(&self) -> bool {
        let path = |list: &[Setting]| list.iter().find(|s| s.name == "search_path").cloned();
        self.open.as_ref().is_some_and(|o| {
            let differs =
                |h: &Held| h.local_path.is_some() || path(&h.list) != path(&self.committed);
            differs(&o.now) || o.savepoints.iter().any(|(_, h)| differs(h))
        })
    }

    pub fn reset_all(&mut self) {
        self.forget_local("search_path");
        // RESET ALL leaves role and session_authorization alone (they are GUC_NO_RESET_ALL).
        self.unset(|n| !is_role(n));
    }

    /// DISCARD ALL, which also ends the role.
    pub fn discard(&mut self) {
        self.unset(|_| true);
        self.commit();
    }

    pub fn has_savepoint(&self, name: &str) -> bool {
        self.open.as_ref().is_some_and(|o| o.savepoints.iter().any(|(n, _)| n == name))
    }

    pub fn savepoint(&mut self, name: &str) {
        let open = self.open();
        open.savepoints.push((name.to_owned(), open.now.clone()));
    }

    /// The latest savepoint of this name ends, and all that came after it.
    pub fn release(&mut self, name: &str) {
        let open = self.open();
        if let Some(at) = open.savepoints.iter().rposition(|(n, _)| n == name) {
            open.savepoints.truncate(at);
        }
    }

    /// What held at the latest savepoint of this name holds again, and the savepoint stays.
    pub fn rollback_to(&mut self, name: &str) {
        self.date_style_set = false;
        let open = self.open();
        if let Some(at) = open.savepoints.iter().rposition(|(n, _)| n == name) {
            open.savepoints.truncate(at + 1);
            open.now = open.savepoints[at].1.clone();
        }
    }

    pub fn commit(&mut self) {
        let Some(open) = self.open.take() else { return };
        if *open.now.list == self.committed {
            return;
        }
        self.committed = open.now.list.to_vec();
        let mut all: Vec<Setting> = self
            .base
            .iter()
            .filter(|b| !self.committed.iter().any(|c| c.name == b.name))
            .map(Startup::setting)
            .collect();
        all.extend(self.committed.iter().filter(|s| !is_role(&s.name)).cloned());
        // SET SESSION AUTHORIZATION ends the role.
        for name in ["session_authorization", "role"] {
            all.extend(self.committed.iter().filter(|s| s.name == name).cloned());
        }
        self.current = all.into();
    }

    pub fn rollback(&mut self) {
        self.date_style_set = false;
        self.open = None;
    }

    /// The parameters it has set that no extension and not the server knows.
    pub fn custom(&self) -> impl Iterator<Item = &str> {
        let all = self.base.iter().map(|b| b.name.as_str());
        let all = all.chain(self.committed.iter().map(|s| s.name.as_str()));
        all.filter(|name| name.contains('.'))
    }

    /// These values hold on the connection, between transactions; `all`: and no others.
    pub fn adopt(&mut self, found: Vec<(String, String)>, all: bool) {
        self.foreign_text |= found.iter().any(|(name, value)| !reads_alike(name, value));
        let list = self.edit();
        if all {
            list.retain(|s| found.iter().any(|(name, _)| name.eq_ignore_ascii_case(&s.name)));
        }
        for (name, value) in found {
            let name = name.to_ascii_lowercase();
            let known = list.iter().any(|s| s.name == name);
            // A parameter that was once named and has no value, and a role that is not set.
            let nothing =
                value.is_empty() && name.contains('.') || name == "role" && value == "none";
            list.retain(|s| s.name != name);
            if nothing && !(known && name != "role") {
                continue;
            }
            let sql = Startup { name: name.clone(), values: vec![value] }.set_config(false);
            list.push(Setting { name, sql });
        }
        self.commit();
    }

    /// Statements that follow this one, since the server's RESET leads to the role's defaults and
    /// not to what the client's startup packet said.
    pub fn restores(&self, control: &Control) -> Vec<String> {
        let wanted = |name: &str| match control {
            Control::Reset(n) | Control::ResetLocal(n) => n == name,
            Control::ResetAll => !is_role(name),
            Control::DiscardAll => true,
            _ => false,
        };
        let local = matches!(control, Control::ResetLocal(_));
        self.base.iter().filter(|b| wanted(&b.name)).flat_map(|b| b.set(local)).collect()
    }

    /// What the session has made of its search_path; `None`: nothing.
    pub fn search_path(&self) -> Option<&str> {
        let list = self.open.as_ref().map_or(&self.committed, |o| &*o.now.list);
        let set = match self.open.as_ref().and_then(|o| o.now.local_path.as_ref()) {
            Some(local) => local.as_deref(),
            None => list.iter().find(|s| s.name == "search_path").map(|s| s.sql.as_str()),
        };
        let base = || self.base.iter().find(|s| s.name == "search_path").map(Startup::value);
        let adopted = |sql| {
            let list: Option<&str> = str::strip_prefix(sql, ADOPTED_PATH);
            list.and_then(|l| l.strip_suffix("', false)")).unwrap_or(sql)
        };
        set.map(adopted).or_else(base)
    }
}

/// Whether a connection with these settings in force needs nothing done for the wanted ones.
pub fn are_in_force(applied: Option<&Settings>, wanted: &Settings) -> bool {
    applied == Some(wanted) && !wanted.iter().any(|s| is_role(&s.name))
}

/// SQL that leads from the settings in force on a connection to the wanted ones.
pub fn reset_sql(applied: Option<&Settings>, wanted: &Settings) -> String {
    // A line each: a text may end in a comment.
    steps(applied, wanted).iter().map(|s| format!("{s}\n; ")).collect()
}

/// What ends all that an unknown past may have set. Where random() goes on from cannot be reset: the
/// next one is not to have a sequence that somebody has chosen.
const FORGET_ALL: [&str; 4] = [
    "RESET SESSION AUTHORIZATION",
    "RESET ROLE",
    "RESET ALL",
    "SELECT pg_catalog.setseed(pg_catalog.hashtext(pg_catalog.gen_random_uuid()::pg_catalog.text)::\
     pg_catalog.float8 OPERATOR(pg_catalog./) 2147483648)",
];

/// The same, statement by statement.
pub(super) fn steps(applied: Option<&Settings>, wanted: &Settings) -> Vec<String> {
    let mut steps = Vec::new();
    let keeps = |s: &Setting| wanted.contains(s);
    match applied {
        None => steps.extend(FORGET_ALL.map(Into::into)),
        Some(applied) => {
            // Roles first: the others may need the rights of the login role.
            let other = |s: &&Setting| !is_role(&s.name);
            let others = applied.iter().filter(other).any(|s| !keeps(s))
                || wanted.iter().filter(other).any(|s| !applied.contains(s));
            for s in applied.iter().filter(|s| (others || !keeps(s)) && is_role(&s.name)) {
                let what = if s.name == "role" { "ROLE" } else { "SESSION AUTHORIZATION" };
                steps.push(format!("RESET {what}"));
            }
            for s in applied.iter().filter(|s| !keeps(s) && !is_role(&s.name)) {
                steps.push(format!("RESET {}", ident(&s.name)));
            }
        }
    }
    // The name that a role was set by may be another role's by now.
    let again = |s: &Setting| is_role(&s.name);
    let missing = wanted.iter().filter(|s| again(s) || applied.is_none_or(|a| !a.contains(s)));
    steps.extend(missing.map(|s| s.sql.clone()));
    steps
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
    fn what_a_set_leaves_as_it_was_follows_too() {
        let mut s = startup("DateStyle", "Postgres, MDY");
        s.set("datestyle", "SET datestyle = dmy");
        s.learn_date_style(|| Some("Postgres, DMY"));
        s.commit();
        assert_eq!(s.current()[0].sql, "SET datestyle = 'Postgres, DMY'");
        s.set("role", "SET ROLE r");
        s.set("session_authorization", "SET SESSION AUTHORIZATION a");
        s.commit();
        assert_eq!(s.current().len(), 2, "the role has ended");
    }

    #[test]
    fn a_startup_packet_assigns_one_after_the_other() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let s = SessionSettings::new(&[
            pair("datestyle", "iso,dmy"),
            pair("client_encoding", "SJIS"),
            pair("DateStyle", "ISO"),
            pair("client_encoding", "UTF8"),
        ]);
        assert!(!s.foreign_text());
        assert_eq!(
            s.current()[0].sql,
            "SELECT pg_catalog.set_config('datestyle', 'iso,dmy', false), \
             pg_catalog.set_config('datestyle', 'ISO', false)"
        );
        assert_eq!(
            s.restores(&Control::Reset("datestyle".into())),
            ["SET \"datestyle\" = 'iso,dmy'", "SET \"datestyle\" = 'ISO'"]
        );
    }

    #[test]
    fn savepoints_bring_back_what_held() {
        let mut s = startup("DateStyle", "ISO");
        s.set("a", "SET a = 1");
        s.savepoint("x");
        s.set("a", "SET a = 2");
        s.savepoint("x");
        s.set("b", "SET b = 1");
        s.rollback_to("x");
        s.rollback_to("x");
        s.release("x");
        s.rollback_to("x");
        s.commit();
        let sql: Vec<_> = s.current().iter().map(|s| s.sql.as_str()).collect();
        assert_eq!(sql[1..], ["SET a = 1"], "the inner x is released, the outer one holds");
        s.set("a", "SET a = 3");
        s.rollback();
        s.savepoint("x");
        s.reset("a");
        s.rollback_to("x");
        s.commit();
        assert_eq!(s.current().len(), 2);
    }

    #[test]
    fn from_one_client_to_the_next() {
        let a = startup("application_name", "a'b");
        let mut b = startup("search_path", "x, y");
        assert_eq!(
            reset_sql(Some(a.current()), b.current()),
            "RESET \"application_name\"\n; SELECT pg_catalog.set_config('search_path', 'x, y', false)\n; "
        );
        b.set("role", "SET ROLE r");
        b.commit();
        assert!(reset_sql(Some(b.current()), a.current()).starts_with("RESET ROLE\n; "));
        assert!(reset_sql(None, a.current()).contains("'a''b'"));
        assert!(are_in_force(Some(a.current()), a.current()));
        let role = b.current().clone();
        b.set("x.y", "SET x.y = '1'");
        b.commit();
        let both = "SET x.y = '1'\n; SET ROLE r\n; ";
        assert_eq!(reset_sql(Some(&role), b.current()), format!("RESET ROLE\n; {both}"));
        b.reset_all();
        b.commit();
        let known = "RESET ROLE\n; RESET \"x\".\"y\"\n; SET ROLE r\n; ";
        assert_eq!(reset_sql(Some(&role), b.current()), known, "it is empty, not unknown");
        b.reset("x.y");
        b.discard();
        assert_eq!(b.current().last().map(|s| s.sql.as_str()), Some("RESET \"x\".\"y\""));
        b = startup("search_path", "x, y");
        b.set("role", "SET ROLE r");
        b.commit();
        assert!(!are_in_force(Some(b.current()), b.current()), "a role is set each time");
        assert_eq!(reset_sql(Some(b.current()), b.current()), "SET ROLE r\n; ");
    }
}
