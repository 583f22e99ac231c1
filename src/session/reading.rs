//! What a session's past says about the meaning of its next text.
//!
//! The planner reads a text by the search_path, the temporary tables and the encoding that are in
//! force when PostgreSQL reads it. What is under way may still change them.

use super::Session;
use crate::router::Speech;

impl Session {
    /// What the planner must know of the session besides a text.
    pub(super) fn speech(&self) -> Speech<'_> {
        Speech {
            path: self.settings.search_path(),
            temporary: self.may_have_temporary() || self.is_path_open(),
            foreign_text: self.settings.foreign_text(),
            local_code: self.settings.local_code(),
            sees: self.settings.sees(),
        }
    }

    /// Whether a statement under way may change what the next one's text means: it must be known
    /// first.
    pub(super) fn meaning_is_open(&self) -> bool {
        let taken_back = self.settings.path_is_open();
        self.link.as_ref().is_some_and(|link| link.may_change_reading(taken_back))
    }
}
