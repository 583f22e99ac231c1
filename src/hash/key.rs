//! Values of distribution columns, and the hash of a row's key.
//!
//! A value is read only where there is one way to read it, the way PostgreSQL would. Anything else
//! is an error, and the caller lets PostgreSQL do it or refuses.

use std::borrow::Cow;

use super::decimal::{self, Decimal};
use super::number::{NotWhole, trim_blanks};
use super::{KeyType, lookup3, moment, number};

/// `HASH_PARTITION_SEED` in PostgreSQL's partition.h.
const PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// A non-NULL value of one distribution column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyValue<'a> {
    /// Of any of the three integer types: equal numbers hash equal over all of them. Also what is an integer
    /// to PostgreSQL: oid, boolean, "char", days, and microseconds.
    Int(i64),
    /// Text in the server's encoding, which is UTF8, or bytea. Of char(n) without the blanks at its end.
    Bytes(Cow<'a, [u8]>),
    Uuid([u8; 16]),
    Numeric(Decimal),
}

/// Why a value does not tell its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Perhaps valid for PostgreSQL, but not in the plain form that pgshunt reads.
    #[error("not a plain {}", .0.name())]
    NotPlain(KeyType),
    #[error("value out of range for type {}", .0.name())]
    OutOfRange(KeyType),
    /// A value of another type would be converted first, or compared by another type's rules.
    #[error("a value of type {found} does not compare with {} by its hash", .column.name())]
    OtherType { column: KeyType, found: u32 },
    #[error("incorrect binary data format for type {}", .0.name())]
    BadBinary(KeyType),
    /// No PostgreSQL takes it, and any of them says why.
    #[error("invalid input for type {}", .0.name())]
    Never(KeyType),
}

const UNSPECIFIED: u32 = 0;
const UNKNOWN: u32 = 705;
/// `NAMEDATALEN`: a longer name is cut.
const LONGEST_NAME: usize = 63;

