//! A list of distribution keys that a statement names.

use super::{Key, KeySource};
use crate::topology::GroupId;

/// Keys of which each row that counts has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Among {
    pub group: GroupId,
    pub keys: Box<[Key]>,
}

impl Among {
    /// About what it takes of the memory, in bytes.
    pub fn weight(&self) -> usize {
        self.keys.len() * (size_of::<Key>() + size_of::<KeySource>())
    }
}
