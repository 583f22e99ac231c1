//! The one answer that the answers of several nodes make, message by message.
//!
//! The nodes are heard one after the other. The columns are those of the first, and the others must
//! have the same; rows are the client's as they come, or are folded into one; what completes the
//! statement is said once, when the last node has been heard.

use std::borrow::Cow;

use super::copied::{Copied, END, Share};
use super::rows::Returned;
use super::sorted::{Sorted, Window};
use super::written::Written;
use super::{Column, MergeError, are_alike, columns, differ, fold, malformed};
use crate::router::plan::{Fold, Merge};
use crate::wire::backend::{self, Report};
use crate::wire::frame;

/// Which rows the client gets at once, and which are kept for its portal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hold {
    /// None are kept: what is beyond the limit is left out.
    #[default]
    Nothing,
    /// What is beyond the limit is kept.
    Rest,
    /// All are kept: the portal is bound only.
    All,
}

/// The most that is kept for a portal, in bytes.
const MOST_HELD: usize = 32 << 20;

#[derive(Debug)]
pub struct Answer {
    merge: Merge,
    /// The row limit of Execute; 0: none.
    limit: u64,
    window: Window,
    sorted: Option<Sorted>,
    returned: Option<Returned>,
    hold: Hold,
    held: Vec<Vec<u8>>,
    held_bytes: usize,
    /// The columns are known beforehand.
    last: bool,
    columns: Option<Vec<Column>>,
    /// The columns as the statement describes them, which does not know the formats yet.
    of_statement: Option<Vec<Column>>,
    folded: Option<Vec<Option<Vec<u8>>>>,
    /// Rows that have come as the client's, but are left out by OFFSET.
    skipped: u64,
    /// Rows that the client has had.
    rows: u64,
    /// The first word of the command tag.
    verb: String,
    /// How many rows the nodes have changed.
    changed: u64,
    /// Of a change of a reference table: what the first node has said completes it.
    alike: Option<Vec<u8>>,
    copied: Copied,
    /// The rows are written as the data of COPY, once its head has come.
    written: Option<(Written, Head)>,
}

/// Whether a COPY of no rows, which gives the data's head, has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    ToCome,
    There,
}

impl Answer {
    /// `binary`: the column that rows are sorted by comes in binary format.
    pub fn new(merge: Merge, limit: u64, window: Window, binary: bool) -> Self {
        let sorted = match &merge {
            Merge::Ordered(o) if !o.keys.is_empty() => Some(Sorted::new(o, binary)),
            _ => None,
        };
        let returned = match &merge {
            Merge::Rows(parts) if parts.returns => Some(Returned::new(parts.clone())),
            _ => None,
        };
        Self {
            merge,
            limit,
            window,
            sorted,
            returned,
            hold: Hold::Nothing,
            held: Vec::new(),
            held_bytes: 0,
            last: false,
            skipped: 0,
            columns: None,
            of_statement: None,
            folded: None,
            rows: 0,
            verb: String::new(),
            changed: 0,
            alike: None,
            copied: Copied::default(),
            written: None,
        }
    }

    /// Of the one node that makes the answer, which is to have these columns.
    pub fn of_last(limit: u64, columns: Vec<Column>) -> Self {
        let window = Window::default();
        Self {
            columns: Some(columns),
            last: true,
            ..Self::new(Merge::Concat, limit, window, false)
        }
    }

    /// Rows are kept for a portal.
    #[must_use]
    pub fn holding(self, hold: Hold) -> Self {
        Self { hold, ..self }
    }

    /// Rows are written so, as the data of COPY.
    #[must_use]
    pub fn writing(self, written: Written) -> Self {
        Self { written: Some((written, Head::ToCome)), ..self }
    }

