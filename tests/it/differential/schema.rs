//! The tables both sides have, and the rows they begin with.

use super::pair::{Outcome, Pair, Step, Table};

pub const SHARDS: u32 = 6;

/// Hash-partitioned tables: name, columns, key.
pub const DISTRIBUTED: &[(&str, &str, &str)] = &[
    ("i2", "k int2, v int, n numeric, f float8, s text, d date", "k"),
    ("i4", "k int4, v int, n numeric, f float8, s text, d date", "k"),
    ("i4b", "k int4, w int, s varchar(8), r float4", "k"),
    ("i8", "k int8, v int, n numeric, f float8, s text, d date", "k"),
    ("tx", "k text, v int, n numeric, f float8, s text, d date", "k"),
    ("vc", "k varchar(12), v int, n numeric, f float8, s text, d date", "k"),
    ("uu", "k uuid, v int, n numeric, f float8, s text, d date", "k"),
    ("mk", "a int4, b text, v int, s text", "a, b"),
    ("pk", "v int DEFAULT 7, k int4 PRIMARY KEY, s text", "k"),
    ("ser", "id serial, k int4, v int", "k"),
    ("\"Odd Name\"", "\"Key\" int4, \"select\" int, v int", "\"Key\""),
    ("app.items", "k int4, v int", "k"),
];

pub const LOCAL: &[&str] = &[
    "CREATE TABLE loc (id int PRIMARY KEY, k int, v int, s text)",
    "CREATE TABLE loc2 (id serial, k bigint, s text)",
    "CREATE VIEW locview AS SELECT k, v FROM loc WHERE v > 1",
    "CREATE SEQUENCE lseq",
    "CREATE FUNCTION plus_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
    "CREATE FUNCTION loc_count() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM loc); END'",
    "CREATE DOMAIN posint AS int CHECK (VALUE > 0)",
];

pub const TABLES: &[Table] = &[
    Table { name: "i2", columns: "*", distributed: true },
    Table { name: "i4", columns: "*", distributed: true },
    Table { name: "i4b", columns: "*", distributed: true },
    Table { name: "i8", columns: "*", distributed: true },
    Table { name: "tx", columns: "*", distributed: true },
    Table { name: "vc", columns: "*", distributed: true },
    Table { name: "uu", columns: "*", distributed: true },
    Table { name: "mk", columns: "*", distributed: true },
    Table { name: "pk", columns: "*", distributed: true },
    Table { name: "ser", columns: "k, v", distributed: true },
    Table { name: "\"Odd Name\"", columns: "*", distributed: true },
    Table { name: "app.items", columns: "*", distributed: true },
    Table { name: "loc", columns: "*", distributed: false },
    Table { name: "loc2", columns: "k, s", distributed: false },
];

/// Makes the tables on both sides and fills them.
pub fn create(pair: &mut Pair) {
    pair.both("CREATE SCHEMA app");
    for n in 1..pair.nodes.len() {
        // A schema is not carried over by itself.
        pair.nodes[n].does("CREATE SCHEMA IF NOT EXISTS app");
    }
    pair.shunt.does(&format!("SET pgshunt.shard_count = {SHARDS}"));
    for (table, columns, key) in DISTRIBUTED {
        distribute(pair, table, columns, key);
    }
    pair.shunt.does("RESET pgshunt.shard_count");
    for sql in LOCAL {
        pair.both(sql);
    }
    fill(pair);
}

/// A table that is distributed through pgshunt, and has as many leaves on the plain server.
pub fn distribute(pair: &mut Pair, table: &str, columns: &str, key: &str) {
    pair.both(&format!("CREATE TABLE {table} ({columns}) PARTITION BY HASH ({key})"));
    for r in 0..SHARDS {
        let leaf = table.trim_matches('"').replace(['.', ' '], "_");
        pair.plain.does(&format!(
            "CREATE TABLE \"leaf_{leaf}_{r}\" PARTITION OF {table} \
             FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {r})"
        ));
    }
}

