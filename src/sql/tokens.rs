//! The tokens of a text one by one, without blanks and comments.

use std::ops::Range;

use super::size::{blank_or_comment, token};

#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    /// The last one was `E'...'`, which a quote goes on with.
    escapes: bool,
}

impl<'a> Tokens<'a> {
    pub fn of(text: &'a [u8]) -> Self {
        Self::at(text, 0)
    }

    /// Those from this one on.
    pub fn at(text: &'a [u8], at: usize) -> Self {
        Self { text, at, escapes: false }
    }
}

impl Iterator for Tokens<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
            let skipped = blank_or_comment(rest);
            if skipped > 0 {
                self.at += skipped;
                continue;
            }
            let prefixed = matches!(rest, [b'e' | b'E', b'\'', ..]);
            self.escapes = prefixed || self.escapes && rest[0] == b'\'';
            let start = self.at;
            self.at = (start + token(rest, self.escapes)).min(self.text.len());
            return Some(start..self.at);
        }
    }
}
