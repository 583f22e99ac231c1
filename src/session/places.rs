//! Where in its own text the client reads that an error is: a node tells it by what it was sent.

use super::Session;
use crate::router::plan::OnEach;
use crate::wire::backend::report_field_at;

/// The word that stands in a node's text before the table of an index or a key.
const ONLY: usize = "ONLY ".len();

/// What each node is sent of a client's statement besides its own words, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PutIn {
    /// So many stand in front of it.
    front: usize,
    /// So many of its own stand before the word ONLY.
    only: Option<usize>,
}

impl PutIn {
    /// `between`: stands between two of the texts.
    pub fn of(each: &OnEach, between: &str) -> Self {
        let long = |text: &String| text.chars().count() + between.len();
        let front = each.texts.iter().take(each.own).map(long).sum();
        Self { front, only: each.only }
    }

    /// The place in the client's statement, counted from 1 as PostgreSQL does.
    fn in_own(self, said: usize) -> Option<usize> {
        let own = said.checked_sub(self.front).filter(|at| *at > 0)?;
        match self.only {
            Some(before) if own > before => Some(own.saturating_sub(ONLY).max(before + 1)),
            _ => Some(own),
        }
    }
}

impl Session {
    /// An error of a node's in the client's own words, lines and places, if those are not the node's.
    pub(super) fn as_client_reads(&self, error: &[u8]) -> Option<Vec<u8>> {
        let reworded = self.in_clients_words(error).or_else(|| self.in_clients_lines(error));
        let reworded = reworded.or_else(|| self.unexpected_in_copy(error));
        let placed = self.in_clients_text(reworded.as_deref().unwrap_or(error));
        placed.or(reworded)
    }

    /// The error with its place in the client's text, if it tells another one.
    fn in_clients_text(&self, error: &[u8]) -> Option<Vec<u8>> {
        let before = self.script.as_ref().map_or(0, |s| s.before());
        let put_in = self.spread.as_ref().and_then(|s| s.making.as_ref()).map(|m| m.put_in);
        if before == 0 && put_in.is_none() {
            return None;
        }
        let at = report_field_at(error, b'P')?;
        let said: usize = std::str::from_utf8(error.get(at.clone())?).ok()?.parse().ok()?;
        let own = put_in.map_or(Some(said), |p| p.in_own(said))?;
        let own = (own + before).to_string();
        Some([error.get(..at.start)?, own.as_bytes(), error.get(at.end..)?].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_does_not_count() {
        // ALTER TABLE t ALTER k SET NOT NULL\n; CREATE INDEX ON ONLY t (k, x)
        let put_in = PutIn { front: 10, only: Some(16) };
        assert_eq!(put_in.in_own(10), None, "in pgshunt's own");
        assert_eq!(put_in.in_own(11), Some(1));
        assert_eq!(put_in.in_own(10 + 16), Some(16));
        assert_eq!(put_in.in_own(10 + 22), Some(17), "the table");
        assert_eq!(put_in.in_own(10 + 28), Some(23));
    }
}
