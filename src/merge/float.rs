//! `real` and `double precision`: sums as float4pl and float8pl, order as float8_cmp_internal,
//! text as float4out and float8out write it (shortest digits that read back the same).

use std::cmp::Ordering;

pub fn read(bytes: &[u8], single: bool, binary: bool) -> Option<f64> {
    if binary {
        return match *bytes {
            [a, b, c, d] if single => Some(f32::from_be_bytes([a, b, c, d]).into()),
            [a, b, c, d, e, f, g, h] if !single => {
                Some(f64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => None,
        };
    }
    let text = std::str::from_utf8(bytes).ok()?;
    if single { text.parse::<f32>().ok().map(f64::from) } else { text.parse().ok() }
}

/// `None`: the sum of two finite values is not finite.
pub fn add(a: f64, b: f64, single: bool) -> Option<f64> {
    let sum = if single { f64::from(a as f32 + b as f32) } else { a + b };
    let overflow = sum.is_infinite() && a.is_finite() && b.is_finite();
    (!overflow).then_some(sum)
}

/// NaN equals NaN and is greater than all else.
pub fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

pub fn write(value: f64, single: bool, binary: bool) -> Vec<u8> {
    match (binary, single) {
        (true, true) => (value as f32).to_be_bytes().to_vec(),
        (true, false) => value.to_be_bytes().to_vec(),
        (false, _) => text(value, single).into_bytes(),
    }
}

fn text(value: f64, single: bool) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    // Rust's `{:e}` gives the shortest digits too; only the layout differs.
    let scientific = if single { format!("{:e}", value as f32) } else { format!("{value:e}") };
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let largest = if single { 6 } else { 15 };
    if exponent < -4 || exponent >= largest {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    if single { format!("{}", value as f32) } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let t = |v: f64| text(v, false);
        assert_eq!(t(0.0), "0");
        assert_eq!(t(-0.0), "-0");
        assert_eq!(t(1e14), "100000000000000");
        assert_eq!(t(1e15), "1e+15");
        assert_eq!(t(0.0001), "0.0001");
        assert_eq!(t(0.00001), "1e-05");
        assert_eq!(t(1.5e300), "1.5e+300");
        assert_eq!(text(f64::from(1e6f32), true), "1e+06");
        assert_eq!(text(f64::from(123456.0f32), true), "123456");
    }
}
