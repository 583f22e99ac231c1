//! Borrowed views of the client messages that decide where a statement goes, and writers of
//! those that pgshunt sends to nodes itself.

use memchr::memchr;

use super::ProtocolError;
use super::frame;

// As PostgreSQL words them (pqformat.c).
const MALFORMED: ProtocolError = ProtocolError("invalid message format");
const UNTERMINATED: ProtocolError = ProtocolError("invalid string in message");
const TOO_SHORT: ProtocolError = ProtocolError("insufficient data left in message");

/// A cursor over a message body. Every read checks its bounds.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn cstr(&mut self) -> Result<&'a [u8], ProtocolError> {
        let end = memchr(0, self.0).ok_or(UNTERMINATED)?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], ProtocolError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(TOO_SHORT)?;
        self.0 = tail;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, ProtocolError> {
        match self.bytes(1) {
            Ok(one) => Ok(one[0]),
            Err(_) => Err(ProtocolError("no data left in message")),
        }
    }

    pub fn i16(&mut self) -> Result<i16, ProtocolError> {
        let b = self.bytes(2)?;
        Ok(i16::from_be_bytes([b[0], b[1]]))
    }

    pub fn i32(&mut self) -> Result<i32, ProtocolError> {
        let b = self.bytes(4)?;
        Ok(i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A count of two bytes, without a sign: up to 65,535 parameters (`exec_bind_message` in
    /// PostgreSQL's postgres.c reads them so).
    fn count(&mut self) -> Result<usize, ProtocolError> {
        Ok(usize::from(self.i16()?.cast_unsigned()))
    }

    fn end(self) -> Result<(), ProtocolError> {
        if self.0.is_empty() { Ok(()) } else { Err(MALFORMED) }
    }
}

/// `Q`: the text of a simple query.
pub fn query(body: &[u8]) -> Result<&[u8], ProtocolError> {
    let mut r = Reader(body);
    let text = r.cstr()?;
    r.end()?;
    Ok(text)
}

/// `P`
#[derive(Debug, Clone, Copy)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub text: &'a [u8],
    /// Big-endian u32s, as they came.
    pub oids: &'a [u8],
}

pub fn parse(body: &[u8]) -> Result<Parse<'_>, ProtocolError> {
    let mut r = Reader(body);
    let (name, text) = (r.cstr()?, r.cstr()?);
    let n = r.count()?;
    let oids = r.bytes(n * 4)?;
    r.end()?;
    Ok(Parse { name, text, oids })
}

/// `B`
#[derive(Debug, Clone, Copy)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Everything behind the two names, as it came.
    pub rest: &'a [u8],
    formats: &'a [u8],
    params: usize,
    values: &'a [u8],
    /// Format codes of the result's columns: none, one for all, or one for each.
    results: &'a [u8],
}

/// A parameter of a Bind. `value` is `None` for NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param<'a> {
    pub binary: bool,
    pub value: Option<&'a [u8]>,
}

pub fn bind(body: &[u8]) -> Result<Bind<'_>, ProtocolError> {
    let mut r = Reader(body);
    let (portal, statement) = (r.cstr()?, r.cstr()?);
    bind_rest(portal, statement, r.0)
}

/// What stands behind a Bind's names.
fn bind_rest<'a>(
    portal: &'a [u8],
    statement: &'a [u8],
    rest: &'a [u8],
) -> Result<Bind<'a>, ProtocolError> {
    let mut r = Reader(rest);
    let n = r.count()?;
    let formats = r.bytes(n * 2)?;
    let params = r.count()?;
    let values = r.0;
    for _ in 0..params {
        let len = r.i32()?;
        if len >= 0 {
            r.bytes(len as usize)?;
        } else if len != -1 {
            return Err(TOO_SHORT);
        }
    }
    let results = r.count()?;
    let results = r.bytes(results * 2)?;
    r.end()?;
    Ok(Bind { portal, statement, rest, formats, params, values, results })
}

impl<'a> Bind<'a> {
    /// `rest` for a result of one column more, and whether that one comes in binary format: in the others'
    /// if one code is for all.
    pub fn with_one_more(&self) -> (Vec<u8>, bool) {
        let codes = self.results.len() / 2;
        if codes < 2 {
            return (self.rest.to_vec(), self.results.last() == Some(&1));
        }
        let before = self.rest.len() - self.results.len() - 2;
        let more = u16::try_from(codes + 1).unwrap_or(u16::MAX).to_be_bytes();
        let rest = [&self.rest[..before], &more, self.results, &1u16.to_be_bytes()].concat();
        (rest, true)
    }