/// A table of the group of i4 with texts of a collation of their own, arrays and an enum, that nobody changes.
pub fn create_collated(pair: &mut Pair) {
    const COLUMNS: &str =
        "k int4, v int, s text COLLATE \"en-x-icu\", c char(3), t timestamptz, a int[], m mood";
    const TEXTS: [&str; 8] = ["'a'", "'B'", "'_c'", "'É'", "'b'", "'A'", "NULL", "'Z'"];
    // Its number differs from node to node.
    pair.nodes[1].does("CREATE TYPE taken AS ENUM ('x')");
    pair.both("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')");
    pair.shunt.does(&format!("SET pgshunt.shard_count = {SHARDS}"));
    distribute(pair, "col", COLUMNS, "k");
    pair.shunt.does("RESET pgshunt.shard_count");
    for i in 0..24 {
        let (s, month) = (TEXTS[i % 8], 1 + i % 5);
        let (v, c) = (i % 4, i % 3);
        let array =
            ["NULL", "'{}'", "'{1,NULL}'", "'{{1,2},{3,4}}'", "'[0:1]={2,1}'", "'{1}'"][i % 6];
        let mood = ["'ok'", "'sad'", "NULL", "'happy'"][i * 7 % 4];
        pair.both(&format!(
            "INSERT INTO col VALUES ({}, {v}, {s}, 'c{c}', '2024-0{month}-01 10:00+02', {array}, {mood})",
            i % 13
        ));
    }
}

/// The tables' first state, on both sides.
pub fn fill(pair: &mut Pair) {
    let all: Vec<&str> = TABLES.iter().map(|t| t.name).collect();
    for name in &all {
        let sql = format!("TRUNCATE {name}");
        pair.plain.does(&sql);
        let local = TABLES.iter().any(|t| t.name == *name && !t.distributed);
        // Directly on the nodes: quicker, and not what is tested here.
        let nodes = if local { 1 } else { pair.nodes.len() };
        pair.nodes[..nodes].iter_mut().for_each(|n| drop(n.does(&sql)));
    }
    for sql in rows() {
        match pair.step(&Step::new(&sql)) {
            Outcome::Equal => {}
            other => panic!("{sql}: {other:?}"),
        }
    }
}

fn rows() -> Vec<String> {
    let mut rows = Vec::new();
    let rest = |i: i64| {
        let null_or = |when: bool, value: String| if when { "NULL".to_owned() } else { value };
        format!(
            "{}, {}, {}, {}, {}",
            null_or(i % 7 == 3, (i % 5).to_string()),
            null_or(i % 9 == 4, format!("{}.{}", i * 3, ["0", "50", "125"][(i % 3) as usize])),
            null_or(i % 8 == 5, format!("{}", i as f64 * 0.5)),
            null_or(i % 6 == 2, format!("'s{}'", i % 4)),
            null_or(i % 10 == 6, format!("'2024-01-{:02}'", 1 + i % 28)),
        )
    };
    for i in 0..14i64 {
        let int = match i {
            12 => "NULL".to_owned(),
            13 => "-1".to_owned(),
            i => i.to_string(),
        };
        let text = match i {
            0 => "''".to_owned(),
            12 => "NULL".to_owned(),
            13 => "'Ünïcode'".to_owned(),
            11 => "'it''s'".to_owned(),
            10 => "'7'".to_owned(),
            i => format!("'key{i}'"),
        };
        let uuid = format!("'00000000-0000-4000-8000-0000000000{:02x}'", i * 17 % 256);
        for table in ["i2", "i4", "i8"] {
            rows.push(format!("INSERT INTO {table} VALUES ({int}, {})", rest(i)));
        }
        for table in ["tx", "vc"] {
            rows.push(format!("INSERT INTO {table} VALUES ({text}, {})", rest(i + 1)));
        }
        rows.push(format!("INSERT INTO uu VALUES ({uuid}, {})", rest(i + 2)));
        rows.push(format!("INSERT INTO i4b VALUES ({int}, {}, 'w{}', {}.5)", i % 4, i % 3, i));
        rows.push(format!("INSERT INTO mk VALUES ({}, 'b{}', {i}, 'm{}')", i % 5, i % 3, i % 2));
        rows.push(format!("INSERT INTO \"Odd Name\" VALUES ({int}, {}, {i})", i % 3));
        if i < 10 {
            rows.push(format!("INSERT INTO i4 VALUES ({i}, {})", rest(i + 20)));
            rows.push(format!("INSERT INTO pk (k, s) VALUES ({i}, 'p{i}')"));
            rows.push(format!("INSERT INTO ser (k, v) VALUES ({i}, {})", i % 3));
            rows.push(format!("INSERT INTO app.items VALUES ({i}, {})", i % 3));
            rows.push(format!("INSERT INTO loc VALUES ({i}, {}, {}, 'l{i}')", i % 6, i % 3));
            rows.push(format!("INSERT INTO loc2 (k, s) VALUES ({}, 'm{}')", i % 6, i % 3));
        }
    }
    rows
}
