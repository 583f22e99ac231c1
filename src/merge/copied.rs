//! COPY TO STDOUT of several nodes as one: one head, all rows, one end.
//!
//! A node sends each row as a message of its own; in binary format the head comes along with the first of
//! them, or with the mark of the end.

use std::ops::Range;

use crate::router::plan::CopyOut;

/// Signature, flags and an empty extension.
const HEAD: usize = 19;
/// The mark of the end: a row of -1 fields. No row of the table's is as short.
pub const END: &[u8] = &[0xff, 0xff];

/// What of a message of COPY data is the client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    All,
    Nothing,
    /// These bytes of its body.
    Part(Range<usize>),
}

/// How many bytes of a body decide about it.
pub const DECIDING: usize = HEAD + END.len();

#[derive(Debug, Default)]
pub struct Copied {
    /// How many nodes have been heard.
    nodes: usize,
    /// How many messages the one that is heard has sent.
    messages: u64,
}

impl Copied {
    /// A message of so many bytes comes.
    pub fn share(&mut self, out: &CopyOut, len: usize) -> Share {
        let first = self.messages == 0;
        self.messages += 1;
        match (out.binary, first, self.nodes) {
            (false, true, 1..) if out.header => Share::Nothing,
            (false, ..) => Share::All,
            (true, true, 0) if len == DECIDING => Share::Part(0..HEAD),
            (true, true, 0) => Share::All,
            (true, true, _) if len <= DECIDING => Share::Nothing,
            (true, true, _) => Share::Part(HEAD..len),
            (true, false, _) if len == END.len() => Share::Nothing,
            (true, false, _) => Share::All,
        }
    }

    /// The node that is heard has sent all.
    pub fn completed(&mut self) {
        self.nodes += 1;
        self.messages = 0;
    }

    /// What stands behind the rows of all nodes.
    pub fn end(&self, out: &CopyOut) -> &'static [u8] {
        if out.binary { END } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(out: &CopyOut, nodes: &[&[usize]]) -> Vec<Share> {
        let mut copied = Copied::default();
        let mut all = Vec::new();
        for lengths in nodes {
            all.extend(lengths.iter().map(|n| copied.share(out, *n)));
            copied.completed();
        }
        all
    }

    #[test]
    fn one_head_and_one_end() {
        let binary = CopyOut { text: None, binary: true, header: false };
        let nodes: [&[usize]; 3] = [&[HEAD + 10, 10, 2], &[HEAD + 2], &[HEAD + 7, 2]];
        let (all, none) = (Share::All, Share::Nothing);
        let wanted =
            [&all, &all, &none, &none, &Share::Part(HEAD..HEAD + 7), &none].map(Clone::clone);
        assert_eq!(shares(&binary, &nodes), wanted);
        assert_eq!(shares(&binary, &[&[HEAD + 2]]), [Share::Part(0..HEAD)]);
        let csv = CopyOut { text: None, binary: false, header: true };
        assert_eq!(shares(&csv, &[&[5], &[5, 2]]), [all.clone(), none, all.clone()]);
        let text = CopyOut { header: false, ..csv };
        assert_eq!(shares(&text, &[&[5], &[2]]), [all.clone(), all]);
    }
}