    /// How many parameters it carries.
    pub fn count(&self) -> usize {
        self.params
    }

    /// `rest` with NULL in place of all parameters but those of these indexes.
    pub fn with_only(&self, keeps: impl Fn(usize) -> bool) -> Vec<u8> {
        let before = self.rest.len() - self.results.len() - 2 - self.values_len();
        let mut rest = self.rest[..before].to_vec();
        let mut r = Reader(self.values);
        for index in 0..self.params {
            let Ok(len) = r.i32() else { break };
            let value = usize::try_from(len).ok().and_then(|len| r.bytes(len).ok());
            match value.filter(|_| keeps(index)) {
                Some(value) => {
                    rest.extend_from_slice(&len.to_be_bytes());
                    rest.extend_from_slice(value);
                }
                None => rest.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
        rest.extend_from_slice(&self.rest[self.rest.len() - self.results.len() - 2..]);
        rest
    }

    /// The bytes of all parameters' values, with their lengths.
    fn values_len(&self) -> usize {
        self.values.len() - self.results.len() - 2
    }

    /// The format codes of the result's columns, two bytes each.
    pub fn results(&self) -> &'a [u8] {
        self.results
    }

    /// Whether the result's column of this number, from 0 on, is to come in binary format.
    pub fn result_is_binary(&self, column: usize) -> bool {
        let at = if self.results.len() == 2 { 0 } else { column };
        self.results.get(2 * at + 1) == Some(&1)
    }

    /// `rest` with further parameters, in binary format, and with these format codes for the result.
    pub fn with_more(&self, more: impl Iterator<Item = Vec<u8>>, results: &[u8]) -> Vec<u8> {
        let (mut formats, mut values) = (Vec::new(), self.values.to_vec());
        for index in 0..self.params {
            formats.extend(u16::from(self.param(index).is_some_and(|p| p.binary)).to_be_bytes());
        }
        // Behind the values stand the client's own format codes.
        values.truncate(self.values.len() - 2 - self.results.len());
        for value in more {
            formats.extend(1u16.to_be_bytes());
            values.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            values.extend(value);
        }
        let count = |codes: &[u8]| u16::try_from(codes.len() / 2).unwrap_or(u16::MAX).to_be_bytes();
        let number = count(&formats);
        [&number[..], &formats, &number, &values, &count(results), results].concat()
    }

    /// Parameter `$(index + 1)`, if the message carries that many.
    pub fn param(&self, index: usize) -> Option<Param<'a>> {
        if index >= self.params {
            return None;
        }
        let mut r = Reader(self.values);
        let mut value = None;
        for _ in 0..=index {
            let len = r.i32().ok()?;
            value = if len >= 0 { Some(r.bytes(len as usize).ok()?) } else { None };
        }
        let format = match self.formats.len() / 2 {
            0 => 0,
            1 => self.formats[1],
            // Where there are more values than formats the server refuses the message.
            _ => *self.formats.get(index * 2 + 1)?,
        };
        Some(Param { binary: format == 1, value })
    }
}

/// A Bind of no names, of which this is the rest.
pub fn bind_of(rest: &[u8]) -> Result<Bind<'_>, ProtocolError> {
    bind_rest(b"", b"", rest)
}

/// The names of a Bind of which the rest may be malformed: portal and statement.
pub fn bind_names(body: &[u8]) -> Result<(&[u8], &[u8]), ProtocolError> {
    let mut r = Reader(body);
    Ok((r.cstr()?, r.cstr()?))
}

/// `H` and `S`
pub fn empty(body: &[u8]) -> Result<(), ProtocolError> {
    Reader(body).end()
}

/// `D` and `C`: whether it names a statement or a portal, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
    /// What there is not.
    Other(u8),
}

pub fn named(body: &[u8]) -> Result<Named<'_>, ProtocolError> {
    let mut r = Reader(body);
    let kind = r.u8()?;
    let name = r.cstr()?;
    r.end()?;
    Ok(match kind {
        b'S' => Named::Statement(name),
        b'P' => Named::Portal(name),
        other => Named::Other(other),
    })
}

/// `E`: portal and row limit (0: none).
pub fn execute(body: &[u8]) -> Result<(&[u8], i32), ProtocolError> {
    let mut r = Reader(body);
    let portal = r.cstr()?;
    let limit = r.i32()?;
    r.end()?;
    Ok((portal, limit))
}

fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

