//! Numbers of other types that are given for an integer key.
//!
//! PostgreSQL compares an integer column with a number of these types by that type's rules, and rounds
//! one that is to be stored. A whole number is the same key under both. One that no integer equals and none
//! can be made of finds nothing, or fails, on any node; of all others the shard is not known.

pub const FLOAT4: u32 = 700;
pub const FLOAT8: u32 = 701;
pub const NUMERIC: u32 = 1700;

/// From here on several integers are one and the same double.
const SEVERAL: f64 = (1_i64 << 53) as f64;
/// Above this no integer of any type is the same double.
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

/// Why a value of one of these types is not a whole number that is one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotWhole {
    /// It equals no integer, and cannot be stored as one: too large, infinite, or NaN.
    Beyond,
    /// PostgreSQL does not take it for a number of the type.
    NoNumber,
    /// A fraction, which is rounded where it is stored; a number that several integers equal; or one in a
    /// form that is not read here.
    Unclear,
}

/// The whole number that a value of one of these types is.
pub fn whole(type_oid: u32, binary: bool, bytes: &[u8]) -> Result<i64, NotWhole> {
    match (type_oid, binary) {
        (FLOAT4, true) => {
            let bytes = bytes.try_into().map_err(|_| NotWhole::NoNumber)?;
            of_double(f32::from_be_bytes(bytes).into())
        }
        (FLOAT8, true) => {
            let bytes = bytes.try_into().map_err(|_| NotWhole::NoNumber)?;
            of_double(f64::from_be_bytes(bytes))
        }
        (NUMERIC, true) => of_numeric(bytes),
        (FLOAT4, false) => of_double(text_of(bytes)?.parse::<f32>().map_err(|_| UNREAD)?.into()),
        (FLOAT8, false) => of_double(text_of(bytes)?.parse::<f64>().map_err(|_| UNREAD)?),
        _ => of_decimal(text_of(bytes)?),
    }
}

/// PostgreSQL may read what is not read here: hexadecimal digits, underscores.
const UNREAD: NotWhole = NotWhole::Unclear;

/// The text without blanks around it, if it begins as a number does.
fn text_of(bytes: &[u8]) -> Result<&str, NotWhole> {
    // Other blanks than those of ASCII are none for PostgreSQL.
    let text = str::from_utf8(trim_blanks(bytes)).map_err(|_| NotWhole::NoNumber)?;
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.bytes().next() {
        Some(b'0'..=b'9' | b'.' | b'n' | b'N' | b'i' | b'I') => Ok(text),
        _ => Err(NotWhole::NoNumber),
    }
}

/// Drops what C's `isspace` takes for blanks, on both sides.
pub fn trim_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t'..=b'\r', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'..=b'\r'] = text {
        text = rest;
    }
    text
}

fn of_double(v: f64) -> Result<i64, NotWhole> {
    if v.is_nan() || v.abs() > BEYOND {
        return Err(NotWhole::Beyond);
    }
    let one = v.fract() == 0.0 && v.abs() < SEVERAL;
    if one { Ok(v as i64) } else { Err(NotWhole::Unclear) }
}

/// A sign, digits with or without a point, and an exponent; or no number that any integer equals.
fn of_decimal(text: &str) -> Result<i64, NotWhole> {
    let (negative, text) = match text.split_at_checked(1) {
        Some(("-", rest)) => (true, rest),
        Some(("+", rest)) => (false, rest),
        _ => (false, text),
    };
    if ["nan", "inf", "infinity"].iter().any(|n| text.eq_ignore_ascii_case(n)) {
        return Err(NotWhole::Beyond);
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().map_err(|_| UNREAD)?),
        None => (text, 0_i32),
    };
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [before, behind].concat();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UNREAD);
    }
    let point = i64::try_from(before.len()).map_err(|_| UNREAD)? + i64::from(exponent);
    let significant = digits.trim_start_matches('0');
    let first = digits.len() - significant.len();
    let significant = significant.trim_end_matches('0');
    // Where the point stands, counted from the first digit that is not zero.
    let point = point - i64::try_from(first).map_err(|_| UNREAD)?;
    if significant.is_empty() {
        return Ok(0);
    }
    // More digits than any integer has.
    if point > 19 {
        return Err(NotWhole::Beyond);
    }
    let zeros = usize::try_from(point).ok().and_then(|n| n.checked_sub(significant.len()));
    let zeros = zeros.ok_or(NotWhole::Unclear)?;
    let n = significant.bytes().fold(0_i128, |n, digit| n * 10 + i128::from(digit - b'0'));
    let n = (0..zeros).fold(n, |n, _| n * 10);
    i64::try_from(if negative { -n } else { n }).map_err(|_| NotWhole::Beyond)
}