    /// A row as the data of COPY; false: rows are not written so.
    ///
    /// # Errors
    /// It is no row.
    pub fn writes(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<bool, Report> {
        let Some((written, _)) = &self.written else { return Ok(false) };
        let row = backend::data_row(body).ok_or_else(malformed)?;
        let first = self.rows == 0;
        frame::put(out, b'd', |data| {
            data.extend_from_slice(written.head(first));
            written.row(&row, data);
        });
        self.rows += 1;
        Ok(true)
    }

    fn holds(&self) -> bool {
        self.hold != Hold::Nothing
    }

    /// The rows that are kept for the portal, each as it is sent, and the first word of the command tag.
    pub fn take_held(&mut self) -> Option<(Vec<Vec<u8>>, String)> {
        let verb = self.verb.clone();
        self.holds().then(|| (std::mem::take(&mut self.held), verb))
    }

    /// Rows are looked at, and not the client's as they are.
    pub fn folds(&self) -> bool {
        self.holds()
            || self.sorted.is_some()
            || self.written.is_some()
            || self.returned.is_some()
            || matches!(self.merge, Merge::Fold(_))
    }

    /// A row begins that would be the client's as it is; false: it has had as many as it wants.
    pub fn takes_row(&mut self) -> bool {
        if self.alike.is_some() {
            return false;
        }
        if self.skipped < self.window.skip {
            self.skipped += 1;
            return false;
        }
        let limited = self.limit > 0 && !self.holds();
        let takes = (!limited || self.rows < self.limit)
            && self.window.most.is_none_or(|most| self.rows < most);
        self.rows += u64::from(takes);
        takes
    }

    /// COPY data comes.
    pub fn copies_out(&self) -> bool {
        matches!(self.merge, Merge::CopyOut(_)) || self.written.is_some()
    }

    /// What is the client's of a message of COPY data of so many bytes.
    pub fn share(&mut self, len: usize) -> Share {
        match (&self.merge, &self.written) {
            (Merge::CopyOut(out), _) => self.copied.share(out, len),
            // The head of binary data comes along with its first row, or with its end.
            (_, Some((written, _))) if written.is_binary() => Share::Nothing,
            _ => Share::All,
        }
    }

    /// A RowDescription: of the statement, or of its portal. Gives it as the client's.
    ///
    /// # Errors
    /// The nodes have different columns, or some that cannot be folded.
    pub fn described<'b>(
        &mut self,
        of_statement: bool,
        body: &'b [u8],
    ) -> Result<Cow<'b, [u8]>, Report> {
        let told = columns(body).ok_or_else(malformed)?;
        let known = if of_statement { &mut self.of_statement } else { &mut self.columns };
        match known {
            Some(known) if are_alike(known, &told) => {}
            Some(_) if self.last => {
                return Err(Report::error(
                    "0A000",
                    "the columns that the rows of several nodes make are not the statement's",
                )
                .hint("A domain's values are those of its base type here: cast them to that."));
            }
            Some(_) => return Err(differ()),
            None => {
                if let (Merge::Fold(folds), false) = (&self.merge, of_statement) {
                    check_folds(folds, &told)?;
                }
                *known = Some(told);
            }
        }
        match self.sorted {
            Some(_) => without_last(body).map(Cow::Owned).ok_or_else(malformed),
            None => Ok(Cow::Borrowed(body)),
        }
    }

    /// A row to be folded, or to be put in order.
    ///
    /// # Errors
    /// It cannot be, exactly.
    pub fn row(&mut self, body: &[u8]) -> Result<(), Report> {
        if let Some(sorted) = &mut self.sorted {
            return sorted.row(body);
        }
        if let Some(returned) = &mut self.returned {
            return returned.row(body);
        }
        let Merge::Fold(folds) = &self.merge else {
            return match self.holds() {
                true if self.takes_row() => self.keep(body),
                true => Ok(()),
                false => Err(malformed()),
            };
        };
        let columns = self.columns.as_ref().ok_or_else(malformed)?;
        let row =
            backend::data_row(body).filter(|r| r.len() == folds.len()).ok_or_else(malformed)?;
        let before = self.folded.take().unwrap_or_else(|| vec![None; folds.len()]);
        let merged = before
            .into_iter()
            .zip(row)
            .zip(folds.iter().zip(columns))
            .map(|((a, b), (&how, &column))| fold(how, column, a, b).map_err(refused))
            .collect::<Result<Vec<_>, _>>()?;
        self.folded = Some(merged);
        Ok(())
    }

    /// Keeps a row for the portal.
    fn keep(&mut self, body: &[u8]) -> Result<(), Report> {
        self.held_bytes += body.len() + size_of::<Vec<u8>>();
        if self.held_bytes > MOST_HELD {
            return Err(Report::error(
                "54000",
                "the rows of this portal over several nodes are too many",
            )
            .hint("Read them without a row limit (a fetch size), or fewer of them at a time."));
        }
        let mut row = Vec::with_capacity(body.len() + frame::HEADER);
        frame::put(&mut row, b'D', |b| b.extend_from_slice(body));
        self.held.push(row);
        Ok(())
    }

    /// A node's CommandComplete: its body.
    ///
    /// # Errors
    /// The nodes have changed different rows of a reference table.
    pub fn completed(&mut self, body: &[u8]) -> Result<(), Report> {
        if let Some((_, head @ Head::ToCome)) = &mut self.written {
            *head = Head::There;
            return Ok(());
        }
        if let Some(reference) = self.merge.reference() {
            return match &self.alike {
                Some(first) if first != body => Err(unlike(&reference.quoted)),
                Some(_) => Ok(()),
                None => {
                    self.alike = Some(body.to_vec());
                    Ok(())
                }
            };
        }
        let tag = body.strip_suffix(b"\0").unwrap_or(body);
        let verb = tag.split(|b| *b == b' ').next().unwrap_or_default();
        self.verb = String::from_utf8_lossy(verb).into_owned();
        if let Some(sorted) = &mut self.sorted {
            sorted.part_ends();
        }
        if let Some(returned) = &mut self.returned {
            returned.part_ends();
        }
        let count = tag.rsplit(|b| *b == b' ').next().unwrap_or_default();
        let count = std::str::from_utf8(count).ok().and_then(|n| n.parse::<u64>().ok());
        self.changed = self.changed.saturating_add(count.unwrap_or(0));
        self.copied.completed();
        Ok(())
    }

    /// Every node has been heard: what completes the statement.
    ///
    /// # Errors
    /// Rows cannot be put in order. Nothing has been written then that completes it.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Report> {
        let mut whole = Vec::new();
        let rows = if self.holds() { &mut whole } else { &mut *out };
        if let Some(sorted) = &mut self.sorted {
            let limit = Some(self.limit).filter(|limit| *limit > 0 && self.hold == Hold::Nothing);
            self.rows = sorted.write(self.window, limit, rows)?;
        }
        if let Some(row) = &self.folded {
            backend::put_data_row(rows, row.iter().map(|v| v.as_deref()));
            self.rows = 1;
        }
        if self.holds() {
            let mut left = whole.as_slice();
            while let Ok(Some(head)) = frame::header(left) {
                let Some((row, rest)) = left.split_at_checked(head.len) else { break };
                self.keep(row.get(frame::HEADER..).unwrap_or_default())?;
                left = rest;
            }
            if self.hold == Hold::All {
                return Ok(());
            }
            let most = usize::try_from(self.limit).unwrap_or(usize::MAX).min(self.held.len());
            self.held.drain(..most).for_each(|row| out.extend(row));
            self.rows = most as u64;
        }
        if let Some(returned) = &mut self.returned {
            returned.write(out);
        }
        if let Merge::CopyOut(copy) = &self.merge {
            let end = self.copied.end(copy);
            if !end.is_empty() {
                frame::put(out, b'd', |b| b.extend_from_slice(end));
            }
            backend::put_bare(out, b'c');
        }
        if let Some((written, _)) = &self.written {
            if written.is_binary() {
                let head = written.head(self.rows == 0);
                frame::put(out, b'd', |b| b.extend_from_slice(&[head, END].concat()));
            }
            backend::put_bare(out, b'c');
            backend::put_command_complete(out, &format!("COPY {}", self.rows));
            return Ok(());
        }
        let inserts = self.verb == "INSERT" && !matches!(self.merge, Merge::CopyIn(_));
        if let Some(tag) = &self.alike {
            frame::put(out, b'C', |b| b.extend_from_slice(tag));
        } else if inserts || matches!(self.merge, Merge::Rows(_)) {
            backend::put_command_complete(out, &format!("INSERT 0 {}", self.changed));
        } else if let Merge::Changes { .. } | Merge::CopyIn(_) | Merge::CopyOut(_) = self.merge {
            backend::put_command_complete(out, &format!("{} {}", self.verb, self.changed));
        } else if self.limit > 0 && self.rows >= self.limit {
            backend::put_bare(out, b's');
        } else if !self.verb.is_empty() {
            backend::put_command_complete(out, &format!("{} {}", self.verb, self.rows));
        }
        Ok(())
    }
}

