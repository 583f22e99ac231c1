//! The order of rows by the values that nodes have sorted them by, as PostgreSQL has it.
//!
//! A row's values come as `record_send` writes them: how many, then each one's type, length and bytes in
//! the type's binary form. Types are compared here whose order hangs on nothing else; a collation's order
//! only PostgreSQL knows.

use std::cmp::Ordering;

use super::MergeError;
use crate::router::plan::SortKey;
use crate::wire::frontend::Reader;

/// What a row is sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<(u32, Option<Box<[u8]>>)>);

impl Keys {
    /// Reads a `bytea` column: `binary`, or as text in either of `bytea_output`'s forms.
    pub fn read(value: &[u8], binary: bool) -> Option<Self> {
        let bytes = if binary { value.to_vec() } else { bytea(value)? };
        let mut r = Reader(&bytes);
        let count = usize::try_from(r.i32().ok()?).ok()?;
        let mut keys = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let oid = r.i32().ok()? as u32;
            let len = r.i32().ok()?;
            let value = match usize::try_from(len) {
                Ok(len) => Some(r.bytes(len).ok()?.into()),
                Err(_) => None,
            };
            keys.push((oid, value));
        }
        r.0.is_empty().then_some(Self(keys))
    }

    /// The first type that is not compared here, if any is.
    pub fn foreign(&self) -> Option<u32> {
        self.0.iter().map(|k| k.0).find(|oid| !is_known(*oid))
    }

    /// Bytes that they take.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(_, v)| 32 + v.as_ref().map_or(0, |v| v.len())).sum()
    }

    /// # Errors
    /// They are of different or unknown types, or malformed.
    pub fn cmp(&self, other: &Self, order: &[SortKey]) -> Result<Ordering, MergeError> {
        for (key, ((oid, a), (other, b))) in order.iter().zip(self.0.iter().zip(&other.0)) {
            let ordering = match (a, b) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) if key.nulls_first => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) if key.nulls_first => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(a), Some(b)) if oid == other => {
                    let ordering = compare(*oid, a, b).ok_or(MergeError::Malformed(*oid))?;
                    if key.descending { ordering.reverse() } else { ordering }
                }
                _ => return Err(MergeError::Malformed(*oid)),
            };
            if ordering != Ordering::Equal {
                return Ok(ordering);
            }
        }
        Ok(Ordering::Equal)
    }
}

/// `bytea` as text: `\x` and hex digits, or bytes of which some are written `\ooo` or `\\`.
fn bytea(text: &[u8]) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix(b"\\x") {
        let digit = |b: u8| char::from(b).to_digit(16);
        let (pairs, rest) = hex.as_chunks::<2>();
        let byte = |&[a, b]: &[u8; 2]| u8::try_from(digit(a)? * 16 + digit(b)?).ok();
        return rest.is_empty().then(|| pairs.iter().map(byte).collect()).flatten();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        if first != b'\\' {
            bytes.push(first);
            rest = behind;
        } else if behind.first() == Some(&b'\\') {
            bytes.push(b'\\');
            rest = &behind[1..];
        } else {
            let (digits, behind) = behind.split_at_checked(3)?;
            let octal = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(octal, 8).ok()?);
            rest = behind;
        }
    }
    Some(bytes)
}

const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const CHAR: u32 = 18;
const NAME: u32 = 19;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const OID: u32 = 26;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const DATE: u32 = 1082;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const INTERVAL: u32 = 1186;
const NUMERIC: u32 = 1700;
const UUID: u32 = 2950;

fn is_known(oid: u32) -> bool {
    matches!(
        oid,
        BOOL | BYTEA
            | CHAR
            | NAME
            | INT8
            | INT2
            | INT4
            | OID
            | FLOAT4
            | FLOAT8
            | DATE
            | TIME
            | TIMESTAMP
            | TIMESTAMPTZ
            | INTERVAL
            | NUMERIC
            | UUID
    )
}

