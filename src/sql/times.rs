//! Calls in a text whose value is the transaction's time: `now()`, `CURRENT_DATE` and their kin.
//!
//! Each node of a transaction has begun it at a time of its own. What the transaction says of its time on
//! other nodes than the first must be the first one's: constants of the call's own type stand in the calls'
//! places. The calls are found token by token, in a text that PostgreSQL's grammar has taken; whoever knows
//! the tree tells how many there are, and a text in which others are found is not rewritten.

use std::ops::Range;

use super::tokens::Tokens;

/// The times of one statement, as PostgreSQL reads them whatever the session's DateStyle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// When the transaction began.
    pub transaction: String,
    /// When the statement came; `None`: calls of `statement_timestamp()` stay.
    pub statement: Option<String>,
}

/// One of the words.
struct Word {
    word: &'static str,
    /// It is a function, called with `()`.
    is_function: bool,
    /// What the time is cast to.
    cast: &'static str,
}

const fn function(word: &'static str) -> Word {
    Word { word, is_function: true, cast: "timestamptz" }
}

const fn keyword(word: &'static str, cast: &'static str) -> Word {
    Word { word, is_function: false, cast }
}

const WORDS: [Word; 8] = [
    function("now"),
    function("transaction_timestamp"),
    function(STATEMENT),
    keyword("current_timestamp", "timestamptz"),
    keyword("current_date", "date"),
    keyword("current_time", "timetz"),
    keyword("localtime", "time"),
    keyword("localtimestamp", "timestamp"),
];

const STATEMENT: &str = "statement_timestamp";

/// Whether a function of PostgreSQL's own, called without arguments, tells the transaction's time or the
/// statement's.
pub fn is_time(function: &str) -> bool {
    WORDS.iter().any(|w| w.is_function && w.word == function)
}

/// Whether it is the statement's time that the function tells.
pub fn is_of_statement(function: &str) -> bool {
    function == STATEMENT
}

/// A call, from its first byte to behind its last.
struct Call {
    word: &'static Word,
    span: Range<usize>,
    /// The digits in parentheses behind a keyword.
    precision: Option<Range<usize>>,
}

/// How many calls there are in a text.
pub fn count(text: &[u8]) -> usize {
    calls(text).len()
}

/// The text with the times in place of the calls. `named`: columns of the result are called like them.
pub fn put(text: &[u8], times: &Times, named: bool) -> Vec<u8> {
    let mut put = Vec::with_capacity(text.len() + 64);
    let mut at = 0;
    for Call { word, span, precision } in calls(text) {
        let time = match (is_of_statement(word.word), &times.statement) {
            (true, None) => continue,
            (true, Some(time)) => time,
            (false, _) => &times.transaction,
        };
        let digits = precision.and_then(|p| std::str::from_utf8(text.get(p)?).ok());
        let digits = digits.map(|d| format!("({d})")).unwrap_or_default();
        let time = match word.cast {
            "timestamptz" => format!("'{time}'::pg_catalog.timestamptz{digits}"),
            cast => format!("'{time}'::pg_catalog.timestamptz::pg_catalog.{cast}{digits}"),
        };
        put.extend_from_slice(&text[at..span.start]);
        if named {
            put.extend_from_slice(format!("(SELECT {time} AS \"{}\")", word.word).as_bytes());
        } else {
            put.extend_from_slice(time.as_bytes());
        }
        at = span.end;
    }
    put.extend_from_slice(&text[at..]);
    put
}

fn calls(text: &[u8]) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut tokens = Tokens::of(text);
    // The two tokens before this one.
    let mut before: [Range<usize>; 2] = [0..0, 0..0];
    while let Some(span) = tokens.next() {
        let is = |span: &Range<usize>, word: &str| {
            let token = &text[span.clone()];
            token.eq_ignore_ascii_case(word.as_bytes())
                || token.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\""))
                    == Some(word.as_bytes())
        };
        let found = WORDS.iter().find(|w| is(&span, w.word));
        if let Some(call) = found.and_then(|word| call(word, (text, &span), &before, tokens, &is)) {
            calls.push(call);
        }
        before = [before[1].clone(), span];
    }
    calls
}

