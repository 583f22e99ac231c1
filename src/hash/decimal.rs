//! Values of numeric as PostgreSQL stores them, as far as its hash looks at them (`hash_numeric_extended`).
//!
//! The hash is that of the digits to the base of 10,000, without zeros at either end, and of where they
//! stand. Sign and scale are no part of it.

use super::lookup3;
use super::number::trim_blanks;

/// More digits, or larger exponents, are not read.
const MOST: usize = 1000;

/// What the hash of a numeric is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decimal {
    /// NaN and the two infinities.
    Special,
    Finite {
        /// The power of 10,000 that the first digit counts.
        weight: i32,
        /// Digits to the base of 10,000, two bytes each as the server's memory has them; none for zero.
        digits: Vec<u8>,
    },
}

/// Why a value is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// No PostgreSQL takes it for a numeric.
    Never,
    /// PostgreSQL may read it; it is too long, or in a form that is not read here.
    Unclear,
}

impl Decimal {
    /// What `numeric_in` reads: a number in decimal digits, with or without a point and an exponent; NaN; an
    /// infinity.
    pub fn from_text(text: &[u8]) -> Result<Self, Unread> {
        let text = trim_blanks(text);
        let text = match text {
            [b'-' | b'+', rest @ ..] => rest,
            text => text,
        };
        if ["nan", "inf", "infinity"].iter().any(|n| text.eq_ignore_ascii_case(n.as_bytes())) {
            return Ok(Self::Special);
        }
        match text.first() {
            Some(b'0'..=b'9' | b'.') => Self::from_digits(text),
            _ => Err(Unread::Never),
        }
    }

    fn from_digits(text: &[u8]) -> Result<Self, Unread> {
        let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => {
                let exponent =
                    str::from_utf8(&text[at + 1..]).ok().and_then(|e| e.parse::<i32>().ok());
                (&text[..at], exponent.ok_or(Unread::Unclear)?)
            }
            None => (text, 0),
        };
        let point = mantissa.iter().position(|b| *b == b'.');
        let (before, behind) = match point {
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &[][..]),
        };
        let digits = [before, behind].concat();
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        if !plain || digits.len() > MOST || exponent.unsigned_abs() as usize > MOST {
            return Err(Unread::Unclear);
        }
        let first = digits.iter().take_while(|d| **d == b'0').count();
        let last = digits.iter().rposition(|d| *d != b'0').map_or(first, |at| at + 1);
        // Neither is above 2,000.
        let point =
            i32::try_from(before.len()).unwrap_or(0) - i32::try_from(first).unwrap_or(0) + exponent;
        Ok(Self::grouped(&digits[first..last], point))
    }

    /// Decimal digits without zeros at either end, and how many of them stand before the point.
    fn grouped(digits: &[u8], point: i32) -> Self {
        if digits.is_empty() {
            return Self::Finite { weight: 0, digits: Vec::new() };
        }
        let weight = (point - 1).div_euclid(4);
        let ahead = usize::try_from((weight + 1) * 4 - point).unwrap_or(0);
        let mut padded = vec![b'0'; ahead];
        padded.extend_from_slice(digits);
        padded.resize(padded.len().next_multiple_of(4), b'0');
        let group = |four: &[u8]| four.iter().fold(0_u16, |n, d| n * 10 + u16::from(d - b'0'));
        let digits = padded.chunks_exact(4).flat_map(|four| group(four).to_le_bytes()).collect();
        Self::Finite { weight, digits }
    }

    /// As `numeric_send` writes it: count, weight, sign, scale, and digits to the base of 10,000.
    pub fn from_binary(bytes: &[u8]) -> Result<Self, Unread> {
        let words: Vec<u16> =
            bytes.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect();
        let ([count, weight, sign, scale, digits @ ..], true) =
            (&words[..], bytes.len().is_multiple_of(2))
        else {
            return Err(Unread::Never);
        };
        if usize::from(*count) != digits.len() {
            return Err(Unread::Never);
        }
        if matches!(sign, 0xC000 | 0xD000 | 0xF000) {
            return Ok(Self::Special);
        }
        if !matches!(sign, 0 | 0x4000) || digits.iter().any(|d| *d > 9999) {
            return Err(Unread::Never);
        }
        let first = digits.iter().take_while(|d| **d == 0).count();
        let last = digits.iter().rposition(|d| *d != 0).map_or(first, |at| at + 1);
        let weight = i32::from(weight.cast_signed());
        if let Some(least) = digits[first..last].last() {
            // What is behind the scale the server cuts off.
            let zeros = [10, 100, 1000].iter().filter(|n| least % **n == 0).count();
            let group = weight - i32::try_from(last).unwrap_or(i32::MAX) + 1;
            let decimals = -4 * group - i32::try_from(zeros).unwrap_or(0);
            if decimals > i32::from(*scale) {
                return Err(Unread::Unclear);
            }
        }
        let weight = weight - i32::try_from(first).unwrap_or(0);
        let digits: Vec<u8> = digits[first..last].iter().flat_map(|d| d.to_le_bytes()).collect();
        let weight = if digits.is_empty() { 0 } else { weight };
        Ok(Self::Finite { weight, digits })
    }

    pub fn hash(&self, seed: u64) -> u64 {
        match self {
            Self::Special => seed,
            Self::Finite { digits, .. } if digits.is_empty() => seed.wrapping_sub(1),
            Self::Finite { weight, digits } => {
                lookup3::hash_bytes(digits, seed) ^ i64::from(*weight).cast_unsigned()
            }
        }
    }
}

