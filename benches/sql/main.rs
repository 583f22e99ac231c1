//! Statements over several nodes beside one PostgreSQL with the same rows on the same processors.
//!
//! Three nodes under pgshunt, and one more server that has all tables whole. Each statement runs on both in
//! turn, round by round; the median of the rounds counts, and what is shown is the ratio of the two: a
//! machine that is slow at the moment is slow for both. The nodes share this machine's processors, so
//! three of them compute no faster than one: what is seen is the price of the distribution, not its gain.
//! Servers run without fsync.
//!
//! `cargo bench --bench sql -- --scale 0.05 --rounds 5 [--only Q3]`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is printed")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what fails ends it")]
#![expect(clippy::disallowed_methods, reason = "it has clients of its own")]

#[path = "../../tests/it/support.rs"]
mod support;
mod tables;

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use futures_util::{SinkExt, StreamExt, pin_mut};
use tokio_postgres::{Client, SimpleQueryMessage};

use support::{Proxy, connect, value};
use tables::{CHOICE, Place, TABLES, Table};

/// The queries of TPC-H, each behind a line that names it.
const TPCH: &str = include_str!("../../tests/it/differential/tpch/queries.sql");

/// Of a statement that takes longer no more is measured.
const LONGEST: &str = "60s";

#[derive(Debug, Parser)]
struct Options {
    /// Rows, as a part of TPC-H's scale 1
    #[arg(long, default_value_t = 0.05)]
    scale: f64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Statements whose name begins so
    #[arg(long, default_value = "")]
    only: String,
    /// What cargo gives every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
struct Case {
    name: String,
    /// Statements that belong together, for each of the two the same.
    texts: Vec<String>,
    /// How often they run in one measurement.
    times: u32,
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(&options));
}

async fn run(options: &Options) {
    let proxy = Proxy::start(4, 3).await;
    let ours = proxy.client().await;
    let plain = connect(proxy.nodes.nodes[3].port()).await;
    make_tables(&plain, &ours, options.scale).await;
    for client in [&plain, &ours] {
        client.batch_execute(&format!("SET statement_timeout = '{LONGEST}'")).await.unwrap();
    }
    println!("{:<34}{:<10}{:>12}{:>12}{:>9}", "", "rung", "one, ms", "pgshunt, ms", "ratio");
    // Two accounts on two nodes.
    let mut accounts = [0; 2];
    for (account, node) in accounts.iter_mut().zip(&proxy.nodes.nodes) {
        *account = value(&connect(node.port()).await, "SELECT min(k) FROM accounts").await;
    }
    for case in cases(accounts).iter().filter(|c| c.name.starts_with(&options.only)) {
        let rung = rung(&ours, case).await;
        let mut taken = [Vec::new(), Vec::new()];
        let mut refused = None;
        for _ in 0..options.rounds {
            for (client, taken) in [&plain, &ours].into_iter().zip(&mut taken) {
                match measure(client, case).await {
                    Ok(time) => taken.push(time),
                    Err(why) => refused = Some(why),
                }
            }
            if refused.is_some() {
                break;
            }
        }
        let millis = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64) * 1000.0
                / f64::from(case.times)
        };
        let [one, shunt] = &mut taken;
        let (one, shunt) = (millis(one), millis(shunt));
        match refused {
            Some(why) => println!("{:<34}{rung:<10}{one:>12.2}  {why}", case.name),
            None => {
                println!("{:<34}{rung:<10}{one:>12.2}{shunt:>12.2}{:>9.2}", case.name, shunt / one);
            }
        }
    }
}

/// Makes the tables on both, and tells how long pgshunt and one server take for the same rows.
async fn make_tables(plain: &Client, ours: &Client, scale: f64) {
    plain.batch_execute(CHOICE).await.unwrap();
    for table in &TABLES {
        let Table { name, columns, key, .. } = table;
        let keyed = format!("CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}))");
        let sql = format!("{keyed}; CREATE TABLE made (LIKE {name})");
        plain.batch_execute(&sql).await.unwrap();
        match table.place {
            Place::Distributed(by) => {
                let sql = format!("{keyed} PARTITION BY HASH ({by})");
                ours.batch_execute(&sql).await.unwrap();
            }
            Place::Reference => {
                ours.batch_execute(&keyed).await.unwrap();
                let sql = format!("SELECT create_reference_table('{name}')");
                ours.batch_execute(&sql).await.unwrap();
            }
        }
        let count = (f64::from(table.at_scale_1) * scale).max(12.0).round();
        let rows = table.rows.replace("{n}", &count.to_string());
        plain.batch_execute(&format!("INSERT INTO made {rows}")).await.unwrap();
        let rows = copied(plain).await;
        let bytes: usize = rows.iter().map(Bytes::len).sum();
        let mut took = [0.0; 2];
        for (client, took) in [plain, ours].into_iter().zip(&mut took) {
            let start = Instant::now();
            copy(client, name, &rows).await;
            *took = start.elapsed().as_secs_f64();
        }
        eprintln!(
            "COPY {name:<10}{:>7} MB in {:>7.2} s, through pgshunt {:>7.2} s, ratio {:.2}",
            bytes >> 20,
            took[0],
            took[1],
            took[1] / took[0]
        );
        plain.batch_execute("DROP TABLE made").await.unwrap();
        for client in [plain, ours] {
            for index in table.indexes {
                client.batch_execute(&format!("CREATE INDEX ON {name} {index}")).await.unwrap();
            }
            client.batch_execute(&format!("ANALYZE {name}")).await.unwrap();
        }
    }
    for (client, by) in [(plain, ""), (ours, " PARTITION BY HASH (k)")] {
        let sql = format!("CREATE TABLE accounts (k int PRIMARY KEY, v int){by}");
        client.batch_execute(&sql).await.unwrap();
        client
            .batch_execute("INSERT INTO accounts SELECT k, 0 FROM generate_series(1, 1000) k")
            .await
            .unwrap();
        let sql = format!("CREATE TABLE notes (k int, n int, t text){by}");
        client.batch_execute(&sql).await.unwrap();
    }
}