/// The call that this word is, if it is one.
fn call(
    word: &'static Word,
    (text, span): (&[u8], &Range<usize>),
    [schema, before]: &[Range<usize>; 2],
    mut behind: Tokens<'_>,
    is: &impl Fn(&Range<usize>, &str) -> bool,
) -> Option<Call> {
    let byte = |span: &Option<Range<usize>>| text.get(span.as_ref()?.start).copied();
    let qualified = is(before, ".");
    if word.is_function {
        let start = match qualified {
            true if is(schema, "pg_catalog") => schema.start,
            true => return None,
            false => span.start,
        };
        let (opens, closes) = (behind.next(), behind.next());
        let end = closes.clone()?.end;
        let called = byte(&opens) == Some(b'(') && byte(&closes) == Some(b')');
        return called.then_some(Call { word, span: start..end, precision: None });
    }
    let quoted = text.get(span.start) == Some(&b'"');
    if quoted || qualified || is(before, "as") {
        return None;
    }
    let (opens, digits, closes) = (behind.next(), behind.next(), behind.next());
    let numeric = byte(&digits).is_some_and(|b| b.is_ascii_digit());
    let precise = byte(&opens) == Some(b'(') && numeric && byte(&closes) == Some(b')');
    let end = closes.filter(|_| precise).map_or(span.end, |c| c.end);
    Some(Call { word, span: span.start..end, precision: digits.filter(|_| precise) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, named: bool) -> String {
        let times = Times { transaction: "T".to_owned(), statement: Some("S".to_owned()) };
        String::from_utf8(put(text.as_bytes(), &times, named)).unwrap()
    }

    #[test]
    fn calls_become_constants_of_their_type() {
        let t = "'T'::pg_catalog.timestamptz";
        for (call, value) in [
            ("now()", t.to_owned()),
            ("NOW ( )", t.to_owned()),
            ("pg_catalog.now(/* now() */)", t.to_owned()),
            ("pg_catalog . \"now\"()", t.to_owned()),
            ("transaction_timestamp()", t.to_owned()),
            ("statement_timestamp()", t.replace('T', "S")),
            ("current_timestamp", t.to_owned()),
            ("CURRENT_TIMESTAMP(3)", format!("{t}(3)")),
            ("CURRENT_DATE", format!("{t}::pg_catalog.date")),
            ("current_time ( 0 )", format!("{t}::pg_catalog.timetz(0)")),
            ("LOCALTIME", format!("{t}::pg_catalog.time")),
            ("localtimestamp(6)", format!("{t}::pg_catalog.timestamp(6)")),
        ] {
            let text = |value: &str| format!("UPDATE t SET a = {value}, b = f({value})");
            assert_eq!(told(&text(call), false), text(&value));
        }
        let named = told("SELECT now() - a, CURRENT_DATE", true);
        let date = format!("(SELECT {t}::pg_catalog.date AS \"current_date\")");
        assert_eq!(named, format!("SELECT (SELECT {t} AS \"now\") - a, {date}"));
    }

    #[test]
    fn what_only_looks_like_a_call_stays() {
        for text in [
            "SELECT now, 'now()', \"now()\", $$now()$$, E'\\'now()' FROM now -- now()",
            "SELECT a.now(), t.current_date, 1 AS current_date, \"current_date\", nowhere()",
            "SELECT now(1), now (a)",
        ] {
            assert_eq!((told(text, false), count(text.as_bytes())), (text.to_owned(), 0));
        }
        assert_eq!(count(b"VALUES (now(), CURRENT_TIMESTAMP), (CURRENT_DATE, 'now()')"), 3);
        let left = Times { transaction: "T".to_owned(), statement: None };
        let text = b"SELECT statement_timestamp()";
        assert_eq!(put(text, &left, false), text);
    }
}
