//! `real` and `double precision` in order, as float8_cmp_internal has it.

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

/// NaN equals NaN and is greater than all else.
pub fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