/// `None`: malformed, or of an unknown type.
fn compare(oid: u32, a: &[u8], b: &[u8]) -> Option<Ordering> {
    Some(match oid {
        BOOL | BYTEA | CHAR | NAME | UUID => a.cmp(b),
        INT2 => i16::from_be_bytes(a.try_into().ok()?).cmp(&i16::from_be_bytes(b.try_into().ok()?)),
        INT4 | DATE => {
            i32::from_be_bytes(a.try_into().ok()?).cmp(&i32::from_be_bytes(b.try_into().ok()?))
        }
        OID => u32::from_be_bytes(a.try_into().ok()?).cmp(&u32::from_be_bytes(b.try_into().ok()?)),
        INT8 | TIME | TIMESTAMP | TIMESTAMPTZ => {
            i64::from_be_bytes(a.try_into().ok()?).cmp(&i64::from_be_bytes(b.try_into().ok()?))
        }
        FLOAT4 => floats(
            f32::from_be_bytes(a.try_into().ok()?).into(),
            f32::from_be_bytes(b.try_into().ok()?).into(),
        ),
        FLOAT8 => {
            floats(f64::from_be_bytes(a.try_into().ok()?), f64::from_be_bytes(b.try_into().ok()?))
        }
        INTERVAL => span(a)?.cmp(&span(b)?),
        NUMERIC => Numeric::read(a)?.cmp(&Numeric::read(b)?),
        _ => return None,
    })
}

/// As `float8_cmp_internal`: NaN is the greatest and equal to itself, -0 is 0.
fn floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// As `interval_cmp_value`: months of 30 days, days of 24 hours.
fn span(value: &[u8]) -> Option<i128> {
    let time = i64::from_be_bytes(value.get(..8)?.try_into().ok()?);
    let days = i32::from_be_bytes(value.get(8..12)?.try_into().ok()?);
    let months = i32::from_be_bytes(value.get(12..16)?.try_into().ok()?);
    let days = i128::from(months) * 30 + i128::from(days);
    Some(i128::from(time) + days * 86_400_000_000)
}

/// A `numeric`: digits to the base of 10,000, the first of them worth 10,000 to the power of `weight`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Numeric {
    NegativeInfinity,
    Finite { negative: bool, weight: i16, digits: Vec<u16> },
    Infinity,
    NaN,
}

