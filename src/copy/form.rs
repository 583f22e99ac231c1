//! How the data of a COPY is written, as its options say.

use crate::hash::KeyType;

/// The format of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    Text,
    Csv { quote: u8, escape: u8 },
    Binary,
}

impl Layout {
    pub(super) fn is_csv(&self) -> bool {
        matches!(self, Self::Csv { .. })
    }
}

/// A distribution column among the columns that the data has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// Which column of a row it is, from 0.
    pub at: usize,
    pub ty: KeyType,
    /// FORCE_NULL: quoted, too, the null marker is NULL.
    pub force_null: bool,
    /// FORCE_NOT_NULL: the null marker is a value.
    pub force_not_null: bool,
}

/// What must be known of a COPY's options and columns to tell its rows apart and to read their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    pub layout: Layout,
    pub delimiter: u8,
    /// The null marker.
    pub null: Vec<u8>,
    /// The marker for a column's default, if there is one.
    pub default: Option<Vec<u8>>,
    /// The first line is none of a row.
    pub header: bool,
    /// In partition-key order.
    pub keys: Box<[KeyColumn]>,
}

impl Form {
    /// The format of these distribution columns without any options.
    pub fn text(keys: Box<[KeyColumn]>) -> Self {
        Self {
            layout: Layout::Text,
            delimiter: b'\t',
            null: b"\\N".to_vec(),
            default: None,
            header: false,
            keys,
        }
    }

    /// How many columns of a row must be read to know its key.
    pub(super) fn reach(&self) -> usize {
        self.keys.iter().map(|k| k.at + 1).max().unwrap_or(0)
    }
}
