//! COPY through pgshunt beside one plain PostgreSQL: of the same bytes both make the same rows, or the same
//! error about the same line.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::talk::{End, Told, ask, copy_in};
use crate::differential::wire::Wire;

/// A table with its key first, in the middle, or of two columns.
const TABLES: [(&str, &str, &str); 3] = [
    ("of_int", "k int, t text, n int", "(k)"),
    ("of_text", "n int, k text, t text", "(k)"),
    ("of_two", "t text, k text, n int, u uuid", "(u, k)"),
];

pub fn create(shunt: &mut Wire, plain: &mut Wire) {
    for (name, columns, key) in TABLES {
        shunt.does(&format!("CREATE TABLE {name} ({columns}) PARTITION BY HASH {key}"));
        plain.does(&format!("CREATE TABLE {name} ({columns})"));
    }
}

struct Options {
    csv: bool,
    delimiter: char,
    quote: char,
    escape: char,
    null: &'static str,
    header: bool,
    eol: &'static str,
    sql: String,
}

fn options(r: &mut StdRng) -> Options {
    let pick = |r: &mut StdRng, all: &[&'static str]| all[r.random_range(0..all.len())];
    let one = |s: &str| s.chars().next().unwrap();
    let csv = r.random_bool(0.5);
    let eol = pick(r, &["\n", "\n", "\r\n", "\r"]);
    let header = r.random_bool(0.3);
    let mut sql = format!("FORMAT {}", if csv { "csv" } else { "text" });
    // HEADER of text is known from 15 on.
    let header = header && csv;
    if header {
        sql.push_str(", HEADER");
    }
    let (mut delimiter, mut null) = if csv { (',', "") } else { ('\t', "\\N") };
    let (mut quote, mut escape) = ('"', '"');
    if r.random_bool(0.5) {
        delimiter = one(pick(r, &["|", ";", ","]));
        sql.push_str(&format!(", DELIMITER '{delimiter}'"));
    }
    if r.random_bool(0.4) {
        null = pick(r, &["", "nil", "\\N", "-"]);
        sql.push_str(&format!(", NULL '{null}'"));
    }
    if csv && r.random_bool(0.4) {
        quote = one(pick(r, &["'", "\"", "~"]));
        escape = one(pick(r, &["\\", "!"]));
        let quoted = if quote == '\'' { "''".to_owned() } else { quote.to_string() };
        sql.push_str(&format!(", QUOTE '{quoted}', ESCAPE '{escape}'"));
    }
    Options { csv, delimiter, quote, escape, null, header, eol, sql }
}

const ODD: [&str; 16] = [
    "",
    "a",
    "nil",
    "-",
    "\\N",
    "\\.",
    "tab\there",
    "new\nline",
    "cr\rlf\r\n",
    "quo\"te",
    "it's ~!",
    "back\\slash",
    "deli|m;i,ter",
    "grün €",
    " blank ",
    "\u{8}\u{b}",
];

/// A value as it is written.
fn write(value: Option<&str>, o: &Options, r: &mut StdRng) -> String {
    let Some(value) = value else { return o.null.to_owned() };
    if o.csv {
        let special = [o.delimiter, o.quote, '\n', '\r', '\\'];
        let plain = value != o.null && !value.contains(special);
        if plain && r.random_bool(0.7) {
            return value.to_owned();
        }
        let mut out = String::from(o.quote);
        for c in value.chars() {
            if c == o.quote || c == o.escape {
                out.push(o.escape);
            }
            out.push(c);
        }
        out.push(o.quote);
        return out;
    }
    let mut out = String::new();
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' if r.random_bool(0.5) || o.eol != "\n" => out.push_str("\\n"),
            '\n' => out.push_str("\\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == o.delimiter => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    // What is taken for NULL must be written otherwise.
    if out == o.null && !out.is_empty() { format!("\\{out}") } else { out }
}

fn odd(r: &mut StdRng) -> Option<&'static str> {
    r.random_bool(0.9).then(|| ODD[r.random_range(0..ODD.len())])
}

fn row(table: usize, o: &Options, r: &mut StdRng) -> Vec<String> {
    let int = |r: &mut StdRng| r.random_range(-9..99).to_string();
    let uuid = |r: &mut StdRng| format!("{:032x}", r.random_range(0..9u128));
    let (a, b, n, u) = (odd(r), odd(r), int(r), uuid(r));
    let mut put = |v: Option<&str>| write(v, o, r);
    match table {
        0 => vec![put(Some(&n)), put(a), put(Some("7"))],
        1 => vec![put(Some(&n)), put(a), put(b)],
        _ => vec![put(b), put(a), put(Some(&n)), put(Some(&u))],
    }
}

/// Rows, of which one may be wrong.
fn rows(table: usize, o: &Options, may_be_wrong: bool, r: &mut StdRng) -> Vec<u8> {
    let count = r.random_range(0..40);
    let separator = o.delimiter.to_string();
    let mut lines: Vec<String> = (0..count).map(|_| row(table, o, r).join(&separator)).collect();
    if may_be_wrong && r.random_bool(0.3) && count > 0 {
        let at = r.random_range(0..lines.len());
        let bad = ["x", "1|2|3|4|5|6|7;,\t\t\t\t\t\t\t,,,,,,,;;;;;;;;"];
        lines[at] = bad[r.random_range(0..bad.len())].to_owned();
    }
    if o.header {
        lines.insert(0, format!("h{separator}\"x y\"").replace('"', &o.quote.to_string()));
    }
    let mut data = lines.join(o.eol);
    if count > 0 && r.random_bool(0.8) {
        data.push_str(o.eol);
        if r.random_bool(0.3) {
            data.push_str(&format!("\\.{}what is behind does not count", o.eol));
        }
    }
    data.into_bytes()
}

/// Bytes that mean something to a reader of COPY data, in no order.
fn garbage(r: &mut StdRng) -> Vec<u8> {
    let alphabet: &[u8] = b"1122\\.\n\n\r\tN\"',;|x ";
    (0..r.random_range(0..60)).map(|_| alphabet[r.random_range(0..alphabet.len())]).collect()
}

fn cut<'a>(mut data: &'a [u8], r: &mut StdRng) -> Vec<&'a [u8]> {
    let most = [3, 40, 5000][r.random_range(0..3)];
    let mut chunks = Vec::new();
    while !data.is_empty() {
        let (head, tail) = data.split_at(r.random_range(0..=most).min(data.len()));
        chunks.push(head);
        data = tail;
    }
    chunks
}

