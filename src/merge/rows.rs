//! What an INSERT of several rows returns, each node that of its own, in the order of the rows.
//!
//! Drivers take the n-th row for that of the n-th row they have sent. Where a node returns fewer rows than
//! it got (ON CONFLICT DO NOTHING), which they are of is not known, and they come node by node.

use std::sync::Arc;

use crate::router::plan::Parts;
use crate::wire::backend::Report;
use crate::wire::frame;

/// More is not kept until all nodes have been heard.
const MOST_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub struct Returned {
    parts: Arc<Parts>,
    /// What each node that has been heard has returned; the last one is heard now.
    rows: Vec<Vec<Vec<u8>>>,
    bytes: usize,
}

impl Returned {
    pub fn new(parts: Arc<Parts>) -> Self {
        Self { parts, rows: vec![Vec::new()], bytes: 0 }
    }

    /// A row of the node that is heard.
    ///
    /// # Errors
    /// They are too many to be kept.
    pub fn row(&mut self, body: &[u8]) -> Result<(), Report> {
        self.bytes += body.len() + size_of::<Vec<u8>>();
        if self.bytes > MOST_BYTES {
            return Err(Report::error(
                "54000",
                "the rows of an INSERT on several nodes return too much",
            )
            .hint("Insert fewer rows at a time."));
        }
        if let Some(rows) = self.rows.last_mut() {
            rows.push(body.to_vec());
        }
        Ok(())
    }

    /// The node has been heard.
    pub fn part_ends(&mut self) {
        self.rows.push(Vec::new());
    }

    /// Writes them as the client's.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        let each = || self.parts.rows.iter().zip(&self.rows);
        let mut all: Vec<(usize, &[u8])> = Vec::new();
        if each().all(|(numbers, rows)| numbers.len() == rows.len()) {
            all.extend(
                each().flat_map(|(n, rows)| n.iter().copied().zip(rows.iter().map(|r| &r[..]))),
            );
            all.sort_by_key(|(number, _)| *number);
        } else {
            all.extend(self.rows.iter().flatten().map(|r| (0, &r[..])));
        }
        for (_, row) in all {
            frame::put(out, b'D', |b| b.extend_from_slice(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(rows: &[&[&[u8]]]) -> Vec<u8> {
        let parts = Parts { rows: vec![vec![1, 2], vec![0, 3]], returns: true };
        let mut returned = Returned::new(parts.into());
        for part in rows {
            part.iter().for_each(|row| returned.row(row).unwrap());
            returned.part_ends();
        }
        let mut out = Vec::new();
        returned.write(&mut out);
        out.into_iter().filter(u8::is_ascii_lowercase).collect()
    }

    #[test]
    fn rows_come_in_the_order_in_which_they_were_sent() {
        assert_eq!(returned(&[&[b"b", b"c"], &[b"a", b"d"]]), b"abcd");
        assert_eq!(returned(&[&[b"b"], &[b"a", b"d"]]), b"bad", "which is missing is not known");
    }
}
