//! Rows of several nodes, each node's in order, as one list in that order.
//!
//! The nodes are heard one after the other, so their rows are kept until the last one has been heard: up
//! to [`MOST`] bytes.

use std::cmp::Ordering;

use super::order::Keys;
use super::{MergeError, malformed};
use crate::router::plan::{Ordered, SortKey};
use crate::wire::backend::Report;

/// What is kept of the rows of one statement, in bytes.
pub const MOST: usize = 32 << 20;

#[derive(Debug)]
struct Row {
    keys: Keys,
    /// The client's DataRow, whole.
    frame: Vec<u8>,
}

/// Which of the ordered rows the client gets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    pub skip: u64,
    /// `None`: all of them.
    pub most: Option<u64>,
    pub ties: bool,
}

#[derive(Debug)]
pub struct Sorted {
    order: Box<[SortKey]>,
    /// The column with the keys is in binary format.
    binary: bool,
    parts: Vec<Vec<Row>>,
    bytes: usize,
}

impl Sorted {
    pub fn new(ordered: &Ordered, binary: bool) -> Self {
        Self { order: ordered.keys.clone(), binary, parts: vec![Vec::new()], bytes: 0 }
    }

    /// A DataRow of the node that is heard, with its keys in the last column.
    ///
    /// # Errors
    /// There are too many rows, or they are in no order that is known.
    pub fn row(&mut self, body: &[u8]) -> Result<(), Report> {
        let (frame, keys) = cut_keys(body).ok_or_else(malformed)?;
        let keys = Keys::read(keys, self.binary).ok_or_else(malformed)?;
        if let Some(oid) = keys.foreign() {
            return Err(refused(&MergeError::Order(oid)));
        }
        self.bytes += frame.len() + keys.size() + size_of::<Row>();
        if self.bytes > MOST {
            return Err(too_many());
        }
        let Some(part) = self.parts.last_mut() else { return Ok(()) };
        if let Some(last) = part.last()
            && last.keys.cmp(&keys, &self.order).map_err(|e| refused(&e))? == Ordering::Greater
        {
            return Err(refused(&MergeError::Unsorted));
        }
        part.push(Row { keys, frame });
        Ok(())
    }

    /// The node that is heard has sent all its rows.
    pub fn part_ends(&mut self) {
        self.parts.push(Vec::new());
    }

    /// Writes the rows that the client gets, at most `limit` of them; gives how many.
    ///
    /// # Errors
    /// Keys of different nodes cannot be compared.
    pub fn write(
        &mut self,
        window: Window,
        limit: Option<u64>,
        out: &mut Vec<u8>,
    ) -> Result<u64, Report> {
        let mut parts: Vec<_> =
            self.parts.drain(..).map(|part| part.into_iter().peekable()).collect();
        let (mut seen, mut written) = (0, 0);
        let mut last: Option<Keys> = None;
        loop {
            let mut first: Option<(usize, &Keys)> = None;
            // Those of equal keys in the order of the nodes.
            for (at, part) in parts.iter_mut().enumerate() {
                let Some(row) = part.peek() else { continue };
                let before = match first {
                    None => true,
                    Some((_, keys)) => {
                        let order = row.keys.cmp(keys, &self.order).map_err(|e| refused(&e))?;
                        order == Ordering::Less
                    }
                };
                if before {
                    first = Some((at, &row.keys));
                }
            }
            let Some((at, keys)) = first else { break };
            let ends = window.most.is_some_and(|most| seen >= window.skip.saturating_add(most));
            if ends {
                let tie = match last.as_ref().filter(|_| window.ties) {
                    Some(last) => last.cmp(keys, &self.order).map_err(|e| refused(&e))?.is_eq(),
                    None => false,
                };
                if !tie || written == 0 {
                    break;
                }
            }
            if limit.is_some_and(|limit| written >= limit) {
                break;
            }
            let Some(row) = parts[at].next() else { break };
            seen += 1;
            if seen > window.skip {
                out.extend_from_slice(&row.frame);
                written += 1;
            }
            last = window.ties.then_some(row.keys);
        }
        Ok(written)
    }
}

