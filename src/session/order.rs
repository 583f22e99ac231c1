//! In which order requests went to the server, and what of it may still turn out not to have happened.
//!
//! After an error the server skips the rest of a segment. What a skipped request would have changed
//! was believed from the moment it was sent; in its own segment that does no harm, since whatever
//! counts on it is skipped too. A later segment must not count on it before it is answered.
//!
//! Requests are numbered as they are sent. What is outstanding is always the latest of them, so
//! that a number tells it: looking through a long pipeline for each of its messages would take too
//! long.

use std::collections::BTreeMap;

use super::link::{Expect, Reply};
use super::prepared::StatementId;
use crate::router::plan::Control;

/// Below this many numbers of names none is thrown away.
const FEW: usize = 64;

#[derive(Debug, Default)]
pub struct Order {
    noted: u64,
    /// The last that ends a segment.
    ended: u64,
    /// The last that may change what the texts behind it mean; 0: none.
    reading: u64,
    /// The last that ends a transaction, or a part of it.
    end: u64,
    /// The last that takes data of the client's.
    copies: u64,
    /// The last that has given this name of the client's to another statement, or taken it.
    names: BTreeMap<Vec<u8>, u64>,
    /// The same of no name, which most statements have.
    nameless: u64,
    /// The last that has prepared or closed a statement of this content on the connection.
    contents: BTreeMap<StatementId, u64>,
    /// The last that has changed the connection's unnamed statement.
    unnamed: u64,
}

impl Order {
    /// Notes a request behind `outstanding` others.
    pub fn note(&mut self, expect: &Expect, outstanding: usize) {
        if outstanding == 0 {
            self.begin_anew();
        }
        self.noted += 1;
        let number = self.noted;
        if matches!(expect.reply, Reply::Query | Reply::Sync) {
            self.ended = number;
        }
        let undo = &expect.undo;
        let answered = number.saturating_sub(outstanding as u64 + 1);
        match &undo.client {
            Some((name, _)) if name.is_empty() => self.nameless = number,
            Some((name, _)) => {
                keep_few(&mut self.names, answered, outstanding);
                self.names.insert(name.clone(), number);
            }
            None => {}
        }
        if let Some((id, _)) = undo.content {
            keep_few(&mut self.contents, answered, outstanding);
            self.contents.insert(id, number);
        }
        if undo.unnamed.is_some() {
            self.unnamed = number;
        }
        if expect.copies {
            self.copies = number;
        }
        let Some(controls) = &expect.controls else { return };
        let each = || controls.iter().map(|d| &d.control);
        // Of which statements there are it must be known, too.
        if each().any(|c| c.changes_reading() || matches!(c, Control::Deallocate(_))) {
            self.reading = number;
        }
        if each().any(Control::ends_block) {
            self.end = number;
        }
    }

    /// Nothing is outstanding.
    fn begin_anew(&mut self) {
        let Self { noted: _, ended, reading, end, copies, names, nameless, contents, unnamed } =
            self;
        for number in [ended, reading, end, copies, nameless, unnamed] {
            *number = 0;
        }
        names.clear();
        contents.clear();
    }

    /// So many requests were taken out from among those that are outstanding.
    pub fn taken_out(&mut self, count: usize) {
        self.noted -= count as u64;
    }

    /// Whether the request of this number is still to be answered. It may say so too long, until
    /// everything is answered, behind a COPY that has eaten a Sync.
    fn is_outstanding(&self, number: u64, outstanding: usize) -> bool {
        outstanding > 0 && number > self.noted.saturating_sub(outstanding as u64)
    }

    /// The same, for one of an earlier segment.
    fn is_open(&self, number: u64, outstanding: usize) -> bool {
        number <= self.ended && self.is_outstanding(number, outstanding)
    }

    /// A COPY FROM STDIN is outstanding.
    pub fn copies(&self, outstanding: usize) -> bool {
        self.is_outstanding(self.copies, outstanding)
    }

    pub fn may_change_reading(&self, may_be_taken_back: bool, outstanding: usize) -> bool {
        self.is_outstanding(self.reading, outstanding)
            || may_be_taken_back && self.is_outstanding(self.end, outstanding)
    }

    /// An earlier segment may turn out not to have given this name, or not to have taken it.
    pub fn is_name_open(&self, name: &[u8], outstanding: usize) -> bool {
        self.named(name).is_some_and(|n| self.is_open(n, outstanding))
    }

    /// A request that has changed this name is outstanding.
    pub fn changes_name(&self, name: &[u8], outstanding: usize) -> bool {
        self.named(name).is_some_and(|n| self.is_outstanding(n, outstanding))
    }

    fn named(&self, name: &[u8]) -> Option<u64> {
        if name.is_empty() { Some(self.nameless) } else { self.names.get(name).copied() }
    }

    /// An earlier segment may turn out not to have prepared this, or not to have closed it.
    pub fn is_content_open(&self, id: &StatementId, outstanding: usize) -> bool {
        self.contents.get(id).is_some_and(|n| self.is_open(*n, outstanding))
    }

    /// A request that prepares or closes this is outstanding.
    pub fn changes_content(&self, id: &StatementId, outstanding: usize) -> bool {
        self.contents.get(id).is_some_and(|n| self.is_outstanding(*n, outstanding))
    }

    /// An earlier segment may turn out not to have changed the unnamed statement.
    pub fn is_unnamed_open(&self, outstanding: usize) -> bool {
        self.is_open(self.unnamed, outstanding)
    }
}

/// Throws away what is answered already, when that is most of it.
fn keep_few<K: Ord>(all: &mut BTreeMap<K, u64>, answered: u64, outstanding: usize) {
    if all.len() >= FEW + 2 * outstanding {
        all.retain(|_, number| *number > answered);
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::Undo;
    use super::*;

    fn names(name: &str) -> Expect {
        let mut e = Expect::forward(Reply::Parse);
        e.undo = Undo { client: Some((name.into(), None)), ..Undo::default() };
        e
    }

    #[test]
    fn a_name_is_open_from_the_end_of_its_segment_to_its_answer() {
        let mut o = Order::default();
        o.note(&names("a"), 0);
        assert!(!o.is_name_open(b"a", 1), "the same segment");
        o.note(&Expect::forward(Reply::Sync), 1);
        assert!(o.is_name_open(b"a", 2));
        assert!(!o.is_name_open(b"b", 2));
        assert!(!o.is_name_open(b"a", 1), "answered");
        o.note(&names("a"), 1);
        assert!(!o.is_name_open(b"a", 2), "given again by this segment");
        o.note(&Expect::forward(Reply::Sync), 2);
        assert!(o.is_name_open(b"a", 2));
        assert!(!o.is_name_open(b"a", 0));
    }

    #[test]
    fn names_that_are_settled_do_not_pile_up() {
        let mut o = Order::default();
        for n in 0..1000 {
            o.note(&names(&n.to_string()), 3);
        }
        assert!(o.names.len() <= FEW + 6, "{}", o.names.len());
        assert!(o.changes_name(b"999", 3) && o.changes_name(b"997", 3));
    }
}
