//! What was prepared before what, and whether tables may have changed in between.
//!
//! A Parse of the client means the tables of its moment. A server connection on which somebody had
//! the same text prepared earlier may hold it as it was for other tables: with parameters of their
//! types, through which PostgreSQL would put the client's values, and with their columns, of which
//! it would say that "cached plan must not change result type". On a connection of its own the
//! client would meet neither. So a statement is prepared anew where it is older than the client's
//! Parse and tables may have changed since. The first alone would be enough, and would cost a Parse
//! of each statement on each connection for every client that comes. With the second nobody pays
//! while tables stay as they are, nor do long-lived clients afterwards; so that one may be said too
//! often: of all DDL, as the server's command tags tell it, and of all code of somebody's
//! (functions, CALL, DO), which may hold some. Not seen is what triggers do, and what is done on a
//! node directly. CREATE TABLE AS answers as a SELECT does; what it replaces has been dropped before.
//!
//! A client that was told the columns goes by those (`session::columns`). One whose Parse is older
//! than the change has nothing to do with this: where nothing is lost by it `session::retry` prepares
//! its statement anew, unseen, and else the error is the client's, as from PostgreSQL.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that is larger than that of any moment before. 0 is before all of them.
pub type Moment = u64;

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

    pub fn now(&self) -> Moment {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Tables may have changed, and that is committed.
    pub fn tables_may_have_changed(&self) {
        self.changed.fetch_max(self.now(), Ordering::AcqRel);
    }

    /// What was prepared on a server connection at the moment `made` may stand for other tables than
    /// the client's Parse at the moment `meant`.
    pub(super) fn is_outdated(&self, made: Moment, meant: Moment) -> bool {
        made < meant && made < self.changed.load(Ordering::Acquire)
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
        let (old, made, meant, young) = (m.now(), m.now(), m.now(), m.now());
        assert!(!m.is_outdated(made, meant), "nothing has changed");
        m.tables_may_have_changed();
        assert!(m.is_outdated(made, meant) && m.is_outdated(0, old));
        assert!(!m.is_outdated(young, meant), "made after the Parse");
        let (made, meant) = (m.now(), m.now());
        assert!(!m.is_outdated(made, meant), "nothing has changed since");
    }

    #[test]
    fn what_another_process_has_left_is_older_than_all_of_this_one() {
        let (before, after) = (Moments::later(1_000), Moments::later(2_000));
        let made = before.now();
        assert!(!before.is_outdated(made, before.now()));
        assert!(after.is_outdated(made, after.now()));
        let made = after.now();
        assert!(!after.is_outdated(made, after.now()));
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
