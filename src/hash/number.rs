//! Numbers of other types that are given for an integer key.
//!
//! PostgreSQL compares an integer column with a number of these types by that type's rules, and rounds
//! one that is to be stored. A whole number is the same key under both; no other is read here.

pub const FLOAT4: u32 = 700;
pub const FLOAT8: u32 = 701;
pub const NUMERIC: u32 = 1700;

/// Above this several integers are one and the same double.
const EXACT: i64 = 1 << 53;

/// The whole number that a value of one of these types is.
pub fn whole(type_oid: u32, binary: bool, bytes: &[u8]) -> Option<i64> {
    let n = match (type_oid, binary) {
        (FLOAT4, true) => of_double(f32::from_be_bytes(bytes.try_into().ok()?).into()),
        (FLOAT8, true) => of_double(f64::from_be_bytes(bytes.try_into().ok()?)),
        (NUMERIC, true) => of_numeric(bytes),
        // A real may round what stands there.
        (FLOAT4, false) => of_text(bytes).filter(|n| n.unsigned_abs() <= 1 << 24),
        (_, false) => of_text(bytes),
        _ => None,
    }?;
    (type_oid == NUMERIC || (-EXACT..=EXACT).contains(&n)).then_some(n)
}

fn of_double(v: f64) -> Option<i64> {
    let fits = v.fract() == 0.0 && v.abs() <= EXACT as f64;
    fits.then_some(v as i64)
}

/// Digits, and zeros behind the point.
fn of_text(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (digits, zeros) = text.split_once('.').unwrap_or((text, ""));
    let plain = digits.strip_prefix('-').unwrap_or(digits);
    let is_whole = !plain.is_empty()
        && plain.bytes().all(|b| b.is_ascii_digit())
        && zeros.bytes().all(|b| b == b'0');
    if is_whole { digits.parse().ok() } else { None }
}

/// As `numeric_send` writes it: count, weight, sign, scale, and digits to the base of 10,000.
fn of_numeric(bytes: &[u8]) -> Option<i64> {
    let mut words = bytes.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]]));
    let (count, weight) = (words.next()?, words.next()?.cast_signed());
    let sign = words.next()?;
    words.next()?;
    if usize::from(count) * 2 + 8 != bytes.len() || !matches!(sign, 0 | 0x4000) || weight > 4 {
        return None;
    }
    let mut n: i128 = 0;
    for at in 0..=weight.max(-1) {
        n = n * 10_000 + i128::from(if at < count.cast_signed() { words.next()? } else { 0 });
    }
    let is_whole = words.all(|digit| digit == 0);
    let n = if sign == 0 { n } else { -n };
    if is_whole { i64::try_from(n).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(weight: i16, sign: u16, digits: &[u16]) -> Vec<u8> {
        let head = [digits.len() as u16, weight.cast_unsigned(), sign, 2];
        head.iter().chain(digits).flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn whole_numbers_are_read_and_no_others() {
        assert_eq!(whole(FLOAT8, true, &3f64.to_be_bytes()), Some(3));
        assert_eq!(whole(FLOAT4, true, &(-3f32).to_be_bytes()), Some(-3));
        for not in [0.5, f64::NAN, f64::INFINITY, 1e18] {
            assert_eq!(whole(FLOAT8, true, &not.to_be_bytes()), None, "{not}");
        }
        for (text, n) in [("3", Some(3)), ("-3.00", Some(-3)), ("3.", Some(3)), ("3.01", None)] {
            assert_eq!(whole(NUMERIC, false, text.as_bytes()), n, "{text}");
            assert_eq!(whole(FLOAT8, false, text.as_bytes()), n, "{text}");
        }
        for not in ["", "-", "+3", "3e0", "NaN", " 3", "--3"] {
            assert_eq!(whole(NUMERIC, false, not.as_bytes()), None, "{not}");
        }
        assert_eq!(whole(FLOAT8, false, b"9007199254740993"), None);
        assert_eq!(whole(NUMERIC, false, b"9007199254740993"), Some(9_007_199_254_740_993));
    }

    #[test]
    fn numerics_are_read_in_binary() {
        let read = |bytes: &[u8]| whole(NUMERIC, true, bytes);
        assert_eq!(read(&numeric(0, 0, &[3])), Some(3));
        assert_eq!(read(&numeric(1, 0x4000, &[1, 2])), Some(-10_002));
        assert_eq!(read(&numeric(1, 0, &[5])), Some(50_000), "zeros at the end are not sent");
        assert_eq!(read(&numeric(0, 0, &[])), Some(0));
        assert_eq!(read(&numeric(-1, 0, &[5000])), None, "a half");
        assert_eq!(read(&numeric(0, 0, &[1, 1])), None);
        assert_eq!(read(&numeric(0, 0xC000, &[])), None, "NaN");
        assert_eq!(read(&numeric(5, 0, &[1])), None);
        assert_eq!(read(&[0, 1]), None);
    }
}