/// The rows that were made, as COPY sends them.
async fn copied(plain: &Client) -> Vec<Bytes> {
    let rows = plain.copy_out("COPY made TO STDOUT").await.unwrap();
    pin_mut!(rows);
    let mut all = Vec::new();
    let mut some = Vec::new();
    while let Some(row) = rows.next().await {
        some.extend_from_slice(&row.unwrap());
        if some.len() > 1 << 16 {
            all.push(std::mem::take(&mut some).into());
        }
    }
    all.push(some.into());
    all
}

async fn copy(client: &Client, table: &str, rows: &[Bytes]) {
    let sink = client.copy_in(&format!("COPY {table} FROM STDIN")).await.unwrap();
    pin_mut!(sink);
    for some in rows {
        sink.send(some.clone()).await.unwrap();
    }
    sink.finish().await.unwrap();
}

fn cases([near, far]: [i32; 2]) -> Vec<Case> {
    let case = |name: &str, times, texts: &[&str]| Case {
        name: name.to_owned(),
        texts: texts.iter().map(|&t| t.to_owned()).collect(),
        times,
    };
    let thousand: Vec<_> = (0..1000).map(|n| format!("({n}, {n}, 'note {n}')")).collect();
    let thousand = format!("INSERT INTO notes VALUES {}", thousand.join(", "));
    let adds = |n: i32, k: i32| format!("UPDATE accounts SET v = v + {n} WHERE k = {k}");
    let transfer =
        |name: &str, to| case(name, 200, &["BEGIN", &adds(-1, near), &adds(1, to), "COMMIT"]);
    let mut all = vec![
        case("one row by key", 500, &["SELECT * FROM orders WHERE o_orderkey = 77"]),
        case(
            "order by an index, limit 20",
            100,
            &["SELECT * FROM orders ORDER BY o_orderdate LIMIT 20"],
        ),
        case(
            "count of a day",
            100,
            &["SELECT count(*) FROM orders WHERE o_orderdate = '1995-03-15'"],
        ),
        case(
            "group by",
            3,
            &["SELECT o_orderpriority, count(*), sum(o_totalprice) FROM orders GROUP BY 1"],
        ),
        case("insert of 1,000 rows", 5, &[&thousand]),
        case("update of 1,000 rows by no key", 5, &["UPDATE accounts SET v = v + 1"]),
        transfer("transfer on one node", near),
        transfer("transfer between two", far),
    ];
    for query in TPCH.split(";\n").filter(|q| q.contains("SELECT")) {
        let (head, sql) = query.trim().split_once('\n').expect("a line that names it");
        let (name, what) = head.trim_start_matches("-- ").split_once(' ').expect("a name");
        let what = what.split_once(": ").map_or(what, |(_, what)| what);
        all.push(case(&format!("{name} {what}"), 1, &[sql]));
    }
    all
}

/// What EXPLAIN (ROUTE) calls the way of the case's longest statement.
async fn rung(ours: &Client, case: &Case) -> String {
    let Some(sql) = case.texts.iter().find(|t| t.contains(' ')) else { return String::new() };
    let answer = ours.simple_query(&format!("EXPLAIN (ROUTE) {sql}")).await;
    let line = answer.ok().and_then(|all| {
        all.iter().find_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    });
    let line = line.unwrap_or_default();
    line.split([' ', ':']).next().unwrap_or_default().to_owned()
}

async fn measure(client: &Client, case: &Case) -> Result<Duration, String> {
    let start = Instant::now();
    for _ in 0..case.times {
        for sql in &case.texts {
            if let Err(e) = client.simple_query(sql).await {
                let why = e.as_db_error().map_or_else(
                    || e.to_string(),
                    |e| format!("{} {}", e.code().code(), e.message()),
                );
                let _ = client.simple_query("ROLLBACK").await;
                return Err(why);
            }
        }
    }
    Ok(start.elapsed())
}
