//! The fields of a line of COPY data, as `CopyReadAttributesText` and `CopyReadAttributesCSV` in
//! PostgreSQL's copyfromparse.c read them.

use std::borrow::Cow;

use super::form::{Form, KeyColumn, Layout};

/// What a field says of its column.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Null,
    /// The marker of the column's default.
    Default,
    Value(Cow<'a, [u8]>),
}

/// A field as it stands in the line.
struct Raw<'a> {
    bytes: &'a [u8],
    /// It has marks in it that are not of the value.
    marked: bool,
    quoted: bool,
    /// Behind it, and what separates it from the next one, if there is one.
    next: Option<usize>,
}

/// Gives the field of each distribution column to `take`, in the line's order. False: the line is not
/// whole, which no PostgreSQL takes.
pub(super) fn keys_of<'a>(
    text: &'a [u8],
    form: &Form,
    mut take: impl FnMut(usize, Field<'a>),
) -> bool {
    let mut at = 0;
    let reach = form.reach();
    for column in 0..reach {
        let Some(raw) = raw(text, at, form) else { return false };
        for (n, key) in form.keys.iter().enumerate().filter(|(_, k)| k.at == column) {
            take(n, meaning(&raw, form, key));
        }
        match raw.next {
            Some(next) => at = next,
            None if column + 1 < reach => return false,
            None => {}
        }
    }
    true
}

/// The field that begins at `at`; `None`: a quote is not closed.
fn raw<'a>(text: &'a [u8], at: usize, form: &Form) -> Option<Raw<'a>> {
    let rest = text.get(at..).unwrap_or_default();
    let (end, next, marked, quoted) = match form.layout {
        Layout::Csv { quote, escape } => end_of_csv(rest, form.delimiter, quote, escape)?,
        _ => end_of_text(rest, form.delimiter),
    };
    let bytes = rest.get(..end).unwrap_or_default();
    Some(Raw { bytes, marked, quoted, next: next.then_some(at + end + 1) })
}

/// Where the field ends, whether another one follows, whether it has backslashes, and no quotes.
fn end_of_text(rest: &[u8], delimiter: u8) -> (usize, bool, bool, bool) {
    let mut at = 0;
    let mut marked = false;
    loop {
        match memchr::memchr2(delimiter, b'\\', rest.get(at..).unwrap_or_default()) {
            None => return (rest.len(), false, marked, false),
            Some(n) if rest.get(at + n) == Some(&delimiter) => {
                return (at + n, true, marked, false);
            }
            Some(n) => {
                marked = true;
                // One that is the line's last byte is left out.
                if at + n + 1 >= rest.len() {
                    return (at + n, false, marked, false);
                }
                at += n + 2;
            }
        }
    }
}

/// The same of a csv line; marked if it has quotes. `None`: one is not closed.
fn end_of_csv(
    rest: &[u8],
    delimiter: u8,
    quote: u8,
    escape: u8,
) -> Option<(usize, bool, bool, bool)> {
    let mut at = 0;
    let mut quoted = false;
    loop {
        match memchr::memchr2(delimiter, quote, rest.get(at..).unwrap_or_default()) {
            None => return Some((rest.len(), false, quoted, quoted)),
            Some(n) if rest.get(at + n) == Some(&delimiter) => {
                return Some((at + n, true, quoted, quoted));
            }
            Some(n) => {
                quoted = true;
                at = close_of_quote(rest, at + n + 1, quote, escape)?;
            }
        }
    }
}

/// Behind the quote that closes what has been opened before `at`.
fn close_of_quote(rest: &[u8], mut at: usize, quote: u8, escape: u8) -> Option<usize> {
    loop {
        at += memchr::memchr2(quote, escape, rest.get(at..).unwrap_or_default())?;
        if is_escape(rest, at, quote, escape) {
            at += 2;
        } else if rest.get(at) == Some(&quote) {
            return Some(at + 1);
        } else {
            at += 1;
        }
    }
}

/// The byte at `at`, within quotes, takes the next one along.
fn is_escape(rest: &[u8], at: usize, quote: u8, escape: u8) -> bool {
    let escapes = |c: &u8| *c == escape || *c == quote;
    rest.get(at) == Some(&escape) && rest.get(at + 1).is_some_and(escapes)
}

/// What a field is of this column.
fn meaning<'a>(raw: &Raw<'a>, form: &Form, key: &KeyColumn) -> Field<'a> {
    let is = |marker: &[u8]| raw.bytes == marker && !raw.quoted;
    let null = || match key.force_not_null {
        true => Field::Value(Cow::Owned(form.null.clone())),
        false => Field::Null,
    };
    if is(&form.null) {
        return null();
    }
    if form.default.as_deref().is_some_and(is) {
        return Field::Default;
    }
    let value = match (raw.marked, &form.layout) {
        (false, _) => Cow::Borrowed(raw.bytes),
        (true, Layout::Csv { quote, escape }) => Cow::Owned(unquoted(raw.bytes, *quote, *escape)),
        (true, _) => Cow::Owned(unescaped(raw.bytes)),
    };
    if key.force_null && *value == *form.null {
        return Field::Null;
    }
    Field::Value(value)
}

fn unquoted(bytes: &[u8], quote: u8, escape: u8) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes.len());
    let (mut at, mut within) = (0, false);
    while let Some(&c) = bytes.get(at) {
        at += 1;
        if within && is_escape(bytes, at - 1, quote, escape) {
            value.extend(bytes.get(at));
            at += 1;
        } else if c == quote {
            within = !within;
        } else {
            value.push(c);
        }
    }
    value
}

fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&c, behind)) = rest.split_first() {
        rest = behind;
        let (b'\\', Some((&c, behind))) = (c, rest.split_first()) else {
            value.push(c);
            continue;
        };
        rest = behind;
        value.push(match c {
            b'0'..=b'7' => digits(c, 8, 2, &mut rest),
            b'x' => match rest.split_first() {
                Some((&d, behind)) if d.is_ascii_hexdigit() => {
                    rest = behind;
                    digits(d, 16, 1, &mut rest)
                }
                _ => b'x',
            },
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            c => c,
        });
    }
    value
}

/// The byte that `first` and up to `more` digits behind it say.
fn digits(first: u8, radix: u32, more: usize, rest: &mut &[u8]) -> u8 {
    let digit = |c: u8| char::from(c).to_digit(radix);
    let mut value = digit(first).unwrap_or(0);
    for _ in 0..more {
        let Some((&c, behind)) = rest.split_first() else { break };
        let Some(d) = digit(c) else { break };
        value = value * radix + d;
        *rest = behind;
    }
    value as u8
}