/// A RowDescription without its last column.
fn without_last(body: &[u8]) -> Option<Vec<u8>> {
    let mut r = crate::wire::frontend::Reader(body);
    let columns = u16::try_from(r.i16().ok()?).ok()?.checked_sub(1)?;
    for _ in 0..columns {
        r.cstr().ok()?;
        r.bytes(18).ok()?;
    }
    let kept = body.get(2..body.len() - r.0.len())?;
    Some([&columns.to_be_bytes(), kept].concat())
}

fn unlike(table: &str) -> Report {
    Report::error("XX001", format!("the nodes have different rows of the reference table {table}"))
        .detail(
            "The statement would have changed another number of rows on one node than on another.",
        )
        .hint("Compare its rows on the nodes: it was changed on one of them past pgshunt.")
}

fn check_folds(folds: &[Fold], columns: &[Column]) -> Result<(), Report> {
    if folds.len() != columns.len() {
        return Err(malformed());
    }
    for (&how, &column) in folds.iter().zip(columns) {
        // Folding nothing with nothing tells whether the type can be folded at all.
        fold(how, column, None, None).map_err(refused)?;
    }
    Ok(())
}

fn refused(e: MergeError) -> Report {
    Report::error(e.sqlstate(), e.to_string())
        .hint("Add an equality on the distribution column, or cast to another type.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str, oid: u32) -> Vec<u8> {
        let mut body = vec![0, 1];
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&oid.to_be_bytes());
        body.extend_from_slice(&[0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        body
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn rows_are_counted_over_the_nodes_and_stop_at_the_limit() {
        let mut answer = Answer::new(Merge::Concat, 0, Window::default(), false);
        for _ in 0..2 {
            let told = description("a", 23);
            assert_eq!(*answer.described(false, &told).unwrap(), *told);
            assert!(answer.takes_row() && answer.takes_row());
            answer.completed(b"SELECT 2\0").unwrap();
        }
        assert!(answer.described(false, &description("a", 25)).is_err(), "another type");
        let complete = written(|out| backend::put_command_complete(out, "SELECT 4"));
        assert_eq!(written(|out| answer.finish(out).unwrap()), complete);
        let mut answer = Answer::new(Merge::Concat, 3, Window::default(), false);
        let took: Vec<_> = (0..4).map(|_| answer.takes_row()).collect();
        assert_eq!(took, [true, true, true, false]);
        answer.completed(b"SELECT 4\0").unwrap();
        assert_eq!(written(|out| answer.finish(out).unwrap())[0], b's');
    }

    #[test]
    fn limit_and_offset_count_over_the_nodes() {
        let window = Window { skip: 3, most: Some(2), ties: false };
        let mut answer = Answer::new(Merge::Concat, 0, window, false);
        let took: Vec<_> = (0..6).map(|_| answer.takes_row()).collect();
        assert_eq!(took, [false, false, false, true, true, false]);
    }

    #[test]
    fn what_is_folded_is_one_row() {
        let mut answer = Answer::new(Merge::Fold([Fold::Sum].into()), 0, Window::default(), false);
        assert!(answer.folds());
        answer.described(true, &description("count", 20)).unwrap();
        answer.described(false, &description("count", 20)).unwrap();
        for value in [&b"40"[..], b"2"] {
            let row = written(|out| backend::put_data_row(out, [Some(value)].into_iter()));
            answer.row(&row[5..]).unwrap();
            answer.completed(b"SELECT 1\0").unwrap();
        }
        let row = [Some(&b"42"[..])].into_iter();
        let mut wanted = written(|out| backend::put_data_row(out, row));
        backend::put_command_complete(&mut wanted, "SELECT 1");
        assert_eq!(written(|out| answer.finish(out).unwrap()), wanted);
        let mut text = Answer::new(Merge::Fold([Fold::Max].into()), 0, Window::default(), false);
        assert_eq!(text.described(false, &description("max", 25)).unwrap_err().sqlstate, "0A000");
    }
}
