//! The data of COPY FROM STDIN, told apart into rows, and the place of each row by its key.
//!
//! The data is read just as PostgreSQL reads it, byte for byte, but for what is behind a row's last
//! distribution column. What no PostgreSQL takes is not judged here: it goes to a node, which says what is
//! wrong with it. What PostgreSQL would take, but of which the key cannot be told, is an error.

mod binary;
mod field;
mod form;
mod line;
mod lines;
#[cfg(test)]
mod tests;

use crate::hash::{KeyError, KeyType, KeyValue, row_hash};
use field::Field;

pub use form::{Form, KeyColumn, Layout};
pub use line::CsvMark;
pub use lines::Lines;

/// Who is to have a piece of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Every node: a header, or the mark of the end.
    All,
    /// The node that has the rows of this partition hash.
    Hash(u64),
    /// Any node: none takes it.
    Any,
    /// The node that has read the first line, by which it knows that this one is wrong.
    First,
}

/// A row, or what stands beside the rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub to: To,
    pub bytes: &'a [u8],
    /// How many lines a server counts it as, and how many if it is the first that the server reads.
    pub lines: u64,
    pub first_lines: u64,
    /// How many lines have been handed out with it, as a server would count them that read all of them.
    pub behind: u64,
}

/// Why the place of a row cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplaced {
    /// PostgreSQL might read the value.
    Value(KeyType, KeyError),
    /// A `varchar(n)` may drop blanks at the end.
    Blanks,
    /// The column's default is asked for.
    Default,
    /// The row is longer than this, in bytes.
    TooLong(usize),
    /// It is a line of csv that ends the data for some servers, and for others it does not.
    Mark,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The head of binary data, or a header line, comes first.
    Head,
    Rows,
    /// No PostgreSQL takes what has come, and what follows belongs to it.
    Rest,
    /// What follows does not count.
    Over,
}

/// Data of the client's on its way to the nodes.
#[derive(Debug)]
pub struct Splitter {
    form: Form,
    mark: CsvMark,
    /// A row is held until it is whole, up to so many bytes.
    most: usize,
    stage: Stage,
    /// What has come, of which the bytes before `start` have been handed out.
    data: Vec<u8>,
    start: usize,
    ended: bool,
    eol: line::Eol,
    scan: line::Scan,
    binary: binary::Scan,
    /// Lines that have been handed out, as PostgreSQL would count them.
    lines: u64,
}

/// Bytes that have been handed out are removed when there are so many.
const SPENT: usize = 64 << 10;

impl Splitter {
    /// Of data in this form. A row may have up to `most` bytes.
    pub fn new(form: Form, mark: CsvMark, most: usize) -> Self {
        let headed = form.header || form.layout == Layout::Binary;
        Self {
            form,
            mark,
            most,
            stage: if headed { Stage::Head } else { Stage::Rows },
            data: Vec::new(),
            start: 0,
            ended: false,
            eol: line::Eol::default(),
            scan: line::Scan::default(),
            binary: binary::Scan::default(),
            lines: 0,
        }
    }

    /// What `\.` alone on a line of csv means. Known before any data comes.
    pub fn marked(&mut self, mark: CsvMark) {
        self.mark = mark;
    }

    /// More data has come.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && (self.start == self.data.len() || self.start > SPENT) {
            self.data.drain(..self.start);
            self.start = 0;
        }
        if self.stage != Stage::Over {
            self.data.extend_from_slice(bytes);
        }
    }

    /// No more data comes.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// How many lines have been handed out, as PostgreSQL would count them.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The number of the line under way.
    pub fn at_line(&self) -> u64 {
        self.lines + self.counted(self.eol).0
    }

    /// The next piece, if one has come whole.
    ///
    /// # Errors
    /// The place of the next row cannot be told.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, Unplaced> {
        if self.start == self.data.len() && (self.stage != Stage::Rows || !self.ended) {
            return Ok(None);
        }
        match self.stage {
            Stage::Over => Ok(None),
            Stage::Rest => Ok(self.hand_out(To::Any, self.data.len() - self.start, (0, 0))),
            Stage::Head | Stage::Rows if self.form.layout == Layout::Binary => self.next_binary(),
            Stage::Head | Stage::Rows => self.next_line(),
        }
    }

    fn next_line(&mut self) -> Result<Option<Piece<'_>>, Unplaced> {
        let rest = self.data.get(self.start..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let layout = &self.form.layout;
        let before = self.eol;
        let found = self.scan.line(rest, layout, &mut self.eol, self.mark, self.ended);
        let unclear = layout.is_csv() && self.mark == CsvMark::Unclear;
        let (text, whole) = match found {
            line::Found::Mark { .. } if unclear => return Err(Unplaced::Mark),
            line::Found::More if rest.len() > self.most => {
                return Err(Unplaced::TooLong(self.most));
            }
            line::Found::More => return Ok(None),
            line::Found::Bad { whole } => {
                self.stage = Stage::Over;
                let lines = self.counted(before);
                return Ok(self.hand_out(To::First, whole, lines));
            }
            line::Found::Mark { text: 0, .. } => {
                self.stage = Stage::Over;
                return Ok(None);
            }
            line::Found::Line { text, whole } | line::Found::Mark { text, whole } => (text, whole),
        };
        let to = match self.stage {
            Stage::Head => To::All,
            _ => place_of_line(rest.get(..text).unwrap_or_default(), &self.form)?,
        };
        self.stage = match found {
            line::Found::Mark { .. } => Stage::Over,
            _ => Stage::Rows,
        };
        let lines = self.counted(before);
        Ok(self.hand_out(to, whole, lines))
    }

    /// How many lines the one under way counts as, and as a server's first; `eol`: how lines were known
    /// to end while it was read.
    fn counted(&self, eol: line::Eol) -> (u64, u64) {
        let within = match eol {
            line::Eol::Newline => self.scan.newlines,
            _ => self.scan.returns,
        };
        (1 + u64::from(within), 1 + u64::from(self.scan.returns))
    }

    fn next_binary(&mut self) -> Result<Option<Piece<'_>>, Unplaced> {
        let rest = self.data.get(self.start..).unwrap_or_default();
        let found = match self.stage {
            Stage::Head => binary::head(rest),
            _ => self.binary.row(rest, &self.form),
        };
        match found {
            binary::Found::More if self.ended => {
                self.stage = Stage::Rest;
                self.piece()
            }
            binary::Found::More if rest.len() > self.most => Err(Unplaced::TooLong(self.most)),
            binary::Found::More => Ok(None),
            binary::Found::Bad => {
                self.stage = Stage::Rest;
                self.piece()
            }
            binary::Found::End { whole } => {
                self.stage = Stage::Rest;
                Ok(self.hand_out(To::All, whole, (1, 1)))
            }
            binary::Found::Row { whole } if self.stage == Stage::Head => {
                self.stage = Stage::Rows;
                Ok(self.hand_out(To::All, whole, (0, 0)))
            }
            binary::Found::Row { whole } => {
                let to = place_of_fields(rest, &self.binary.keys, &self.form)?;
                Ok(self.hand_out(to, whole, (1, 1)))
            }
        }
    }

    fn hand_out(&mut self, to: To, whole: usize, lines: (u64, u64)) -> Option<Piece<'_>> {
        let start = self.start;
        self.start += whole;
        self.lines += lines.0;
        self.scan = line::Scan::default();
        self.binary.behind();
        let bytes = self.data.get(start..self.start).unwrap_or_default();
        Some(Piece { to, bytes, lines: lines.0, first_lines: lines.1, behind: self.lines })
    }
}

