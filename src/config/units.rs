//! Values people write with a unit.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// `"200ms"`, `"5s"`, `"2min"`, `"1h"`. Never a bare number: nobody remembers of what.
pub fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration like \"200ms\", \"5s\", \"2min\" or \"1h\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text)
                .ok_or_else(|| E::custom(format!("{text:?} is not {}", Shown(self))))
        }
    }
    d.deserialize_str(Text)
}

/// The bits of chmod, written in octal as chmod takes them: `"0770"`.
pub fn mode<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    let text = <&str>::deserialize(d)?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= 0o777)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is not a mode like \"0770\"")))
}

/// A number of bytes, or `"32kB"`, `"64MB"`, `"16GB"` in PostgreSQL's units (of 1024).
pub fn size<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<T, D::Error> {
    struct Bytes;
    impl Visitor<'_> for Bytes {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes or a size like \"32kB\", \"64MB\" or \"16GB\"")
        }

        fn visit_u64<E: Error>(self, n: u64) -> Result<u64, E> {
            Ok(n)
        }

        fn visit_i64<E: Error>(self, n: i64) -> Result<u64, E> {
            u64::try_from(n).map_err(|_| E::custom(format!("{n} is not {}", Shown(self))))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).ok_or_else(|| E::custom(format!("{text:?} is not {}", Shown(self))))
        }
    }
    let bytes = d.deserialize_any(Bytes)?;
    T::try_from(bytes).map_err(|_| D::Error::custom(format!("{bytes} bytes are too many")))
}

pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)];
    scaled(text, UNITS).map(Duration::from_millis)
}

/// With a unit, or in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    const UNITS: &[(&str, u64)] =
        &[("", 1), ("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30)];
    scaled(text, UNITS)
}

/// A visitor's own words on what it takes.
struct Shown<V>(V);

impl<'de, V: Visitor<'de>> fmt::Display for Shown<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}