impl KeyType {
    /// Reads a quoted literal's contents or an untyped parameter in text format.
    pub fn from_text(self, text: &[u8]) -> Result<KeyValue<'_>, KeyError> {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => {
                let trimmed = trim_blanks(text);
                let (negative, digits) = match trimmed {
                    [b'-', digits @ ..] => (true, digits),
                    [b'+', digits @ ..] => (false, digits),
                    digits => (false, digits),
                };
                if is_no_integer(digits) {
                    return Err(KeyError::Never(self));
                }
                self.from_integer(negative, digits)
            }
            // From 16 on a zero in front makes it octal.
            Self::Oid => match trim_blanks(text) {
                [b'0', _, ..] => Err(KeyError::NotPlain(self)),
                digits => self.from_integer(false, digits),
            },
            Self::Numeric => {
                Decimal::from_text(text).map(KeyValue::Numeric).map_err(|e| self.undecimal(e))
            }
            Self::Text | Self::Varchar => Ok(KeyValue::Bytes(Cow::Borrowed(text))),
            Self::Bpchar => Ok(KeyValue::Bytes(Cow::Borrowed(without_blanks(text)))),
            Self::Name if text.len() <= LONGEST_NAME => Ok(KeyValue::Bytes(Cow::Borrowed(text))),
            Self::Name => Err(KeyError::NotPlain(self)),
            Self::Char => one_byte(text).map(KeyValue::Int).ok_or(KeyError::NotPlain(self)),
            Self::Bytea => {
                bytea(text).map(|b| KeyValue::Bytes(b.into())).ok_or(KeyError::Never(self))
            }
            Self::Bool => {
                boolean(text).map(|b| KeyValue::Int(b.into())).ok_or(KeyError::Never(self))
            }
            Self::Uuid => uuid(text).map(KeyValue::Uuid).ok_or(KeyError::Never(self)),
            Self::Date => moment::date(text).map(KeyValue::Int).map_err(|e| self.unread(e)),
            Self::Timestamp => {
                moment::timestamp(text).map(KeyValue::Int).map_err(|e| self.unread(e))
            }
            Self::Timestamptz => {
                moment::timestamptz(text).map(KeyValue::Int).map_err(|e| self.unread(e))
            }
        }
    }

    fn unread(self, why: moment::Unread) -> KeyError {
        match why {
            moment::Unread::Never => KeyError::Never(self),
            moment::Unread::Unclear => KeyError::NotPlain(self),
        }
    }

    fn undecimal(self, why: decimal::Unread) -> KeyError {
        match why {
            decimal::Unread::Never => KeyError::Never(self),
            decimal::Unread::Unclear => KeyError::NotPlain(self),
        }
    }

    /// Reads an unquoted number, whose sign is an operator before it. For numeric it may be any number, else
    /// an integer.
    pub fn from_integer<'a>(self, negative: bool, digits: &[u8]) -> Result<KeyValue<'a>, KeyError> {
        if self == Self::Numeric {
            // The sign is no part of its hash.
            return match digits.first() {
                Some(b'0'..=b'9' | b'.') => {
                    Decimal::from_text(digits).map(KeyValue::Numeric).map_err(|e| self.undecimal(e))
                }
                _ => Err(KeyError::NotPlain(self)),
            };
        }
        let range = self.range().ok_or(KeyError::NotPlain(self))?;
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(KeyError::NotPlain(self));
        }
        // Summed up below zero, where there is room for one more.
        let value = digits
            .iter()
            .try_fold(0i64, |sum, digit| sum.checked_mul(10)?.checked_sub(i64::from(digit - b'0')));
        let value =
            value.and_then(|below| if negative { Some(below) } else { below.checked_neg() });
        match value {
            Some(value) if range.contains(&value) => Ok(KeyValue::Int(value)),
            // An integer below zero is the oid of the same bits.
            Some(_) | None if self == Self::Oid => Err(KeyError::NotPlain(self)),
            Some(_) | None => Err(KeyError::OutOfRange(self)),
        }
    }

    /// Reads a parameter of a Bind. `declared` is the type the client gave for it in Parse, or the
    /// server in ParameterDescription; 0 when neither did: PostgreSQL then takes the column's.
    pub fn from_param(
        self,
        declared: u32,
        binary: bool,
        bytes: &[u8],
    ) -> Result<KeyValue<'_>, KeyError> {
        let other = || KeyError::OtherType { column: self, found: declared };
        let found = match declared {
            UNSPECIFIED | UNKNOWN => self,
            number::FLOAT4 | number::FLOAT8 | number::NUMERIC if self.is_integer() => {
                let n = number::whole(declared, binary, bytes).map_err(|why| match why {
                    NotWhole::Beyond => KeyError::OutOfRange(self),
                    NotWhole::NoNumber => KeyError::Never(self),
                    NotWhole::Unclear => other(),
                })?;
                let fits = self.range().is_some_and(|range| range.contains(&n));
                return if fits { Ok(KeyValue::Int(n)) } else { Err(KeyError::OutOfRange(self)) };
            }
            oid => Self::from_oid(oid).filter(|found| self.takes(*found)).ok_or_else(other)?,
        };
        let value = if binary {
            let value = found.from_binary(bytes);
            let known = !matches!(declared, UNSPECIFIED | UNKNOWN);
            value.map_err(|e| match e {
                KeyError::BadBinary(_) if known => KeyError::Never(self),
                e => e,
            })?
        } else {
            found.from_text(bytes)?
        };
        match (self, value, self.range()) {
            (Self::Numeric, KeyValue::Int(n), _) => Ok(KeyValue::Numeric(n.into())),
            (Self::Bpchar, KeyValue::Bytes(Cow::Borrowed(text)), _) => {
                Ok(KeyValue::Bytes(Cow::Borrowed(without_blanks(text))))
            }
            // As an oid it would be another number, as a name it would be cut.
            (Self::Oid, KeyValue::Int(n), Some(range)) if !range.contains(&n) => Err(other()),
            (Self::Name, KeyValue::Bytes(text), _) if text.len() > LONGEST_NAME => Err(other()),
            (_, KeyValue::Int(n), Some(range)) if !range.contains(&n) => {
                Err(KeyError::OutOfRange(self))
            }
            (_, value, _) => Ok(value),
        }
    }

    /// Whether a parameter of that type is the value that the column has, or is compared with.
    fn takes(self, found: Self) -> bool {
        match self {
            Self::Oid | Self::Numeric => found == self || found.is_integer(),
            // As text it is compared without the blanks at the column's end, and stored with them.
            Self::Bpchar | Self::Name => {
                found == self || matches!(found, Self::Text | Self::Varchar)
            }
            _ => self.compares_with(found),
        }
    }

    /// Reads a value of just this type in binary format.
    pub fn from_binary(self, bytes: &[u8]) -> Result<KeyValue<'_>, KeyError> {
        let bad = |_| KeyError::BadBinary(self);
        Ok(match self {
            Self::Int2 => KeyValue::Int(i16::from_be_bytes(bytes.try_into().map_err(bad)?).into()),
            Self::Int4 | Self::Date => {
                KeyValue::Int(i32::from_be_bytes(bytes.try_into().map_err(bad)?).into())
            }
            Self::Int8 | Self::Timestamp | Self::Timestamptz => {
                KeyValue::Int(i64::from_be_bytes(bytes.try_into().map_err(bad)?))
            }
            Self::Oid => KeyValue::Int(u32::from_be_bytes(bytes.try_into().map_err(bad)?).into()),
            Self::Bool => {
                let [byte] = bytes.try_into().map_err(bad)?;
                KeyValue::Int((byte != 0).into())
            }
            Self::Char => {
                let [byte]: [u8; 1] = bytes.try_into().map_err(bad)?;
                // Whether a byte above that is negative depends on the machine.
                if !byte.is_ascii() {
                    return Err(KeyError::NotPlain(self));
                }
                KeyValue::Int(byte.into())
            }
            Self::Text | Self::Varchar | Self::Bytea => KeyValue::Bytes(Cow::Borrowed(bytes)),
            Self::Bpchar => KeyValue::Bytes(Cow::Borrowed(without_blanks(bytes))),
            Self::Name if bytes.len() <= LONGEST_NAME => KeyValue::Bytes(Cow::Borrowed(bytes)),
            Self::Name => return Err(KeyError::NotPlain(self)),
            Self::Uuid => KeyValue::Uuid(bytes.try_into().map_err(bad)?),
            Self::Numeric => {
                KeyValue::Numeric(Decimal::from_binary(bytes).map_err(|e| match e {
                    decimal::Unread::Never => KeyError::BadBinary(self),
                    decimal::Unread::Unclear => KeyError::NotPlain(self),
                })?)
            }
        })
    }

    /// Whether a column of this type stores the value as it was given. `varchar(n)` drops blanks
    /// at the end that do not fit: where such a value is written, not compared, its hash is only
    /// known when the column's length is.
    pub fn stores_as_given(self, value: &KeyValue<'_>) -> bool {
        match (self, value) {
            (Self::Varchar, KeyValue::Bytes(bytes)) => !bytes.ends_with(b" "),
            _ => true,
        }
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }

    fn range(self) -> Option<std::ops::RangeInclusive<i64>> {
        match self {
            Self::Int2 => Some(i16::MIN.into()..=i16::MAX.into()),
            Self::Int4 => Some(i32::MIN.into()..=i32::MAX.into()),
            Self::Int8 => Some(i64::MIN..=i64::MAX),
            Self::Oid => Some(0..=u32::MAX.into()),
            _ => None,
        }
    }

    /// Types of one family compare with each other by value, and hash alike.
    pub(super) fn family(self) -> Self {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => Self::Int8,
            Self::Text | Self::Varchar => Self::Text,
            other => other,
        }
    }
}