impl From<i64> for Decimal {
    fn from(n: i64) -> Self {
        let text = n.unsigned_abs().to_string();
        let digits = text.trim_end_matches('0').as_bytes();
        Self::grouped(digits, i32::try_from(text.len()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finite(weight: i32, digits: &[u16]) -> Result<Decimal, Unread> {
        Ok(Decimal::Finite {
            weight,
            digits: digits.iter().flat_map(|d| d.to_le_bytes()).collect(),
        })
    }

    #[test]
    fn digits_are_grouped_by_four_from_the_point() {
        for (text, weight, digits) in [
            ("0", 0, &[][..]),
            ("-0.000", 0, &[]),
            ("1", 0, &[1]),
            ("+1.0", 0, &[1]),
            ("10000", 1, &[1]),
            ("12345.6", 1, &[1, 2345, 6000]),
            (".0001", -1, &[1]),
            ("0.00001", -2, &[1000]),
            ("1e4", 1, &[1]),
            (" 1.5E-4 ", -1, &[1, 5000]),
            ("1e-5", -2, &[1000]),
        ] {
            assert_eq!(Decimal::from_text(text.as_bytes()), finite(weight, digits), "{text}");
        }
        assert_eq!(Ok(Decimal::from(-120_000)), finite(1, &[12]));
        assert_eq!(Ok(Decimal::from(0)), finite(0, &[]));
        assert_eq!(Decimal::from_text(b"-Infinity"), Ok(Decimal::Special));
        for (text, why) in [
            ("", Unread::Never),
            ("x", Unread::Never),
            ("--1", Unread::Never),
            (".", Unread::Unclear),
            ("1_000", Unread::Unclear),
            ("0x1F", Unread::Unclear),
            ("1e99999", Unread::Unclear),
        ] {
            assert_eq!(Decimal::from_text(text.as_bytes()), Err(why), "{text}");
        }
    }

    #[test]
    fn what_the_server_would_cut_off_is_not_read() {
        let numeric = |weight: i16, scale: u16, digits: &[u16]| {
            let head = [digits.len() as u16, weight.cast_unsigned(), 0, scale];
            let bytes: Vec<u8> = head.iter().chain(digits).flat_map(|w| w.to_be_bytes()).collect();
            Decimal::from_binary(&bytes)
        };
        assert_eq!(numeric(0, 0, &[7]), finite(0, &[7]));
        assert_eq!(numeric(1, 0, &[0, 7, 0]), finite(0, &[7]));
        assert_eq!(numeric(0, 1, &[7, 5000]), finite(0, &[7, 5000]));
        assert_eq!(numeric(0, 3, &[7, 5001]), Err(Unread::Unclear));
        assert_eq!(numeric(0, 0, &[7, 5000]), Err(Unread::Unclear));
        assert_eq!(numeric(0, 0, &[10_000]), Err(Unread::Never));
        assert_eq!(Decimal::from_binary(&[0, 1, 0]), Err(Unread::Never));
    }
}
