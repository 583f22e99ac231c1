//! Distribution columns of every type: what pgshunt reads hashes as PostgreSQL hashes it, under whatever
//! settings, and rows are found where they were put.

use pgshunt::hash::{KeyError, KeyType, KeyValue};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::support::*;

const MODULUS: u64 = i32::MAX as u64;

/// splitmix64, so that a failure can be looked at again.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }

    fn digits(&mut self, most: u64) -> String {
        let n = self.below(most) + 1;
        (0..n).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }
}

fn text(dice: &mut Dice) -> String {
    let n = dice.below(30);
    let mut text: String =
        (0..n).map(|_| dice.one_of(&["a", "Z", "0", " ", "\\", "ä", "日", "\t"])).collect();
    text += dice.one_of(&["", " ", "  "]);
    text
}

fn number(dice: &mut Dice) -> String {
    let mut text = dice.one_of(&["", "", "-", "+", " "]).to_owned();
    text += &dice.digits(40);
    if dice.below(2) == 0 {
        text += ".";
        text += &dice.digits(30);
    }
    if dice.below(3) == 0 {
        text += &format!("{}{}", dice.one_of(&["e", "E-", "e+"]), dice.below(40));
    }
    text
}

fn day(dice: &mut Dice) -> String {
    let (y, m, d) = (dice.below(9999) + 1, dice.below(13) + 1, dice.below(31) + 1);
    match dice.below(8) {
        0 => format!("{m:02}/{d:02}/{y:04}"),
        1 => format!("{y:04}{m:02}{d:02}"),
        2 => format!(" {y:04}-{m:02}-{d:02} "),
        _ => format!("{y:04}-{m:02}-{d:02}"),
    }
}

fn moment(dice: &mut Dice) -> String {
    let mut text = day(dice).trim().to_owned();
    if dice.below(8) == 0 {
        return text;
    }
    text += dice.one_of(&[" ", "T"]);
    text += &format!("{:02}:{:02}", dice.below(25), dice.below(60));
    if dice.below(5) > 0 {
        text += &format!(":{:02}", dice.below(61));
        if dice.below(2) == 0 {
            text += ".";
            text += &dice.digits(7);
        }
    }
    text + dice.one_of(&[
        "",
        "",
        "Z",
        "z",
        "+00",
        "-05",
        "+05:30",
        " -0330",
        "-11:59:59",
        "+15:59",
        " UTC",
        "+16",
        "+3",
    ])
}

/// Texts of a type, most of which PostgreSQL takes.
fn some(ty: KeyType, dice: &mut Dice) -> String {
    match ty {
        KeyType::Bpchar => text(dice),
        KeyType::Name => text(dice).repeat(dice.below(4) as usize),
        KeyType::Char => char::from(dice.below(127) as u8 + 1).to_string(),
        KeyType::Bytea => match dice.below(3) {
            0 => format!(
                "\\x{:x}{:02x} {:02x}",
                dice.below(1 << 30),
                dice.below(256),
                dice.below(256)
            ),
            1 => format!("a\\\\{}\\{:03o}b", dice.digits(9), dice.below(256)),
            _ => format!("\\x{:032x}", u128::from(dice.next()) << (dice.below(64))),
        },
        KeyType::Bool => {
            let word = dice.one_of(&["true", "FALSE", "yes", "No", "on", "OFF", "1", "0"]);
            let cut = dice.below(word.len() as u64) as usize + 1;
            format!("{}{}{}", dice.one_of(&["", " "]), &word[..cut], dice.one_of(&["", "\n"]))
        }
        KeyType::Oid => {
            let n = dice.next() >> (32 + dice.below(32));
            format!("{}{n}", dice.one_of(&["", " ", "0"]))
        }
        KeyType::Numeric => number(dice),
        KeyType::Date => day(dice) + dice.one_of(&["", "", "", " +05", " BC"]),
        _ => moment(dice),
    }
}