impl KeyValue<'_> {
    /// The type's extended hash function with the partition seed.
    fn hash(&self) -> u64 {
        match self {
            Self::Int(n) => {
                // As hashint8extended folds, so that small numbers hash as int2 and int4 do.
                let (low, high) = (*n as u32, (*n >> 32) as u32);
                lookup3::hash_u32(low ^ if *n >= 0 { high } else { !high }, PARTITION_SEED)
            }
            Self::Bytes(bytes) => lookup3::hash_bytes(bytes, PARTITION_SEED),
            Self::Uuid(bytes) => lookup3::hash_bytes(bytes, PARTITION_SEED),
            Self::Numeric(decimal) => decimal.hash(PARTITION_SEED),
        }
    }

    /// The value on its own, whatever it was read from.
    pub fn into_owned(self) -> KeyValue<'static> {
        match self {
            Self::Int(n) => KeyValue::Int(n),
            Self::Bytes(b) => KeyValue::Bytes(Cow::Owned(b.into_owned())),
            Self::Uuid(u) => KeyValue::Uuid(u),
            Self::Numeric(decimal) => KeyValue::Numeric(decimal),
        }
    }

    /// The row hash of a key of this one column.
    pub fn row_hash(&self) -> u64 {
        combine(0, self.hash())
    }
}