/// The place of a line that has no mark of the end.
fn place_of_line(text: &[u8], form: &Form) -> Result<To, Unplaced> {
    let mut parts: Vec<Option<KeyValue<'_>>> = Vec::new();
    if form.keys.len() > 1 {
        parts.resize(form.keys.len(), None);
    }
    let mut one = None;
    let mut trouble = None;
    let whole = field::keys_of(text, form, |n, field| {
        let Some(key) = form.keys.get(n) else { return };
        let value = match field {
            Field::Null => None,
            Field::Default => {
                trouble.get_or_insert(Trouble::Unplaced(Unplaced::Default));
                None
            }
            Field::Value(text) => {
                let value = match &text {
                    std::borrow::Cow::Borrowed(text) => key.ty.from_text(text),
                    std::borrow::Cow::Owned(text) => {
                        key.ty.from_text(text).map(KeyValue::into_owned)
                    }
                };
                match stored(key.ty, value) {
                    Ok(value) => Some(value),
                    Err(t) => {
                        trouble.get_or_insert(t);
                        None
                    }
                }
            }
        };
        match parts.get_mut(n) {
            Some(part) => *part = value,
            None => one = value,
        }
    });
    match trouble {
        _ if !whole => Ok(To::Any),
        Some(Trouble::Never) => Ok(To::Any),
        Some(Trouble::Unplaced(why)) => Err(why),
        None => Ok(To::Hash(hash(&parts, one.as_ref()))),
    }
}

fn place_of_fields(
    row: &[u8],
    keys: &[Option<(usize, usize)>],
    form: &Form,
) -> Result<To, Unplaced> {
    let mut parts = Vec::with_capacity(keys.len());
    for (key, at) in form.keys.iter().zip(keys) {
        let bytes = at.and_then(|(from, to)| row.get(from..to));
        let value = bytes.map(|bytes| stored(key.ty, key.ty.from_binary(bytes))).transpose();
        match value {
            Ok(value) => parts.push(value),
            Err(Trouble::Never) => return Ok(To::Any),
            Err(Trouble::Unplaced(why)) => return Err(why),
        }
    }
    Ok(To::Hash(match parts.as_slice() {
        [one] => hash(&[], one.as_ref()),
        several => hash(several, None),
    }))
}

/// Why a value has no hash.
enum Trouble {
    /// No PostgreSQL takes it.
    Never,
    Unplaced(Unplaced),
}

/// The value as the column stores it.
fn stored(ty: KeyType, value: Result<KeyValue<'_>, KeyError>) -> Result<KeyValue<'_>, Trouble> {
    match value {
        Ok(value) if ty.stores_as_given(&value) => Ok(value),
        Ok(_) => Err(Trouble::Unplaced(Unplaced::Blanks)),
        Err(KeyError::OutOfRange(_) | KeyError::Never(_) | KeyError::BadBinary(_)) => {
            Err(Trouble::Never)
        }
        Err(e) => Err(Trouble::Unplaced(Unplaced::Value(ty, e))),
    }
}

/// Of several columns, or of one.
fn hash(several: &[Option<KeyValue<'_>>], one: Option<&KeyValue<'_>>) -> u64 {
    match (several, one) {
        ([], Some(one)) => one.row_hash(),
        (several, _) => row_hash(several),
    }
}
