//! Dates and times in the forms that mean the same whatever DateStyle and TimeZone are.
//!
//! Year first, four digits; a time with an offset where the type has one. Everything else PostgreSQL
//! may read by the session's parameters, or by the moment ('today'), and is not read here.

use super::number::trim_blanks;

/// Days from 1970-01-01 to PostgreSQL's day zero, 2000-01-01.
const DAY_ZERO: i64 = 10_957;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// There is no such day, in whatever era.
    Never,
    /// PostgreSQL may read it otherwise from session to session.
    Unclear,
}

type Read<T> = Result<T, Unread>;

/// Days since 2000-01-01.
pub fn date(text: &[u8]) -> Read<i64> {
    let text = trim_blanks(text);
    if let Some(end) = infinity(text, i64::from(i32::MIN), i64::from(i32::MAX)) {
        return Ok(end);
    }
    let mut rest = text;
    let days = days(&mut rest)?;
    // Some drivers send an offset behind it, which says nothing.
    match rest {
        [] => Ok(days),
        [b' ', zone @ ..] => zone_of(zone).map(|_| days),
        _ => Err(Unread::Unclear),
    }
}

/// Microseconds since 2000-01-01, of a timestamp without time zone. An offset says nothing.
pub fn timestamp(text: &[u8]) -> Read<i64> {
    let text = trim_blanks(text);
    if let Some(end) = infinity(text, i64::MIN, i64::MAX) {
        return Ok(end);
    }
    moment(text).map(|(local, _)| local)
}

/// Microseconds since 2000-01-01 in UTC. Without an offset it would be the session's.
pub fn timestamptz(text: &[u8]) -> Read<i64> {
    let text = trim_blanks(text);
    if let Some(end) = infinity(text, i64::MIN, i64::MAX) {
        return Ok(end);
    }
    let (local, zone) = moment(text)?;
    zone.map(|east| local - east).ok_or(Unread::Unclear)
}

fn infinity(text: &[u8], before: i64, after: i64) -> Option<i64> {
    match text {
        [b'-', rest @ ..] if rest.eq_ignore_ascii_case(b"infinity") => Some(before),
        text if text.eq_ignore_ascii_case(b"infinity") => Some(after),
        _ => None,
    }
}

/// Local time, and how far its offset is east of UTC.
fn moment(text: &[u8]) -> Read<(i64, Option<i64>)> {
    let mut rest = text;
    let day = days(&mut rest)? * DAY;
    let [b' ' | b'T', clock @ ..] = rest else {
        return if rest.is_empty() { Ok((day, None)) } else { Err(Unread::Unclear) };
    };
    rest = clock;
    let hour = below(&mut rest, 24)?;
    sign(&mut rest, b':')?;
    let minute = below(&mut rest, 60)?;
    let mut second = 0;
    if let [b':', more @ ..] = rest {
        rest = more;
        second = below(&mut rest, 60)? * SECOND;
        if let [b'.', more @ ..] = rest {
            rest = more;
            second += fraction(&mut rest)?;
        }
    }
    let local = day + (hour * 60 + minute) * 60 * SECOND + second;
    let zone = match rest {
        [] => None,
        [b' ', zone @ ..] | zone => Some(zone_of(zone)?),
    };
    Ok((local, zone))
}

/// `YYYY-MM-DD`
fn days(rest: &mut &[u8]) -> Read<i64> {
    let year = digits(rest, 4)?;
    sign(rest, b'-')?;
    let month = digits(rest, 2)?;
    sign(rest, b'-')?;
    let day = digits(rest, 2)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    // Behind the rest it may say BC, when other years are leap years.
    let is_era = rest.iter().any(|b| b.eq_ignore_ascii_case(&b'b'));
    if (day < 1 || day > longest) && !is_era {
        return Err(Unread::Never);
    }
    if year < 1 || is_era {
        return Err(Unread::Unclear);
    }
    // Years are counted from March, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * m + 2) / 5 + day - 1;
    let since_0000 = y * 365 + y / 4 - y / 100 + y / 400 + of_year;
    Ok(since_0000 - 719_468 - DAY_ZERO)
}