fn contents(on: &mut Wire, table: &str) -> Vec<Vec<Option<Vec<u8>>>> {
    let mut rows = on.does(&format!("SELECT * FROM {table}")).remove(0).rows;
    rows.sort_unstable();
    rows
}

pub fn run(shunt: &mut Wire, plain: &mut Wire) {
    let seed = std::env::var("PGSHUNT_DIFF_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    let rounds = std::env::var("PGSHUNT_DIFF_STATEMENTS").ok().and_then(|s| s.parse().ok());
    let rounds: usize = rounds.unwrap_or(300);
    println!("PGSHUNT_DIFF_SEED={seed}");
    let mut r = StdRng::seed_from_u64(seed);
    let (mut refused, mut failed) = (0, 0);
    create(shunt, plain);
    for round in 0..rounds {
        let o = options(&mut r);
        let table = r.random_range(0..TABLES.len());
        let name = TABLES[table].0;
        let wild = r.random_bool(0.4);
        let end = if r.random_bool(0.1) { End::Fail } else { End::Done };
        // Of two errors another one may be the first.
        let may_be_wrong = end == End::Done;
        let data = match wild {
            true => garbage(&mut r),
            false => rows(table, &o, may_be_wrong, &mut r),
        };
        let sql = format!("COPY {name} FROM STDIN WITH ({})", o.sql);
        let ours = copy_in(shunt, &sql, &cut(&data, &mut r), end);
        let case = format!("round {round}: {sql}: {:?} {end:?}", String::from_utf8_lossy(&data));
        if ours.error.as_ref().is_some_and(|e| e.sqlstate == "0A000") {
            refused += 1;
            continue;
        }
        let theirs = copy_in(plain, &sql, &[&data], end);
        failed += usize::from(theirs.error.is_some());
        if wild {
            // Of several errors it may be another one.
            assert_eq!(
                ours.error.is_some(),
                theirs.error.is_some(),
                "{case}\n{ours:?}\n{theirs:?}"
            );
            assert_eq!(ours.tag, theirs.tag, "{case}");
        } else {
            assert_eq!(without_formats(ours), without_formats(theirs), "{case}");
        }
        assert_eq!(contents(shunt, name), contents(plain, name), "{case}");
        out(shunt, plain, name, &o, &case);
        if round % 20 == 19 {
            for (table, _, _) in TABLES {
                shunt.does(&format!("TRUNCATE {table}"));
                plain.does(&format!("TRUNCATE {table}"));
            }
        }
    }
    println!("{rounds} of COPY: {failed} failed alike, {refused} refused");
    assert!(refused * 20 < rounds, "{refused} of {rounds} were refused");
}

fn without_formats(told: Told) -> Told {
    Told { formats: Vec::new(), ..told }
}

/// COPY TO: the same lines, in whatever order, with the same head and end.
fn out(shunt: &mut Wire, plain: &mut Wire, name: &str, o: &Options, case: &str) {
    let forms = [
        format!("COPY {name} TO STDOUT WITH ({})", o.sql),
        format!("COPY {name} (t, k) TO STDOUT BINARY"),
        format!("COPY (SELECT k, t FROM {name} WHERE t > 'a') TO STDOUT WITH ({})", o.sql),
    ];
    for sql in forms {
        let told = |on: &mut Wire| {
            let mut told = ask(on, &sql);
            assert_eq!(told.error, None, "{sql} {case}");
            let header = usize::from(o.header && !sql.ends_with("BINARY"));
            let head = told.data.get(..header).unwrap_or_default().to_vec();
            if sql.ends_with("BINARY") {
                let all = told.data.concat();
                let rows = all.strip_prefix(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
                let rows = rows
                    .and_then(|r| r.strip_suffix(&[0xff, 0xff]))
                    .unwrap_or_else(|| panic!("{sql}: {all:?}"));
                told.data = binary_rows(rows);
            }
            told.data.sort_unstable();
            (head, told)
        };
        assert_eq!(told(shunt), told(plain), "{sql} {case}");
    }
}

fn binary_rows(mut all: &[u8]) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    while let Some((count, _)) = all.split_first_chunk::<2>() {
        let mut at = 2;
        for _ in 0..i16::from_be_bytes(*count) {
            let length = i32::from_be_bytes(all[at..at + 4].try_into().unwrap());
            at += 4 + usize::try_from(length).unwrap_or(0);
        }
        rows.push(all[..at].to_vec());
        all = &all[at..];
    }
    rows
}
