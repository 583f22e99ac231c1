//! What a session's past says about the meaning of its next text.
//!
//! The planner reads a text by the search_path, the temporary tables and the encoding that are in
//! force when PostgreSQL reads it. What is under way may still change them.

use super::Session;
use crate::router::Speech;
use crate::router::plan::Control;

impl Session {
    /// What the planner must know of the session besides a text.
    pub(super) fn speech(&self) -> Speech<'_> {
        Speech {
            path: self.settings.search_path(),
            temporary: self.pinned.is_some() || self.check.is_path_open(),
            foreign_text: self.settings.foreign_text(),
        }
    }

    /// Whether a statement under way may change what the next one's text means: it must be known
    /// first.
    pub(super) fn meaning_is_open(&self) -> bool {
        let Some(link) = &self.link else { return false };
        let ends = |c: &Control| {
            matches!(
                c,
                Control::Rollback
                    | Control::RollbackAndChain
                    | Control::RollbackTo(_)
                    | Control::Commit
                    | Control::CommitAndChain
            )
        };
        let taken_back = self.settings.path_is_open();
        link.expects.iter().any(|e| {
            let left = e.controls.iter().flat_map(|c| c.iter().skip(e.completed));
            left.map(|d| &d.control).any(|c| {
                // Of which statements there are it must be known, too.
                let forgets = *c == Control::Deallocate(None);
                c.changes_reading() || forgets || (taken_back && ends(c))
            })
        })
    }
}
