//! Lines of COPY data in text and csv format, told apart as `CopyReadLineText` in PostgreSQL's
//! copyfromparse.c does.
//!
//! The first line decides how lines end; a later one that ends otherwise is an error of the node that has
//! read the first. In text format a backslash takes the next byte along, a newline too; `\.` ends the data.
//! In csv format what is quoted may have newlines, which count as lines; `\.` alone on a line ends the data
//! for servers before 18.

use super::form::Layout;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Eol {
    /// No line has ended yet.
    #[default]
    Unknown,
    Newline,
    Return,
    Both,
}

/// How far the line under way has been read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scan {
    /// The next byte to be looked at, from the start of the line.
    at: usize,
    in_quote: bool,
    escaped: bool,
    /// Newlines and carriage returns within quotes.
    pub newlines: u32,
    pub returns: u32,
}

/// What was found of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It goes on in data that is not here yet.
    More,
    /// Its text is so long, and with what ends it so long.
    Line { text: usize, whole: usize },
    /// Behind so much text comes the mark of the end, up to there; the rest of the data does not count.
    Mark { text: usize, whole: usize },
    /// Whoever has read the first line refuses it; so much of it is to be shown.
    Bad { whole: usize },
}

/// What of a csv line `\.` ends the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CsvMark {
    /// Alone on its line it does: servers before 18.
    Ends,
    /// It is a value: servers from 18 on.
    IsData,
    /// That depends on who reads it.
    Unclear,
}

impl Scan {
    /// Reads on in `line`, which begins with the line under way; `last`: no data follows.
    pub fn line(
        &mut self,
        line: &[u8],
        layout: &Layout,
        eol: &mut Eol,
        mark: CsvMark,
        last: bool,
    ) -> Found {
        loop {
            self.skip(line, layout);
            let Some(&c) = line.get(self.at) else {
                return match last {
                    true => Found::Line { text: line.len(), whole: line.len() },
                    false => Found::More,
                };
            };
            let at = self.at;
            let next = line.get(at + 1).copied();
            // What follows decides about these.
            let returns = layout.is_csv() || matches!(eol, Eol::Unknown | Eol::Both);
            if (c == b'\\' || c == b'\r' && returns) && next.is_none() && !last {
                return Found::More;
            }
            let csv = if let Layout::Csv { quote, escape } = *layout {
                // One mark for both: a byte that stands for itself is none.
                let escape = (escape != quote).then_some(escape);
                if let (true, Some(found)) = (
                    c == b'\\' && at == 0 && mark != CsvMark::IsData,
                    mark_of_csv(line, *eol, last),
                ) {
                    return found;
                }
                self.quotes(c, quote, escape);
                true
            } else {
                false
            };
            self.at += 1;
            match c {
                _ if self.in_quote => {
                    self.newlines += u32::from(c == b'\n');
                    self.returns += u32::from(c == b'\r');
                }
                b'\r' => return returned(at, next, eol),
                b'\n' => {
                    if matches!(eol, Eol::Return | Eol::Both) {
                        return Found::Bad { whole: at + 1 };
                    }
                    *eol = Eol::Newline;
                    return Found::Line { text: at, whole: at + 1 };
                }
                b'\\' if !csv => match next {
                    None => return Found::Line { text: at + 1, whole: at + 1 },
                    Some(b'.') => match mark_at(line, at + 2, *eol, last) {
                        Marked::More => {
                            self.at = at;
                            return Found::More;
                        }
                        Marked::Ends(whole) => return Found::Mark { text: at, whole },
                        Marked::Corrupt(whole) | Marked::Unlike(whole) => {
                            return Found::Bad { whole };
                        }
                    },
                    Some(_) => self.at += 1,
                },
                _ => {}
            }
        }
    }

