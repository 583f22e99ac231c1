//! What must be computed of an INSERT before its rows have a place.

use std::collections::BTreeSet;

use super::answer::Answer;
use super::computed::Computed;
use super::source::Source;
use super::tokens::Tokens;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The distribution columns of its VALUES, or columns of a reference table.
    Keys(Computed),
    /// The rows of its query.
    Rows(Source),
}

impl Wanted {
    /// The query for it; `None`: it is not found in the text.
    pub fn question(&self, text: &[u8]) -> Option<String> {
        match self {
            Self::Keys(keys) => keys.question(text),
            Self::Rows(source) => source.question(text),
        }
    }

    /// The text with what was computed; `None`: that cannot stand there.
    pub fn answered(&self, text: &[u8], answer: &Answer<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Keys(keys) => keys.answered(text, answer.rows, answer.written),
            Self::Rows(source) => source.answered(text, answer),
        }
    }
}

/// The numbers of the parameters in a text.
pub fn parameters(text: &[u8]) -> BTreeSet<usize> {
    let number = |span: std::ops::Range<usize>| {
        let digits = text.get(span)?.strip_prefix(b"$")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    Tokens::of(text).filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found() {
        let found = parameters(b"INSERT INTO t VALUES ($2, '$3', $$ $4 $$, $10) -- $5");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [2, 10]);
    }
}
