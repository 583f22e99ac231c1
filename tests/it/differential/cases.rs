//! `cases.sql`, run line by line.
//!
//! Each line is one message to both sides. What stands in front says what must come of it:
//! `=` the same answer, `<` the same answer in the same order, `~` an answer of the same shape,
//! `!` refused, `E` the same error, `?` any of these. `{type/b=value, ...}` behind it
//! are parameters of an extended query (no type: undeclared; `/b`: binary). COPY FROM STDIN is given
//! two rows of `loc`. `--` is a comment; a
//! blank line ends both sessions, and the tables are then compared.

use super::pair::{Compare, Outcome, Pair, Step};
use super::schema;
use super::wire::Param;

const CASES: &str = include_str!("cases.sql");

pub fn run(pair: &mut Pair) {
    let only = std::env::var("PGSHUNT_DIFF_CASE").ok();
    let mut wrong = Vec::new();
    for (at, session) in CASES.split("\n\n").enumerate() {
        let lines: Vec<&str> =
            session.lines().filter(|l| !l.is_empty() && !l.starts_with("--")).collect();
        if only.as_ref().is_some_and(|only| !session.contains(only)) {
            continue;
        }
        for line in &lines {
            if let Some(what) = check(pair, line) {
                println!("{line}\n  {what}");
                wrong.push(line.to_string());
            }
        }
        if lines.is_empty() {
            continue;
        }
        pair.reconnect();
        if let Some(what) = pair.state(schema::TABLES) {
            println!("after session {at}: {what}");
            wrong.push(format!("after session {at}, {}", lines[0]));
            schema::fill(pair);
        }
    }
    assert!(wrong.is_empty(), "{} lines came out otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

fn check(pair: &mut Pair, line: &str) -> Option<String> {
    let (mark, rest) = line.split_at(1);
    let (params, sql) = params(rest.trim());
    let mut step = Step::new(sql.replace("\\n", "\n"));
    step.params = params;
    if sql.contains("FROM STDIN") {
        step.copy = Some("7001\t1\t1\tx\n7002\t2\t\\N\ty\n".to_owned());
    }
    step.compare = match mark {
        "<" => Compare::Ordered,
        "~" => Compare::Shape,
        _ => Compare::Rows,
    };
    let outcome = pair.step(&step);
    let fits = match mark {
        "=" | "<" | "~" => outcome == Outcome::Equal,
        "!" => matches!(outcome, Outcome::Refused(_)),
        "E" => matches!(outcome, Outcome::EqualError(_)),
        "?" => !matches!(outcome, Outcome::Differs(_)),
        _ => panic!("what is to come of {line:?}?"),
    };
    (!fits).then(|| match outcome {
        Outcome::Differs(what) => format!("differs: {what}"),
        other => format!("came out as {other:?}"),
    })
}

fn params(rest: &str) -> (Option<Vec<Param>>, &str) {
    let Some((list, sql)) = rest.strip_prefix('{').and_then(|r| r.split_once('}')) else {
        return (None, rest);
    };
    let param = |p: &str| {
        let (ty, value) = p.trim().split_once('=').unwrap();
        let (ty, binary) = match ty.strip_suffix("/b") {
            Some(ty) => (ty, true),
            None => (ty, false),
        };
        self::param(ty, binary, (value != "NULL").then_some(value))
    };
    (Some(list.split(',').filter(|p| !p.trim().is_empty()).map(param).collect()), sql.trim())
}

/// A parameter of a named type; `?int4` sends an int4 without saying so.
pub fn param(ty: &str, binary: bool, value: Option<&str>) -> Param {
    let (declared, ty) = match ty.strip_prefix('?') {
        Some(ty) => (false, ty),
        None => (true, ty),
    };
    let type_oid = match ty {
        "" => 0,
        "int2" => 21,
        "int4" => 23,
        "int8" => 20,
        "text" => 25,
        "varchar" => 1043,
        "bpchar" => 1042,
        "name" => 19,
        "uuid" => 2950,
        "numeric" => 1700,
        "float4" => 700,
        "float8" => 701,
        "unknown" => 705,
        _ => panic!("type {ty}?"),
    };
    let bytes = value.map(|v| {
        if !binary {
            return v.as_bytes().to_vec();
        }
        match ty {
            "int2" => v.parse::<i16>().unwrap().to_be_bytes().to_vec(),
            "int4" => v.parse::<i32>().unwrap().to_be_bytes().to_vec(),
            "int8" => v.parse::<i64>().unwrap().to_be_bytes().to_vec(),
            "float4" => v.parse::<f32>().unwrap().to_be_bytes().to_vec(),
            "float8" => v.parse::<f64>().unwrap().to_be_bytes().to_vec(),
            "uuid" => {
                let hex: String = v.chars().filter(char::is_ascii_hexdigit).collect();
                (0..16).map(|i| u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).unwrap()).collect()
            }
            _ => v.as_bytes().to_vec(),
        }
    });
    Param { type_oid: if declared { type_oid } else { 0 }, binary, value: bytes }
}