const TYPES: [(KeyType, &str, &[&str]); 10] = [
    (KeyType::Bpchar, "char(120)", &["", " ", "a  "]),
    (KeyType::Name, "name", &["", " x "]),
    (KeyType::Char, "\"char\"", &["a", " ", "\\101", "", "ä"]),
    (KeyType::Bytea, "bytea", &["", "\\x", "\\xAb", "\\x a b", "\\xa", "\\400", "\\\\", "\\"]),
    (KeyType::Bool, "bool", &["o", "tr", "t ", "tru e", "2", ""]),
    (KeyType::Oid, "oid", &["0", "4294967295", "4294967296", "-1", "010", "x"]),
    (
        KeyType::Numeric,
        "numeric",
        &[
            "0", "-0.00", "NaN", "Infinity", "-inf", "1e-1000", "1e999", ".5", "5.", "10000",
            "1 2", "1_0", "0x10",
        ],
    ),
    (
        KeyType::Date,
        "date",
        &["infinity", "-Infinity", "today", "2000-02-30", "2000-02-29", "epoch"],
    ),
    (KeyType::Timestamp, "timestamp", &["infinity", "-INFINITY", "now", "2000-01-01 +05"]),
    (KeyType::Timestamptz, "timestamptz", &["infinity", "-infinity", "today", "2000-01-01 00:00"]),
];

const SETTINGS: [&str; 4] = [
    "SET DateStyle = 'ISO, MDY'; SET TimeZone = 'UTC'",
    "SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'; SET bytea_output = escape",
    "SET DateStyle = 'German, YMD'; SET TimeZone = 'America/St_Johns'; SET extra_float_digits = 0",
    "SET DateStyle = 'Postgres, MDY'; SET TimeZone = '<+07>-7'; SET timezone_abbreviations = 'Australia'",
];

fn remainder(value: &KeyValue<'_>) -> i32 {
    i32::try_from(value.row_hash() % MODULUS).unwrap()
}

