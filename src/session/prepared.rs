//! The prepared statements of one server connection, by content.
//!
//! Clients with the same statement share it there, whatever each of them calls it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Names a statement by its content (text, parameter types): SHA-256, cut to 128 bits.
pub type StatementId = [u8; 16];

/// SHA-256 of text and types, cut to 128 bits: two contents never share it by accident or design.
pub fn statement_id(text: &[u8], oids: &[u8]) -> StatementId {
    let digest = Sha256::new()
        .chain_update((text.len() as u64).to_be_bytes())
        .chain_update(text)
        .chain_update(oids)
        .finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

/// The name a statement bears on server connections.
pub fn server_name(id: &StatementId) -> [u8; 36] {
    let mut name = *b"pgs_00000000000000000000000000000000";
    for (i, byte) in id.iter().enumerate() {
        let hex = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
        name[4 + 2 * i] = hex(byte >> 4);
        name[5 + 2 * i] = hex(byte & 15);
    }
    name
}

/// Statements prepared on one connection, least recently used first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Prepared {
    order: VecDeque<StatementId>,
    /// Contents that one of them is as well: its parameters turned out to be of those types.
    same: Vec<(StatementId, StatementId)>,
}

impl Prepared {
    /// Whether the statement is there; if so it is now the most recently used.
    pub fn touch(&mut self, id: &StatementId) -> bool {
        if self.order.back() == Some(id) {
            return true;
        }
        match self.order.iter().position(|s| s == id) {
            Some(at) => {
                self.order.remove(at);
                self.order.push_back(*id);
                true
            }
            None => false,
        }
    }

    /// The statement of this content; now it is the most recently used.
    pub fn find(&mut self, id: &StatementId) -> Option<StatementId> {
        if self.touch(id) {
            return Some(*id);
        }
        let (_, of) = *self.same.iter().find(|(same, _)| same == id)?;
        self.touch(&of).then_some(of)
    }

    /// The statement `of` is of this content too.
    pub fn is_also(&mut self, id: StatementId, of: StatementId) {
        // One that has that many is found by its own content only, and prepared once more otherwise.
        let many = self.same.len() > 4 * self.order.len();
        if !many && self.order.contains(&of) && self.find(&id).is_none() {
            self.same.push((id, of));
        }
    }

    pub fn insert(&mut self, id: StatementId) {
        if !self.touch(&id) {
            self.order.push_back(id);
        }
    }

    /// Whether it was there.
    pub fn remove(&mut self, id: &StatementId) -> bool {
        let before = self.order.len();
        self.order.retain(|s| s != id);
        self.same.retain(|(_, of)| of != id);
        self.order.len() < before
    }

    /// The statement to close so that one more does not exceed `limit`, of which there is one
    /// at the least.
    pub fn oldest(&self, limit: usize) -> Option<StatementId> {
        self.order.front().filter(|_| self.order.len() >= limit.max(1)).copied()
    }

    /// A statement that was to be closed and was not.
    pub fn keep(&mut self, id: StatementId) {
        if !self.order.contains(&id) {
            self.order.push_front(id);
        }
    }

    pub fn clear(&mut self) {
        self.order.clear();
        self.same.clear();
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_statement_goes_first() {
        let mut p = Prepared::default();
        for n in 1..=3 {
            p.insert([n; 16]);
        }
        assert!(p.touch(&[1; 16]));
        assert_eq!(p.oldest(3), Some([2; 16]));
        assert!(p.remove(&[2; 16]) && !p.remove(&[2; 16]));
        assert_eq!(p.oldest(3), None);
        assert!(!p.touch(&[2; 16]));
        assert_eq!(p.len(), 2);
        assert_eq!(p.oldest(0), Some([3; 16]));
        p.clear();
        assert_eq!(p.oldest(0), None, "the next one may always come");
    }

    #[test]
    fn a_content_is_known_for_as_long_as_its_statement() {
        let mut p = Prepared::default();
        p.is_also([9; 16], [1; 16]);
        assert_eq!(p.find(&[9; 16]), None, "there is no such statement");
        p.insert([1; 16]);
        p.is_also([9; 16], [1; 16]);
        p.insert([2; 16]);
        assert_eq!(p.find(&[9; 16]), Some([1; 16]));
        assert_eq!(p.oldest(2), Some([2; 16]), "the other one was used last");
        p.remove(&[1; 16]);
        p.insert([1; 16]);
        assert_eq!(p.find(&[9; 16]), None, "prepared anew it may be another");
    }

    #[test]
    fn server_names_are_hex() {
        let mut id = [0; 16];
        id[0] = 0xaf;
        id[15] = 0x01;
        assert_eq!(&server_name(&id)[..], b"pgs_af000000000000000000000000000001");
    }
}