/// The row's partition hash, of which PostgreSQL takes the remainder. NULLs do not count.
pub fn row_hash(key: &[Option<KeyValue<'_>>]) -> u64 {
    key.iter().flatten().fold(0, |row, value| combine(row, value.hash()))
}

/// `hash_combine64`.
fn combine(a: u64, b: u64) -> u64 {
    a ^ b.wrapping_add(0x49a0_f4dd_15e5_a8e3).wrapping_add(a << 54).wrapping_add(a >> 7)
}

/// Whether no version of PostgreSQL reads this, which stands behind the sign, as an integer. Later ones
/// know `0x1F`, `0o17`, `0b1` and `1_000` too.
fn is_no_integer(text: &[u8]) -> bool {
    match text {
        [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..] => false,
        [b'0'..=b'9', rest @ ..] => !rest.iter().all(|b| b.is_ascii_digit() || *b == b'_'),
        _ => true,
    }
}

/// The hash of a char(n) does not see the blanks at its end.
fn without_blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|b| *b != b' ').map_or(0, |at| at + 1);
    &text[..end]
}

/// The one character of a "char", if it is plain ASCII.
fn one_byte(text: &[u8]) -> Option<i64> {
    match text {
        [byte] if byte.is_ascii() && *byte != 0 => Some((*byte).into()),
        _ => None,
    }
}

/// What `boolin` takes: the beginning of a word that begins no other, in any case.
fn boolean(text: &[u8]) -> Option<bool> {
    let text = trim_blanks(text);
    let begins = |word: &str, least: usize| {
        let own = word.as_bytes().get(..text.len());
        text.len() >= least && own.is_some_and(|own| own.eq_ignore_ascii_case(text))
    };
    let any = |words: [(&str, usize); 4]| words.iter().any(|(word, least)| begins(word, *least));
    if any([("true", 1), ("yes", 1), ("on", 2), ("1", 1)]) {
        Some(true)
    } else if any([("false", 1), ("no", 1), ("off", 2), ("0", 1)]) {
        Some(false)
    } else {
        None
    }
}

