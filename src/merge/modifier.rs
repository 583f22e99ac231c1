//! Types with what stands in parentheses behind them, so that what one node makes of gathered rows has the
//! columns that the client's own statement has: `varchar(12)` and not `varchar`.

use super::NUMERIC;
use crate::wire::frontend::Reader;

/// The type modifiers of a RowDescription body; -1: none.
pub fn modifiers(body: &[u8]) -> Vec<i32> {
    let mut r = Reader(body);
    let count = r.i16().ok().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
    let mut modifier = || {
        r.cstr().ok()?;
        r.bytes(12).ok()?;
        let modifier = r.i32().ok()?;
        r.bytes(2).ok()?;
        Some(modifier)
    };
    (0..count).map_while(|_| modifier()).collect()
}

/// A built-in type with its modifier, as a cast names it; `None`: it has none.
pub fn type_with(oid: u32, modifier: i32) -> Option<String> {
    // Lengths and numeric's digits are counted with their header.
    const HEADER: i32 = 4;
    if modifier < 0 {
        return None;
    }
    let short = modifier - HEADER;
    let (name, within) = match oid {
        1042 => ("bpchar", short.to_string()),
        1043 => ("varchar", short.to_string()),
        1083 => ("time", modifier.to_string()),
        1114 => ("timestamp", modifier.to_string()),
        1184 => ("timestamptz", modifier.to_string()),
        1266 => ("timetz", modifier.to_string()),
        1186 => ("interval", of_interval(modifier)),
        1560 => ("bit", modifier.to_string()),
        1562 => ("varbit", modifier.to_string()),
        NUMERIC => {
            // The scale has eleven bits and a sign.
            let scale = ((short & 0x7ff) ^ 0x400) - 0x400;
            ("numeric", format!("{}, {scale}", (short >> 16) & 0xffff))
        }
        _ => return None,
    };
    Some(format!("pg_catalog.{name}({within})"))
}

/// Fields and precision, as `intervaltypmodin` reads them.
fn of_interval(modifier: i32) -> String {
    const ALL_DIGITS: i32 = 0xffff;
    let (fields, precision) = ((modifier >> 16) & 0x7fff, modifier & ALL_DIGITS);
    match precision {
        ALL_DIGITS => fields.to_string(),
        precision => format!("{fields}, {precision}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_are_written_as_the_types_read_them() {
        let of = |oid, modifier| type_with(oid, modifier).unwrap_or_default();
        assert_eq!(of(1043, 16), "pg_catalog.varchar(12)");
        assert_eq!(of(1042, 7), "pg_catalog.bpchar(3)");
        assert_eq!(of(NUMERIC, (10 << 16 | 2) + 4), "pg_catalog.numeric(10, 2)");
        assert_eq!(of(NUMERIC, (3 << 16 | (-2 & 0x7ff)) + 4), "pg_catalog.numeric(3, -2)");
        assert_eq!(of(1184, 3), "pg_catalog.timestamptz(3)");
        assert_eq!(of(1186, 0x7fff << 16 | 2), "pg_catalog.interval(32767, 2)");
        assert_eq!(of(1186, 4 << 16 | 0xffff), "pg_catalog.interval(4)");
        assert_eq!(of(1560, 5), "pg_catalog.bit(5)");
        assert_eq!(type_with(1043, -1), None);
        assert_eq!(type_with(25, 8), None);
    }

    #[test]
    fn modifiers_are_read_from_a_description() {
        let mut body = vec![0, 2];
        for modifier in [16, -1i32] {
            body.extend_from_slice(b"c\0");
            body.extend_from_slice(&[0; 12]);
            body.extend_from_slice(&modifier.to_be_bytes());
            body.extend_from_slice(&[0, 0]);
        }
        assert_eq!(modifiers(&body), [16, -1]);
        assert_eq!(modifiers(&body[..30]), [16], "cut off");
    }
}