pub fn put_query(out: &mut Vec<u8>, text: &[u8]) {
    frame::put(out, b'Q', |b| put_cstr(b, text));
}

pub fn put_parse(out: &mut Vec<u8>, name: &[u8], text: &[u8], oids: &[u8]) {
    frame::put(out, b'P', |b| {
        put_cstr(b, name);
        put_cstr(b, text);
        b.extend_from_slice(&((oids.len() / 4) as u16).to_be_bytes());
        b.extend_from_slice(oids);
    });
}

pub fn put_bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: &[u8]) {
    frame::put(out, b'B', |b| {
        put_cstr(b, portal);
        put_cstr(b, statement);
        b.extend_from_slice(rest);
    });
}

pub fn put_named(out: &mut Vec<u8>, tag: u8, kind: u8, name: &[u8]) {
    frame::put(out, tag, |b| {
        b.push(kind);
        put_cstr(b, name);
    });
}

pub fn put_empty(out: &mut Vec<u8>, tag: u8) {
    frame::put(out, tag, |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(out: &[u8]) -> &[u8] {
        &out[frame::HEADER..]
    }

    #[test]
    fn bind_parameters_by_format() {
        let mut rest = Vec::new();
        for n in [2u16, 0, 1, 2] {
            rest.extend_from_slice(&n.to_be_bytes());
        }
        rest.extend_from_slice(&3i32.to_be_bytes());
        rest.extend_from_slice(b"abc");
        rest.extend_from_slice(&(-1i32).to_be_bytes());
        rest.extend_from_slice(&0u16.to_be_bytes());
        let mut out = Vec::new();
        put_bind(&mut out, b"p", b"s", &rest);
        let b = bind(body(&out)).unwrap();
        assert_eq!((b.portal, b.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(b.param(0), Some(Param { binary: false, value: Some(b"abc") }));
        assert_eq!(b.param(1), Some(Param { binary: true, value: None }));
        assert_eq!(b.param(2), None);
        assert_eq!(b.with_one_more(), (rest.clone(), false));
        let more = b.with_more([vec![7, 8]].into_iter(), &[0, 1]);
        let more = bind_of(&more).unwrap();
        assert_eq!(more.param(0), b.param(0));
        assert_eq!((more.param(1), more.count()), (b.param(1), 3));
        assert_eq!(more.param(2), Some(Param { binary: true, value: Some(&[7, 8]) }));
        assert!(more.result_is_binary(0) && more.result_is_binary(5));
        let codes = |codes: &[u16]| {
            let count = [u16::try_from(codes.len()).unwrap()];
            let all = count.iter().chain(codes).flat_map(|c| c.to_be_bytes());
            [&rest[..rest.len() - 2], &all.collect::<Vec<_>>()].concat()
        };
        for (given, more, binary) in
            [(&[1][..], &[1][..], true), (&[0], &[0], false), (&[1, 0], &[1, 0, 1], true)]
        {
            let mut out = Vec::new();
            put_bind(&mut out, b"", b"", &codes(given));
            assert_eq!(bind(body(&out)).unwrap().with_one_more(), (codes(more), binary));
        }
        for cut in 0..rest.len() {
            let mut short = Vec::new();
            put_bind(&mut short, b"p", b"s", &rest[..cut]);
            assert!(bind(body(&short)).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn as_many_parameters_as_there_can_be() {
        let many = u16::MAX;
        let mut rest = [0u16.to_be_bytes(), many.to_be_bytes()].concat();
        rest.extend(std::iter::repeat_n(0, 4 * usize::from(many)));
        rest.extend(0u16.to_be_bytes());
        let mut out = Vec::new();
        put_bind(&mut out, b"", b"", &rest);
        let b = bind(body(&out)).unwrap();
        let empty = Some(Param { binary: false, value: Some(&b""[..]) });
        assert_eq!((b.param(65_534), b.param(65_535)), (empty, None));

        let oids = [0, 0, 0, 23].repeat(many.into());
        let mut out = Vec::new();
        put_parse(&mut out, b"s", b"select 1", &oids);
        assert_eq!(parse(body(&out)).unwrap().oids, oids);
    }

    #[test]
    fn trailing_bytes_are_malformed() {
        assert!(query(b"select 1\0").is_ok());
        assert!(query(b"select 1\0x").is_err());
        assert!(query(b"select 1").is_err());
        assert_eq!(named(b"Xn\0"), Ok(Named::Other(b'X')));
        assert!(named(b"Sn\0x").is_err());
    }
}