#[tokio::test]
async fn what_is_read_of_a_text_is_what_postgres_reads_whatever_the_settings() {
    let node = LocalNode::start(NodeOptions::new("keys")).unwrap();
    let c = connect(node.port()).await;
    c.batch_execute(
        "CREATE FUNCTION reads(t text, type text) RETURNS boolean LANGUAGE plpgsql AS $$
         DECLARE ok boolean; BEGIN
           EXECUTE format('SELECT %L::%s IS NOT NULL', t, type) INTO ok; RETURN true;
           EXCEPTION WHEN data_exception THEN RETURN false; END $$",
    )
    .await
    .unwrap();
    for (ty, sql, edges) in TYPES {
        let mut dice = Dice(7);
        c.batch_execute(&format!("CREATE TABLE k_{} (k {sql}) PARTITION BY HASH (k)", ty as u8))
            .await
            .unwrap();
        let mut texts: Vec<String> = (0..4000).map(|_| some(ty, &mut dice)).collect();
        texts.extend(edges.iter().map(|s| (*s).to_owned()));
        let (mut read, mut ours, mut never, mut unclear) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for text in texts {
            match ty.from_text(text.as_bytes()) {
                Ok(value) => {
                    ours.push(remainder(&value));
                    read.push(text);
                }
                Err(KeyError::Never(_)) => never.push(text),
                Err(KeyError::NotPlain(_)) => unclear += 1,
                Err(e) => panic!("{sql} {text:?}: {e:?}"),
            }
        }
        println!("{sql}: {} read, {} never, {unclear} unclear", read.len(), never.len());
        assert!(read.len() > 1000, "{sql}: {} are read", read.len());
        for settings in SETTINGS {
            c.batch_execute(settings).await.unwrap();
            let asked = format!(
                "SELECT t FROM unnest($1::text[], $2::int[]) x(t, r) \
                 WHERE NOT satisfies_hash_partition('k_{}'::regclass, {MODULUS}, r, t::{sql})",
                ty as u8
            );
            // As a literal is read: by the type's input function.
            let asked = asked.replace(&format!("t::{sql}"), &format!("in_{}(t)", ty as u8));
            let input = format!(
                "CREATE OR REPLACE FUNCTION in_{}(t text) RETURNS {sql} LANGUAGE plpgsql AS $$
                 DECLARE v {sql}; BEGIN EXECUTE format('SELECT %L::{}', t) INTO v; RETURN v; END $$",
                ty as u8,
                sql.trim_end_matches("(120)").replace("char", if ty == KeyType::Bpchar { "bpchar" } else { "char" }),
            );
            c.batch_execute(&input).await.unwrap();
            let rows =
                c.query(&asked, &[&read, &ours]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            let wrong: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
            assert_eq!(wrong, Vec::<String>::new(), "{sql} under {settings}");
            let others: Vec<i32> = ours.iter().map(|r| r ^ 1).collect();
            assert_eq!(c.query(&asked, &[&read, &others]).await.unwrap().len(), read.len());
            let taken = "SELECT t FROM unnest($1::text[]) t WHERE reads(t, $2)";
            let rows = c.query(taken, &[&never, &sql]).await.unwrap();
            let taken: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
            assert_eq!(taken, Vec::<String>::new(), "{sql} under {settings} takes what is refused");
        }
        binary(&c, ty, sql, &read).await;
    }
}

/// What the server sends in binary is the value that the text is.
async fn binary(c: &Client, ty: KeyType, sql: &str, read: &[String]) {
    let send = match ty {
        KeyType::Char => "charsend",
        KeyType::Bpchar => "bpcharsend",
        KeyType::Name => "namesend",
        KeyType::Bytea => "byteasend",
        KeyType::Bool => "boolsend",
        KeyType::Oid => "oidsend",
        KeyType::Numeric => "numeric_send",
        KeyType::Date => "date_send",
        KeyType::Timestamp => "timestamp_send",
        _ => "timestamptz_send",
    };
    let sent = format!("SELECT {send}(in_{}(t)) FROM unnest($1::text[]) t", ty as u8);
    let rows = c.query(&sent, &[&read]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    for (text, row) in read.iter().zip(&rows) {
        let bytes: Vec<u8> = row.get(0);
        let value = ty.from_text(text.as_bytes()).unwrap();
        assert_eq!(
            ty.from_binary(&bytes).map(|v| v.row_hash()),
            Ok(value.row_hash()),
            "{sql} {text:?}"
        );
    }
}

#[tokio::test]
async fn parameters_of_other_types_are_the_value_that_is_stored() {
    let node = LocalNode::start(NodeOptions::new("keys")).unwrap();
    let c = connect(node.port()).await;
    let mut dice = Dice(11);
    for (ty, sql, declared) in [
        (KeyType::Numeric, "numeric", Type::INT8),
        (KeyType::Oid, "oid", Type::INT8),
        (KeyType::Bpchar, "char(120)", Type::TEXT),
        (KeyType::Bpchar, "char(120)", Type::VARCHAR),
        (KeyType::Name, "name", Type::TEXT),
    ] {
        c.batch_execute("DROP TABLE IF EXISTS k; DROP TABLE IF EXISTS given").await.unwrap();
        c.batch_execute(&format!(
            "CREATE TABLE k (k {sql}) PARTITION BY HASH (k); CREATE TABLE given (g {declared}, k {sql})"
        ))
        .await
        .unwrap();
        let texts: Vec<String> = (0..1000)
            .map(|_| match declared {
                Type::INT8 => (dice.next() >> (1 + dice.below(63))).to_string(),
                _ => text(&mut dice),
            })
            .collect();
        let (mut read, mut ours) = (Vec::new(), Vec::new());
        for text in texts {
            if let Ok(value) = ty.from_param(declared.oid(), false, text.as_bytes()) {
                ours.push(remainder(&value));
                read.push(text);
            }
        }
        assert!(read.len() > 300, "{sql} from {declared}: {}", read.len());
        // Stored as by an assignment, where it must hash so.
        let store = format!(
            "INSERT INTO given SELECT t::{declared}, t::{declared} FROM unnest($1::text[]) t"
        );
        c.execute(&store, &[&read]).await.unwrap();
        let asked = format!(
            "SELECT g::text FROM given JOIN unnest($1::text[], $2::int[]) x(t, r) ON g = t::{declared} \
             WHERE NOT satisfies_hash_partition('k'::regclass, {MODULUS}, r, k)"
        );
        let rows = c.query(&asked, &[&read, &ours]).await.unwrap();
        let wrong: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
        assert_eq!(wrong, Vec::<String>::new(), "{sql} from {declared}");
    }
}

/// A type, and texts of it that mean different values.
const THROUGH: [(&str, &[&str]); 12] = [
    ("char(8)", &["a", "b ", "longer", "c"]),
    ("name", &["a", "b", "c", "d"]),
    ("\"char\"", &["a", "b", "c", "d"]),
    ("bytea", &["\\x00", "\\xff01", "abc", "\\x"]),
    ("bool", &["true", "false"]),
    ("oid", &["1", "2", "3", "4294967295"]),
    ("numeric", &["1", "2.50", "-3.00001", "1e10", "NaN"]),
    ("date", &["2024-02-29", "2023-01-01", "1999-12-31", "infinity"]),
    ("timestamp", &["2024-02-29 10:11:12.5", "2023-01-01", "1999-12-31T23:59"]),
    (
        "timestamptz",
        &["2024-02-29 10:11:12.5+02", "2023-01-01 00:00:00Z", "1999-12-31 23:59:00-11"],
    ),
    ("varchar(8)", &["a", "b", "c"]),
    ("smallint", &["1", "-2", "3"]),
];

#[tokio::test]
async fn rows_are_found_by_keys_of_every_type() {
    let p = Proxy::start(2, 2).await;
    let c = p.client().await;
    c.batch_execute("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'").await.unwrap();
    for (n, (ty, values)) in THROUGH.into_iter().enumerate() {
        let t = format!("t{n}");
        c.batch_execute(&format!(
            "CREATE TABLE {t} (k {ty}, n int, v int) PARTITION BY HASH (k, n)"
        ))
        .await
        .unwrap_or_else(|e| panic!("{ty}: {e:?}"));
        let by_param = format!("INSERT INTO {t} (k, n, v) VALUES ($1, $2, 0)");
        // Undeclared, and so of the column's type.
        let by_param = c.prepare_typed(&by_param, &[Type::UNKNOWN, Type::INT4]).await.unwrap();
        let found = format!("SELECT v FROM {t} WHERE k = $1 AND n = $2");
        let found = c.prepare_typed(&found, &[Type::UNKNOWN, Type::INT4]).await.unwrap();
        for at in 0..12i32 {
            for value in values {
                let quoted = value.replace('\'', "''");
                if at % 2 == 0 {
                    let sql = format!("INSERT INTO {t} VALUES ('{quoted}', {at}, 0)");
                    c.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                } else {
                    c.execute(&by_param, &[&Raw(value), &at])
                        .await
                        .unwrap_or_else(|e| panic!("{ty} {value}: {e:?}"));
                }
                let name = ty.trim_end_matches("(8)");
                let name = if name == "char" { "bpchar" } else { name };
                for sql in [
                    format!("SELECT v FROM {t} WHERE k = '{quoted}' AND n = {at}"),
                    format!("SELECT v FROM {t} WHERE n = {at} AND '{quoted}'::{name} = k"),
                    format!(
                        "UPDATE {t} SET v = v + 1 WHERE k = '{quoted}' AND n = {at} RETURNING v"
                    ),
                ] {
                    assert_eq!(texts(&c, &sql).await.len(), 1, "{sql}");
                }
                assert_eq!(
                    c.query(&found, &[&Raw(value), &at]).await.unwrap().len(),
                    1,
                    "{ty} {value}"
                );
            }
        }
        let all = values.len() as i64 * 12;
        assert_eq!(value::<i64>(&c, &format!("SELECT count(*) FROM {t}")).await, all, "{ty}");
        assert_eq!(value::<i64>(&c, &format!("SELECT sum(v) FROM {t}")).await, all, "{ty}");
        copied(&c, &t, ty, all).await;
        let joined = format!(
            "SELECT a.v FROM {t} a JOIN {t} b ON a.k = b.k AND a.n = b.n WHERE b.k = '{}' AND b.n = 3",
            values[0]
        );
        assert_eq!(texts(&c, &joined).await, ["1"], "{ty}");
        c.batch_execute(&format!("DROP TABLE {t}")).await.unwrap();
    }
}

/// Rows go out by COPY and in again, as text and in binary.
async fn copied(c: &Client, t: &str, ty: &str, all: i64) {
    use bytes::Bytes;
    use futures_util::{SinkExt, TryStreamExt};
    // A date is printed by DateStyle, which pgshunt does not follow.
    c.batch_execute("SET DateStyle = ISO; SET TimeZone = 'UTC'").await.unwrap();
    for format in ["text", "binary"] {
        let out = c.copy_out(&format!("COPY {t} TO STDOUT (FORMAT {format})")).await.unwrap();
        let data: Vec<Bytes> = out.try_collect().await.unwrap();
        c.batch_execute(&format!("TRUNCATE {t}")).await.unwrap();
        let to =
            c.copy_in::<_, Bytes>(&format!("COPY {t} FROM STDIN (FORMAT {format})")).await.unwrap();
        let mut to = std::pin::pin!(to);
        for piece in data {
            to.send(piece).await.unwrap();
        }
        let rows = to.finish().await.unwrap_or_else(|e| panic!("{ty} {format}: {e:?}"));
        assert_eq!(rows as i64, all, "{ty} {format}");
    }
    c.batch_execute("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Kolkata'").await.unwrap();
}

/// A value in text format, of whatever type.
#[derive(Debug)]
struct Raw<'a>(&'a str);

impl tokio_postgres::types::ToSql for Raw<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    fn encode_format(&self, _: &Type) -> tokio_postgres::types::Format {
        tokio_postgres::types::Format::Text
    }
    tokio_postgres::types::to_sql_checked!();
}

