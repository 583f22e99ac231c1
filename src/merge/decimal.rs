//! `numeric` in text form: sums and order, exact to the last digit.
//!
//! As `numeric_add`: the result's scale is the larger of the two. NaN, Infinity and -Infinity
//! follow numeric.c: NaN is the greatest and absorbs; opposite infinities add up to NaN.

use std::cmp::Ordering;
use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decimal {
    NegativeInfinity,
    /// Digits most significant first, the last `scale` of them behind the point.
    Finite {
        negative: bool,
        digits: Vec<u8>,
        scale: usize,
    },
    Infinity,
    NaN,
}

use Decimal::{Finite, Infinity, NaN, NegativeInfinity};

impl Decimal {
    /// Reads what `numeric_out` writes.
    pub fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"NaN" => return Some(NaN),
            b"Infinity" => return Some(Infinity),
            b"-Infinity" => return Some(NegativeInfinity),
            _ => {}
        }
        let (negative, rest) = match text.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = match rest.iter().position(|&b| b == b'.') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &[][..]),
        };
        let digits: Vec<u8> = whole.iter().chain(fraction).map(|b| b.wrapping_sub(b'0')).collect();
        let plain = !digits.is_empty() && digits.iter().all(|&d| d < 10);
        plain.then_some(Finite { negative, digits, scale: fraction.len() })
    }

    pub fn add(&self, other: &Self) -> Self {
        match (self, other) {
            (NaN, _) | (_, NaN) => NaN,
            (Infinity, NegativeInfinity) | (NegativeInfinity, Infinity) => NaN,
            (Infinity, _) | (_, Infinity) => Infinity,
            (NegativeInfinity, _) | (_, NegativeInfinity) => NegativeInfinity,
            (
                Finite { negative: na, digits: da, scale: sa },
                Finite { negative: nb, digits: db, scale: sb },
            ) => {
                let scale = *sa.max(sb);
                let (a, b) = aligned(da, *sa, db, *sb);
                let (negative, digits) = if na == nb {
                    (*na, plus(&a, &b))
                } else {
                    match a.cmp(&b) {
                        Ordering::Less => (*nb, minus(&b, &a)),
                        Ordering::Equal => (false, vec![0; a.len()]),
                        Ordering::Greater => (*na, minus(&a, &b)),
                    }
                };
                Finite { negative, digits, scale }
            }
        }
    }

    pub fn cmp(&self, other: &Self) -> Ordering {
        let class = |d: &Self| match d {
            NegativeInfinity => 0,
            Finite { .. } => 1,
            Infinity => 2,
            NaN => 3,
        };
        match (self, other) {
            (
                Finite { negative: na, digits: da, scale: sa },
                Finite { negative: nb, digits: db, scale: sb },
            ) => {
                let (a, b) = aligned(da, *sa, db, *sb);
                let zero = |d: &[u8]| d.iter().all(|&x| x == 0);
                match (*na && !zero(&a), *nb && !zero(&b)) {
                    (false, false) => a.cmp(&b),
                    (true, true) => b.cmp(&a),
                    (true, false) => Ordering::Less,
                    (false, true) => Ordering::Greater,
                }
            }
            _ => class(self).cmp(&class(other)),
        }
    }
}

/// Both digit strings with the same scale and length.
fn aligned(a: &[u8], sa: usize, b: &[u8], sb: usize) -> (Vec<u8>, Vec<u8>) {
    let scale = sa.max(sb);
    let whole = (a.len() - sa).max(b.len() - sb);
    let widen = |d: &[u8], s: usize| {
        let mut wide = vec![0; whole - (d.len() - s)];
        wide.extend_from_slice(d);
        wide.resize(whole + scale, 0);
        wide
    };
    (widen(a, sa), widen(b, sb))
}

fn plus(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut sum = vec![0; a.len() + 1];
    let mut carry = 0;
    for i in (0..a.len()).rev() {
        let d = a[i] + b[i] + carry;
        sum[i + 1] = d % 10;
        carry = d / 10;
    }
    sum[0] = carry;
    sum
}

/// `a - b` for `a >= b`.
fn minus(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut difference = vec![0; a.len()];
    let mut borrow = 0;
    for i in (0..a.len()).rev() {
        let d = 10 + a[i] - b[i] - borrow;
        difference[i] = d % 10;
        borrow = 1 - d / 10;
    }
    difference
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NaN => f.write_str("NaN"),
            Infinity => f.write_str("Infinity"),
            NegativeInfinity => f.write_str("-Infinity"),
            Finite { negative, digits, scale } => {
                let (whole, fraction) = digits.split_at(digits.len() - scale);
                let first = whole.iter().position(|&d| d != 0).unwrap_or(whole.len());
                if *negative && digits.iter().any(|&d| d != 0) {
                    f.write_str("-")?;
                }
                if first == whole.len() {
                    f.write_str("0")?;
                }
                for d in &whole[first..] {
                    write!(f, "{d}")?;
                }
                if !fraction.is_empty() {
                    f.write_str(".")?;
                }
                fraction.iter().try_for_each(|d| write!(f, "{d}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn adds_and_orders_as_integers_do(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
            let d = |n: i64| Decimal::parse(n.to_string().as_bytes()).unwrap();
            prop_assert_eq!(d(a).add(&d(b)).to_string(), (a + b).to_string());
            prop_assert_eq!(d(a).cmp(&d(b)), a.cmp(&b));
        }
    }

    #[test]
    fn scales() {
        let d = |s: &str| Decimal::parse(s.as_bytes()).unwrap();
        assert_eq!(d("1.5").add(&d("-1.500")).to_string(), "0.000");
        assert_eq!(d("0.01").add(&d("0.1")).to_string(), "0.11");
        assert_eq!(d("-0.5").add(&d("0.25")).to_string(), "-0.25");
        assert_eq!(d("1.0").cmp(&d("1.00")), Ordering::Equal);
        assert_eq!(Decimal::parse(b"1e5"), None);
        assert_eq!(Decimal::parse(b""), None);
    }
}