/// As `numeric_send` writes it: count, weight, sign, scale, and digits to the base of 10,000.
fn of_numeric(bytes: &[u8]) -> Result<i64, NotWhole> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let head = (word(0), word(2), word(4), word(6));
    let (Some(count), Some(weight), Some(sign), Some(_)) = head else {
        return Err(NotWhole::NoNumber);
    };
    let weight = weight.cast_signed();
    if usize::from(count) * 2 + 8 != bytes.len() {
        return Err(NotWhole::NoNumber);
    }
    // NaN, and the two infinities.
    if matches!(sign, 0xC000 | 0xD000 | 0xF000) {
        return Err(NotWhole::Beyond);
    }
    if !matches!(sign, 0 | 0x4000) || weight > 4 {
        return Err(NotWhole::Unclear);
    }
    let mut words = bytes[8..].chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]]));
    let mut n: i128 = 0;
    for _ in 0..=weight.max(-1) {
        n = n * 10_000 + i128::from(words.next().unwrap_or(0));
    }
    if !words.all(|digit| digit == 0) {
        return Err(NotWhole::Unclear);
    }
    i64::try_from(if sign == 0 { n } else { -n }).map_err(|_| NotWhole::Beyond)
}

#[cfg(test)]
mod tests {
    use super::NotWhole::*;
    use super::*;

    fn numeric(weight: i16, sign: u16, digits: &[u16]) -> Vec<u8> {
        let head = [digits.len() as u16, weight.cast_unsigned(), sign, 2];
        head.iter().chain(digits).flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn whole_numbers_are_read_and_no_others() {
        assert_eq!(whole(FLOAT8, true, &3f64.to_be_bytes()), Ok(3));
        assert_eq!(whole(FLOAT4, true, &(-3f32).to_be_bytes()), Ok(-3));
        for (v, why) in [
            (0.5, Unclear),
            (1e18, Unclear),
            (9_223_372_036_854_775_808.0, Unclear),
            (9_223_372_036_854_777_856.0, Beyond),
            (f64::NAN, Beyond),
            (f64::NEG_INFINITY, Beyond),
        ] {
            assert_eq!(whole(FLOAT8, true, &v.to_be_bytes()), Err(why), "{v}");
            assert_eq!(whole(FLOAT8, false, v.to_string().as_bytes()), Err(why), "{v}");
        }
        assert_eq!(whole(FLOAT8, true, b"abc"), Err(NoNumber));
        for (text, n) in [
            ("3", Ok(3)),
            ("-3.00", Ok(-3)),
            ("3.", Ok(3)),
            ("+3", Ok(3)),
            (" 3\n", Ok(3)),
            ("3e0", Ok(3)),
            ("0.03E+2", Ok(3)),
            ("300e-2", Ok(3)),
            (".0e5", Ok(0)),
            ("-0", Ok(0)),
            ("3.01", Err(Unclear)),
            ("1e-1", Err(Unclear)),
            ("0x3", Err(Unclear)),
            ("1_000", Err(Unclear)),
            ("NaN", Err(Beyond)),
            ("-infinity", Err(Beyond)),
            ("1e30", Err(Beyond)),
            ("", Err(NoNumber)),
            (" - ", Err(NoNumber)),
            ("--3", Err(NoNumber)),
            ("abc", Err(NoNumber)),
            ("\u{a0}3", Err(NoNumber)),
        ] {
            for ty in [NUMERIC, FLOAT4, FLOAT8] {
                assert_eq!(whole(ty, false, text.as_bytes()), n, "{text} as {ty}");
            }
        }
    }

    #[test]
    fn a_double_that_several_integers_equal_is_no_key() {
        assert_eq!(
            whole(FLOAT8, true, &9_007_199_254_740_991f64.to_be_bytes()),
            Ok(SEVERAL as i64 - 1)
        );
        // bigint 9007199254740993 equals it too.
        assert_eq!(whole(FLOAT8, true, &SEVERAL.to_be_bytes()), Err(Unclear));
        assert_eq!(whole(FLOAT8, false, b"9007199254740993"), Err(Unclear));
        assert_eq!(whole(NUMERIC, false, b"9007199254740993"), Ok(9_007_199_254_740_993));
        assert_eq!(whole(NUMERIC, false, b"-9223372036854775808.0"), Ok(i64::MIN));
        assert_eq!(whole(NUMERIC, false, b"9223372036854775808"), Err(Beyond));
        // A real is what its text is rounded to.
        assert_eq!(whole(FLOAT4, false, b"16777217"), Ok(16_777_216));
    }

    #[test]
    fn numerics_are_read_in_binary() {
        let read = |bytes: &[u8]| whole(NUMERIC, true, bytes);
        assert_eq!(read(&numeric(0, 0, &[3])), Ok(3));
        assert_eq!(read(&numeric(1, 0x4000, &[1, 2])), Ok(-10_002));
        assert_eq!(read(&numeric(1, 0, &[5])), Ok(50_000), "zeros at the end are not sent");
        assert_eq!(read(&numeric(0, 0, &[])), Ok(0));
        assert_eq!(read(&numeric(-1, 0, &[5000])), Err(Unclear), "a half");
        assert_eq!(read(&numeric(0, 0, &[1, 1])), Err(Unclear));
        assert_eq!(read(&numeric(0, 0xC000, &[])), Err(Beyond), "NaN");
        assert_eq!(read(&numeric(5, 0, &[1])), Err(Unclear));
        assert_eq!(read(&numeric(4, 0, &[9999, 0, 0, 0, 0])), Err(Beyond));
        assert_eq!(read(&[0, 1]), Err(NoNumber));
    }
}