#[tokio::test]
async fn what_a_session_would_read_otherwise_is_refused() {
    let p = Proxy::start(2, 2).await;
    let c = p.client().await;
    let refused = async |sql: &str| {
        let e = c.batch_execute(sql).await.expect_err(sql);
        let e = e.as_db_error().unwrap().clone();
        assert_eq!(e.code().code(), "0A000", "{sql}: {e:?}");
        e
    };
    c.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'ok')").await.unwrap();
    for (ty, what) in [
        ("mood", "PostgreSQL hashes an enum's values by numbers that differ from node to node."),
        (
            "numeric(10, 2)",
            "Values would be rounded where they are stored, and their hash be another one.",
        ),
        (
            "timestamptz(3)",
            "Values would be rounded where they are stored, and their hash be another one.",
        ),
    ] {
        let e = refused(&format!("CREATE TABLE t (k {ty}) PARTITION BY HASH (k)")).await;
        // A table of a type that CREATE TYPE has made goes the way of those in transaction blocks, which only says that
        // the column cannot be one.
        if ty != "mood" {
            assert_eq!(e.detail(), Some(what), "{ty}");
        }
        c.batch_execute("BEGIN").await.unwrap();
        refused(&format!("CREATE TABLE t (k {ty}) PARTITION BY HASH (k)")).await;
        c.batch_execute("ROLLBACK").await.unwrap();
    }
    refused("CREATE TABLE t (k interval) PARTITION BY HASH (k)").await;
    for (n, (ty, values)) in
        [
            (
                "date",
                &[
                    "'today'",
                    "'01/02/2024'",
                    "'20240102'",
                    "current_date",
                    "'2024-01-02'::timestamp",
                ][..],
            ),
            (
                "timestamp",
                &["'now'", "now()", "'2024-01-02 24:00'", "'2024-01-02 00:00+00'::timestamptz"],
            ),
            ("timestamptz", &["'2024-01-02 00:00'", "'2024-01-02'", "'2024-01-02 00:00 PST'"]),
            ("\"char\"", &["'ab'", "'ä'"]),
            ("oid", &["-1", "'010'"]),
            ("numeric", &["1::float8", "'0x10'"]),
            ("char(4)", &["'a'::text", "'abcdef'::char(3)"]),
        ]
        .into_iter()
        .enumerate()
    {
        c.batch_execute(&format!("CREATE TABLE r{n} (k {ty}, v int) PARTITION BY HASH (k)"))
            .await
            .unwrap();
        for value in values {
            refused(&format!("INSERT INTO r{n} VALUES ({value}, 1)")).await;
        }
    }
    assert_eq!(
        c.batch_execute("INSERT INTO r0 VALUES ('2023-02-30', 1)")
            .await
            .unwrap_err()
            .code()
            .unwrap()
            .code(),
        "22008",
        "PostgreSQL's own words"
    );
    // Columns of two types that are equal may be of two shards.
    c.batch_execute("CREATE TABLE two (a text, b char(4), v int) PARTITION BY HASH (a, b)")
        .await
        .unwrap();
    c.batch_execute("CREATE TABLE three (a text, b char(4), v int) PARTITION BY HASH (a, b)")
        .await
        .unwrap();
    let sql = "SELECT 1 FROM two, three WHERE two.a = three.b AND two.b = three.b AND three.a = 'x' AND three.b = 'y '";
    let route = texts(&c, &format!("EXPLAIN (ROUTE) {sql}")).await;
    assert!(route[0].starts_with("Collect ("), "{route:?}");
    assert!(texts(&c, sql).await.is_empty());
}
