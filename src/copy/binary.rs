//! Rows of COPY data in binary format: a head, rows of fields with their lengths, and a mark of the end.

use super::form::Form;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, and the length of the head's extension.
const HEAD: usize = 19;

/// What was found of a head or a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It goes on in data that is not here yet.
    More,
    Row {
        whole: usize,
    },
    /// The mark of the end.
    End {
        whole: usize,
    },
    /// No PostgreSQL takes what comes here.
    Bad,
}

/// The length of the head that `data` begins with.
pub(super) fn head(data: &[u8]) -> Found {
    let compared = data.len().min(SIGNATURE.len());
    if data.get(..compared) != SIGNATURE.get(..compared) {
        return Found::Bad;
    }
    let Some(extension) = number(data, HEAD - 4) else { return Found::More };
    match usize::try_from(extension).map(|n| n + HEAD) {
        Err(_) => Found::Bad,
        Ok(whole) if whole <= data.len() => Found::Row { whole },
        Ok(_) => Found::More,
    }
}

/// How far the row under way has been read.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    at: usize,
    fields: usize,
    read: usize,
    /// Where the values of the distribution columns are, in partition-key order; `None`: NULL.
    pub keys: Vec<Option<(usize, usize)>>,
}

impl Scan {
    /// The next row begins.
    pub fn behind(&mut self) {
        (self.at, self.fields, self.read) = (0, 0, 0);
    }

    /// Reads on in `data`, which begins with the row under way.
    pub fn row(&mut self, data: &[u8], form: &Form) -> Found {
        if self.at == 0 {
            let Some(&[a, b]) = data.first_chunk() else { return Found::More };
            match i16::from_be_bytes([a, b]) {
                -1 => return Found::End { whole: 2 },
                n => match usize::try_from(n) {
                    Ok(n) if n >= form.reach() => self.fields = n,
                    _ => return Found::Bad,
                },
            }
            self.at = 2;
            self.keys.clear();
            self.keys.resize(form.keys.len(), None);
        }
        while self.read < self.fields {
            let Some(length) = number(data, self.at) else { return Found::More };
            let value = self.at + 4;
            let end = match usize::try_from(length) {
                Ok(n) => value + n,
                Err(_) if length == -1 => value,
                Err(_) => return Found::Bad,
            };
            if end > data.len() {
                return Found::More;
            }
            if length >= 0 {
                let of = form.keys.iter().zip(&mut self.keys).filter(|(k, _)| k.at == self.read);
                of.for_each(|(_, key)| *key = Some((value, end)));
            }
            self.at = end;
            self.read += 1;
        }
        Found::Row { whole: self.at }
    }
}

fn number(data: &[u8], at: usize) -> Option<i32> {
    let four = data.get(at..at + 4)?.first_chunk()?;
    Some(i32::from_be_bytes(*four))
}