impl Numeric {
    fn read(value: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(value.get(at..at + 2)?.try_into().ok()?));
        let (count, weight, sign) = (word(0)?, word(2)? as i16, word(4)?);
        let negative = match sign {
            0x0000 => false,
            0x4000 => true,
            0xC000 => return Some(Self::NaN),
            0xD000 => return Some(Self::Infinity),
            0xF000 => return Some(Self::NegativeInfinity),
            _ => return None,
        };
        let digits = (0..usize::from(count)).map(|n| word(8 + 2 * n));
        let mut digits = digits.collect::<Option<Vec<_>>>()?;
        let zeros = digits.iter().take_while(|d| **d == 0).count();
        digits.drain(..zeros);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        let weight = weight.saturating_sub(i16::try_from(zeros).ok()?);
        Some(match digits.is_empty() {
            true => Self::Finite { negative: false, weight: 0, digits },
            false => Self::Finite { negative, weight, digits },
        })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        use Numeric::{Finite, Infinity, NaN, NegativeInfinity};
        let class = |n: &Self| match n {
            NegativeInfinity => 0,
            Finite { .. } => 1,
            Infinity => 2,
            NaN => 3,
        };
        match (self, other) {
            (Finite { negative, weight, digits }, Finite { negative: n, weight: w, digits: d }) => {
                let sign = |negative: bool, digits: &[u16]| match (digits.is_empty(), negative) {
                    (true, _) => 0,
                    (false, true) => -1,
                    (false, false) => 1,
                };
                let (a, b) = (sign(*negative, digits), sign(*n, d));
                let magnitude = || match a {
                    0 => Ordering::Equal,
                    _ => weight.cmp(w).then_with(|| digits.cmp(d)),
                };
                a.cmp(&b).then_with(|| if a < 0 { magnitude().reverse() } else { magnitude() })
            }
            _ => class(self).cmp(&class(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: SortKey = SortKey { descending: false, nulls_first: false };
    const DOWN: SortKey = SortKey { descending: true, nulls_first: true };

    fn keys(values: &[(u32, Option<&[u8]>)]) -> Keys {
        Keys(values.iter().map(|(oid, v)| (*oid, v.map(Box::from))).collect())
    }

    #[test]
    fn keys_are_read_as_record_send_writes_them() {
        let binary = b"\0\0\0\x02\0\0\0\x17\0\0\0\x04\0\0\0\x05\0\0\x04\xa0\xff\xff\xff\xff";
        let wanted = keys(&[(23, Some(&[0, 0, 0, 5])), (1184, None)]);
        assert_eq!(Keys::read(binary, true).as_ref(), Some(&wanted));
        let hex: String = binary.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(Keys::read(format!("\\x{hex}").as_bytes(), false).as_ref(), Some(&wanted));
        let octal: String = binary.iter().map(|b| format!("\\{b:03o}")).collect();
        assert_eq!(Keys::read(octal.as_bytes(), false).as_ref(), Some(&wanted));
        for cut in 0..binary.len() {
            assert_eq!(Keys::read(&binary[..cut], true), None, "cut at {cut}");
        }
        assert_eq!(wanted.foreign(), None);
        assert_eq!(keys(&[(25, None)]).foreign(), Some(25));
    }

    #[test]
    fn nulls_and_directions() {
        let (one, two) = (keys(&[(INT2, Some(&[0, 1]))]), keys(&[(INT2, Some(&[0, 2]))]));
        let null = keys(&[(INT2, None)]);
        let cmp = |a: &Keys, b, by| a.cmp(b, &[by]).unwrap();
        assert_eq!(cmp(&one, &two, UP), Ordering::Less);
        assert_eq!(cmp(&one, &two, DOWN), Ordering::Greater);
        assert_eq!(cmp(&null, &two, UP), Ordering::Greater);
        assert_eq!(cmp(&null, &two, DOWN), Ordering::Less);
        assert_eq!(cmp(&null, &null, DOWN), Ordering::Equal);
        assert!(one.cmp(&keys(&[(INT4, Some(&[0; 4]))]), &[UP]).is_err(), "another type");
    }

    #[test]
    fn numbers_as_postgresql_orders_them() {
        // -Infinity, -10000.5, -1, 0, 0.0001, 1, 1.00, 9999, 10000, Infinity, NaN
        let all: [&[u16]; 11] = [
            &[0, 0, 0xF000, 0],
            &[3, 1, 0x4000, 1, 1, 0, 5000],
            &[1, 0, 0x4000, 0, 1],
            &[0, 0, 0, 2],
            &[1, 0xffff, 0, 4, 1],
            &[1, 0, 0, 0, 1],
            &[1, 0, 0, 2, 1],
            &[1, 0, 0, 0, 9999],
            &[1, 1, 0, 0, 1],
            &[0, 0, 0xD000, 0],
            &[0, 0, 0xC000, 0],
        ];
        let bytes =
            |words: &[u16]| -> Vec<u8> { words.iter().flat_map(|w| w.to_be_bytes()).collect() };
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                let wanted =
                    if (i, j) == (5, 6) || (i, j) == (6, 5) { Ordering::Equal } else { i.cmp(&j) };
                assert_eq!(compare(NUMERIC, &bytes(a), &bytes(b)), Some(wanted), "{i} {j}");
            }
        }
        let float = |f: f64| f.to_be_bytes();
        assert_eq!(
            compare(FLOAT8, &float(f64::NAN), &float(f64::INFINITY)),
            Some(Ordering::Greater)
        );
        assert_eq!(compare(FLOAT8, &float(-0.0), &float(0.0)), Some(Ordering::Equal));
        assert_eq!(compare(FLOAT8, &float(f64::NAN), &float(f64::NAN)), Some(Ordering::Equal));
        let month = [&0i64.to_be_bytes()[..], &0i32.to_be_bytes(), &1i32.to_be_bytes()].concat();
        let days = [&0i64.to_be_bytes()[..], &30i32.to_be_bytes(), &0i32.to_be_bytes()].concat();
        assert_eq!(compare(INTERVAL, &month, &days), Some(Ordering::Equal));
        assert_eq!(compare(25, b"a", b"b"), None);
    }
}
