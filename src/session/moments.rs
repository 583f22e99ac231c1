//! What the names in a prepared text mean: by which search_path it was parsed, and of which tables.
//!
//! A Parse of the client means its own search_path and the tables of its moment. A server connection
//! on which somebody had the same text prepared may hold it as it was for other tables: with
//! parameters of their types, through which PostgreSQL would put the client's values ('007' becomes
//! 7), and with their columns, of which it would say that "cached plan must not change result type".
//! On a connection of its own the client would meet neither. So a statement is prepared anew
//!
//! - where it was parsed by another search_path. PostgreSQL would analyze it anew all the same.
//! - where it is older than the client's Parse and tables may have changed since. The first alone
//!   would be enough, and would cost a Parse of each statement on each connection for every client
//!   that comes. With the second nobody pays while tables stay as they are, nor do long-lived clients
//!   afterwards; so that one may be said too often: of all DDL, as the server's command tags tell it,
//!   and of all code of somebody's (functions, CALL, DO), which may hold some. Not seen is what
//!   triggers do, and what is done on a node directly. CREATE TABLE AS answers as a SELECT does; what
//!   it replaces has been dropped before.
//!
//! A client that was told the columns goes by those (`session::columns`). One whose Parse is older
//! than the change has nothing to do with this: where nothing is lost by it `session::retry` prepares
//! its statement anew, unseen, and else the error is the client's, as from PostgreSQL.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A number that is larger than that of any moment before. 0 is before all of them.
pub type Moment = u64;

/// When a text was parsed, and by which search_path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meaning {
    at: Moment,
    /// 0: the role's default.
    path: u64,
}

/// The same in every process.
fn print(path: Option<&str>) -> u64 {
    path.map_or(0, |path| {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        hasher.finish()
    })
}

/// The moments of a process, for all its sessions.
#[derive(Debug, Default)]
pub struct Moments {
    last: AtomicU64,
    /// When tables may have changed last.
    changed: AtomicU64,
}

impl Moments {
    /// All of them are later than `than`, a table may have changed between that and now: another
    /// process has had clients until then.
    pub fn later(than: Moment) -> Self {
        Self { last: AtomicU64::new(than), changed: AtomicU64::new(than) }
    }

    fn now(&self) -> Moment {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Tables may have changed, and that is committed.
    pub fn tables_may_have_changed(&self) {
        self.changed.fetch_max(self.now(), Ordering::AcqRel);
    }

    /// The meaning of a text that is parsed now.
    pub(super) fn parsed_by(&self, path: Option<&str>) -> Meaning {
        Meaning { at: self.now(), path: print(path) }
    }

    /// What was `made` on a server connection may stand for other tables than the client's Parse
    /// `meant`. A client that has left the search_path of its Parse gets what the one in force gives.
    pub(super) fn differ(&self, made: Meaning, meant: Meaning, path: Option<&str>) -> bool {
        let outdated = made.at < meant.at && made.at < self.changed.load(Ordering::Acquire);
        outdated || made.path != meant.path && made.path != print(path)
    }
}

/// Whether a command with this tag may have changed tables: DDL, or code that may hold some.
pub(super) fn may_change_tables(tag: &[u8]) -> bool {
    let first: [&[u8]; 6] =
        [b"CREATE ", b"ALTER ", b"DROP ", b"IMPORT FOREIGN ", b"DO\0", b"CALL\0"];
    // What was prepared for two-phase commit, by whatever session.
    first.iter().any(|f| tag.starts_with(f)) || tag.starts_with(b"COMMIT PREPARED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outdated_is_what_is_older_than_the_parse_and_than_a_change() {
        let m = Moments::default();
        let [old, made, meant, young] = [(); 4].map(|()| m.parsed_by(None));
        assert!(!m.differ(made, meant, None), "nothing has changed");
        m.tables_may_have_changed();
        assert!(m.differ(made, meant, None) && m.differ(Meaning::default(), old, None));
        assert!(!m.differ(young, meant, None), "made after the Parse");
        let (made, meant) = (m.parsed_by(None), m.parsed_by(None));
        assert!(!m.differ(made, meant, None), "nothing has changed since");
    }

    #[test]
    fn another_search_path_is_another_meaning() {
        let m = Moments::default();
        let (acme, bolt) = (Some("acme"), Some("bolt"));
        let meant = m.parsed_by(acme);
        assert!(
            m.differ(m.parsed_by(bolt), meant, acme) && m.differ(m.parsed_by(None), meant, acme)
        );
        assert!(!m.differ(m.parsed_by(acme), meant, acme));
        // The client has another one now.
        assert!(
            !m.differ(m.parsed_by(acme), meant, bolt) && !m.differ(m.parsed_by(bolt), meant, bolt)
        );
        assert!(m.differ(m.parsed_by(None), meant, bolt));
    }

    #[test]
    fn what_another_process_has_left_is_older_than_all_of_this_one() {
        let (before, after) = (Moments::later(1_000), Moments::later(2_000));
        let made = before.parsed_by(None);
        assert!(!before.differ(made, before.parsed_by(None), None));
        assert!(after.differ(made, after.parsed_by(None), None));
        let made = after.parsed_by(None);
        assert!(!after.differ(made, after.parsed_by(None), None));
    }

    #[test]
    fn command_tags_tell_of_ddl() {
        for tag in ["CREATE TABLE", "ALTER TYPE", "DROP VIEW", "DO", "CALL", "COMMIT PREPARED"] {
            assert!(may_change_tables(format!("{tag}\0").as_bytes()), "{tag}");
        }
        for tag in ["SELECT 1", "INSERT 0 1", "DELETE 2", "COMMIT", "COPY 3", "DISCARD ALL"] {
            assert!(!may_change_tables(format!("{tag}\0").as_bytes()), "{tag}");
        }
    }
}
