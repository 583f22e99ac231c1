//! Which line of the client's data a node means by the number of a line of its own.
//!
//! A node counts the rows that it is sent. What it complains about was sent lately: what is older than all
//! that sockets and the server's own buffers hold is forgotten, so that a COPY of any length keeps little.

use std::collections::VecDeque;

/// Bytes of the node's data for which the numbers of lines are kept.
const KEPT: u64 = 16 << 20;
/// Rows whose numbers are kept and forgotten together.
const BLOCK: usize = 4096;

/// The lines that one node has been sent.
#[derive(Debug, Default)]
pub struct Lines {
    blocks: VecDeque<Block>,
    /// Lines of the node's, and bytes.
    count: u64,
    sent: u64,
    /// The client's number of the last one.
    last: u64,
}

#[derive(Debug)]
struct Block {
    /// The numbers before its first row, and the bytes.
    node: u64,
    client: u64,
    sent: u64,
    rows: usize,
    /// For each row how many lines further it is at the client, and at the node if that is not one:
    /// numbers of seven bits a byte, of which the first one's lowest bit says whether a second one follows.
    steps: Vec<u8>,
}

impl Lines {
    /// A row of so many lines as the node counts, and so many bytes, was sent; behind it the client's
    /// count is `client`.
    pub fn note(&mut self, lines: u64, bytes: usize, client: u64) {
        let full = self.blocks.back().is_none_or(|b| b.rows == BLOCK);
        if full {
            let (node, sent) = (self.count, self.sent);
            let steps = Vec::new();
            self.blocks.push_back(Block { node, client: self.last, sent, rows: 0, steps });
            while self.blocks.get(1).is_some_and(|b| b.sent + KEPT < self.sent) {
                self.blocks.pop_front();
            }
        }
        if let Some(block) = self.blocks.back_mut() {
            block.rows += 1;
            let further = client.saturating_sub(self.last);
            put(&mut block.steps, further << 1 | u64::from(lines != 1));
            if lines != 1 {
                put(&mut block.steps, lines);
            }
        }
        self.count += lines;
        self.sent += bytes as u64;
        self.last = client;
    }

    /// The number at the client of the node's line `number`, when the client has sent `total` lines;
    /// `None`: it is not known any more.
    pub fn at_client(&self, number: u64, total: u64) -> Option<u64> {
        if number > self.count {
            // The node waits for a line that has not come.
            return Some(total + (number - self.count));
        }
        let block = self.blocks.iter().rfind(|b| b.node < number)?;
        let (mut node, mut client) = (block.node, block.client);
        let mut steps = block.steps.as_slice();
        while node < number {
            let step = take(&mut steps)?;
            client += step >> 1;
            node += if step & 1 == 1 { take(&mut steps)? } else { 1 };
        }
        Some(client - (node - number).min(client))
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_line_is_the_clients() {
        let mut lines = Lines::default();
        // A header, then every third row, of which one is of three lines.
        lines.note(1, 10, 1);
        lines.note(1, 10, 4);
        lines.note(3, 10, 9);
        lines.note(1, 10, 500);
        let at = |n| lines.at_client(n, 600).unwrap();
        assert_eq!([at(1), at(2), at(5), at(6)], [1, 4, 9, 500]);
        assert_eq!([at(3), at(4)], [7, 8], "within a quoted value");
        assert_eq!(at(7), 601, "the line that is to come");
    }

    #[test]
    fn what_cannot_be_complained_about_any_more_is_forgotten() {
        let mut lines = Lines::default();
        let rows = 3 * KEPT / 100;
        for n in 1..=rows {
            lines.note(1, 100, 2 * n);
        }
        assert_eq!(lines.at_client(rows, 2 * rows), Some(2 * rows));
        assert_eq!(lines.at_client(rows - KEPT / 100, 2 * rows), Some(2 * (rows - KEPT / 100)));
        assert_eq!(lines.at_client(1, 2 * rows), None);
        let bytes: usize = lines.blocks.iter().map(|b| b.steps.len()).sum();
        assert!(bytes < 2 * KEPT as usize / 100, "{bytes}");
    }
}