/// `Z`, `+HH`, `+HHMM`, `+HH:MM` or `+HH:MM:SS`: microseconds east of UTC.
fn zone_of(text: &[u8]) -> Read<i64> {
    let (east, mut rest) = match text {
        b"Z" | b"z" => return Ok(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Err(Unread::Unclear),
    };
    let mut seconds = below(&mut rest, 16)? * 3600;
    let colon = rest.first() == Some(&b':');
    if !rest.is_empty() {
        if colon {
            sign(&mut rest, b':')?;
        }
        seconds += below(&mut rest, 60)? * 60;
    }
    if !rest.is_empty() && colon {
        sign(&mut rest, b':')?;
        seconds += below(&mut rest, 60)?;
    }
    if rest.is_empty() { Ok(east * seconds * SECOND) } else { Err(Unread::Unclear) }
}

/// One to six digits behind the point, in microseconds.
fn fraction(rest: &mut &[u8]) -> Read<i64> {
    let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=6).contains(&count) {
        return Err(Unread::Unclear);
    }
    let n = digits(rest, count)?;
    Ok((count..6).fold(n, |n, _| n * 10))
}

fn below(rest: &mut &[u8], limit: i64) -> Read<i64> {
    digits(rest, 2).and_then(|n| if n < limit { Ok(n) } else { Err(Unread::Unclear) })
}

/// So many digits, and no more of them behind.
fn digits(rest: &mut &[u8], count: usize) -> Read<i64> {
    let (own, behind) = rest.split_at_checked(count).ok_or(Unread::Unclear)?;
    if !own.iter().all(u8::is_ascii_digit) {
        return Err(Unread::Unclear);
    }
    *rest = behind;
    Ok(own.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
}

fn sign(rest: &mut &[u8], wanted: u8) -> Read<()> {
    match rest.split_first() {
        Some((first, behind)) if *first == wanted => {
            *rest = behind;
            Ok(())
        }
        _ => Err(Unread::Unclear),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_the_year_2000() {
        for (text, days) in [
            ("2000-01-01", 0),
            ("1999-12-31", -1),
            ("2000-03-01", 60),
            ("1970-01-01", -10_957),
            ("0001-01-01", -730_119),
            ("9999-12-31", 2_921_939),
            (" 2024-02-29 ", 8_825),
            ("2000-01-01 +05:30", 0),
            ("infinity", i64::from(i32::MAX)),
        ] {
            assert_eq!(date(text.as_bytes()), Ok(days), "{text}");
        }
        assert_eq!(date(b"2023-02-29"), Err(Unread::Never));
        assert_eq!(date(b"2023-13-01"), Err(Unread::Never));
        for text in [
            "today",
            "01/02/2023",
            "1-2-3",
            "20230102",
            "0000-01-01",
            "2000-01-01x",
            "2000-1-1",
            "",
        ] {
            assert_eq!(date(text.as_bytes()), Err(Unread::Unclear), "{text}");
        }
    }

    #[test]
    fn a_time_with_an_offset_is_one_instant() {
        let hour = 3600 * SECOND;
        for (text, at) in [
            ("2000-01-01T00:00:00Z", 0),
            ("2000-01-01 02:00+02", 0),
            ("2000-01-01 00:00:00.5+00:00", SECOND / 2),
            ("1999-12-31 19:00:00.000001 -0500", 1),
            ("2000-01-01 01:00:00-01:30:30", 2 * hour + 1830 * SECOND),
        ] {
            assert_eq!(timestamptz(text.as_bytes()), Ok(at), "{text}");
        }
        assert_eq!(timestamp(b"2000-01-01 01:00+05"), Ok(hour));
        assert_eq!(timestamp(b"2000-01-02"), Ok(DAY));
        for text in [
            "2000-01-01",
            "2000-01-01 00:00",
            "2000-01-01 00:00 UTC",
            "2000-01-01 24:00+00",
            "2000-01-01 00:00:60+00",
            "2000-01-01 00:00:00.1234567+00",
            "2000-01-01 00:00+16",
            "2000-01-01 00:00+1",
            "now",
        ] {
            assert_eq!(timestamptz(text.as_bytes()), Err(Unread::Unclear), "{text}");
        }
    }
}
