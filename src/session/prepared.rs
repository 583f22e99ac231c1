//! The prepared statements of one server connection, by content.
//!
//! Clients with the same statement share it there, whatever each of them calls it.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::moments::Meaning;

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

/// Statements prepared on one connection.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(from = "Listed", into = "Listed")]
pub struct Prepared {
    all: HashMap<StatementId, Known>,
    /// Counts their uses.
    uses: u64,
    /// Contents that one of them is as well: its parameters turned out to be of those types.
    same: HashMap<StatementId, StatementId>,
}

#[derive(Debug, Default, Clone)]
struct Known {
    /// The number of its last use.
    used: u64,
    made: Meaning,
}

/// The same, least recently used first.
#[derive(Serialize, Deserialize)]
struct Listed {
    order: Vec<StatementId>,
    #[serde(default)]
    made: Vec<Meaning>,
    same: Vec<(StatementId, StatementId)>,
}

impl Prepared {
    /// Whether the statement is there; if so it is now the most recently used.
    pub fn touch(&mut self, id: &StatementId) -> bool {
        let Some(known) = self.all.get_mut(id) else { return false };
        self.uses += 1;
        known.used = self.uses;
        true
    }

    /// The statement of this content; now it is the most recently used.
    pub fn find(&mut self, id: &StatementId) -> Option<StatementId> {
        if self.touch(id) {
            return Some(*id);
        }
        let of = *self.same.get(id)?;
        self.touch(&of).then_some(of)
    }

    /// The statement `of` is of this content too.
    pub fn is_also(&mut self, id: StatementId, of: StatementId) {
        // One that has that many is found by its own content only, and prepared once more otherwise.
        let many = self.same.len() > 4 * self.all.len();
        if !many && self.all.contains_key(&of) && self.find(&id).is_none() {
            self.same.insert(id, of);
        }
    }

    /// It is prepared, with this meaning.
    pub fn insert(&mut self, id: StatementId, made: Meaning) {
        self.uses += 1;
        self.all.insert(id, Known { used: self.uses, made });
    }

    /// What it meant when it was prepared; where that is not certain, of the first moment.
    pub fn made(&self, id: &StatementId) -> Meaning {
        self.all.get(id).map(|k| k.made).unwrap_or_default()
    }

    /// Whether it was there.
    pub fn remove(&mut self, id: &StatementId) -> bool {
        let there = self.all.remove(id).is_some();
        if there {
            self.same.retain(|_, of| of != id);
        }
        there
    }

    /// The statement to close so that one more does not exceed `limit`, of which there is one
    /// at the least.
    pub fn oldest(&self, limit: usize) -> Option<StatementId> {
        if self.all.len() < limit.max(1) {
            return None;
        }
        self.all.iter().min_by_key(|(id, k)| (k.used, **id)).map(|(id, _)| *id)
    }

    /// A statement that was to be closed and was not.
    pub fn keep(&mut self, id: StatementId) {
        self.all.entry(id).or_default();
    }

    pub fn clear(&mut self) {
        self.all.clear();
        self.same.clear();
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl From<Prepared> for Listed {
    fn from(p: Prepared) -> Self {
        let mut all: Vec<_> = p.all.into_iter().collect();
        all.sort_unstable_by_key(|(id, k)| (k.used, *id));
        let (order, made) = all.into_iter().map(|(id, k)| (id, k.made)).unzip();
        Self { order, made, same: p.same.into_iter().collect() }
    }
}

impl From<Listed> for Prepared {
    fn from(listed: Listed) -> Self {
        let mut p = Self { same: listed.same.into_iter().collect(), ..Self::default() };
        let made = listed.made.into_iter().chain(std::iter::repeat(Meaning::default()));
        listed.order.into_iter().zip(made).for_each(|(id, made)| p.insert(id, made));
        p
    }
}

#[cfg(test)]
mod tests {
    use super::super::moments::Moments;
    use super::*;

    #[test]
    fn the_least_recently_used_statement_goes_first() {
        let mut p = Prepared::default();
        for n in 1..=3 {
            p.insert([n; 16], Meaning::default());
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
        p.insert([1; 16], Meaning::default());
        p.is_also([9; 16], [1; 16]);
        p.insert([2; 16], Meaning::default());
        assert_eq!(p.find(&[9; 16]), Some([1; 16]));
        assert_eq!(p.oldest(2), Some([2; 16]), "the other one was used last");
        p.remove(&[1; 16]);
        p.insert([1; 16], Meaning::default());
        assert_eq!(p.find(&[9; 16]), None, "prepared anew it may be another");
    }

    #[test]
    fn another_process_finds_the_same() {
        let (mut p, moments) = (Prepared::default(), Moments::default());
        for n in 1..=3 {
            p.insert([n; 16], moments.parsed_by(None));
        }
        p.is_also([9; 16], [2; 16]);
        p.remove(&[3; 16]);
        p.keep([3; 16]);
        let made = |p: &Prepared| [1, 2, 3].map(|n| p.made(&[n; 16]));
        let before = made(&p);
        assert_eq!(before[2], Meaning::default(), "nobody knows since when");
        let packed = serde_json::to_string(&p).unwrap();
        let mut p: Prepared = serde_json::from_str(&packed).unwrap();
        assert_eq!(made(&p), before);
        assert_eq!(p.find(&[9; 16]), Some([2; 16]));
        assert_eq!(p.oldest(3), Some([3; 16]));
        let before = r#"{"order":[[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]],"same":[]}"#;
        let p: Prepared = serde_json::from_str(before).unwrap();
        assert_eq!(
            (p.len(), p.made(&[1; 16])),
            (1, Meaning::default()),
            "of one that did not note it"
        );
    }

    #[test]
    fn server_names_are_hex() {
        let mut id = [0; 16];
        id[0] = 0xaf;
        id[15] = 0x01;
        assert_eq!(&server_name(&id)[..], b"pgs_af000000000000000000000000000001");
    }
}