/// What `byteain` takes: hex digits behind `\\x`, blanks between the bytes, or characters with backslashes.
fn bytea(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = Vec::with_capacity(text.len());
    if let Some(mut hex) = text.strip_prefix(b"\\x") {
        loop {
            match hex {
                [] => return Some(bytes),
                [b' ' | b'\n' | b'\t' | b'\r', rest @ ..] => hex = rest,
                [high, low, rest @ ..] => {
                    bytes.push(digit(*high)? << 4 | digit(*low)?);
                    hex = rest;
                }
                [_] => return None,
            }
        }
    }
    let mut rest = text;
    loop {
        match rest {
            [] => return Some(bytes),
            [b'\\', b'\\', tail @ ..] => {
                bytes.push(b'\\');
                rest = tail;
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            [b'\\', ..] => return None,
            [byte, tail @ ..] => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
}

/// What `uuid_in` takes: 32 hex digits, a hyphen allowed behind every fourth, braces around.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut rest = match text.strip_prefix(b"{") {
        Some(inner) => inner.strip_suffix(b"}")?,
        None => text,
    };
    let mut bytes = [0; 16];
    for (i, byte) in bytes.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return None };
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
        rest = tail;
        if i % 2 == 1 && i < 15 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
    }
    rest.is_empty().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::KeyType::*;
    use super::*;

    #[test]
    fn integers_are_read_as_the_plain_part_of_what_postgres_reads() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("007", 7),
            ("+1", 1),
            (" \t\n\x0b\x0c\r42 ", 42),
            ("-32768", -32768),
            ("32767", 32767),
        ] {
            for column in [Int2, Int4, Int8] {
                assert_eq!(column.from_text(text.as_bytes()), Ok(KeyValue::Int(value)), "{text:?}");
            }
        }
        let (min, max) = (i64::MIN.to_string(), i64::MAX.to_string());
        assert_eq!(Int8.from_text(min.as_bytes()), Ok(KeyValue::Int(i64::MIN)));
        assert_eq!(Int8.from_text(max.as_bytes()), Ok(KeyValue::Int(i64::MAX)));
        for text in ["0x1F", "-0b1", "1_000"] {
            assert_eq!(Int4.from_text(text.as_bytes()), Err(KeyError::NotPlain(Int4)), "{text:?}");
        }
        for text in ["", " ", "-", "--1", "- 1", "+-1", "1.0", "1e3", "1 2", "abc", "_1", "١"] {
            assert_eq!(Int4.from_text(text.as_bytes()), Err(KeyError::Never(Int4)), "{text:?}");
        }
        for (column, text) in [
            (Int2, "32768"),
            (Int2, "-32769"),
            (Int4, "2147483648"),
            (Int8, "9223372036854775808"),
            (Int8, "-9223372036854775809"),
            (Int8, "99999999999999999999999999999999"),
        ] {
            assert_eq!(column.from_text(text.as_bytes()), Err(KeyError::OutOfRange(column)));
        }
    }

    #[test]
    fn an_unquoted_number_is_no_text_and_no_uuid() {
        assert_eq!(Int8.from_integer(true, b"5"), Ok(KeyValue::Int(-5)));
        assert_eq!(Int8.from_integer(false, b" 5"), Err(KeyError::NotPlain(Int8)));
        assert_eq!(Text.from_integer(false, b"5"), Err(KeyError::NotPlain(Text)));
        assert_eq!(Uuid.from_integer(false, b"5"), Err(KeyError::NotPlain(Uuid)));
    }

    #[test]
    fn uuids_are_read_in_every_form_postgres_takes() {
        let value: [u8; 16] = std::array::from_fn(|i| 0x10 + i as u8);
        for text in [
            "10111213-1415-1617-1819-1a1b1c1d1e1f",
            "101112131415161718191A1B1C1D1E1F",
            "{10111213-1415-1617-1819-1a1b1c1d1e1f}",
            "1011-1213-1415-1617-1819-1a1b-1c1d-1e1f",
            "{101112131415-161718191a1b1c1d1e1f}",
        ] {
            assert_eq!(Uuid.from_text(text.as_bytes()), Ok(KeyValue::Uuid(value)), "{text}");
        }
        for text in [
            "",
            "{}",
            " 101112131415161718191a1b1c1d1e1f",
            "101112131415161718191a1b1c1d1e1",
            "101112131415161718191a1b1c1d1e1f0",
            "101112131415161718191a1b1c1d1e1f-",
            "10-1112131415161718191a1b1c1d1e1f",
            "1011--12131415161718191a1b1c1d1e1f",
            "{101112131415161718191a1b1c1d1e1f",
            "101112131415161718191a1b1c1d1e1f}",
            "101112131415161718191a1b1c1d1e1g",
        ] {
            assert_eq!(Uuid.from_text(text.as_bytes()), Err(KeyError::Never(Uuid)), "{text}");
        }
    }

    #[test]
    fn parameters_are_read_by_their_declared_type() {
        // A driver may send any integer width for any integer column.
        assert_eq!(Int8.from_param(23, true, &7i32.to_be_bytes()), Ok(KeyValue::Int(7)));
        assert_eq!(Int2.from_param(20, true, &7i64.to_be_bytes()), Ok(KeyValue::Int(7)));
        assert_eq!(
            Int2.from_param(20, true, &70_000i64.to_be_bytes()),
            Err(KeyError::OutOfRange(Int2))
        );
        assert_eq!(Int8.from_param(21, false, b"70000"), Err(KeyError::OutOfRange(Int2)));
        assert_eq!(Int4.from_param(0, true, &7i32.to_be_bytes()), Ok(KeyValue::Int(7)));
        assert_eq!(
            Int4.from_param(0, true, &7i64.to_be_bytes()),
            Err(KeyError::BadBinary(Int4)),
            "undeclared means the column's own type"
        );
        assert_eq!(Text.from_param(1043, true, b"x"), Text.from_param(705, false, b"x"));
        // A number of another type is the same key when it is whole.
        assert_eq!(Int8.from_param(1700, false, b"1.00"), Ok(KeyValue::Int(1)));
        assert_eq!(Int4.from_param(701, true, &(-7f64).to_be_bytes()), Ok(KeyValue::Int(-7)));
        assert_eq!(
            Int2.from_param(701, true, &70_000f64.to_be_bytes()),
            Err(KeyError::OutOfRange(Int2))
        );
        assert_eq!(Int8.from_param(1700, false, b"3e0"), Ok(KeyValue::Int(3)));
        assert_eq!(Int8.from_param(1700, false, b"1e99"), Err(KeyError::OutOfRange(Int8)));
        assert_eq!(Int8.from_param(701, false, b"NaN"), Err(KeyError::OutOfRange(Int8)));
        assert_eq!(Int8.from_param(701, false, b"abc"), Err(KeyError::Never(Int8)));
        // A fraction, which is rounded where it is stored; text, which a cast may make an integer of, and oid for an integer; integer, bpchar, name for a text.
        for (column, found, text) in [
            (Int8, 1700, "1.5"),
            (Int8, 701, "1e18"),
            (Int8, 25, "1"),
            (Int8, 26, "1"),
            (Text, 23, "1"),
            (Text, 1042, "1"),
            (Varchar, 19, "1"),
        ] {
            assert_eq!(
                column.from_param(found, false, text.as_bytes()),
                Err(KeyError::OtherType { column, found })
            );
        }
        assert_eq!(Uuid.from_param(2950, true, &[1; 16]), Ok(KeyValue::Uuid([1; 16])));
        assert_eq!(Uuid.from_param(2950, true, &[1; 15]), Err(KeyError::Never(Uuid)));
    }

    #[test]
    fn a_limited_varchar_may_drop_blanks() {
        let given = |text: &'static str| KeyValue::Bytes(Cow::Borrowed(text.as_bytes()));
        assert!(Varchar.stores_as_given(&given(" a b")));
        assert!(!Varchar.stores_as_given(&given("ab ")));
        assert!(Text.stores_as_given(&given("ab ")));
    }

    #[test]
    fn nulls_do_not_count_and_one_column_needs_no_slice() {
        let key = KeyValue::Int(42);
        assert_eq!(row_hash(&[Some(key.clone())]), key.row_hash());
        assert_eq!(row_hash(&[None, Some(key.clone()), None]), key.row_hash());
        assert_eq!(row_hash(&[None]), 0);
        assert_ne!(row_hash(&[Some(key.clone()), Some(key.clone())]), key.row_hash());
    }
}