/// A DataRow without its last column, as a whole message; and that column's value.
fn cut_keys(body: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let columns = u16::from_be_bytes(*body.first_chunk::<2>()?);
    let mut at = 2;
    let mut value = 2..2;
    for _ in 0..columns {
        let len = i32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?);
        let start = at + 4;
        let end = start + usize::try_from(len).unwrap_or(0);
        value = start..end;
        at = end;
    }
    let keys = body.get(value.clone()).filter(|_| at == body.len())?;
    let mut frame = Vec::with_capacity(value.start + 1);
    crate::wire::frame::put(&mut frame, b'D', |b| {
        b.extend_from_slice(&columns.saturating_sub(1).to_be_bytes());
        b.extend_from_slice(body.get(2..value.start - 4).unwrap_or_default());
    });
    Some((frame, keys))
}

fn refused(e: &MergeError) -> Report {
    Report::error(e.sqlstate(), e.to_string())
        .hint("Add an equality on the distribution column, or order by a column of another type.")
}

fn too_many() -> Report {
    Report::error("54000", "the ordered rows of several nodes are too many to be put together")
        .detail(format!("They take more than {} MB.", MOST >> 20))
        .hint("Use LIMIT, or leave ORDER BY out.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend;

    const UP: SortKey = SortKey { descending: false, nulls_first: false };

    fn row(value: &str, key: i32) -> Vec<u8> {
        let mut keys = b"\0\0\0\x01\0\0\0\x17\0\0\0\x04".to_vec();
        keys.extend_from_slice(&key.to_be_bytes());
        let mut out = Vec::new();
        backend::put_data_row(&mut out, [Some(value.as_bytes()), Some(&keys)].into_iter());
        out.split_off(5)
    }

    fn merged(parts: &[&[(&str, i32)]], window: Window) -> String {
        let ordered =
            Ordered { text: None, keys: [UP].into(), limit: None, offset: None, ties: false };
        let mut sorted = Sorted::new(&ordered, true);
        for part in parts {
            part.iter().for_each(|(value, key)| sorted.row(&row(value, *key)).unwrap());
            sorted.part_ends();
        }
        let mut out = Vec::new();
        sorted.write(window, None, &mut out).unwrap();
        let mut values = String::new();
        while !out.is_empty() {
            let len = u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize + 1;
            let row = backend::data_row(&out[5..len]).unwrap();
            values.push_str(std::str::from_utf8(row[0].unwrap()).unwrap());
            out.drain(..len);
        }
        values
    }

    #[test]
    fn rows_come_in_order_and_as_many_as_are_wanted() {
        let parts: [&[(&str, i32)]; 3] =
            [&[("a", 1), ("c", 3)], &[], &[("b", 2), ("d", 3), ("e", 4)]];
        let window = |skip, most, ties| Window { skip, most, ties };
        assert_eq!(merged(&parts, window(0, None, false)), "abcde");
        assert_eq!(merged(&parts, window(1, Some(2), false)), "bc");
        assert_eq!(merged(&parts, window(1, Some(2), true)), "bcd");
        assert_eq!(merged(&parts, window(3, Some(0), true)), "");
        assert_eq!(merged(&parts, window(9, Some(2), true)), "");
    }

    #[test]
    fn what_is_not_in_order_is_not_merged() {
        let ordered =
            Ordered { text: None, keys: [UP].into(), limit: None, offset: None, ties: false };
        let mut sorted = Sorted::new(&ordered, true);
        sorted.row(&row("b", 2)).unwrap();
        assert_eq!(sorted.row(&row("a", 1)).unwrap_err().sqlstate, "0A000");
        assert!(sorted.row(b"\0\x01\0\0\0\x05a").is_err(), "malformed");
    }
}