    /// Passes over what cannot matter.
    fn skip(&mut self, line: &[u8], layout: &Layout) {
        let rest = line.get(self.at..).unwrap_or_default();
        let found = match *layout {
            Layout::Csv { quote, escape } if self.in_quote => {
                let next = memchr::memchr2(quote, escape, rest).unwrap_or(rest.len());
                let passed = rest.get(..next).unwrap_or_default();
                if next > 0 {
                    self.escaped = false;
                }
                self.newlines += count(b'\n', passed);
                self.returns += count(b'\r', passed);
                Some(next)
            }
            Layout::Csv { .. } if self.at == 0 => Some(0),
            Layout::Csv { quote, .. } => memchr::memchr3(b'\n', b'\r', quote, rest),
            _ => memchr::memchr3(b'\n', b'\r', b'\\', rest),
        };
        self.at += found.unwrap_or(rest.len());
    }

    /// A quote or an escape may come, or anything else.
    fn quotes(&mut self, c: u8, quote: u8, escape: Option<u8>) {
        if self.in_quote && Some(c) == escape {
            self.escaped = !self.escaped;
        }
        if c == quote && !self.escaped {
            self.in_quote = !self.in_quote;
        }
        if Some(c) != escape {
            self.escaped = false;
        }
    }
}

fn count(byte: u8, bytes: &[u8]) -> u32 {
    memchr::memchr_iter(byte, bytes).count() as u32
}

/// A carriage return at `at`, and what follows it.
fn returned(at: usize, next: Option<u8>, eol: &mut Eol) -> Found {
    match (*eol, next) {
        (Eol::Unknown | Eol::Both, Some(b'\n')) => {
            *eol = Eol::Both;
            Found::Line { text: at, whole: at + 2 }
        }
        (Eol::Unknown | Eol::Return, _) => {
            *eol = Eol::Return;
            Found::Line { text: at, whole: at + 1 }
        }
        (Eol::Newline, _) => Found::Bad { whole: at + 1 },
        // What follows shows that it is one.
        (Eol::Both, next) => Found::Bad { whole: at + 1 + usize::from(next.is_some()) },
    }
}

/// What stands behind `\.`
enum Marked {
    More,
    Ends(usize),
    /// Something else than the end of a line.
    Corrupt(usize),
    /// A line's end, but of another kind than the lines before.
    Unlike(usize),
}

/// `at`: behind the mark.
fn mark_at(line: &[u8], at: usize, eol: Eol, last: bool) -> Marked {
    let next = |n: usize| match line.get(at + n) {
        None if !last => None,
        byte => Some(byte.copied()),
    };
    let Some(first) = next(0) else { return Marked::More };
    let whole = |n: usize| (at + n).min(line.len());
    match (eol, first) {
        (Eol::Both, Some(b'\r')) => match next(1) {
            None => Marked::More,
            Some(Some(b'\n')) => Marked::Ends(whole(2)),
            Some(Some(b'\r')) => Marked::Unlike(whole(2)),
            Some(_) => Marked::Corrupt(whole(2)),
        },
        // In csv it is a value.
        (Eol::Both, _) => Marked::Corrupt(whole(1)),
        (Eol::Newline | Eol::Unknown, Some(b'\n')) | (Eol::Return | Eol::Unknown, Some(b'\r')) => {
            Marked::Ends(whole(1))
        }
        (_, Some(b'\n' | b'\r')) => Marked::Unlike(whole(1)),
        _ => Marked::Corrupt(whole(1)),
    }
}

/// The same for a csv line, which begins with a backslash. `None`: it has a value there.
fn mark_of_csv(line: &[u8], eol: Eol, last: bool) -> Option<Found> {
    match line.get(1) {
        None => (!last).then_some(Found::More),
        Some(b'.') => match mark_at(line, 2, eol, last) {
            Marked::More => Some(Found::More),
            Marked::Ends(whole) => Some(Found::Mark { text: 0, whole }),
            Marked::Unlike(whole) => Some(Found::Bad { whole }),
            Marked::Corrupt(_) => None,
        },
        Some(_) => None,
    }
}
