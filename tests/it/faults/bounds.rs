//! What one client can cost: results that nobody reads, pipelines without end.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

use super::binary::{Binary, wait_for_back_pressure};
use super::wire::*;
use crate::support::*;
use pgshunt::config::AuthMethod;

/// More than the buffers of one client, in MB: glibc gives freed memory back from 64 MB on only.
const ROOM: u64 = 80;

#[tokio::test]
async fn ten_gigabytes_that_nobody_reads_cost_a_bounded_amount() {
    let b = Binary::start(1, "");
    let before = b.memory();
    let rows = "SELECT repeat('x', 1000000) FROM generate_series(1, 10000)";
    let mut clients = Vec::new();
    for sql in [rows, &format!("COPY ({rows}) TO STDOUT"), rows, rows] {
        let mut wire = Wire::login(b.port).await;
        wire.send(&query(sql)).await;
        clients.push(wire);
    }
    wait_for_back_pressure(&b, clients.len() as i64).await;
    let unread = b.memory();
    assert!(unread < before + ROOM, "{before} MB, then {unread} MB");
    // Who has had enough may say so, and is heard although nothing more can be sent to it.
    for mut wire in clients {
        let mut canceller = Wire::dial(b.port).await;
        let key = [&wire.pid.to_be_bytes()[..], &wire.secret].concat();
        canceller.send(&first(80_877_102, &key)).await;
        let mut bytes = 0;
        loop {
            let (tag, len) = wire.skip().await.expect("a message");
            bytes += len;
            if tag == b'Z' {
                break;
            }
        }
        assert!(bytes < 1 << 30, "all of it: {bytes}");
        assert_eq!(wire.ask("SELECT 1").await, "TDCZ");
    }
}

#[tokio::test]
async fn rows_that_a_node_does_not_take_yet_cost_a_bounded_amount() {
    let b = Binary::start(2, "");
    let mut wire = Wire::login(b.port).await;
    wire.ask("CREATE TABLE t (k int PRIMARY KEY, v text) PARTITION BY HASH (k)").await;
    // The first row waits for another one of its key to be there, or not.
    let mut rivals = Vec::new();
    for node in &b.nodes.nodes {
        let rival = connect(node.port()).await;
        rival.batch_execute("BEGIN").await.unwrap();
        // Only one of the nodes has its shard.
        let _ = rival.batch_execute("INSERT INTO t VALUES (0, 'x')").await;
        rivals.push(rival);
    }
    wire.send(&query("COPY t FROM STDIN")).await;
    assert_eq!(wire.next().await.unwrap().0, b'G');
    let before = b.memory();
    let rows: Vec<Vec<u8>> = (0..1000)
        .map(|k| message(b'd', format!("{k}\t{}\n", "x".repeat(200_000)).as_bytes()))
        .collect();
    let rows = rows.concat();
    let mut sent = 0;
    while let Ok(n) =
        tokio::time::timeout(Duration::from_secs(2), wire.tcp.write(&rows[sent..])).await
    {
        sent += n.unwrap();
        assert!(sent < rows.len(), "all of it was taken");
    }
    let held = b.memory();
    assert!(held < before + ROOM, "{before} MB, then {held} MB");
    drop(rivals);
    wire.send(&rows[sent..]).await;
    wire.send(&message(b'c', b"")).await;
    assert_eq!(wire.ready().await, "CZ");
    let held = b.memory();
    assert!(held < before + ROOM, "{before} MB, then {held} MB");
}

/// What a large statement needs is given back, and is not lent to the next client either.
#[tokio::test]
async fn who_has_once_said_much_costs_no_more_than_others() {
    let b = Binary::start(1, "");
    let before = b.memory();
    let much = query(&format!("SELECT length('{}')", "x".repeat(20 << 20)));
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::login(b.port).await;
        wire.send(&much).await;
        assert_eq!(wire.ready().await, "TDCZ");
        clients.push(wire);
    }
    let after = b.memory();
    assert!(after < before + ROOM, "{before} MB, then {after} MB");
}

/// The client sends all it has to say before it reads a word, as libpq does in pipeline mode when it
/// is used carelessly.
#[tokio::test]
async fn a_hundred_thousand_pipelined_statements_all_get_their_answers() {
    const STATEMENTS: usize = 100_000;
    let b = Binary::start(2, "");
    let mut wire = Wire::login(b.port).await;
    assert_eq!(wire.ask("CREATE TABLE t (id int) PARTITION BY HASH (id)").await, "CZ");
    let before = b.memory();
    let (mut reads, mut writes) = split(wire.tcp);
    let sent = Arc::new(AtomicUsize::new(0));
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            for n in 0..STATEMENTS {
                // To one node and to the other, in text and prepared, each its own transaction.
                let statement = match n % 4 {
                    0 => query(&format!("SELECT {n}")),
                    1 => query(&format!("SELECT {n} FROM t WHERE id = {n}")),
                    _ => extended(&format!("SELECT {n}, count(*) FROM t WHERE id = $1"), n),
                };
                writes.write_all(&statement).await.unwrap();
                sent.store(n + 1, Ordering::Release);
            }
        })
    };
    // Until it is stopped by full buffers, or through.
    let last = Cell::new((0, Instant::now()));
    wait_for("the writer to be stopped", async || {
        let now = sent.load(Ordering::Acquire);
        let (before, since) = last.get();
        if now != before {
            last.set((now, Instant::now()));
        }
        (now == STATEMENTS || since.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
    let (mut ready, mut errors) = (0, 0);
    let mut most = b.memory();
    while ready < STATEMENTS {
        let mut header = [0; 5];
        reads.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        reads.read_exact(&mut body).await.unwrap();
        match header[0] {
            b'D' => {
                // In their order: every answer begins with its number.
                let length = i32::from_be_bytes(body[2..6].try_into().unwrap());
                let text = &body[6..6 + length as usize];
                assert_eq!(text, ready.to_string().as_bytes());
            }
            b'Z' => {
                ready += 1;
                if ready % 10_000 == 0 {
                    most = most.max(b.memory());
                }
            }
            b'E' => errors += 1,
            _ => {}
        }
    }
    writing.await.unwrap();
    assert_eq!(errors, 0);
    assert!(most < before + ROOM, "{before} MB, then {most} MB");
}

/// Parse, Bind, Execute and Sync of a statement with one parameter.
fn extended(sql: &str, key: usize) -> Vec<u8> {
    let key = key.to_string();
    let parse = [b"\0", sql.as_bytes(), b"\0\0\0"].concat();
    let length = (key.len() as i32).to_be_bytes();
    let bind = [b"\0\0\0\0\0\x01", &length[..], key.as_bytes(), b"\0\0"].concat();
    [message(b'P', &parse), message(b'B', &bind), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")]
        .concat()
}

/// An error quotes what it does not understand, however long it is.
#[tokio::test]
async fn an_error_of_two_megabytes_is_as_good_as_a_short_one() {
    let p = Proxy::start_with(1, 1, |c| c.auth.method = AuthMethod::Trust).await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE SCHEMA a").await;
    let long = "x".repeat(2_000_000);
    // Simple: what the text had done is taken back, in what pgshunt believes too.
    let both = "SET search_path = a; SELECT repeat('x', 2000000)::int";
    assert_eq!(wire.ask(both).await, "CE22P02Z");
    assert_eq!(wire.ask("CREATE TABLE t (id int) PARTITION BY HASH (id)").await, "CZ");
    assert_eq!(wire.ask("INSERT INTO public.t VALUES (1)").await, "CZ");
    // Extended: all of the segment is answered for, and the session goes on.
    let mut bind = b"\0s\0\0\0\0\x01".to_vec();
    bind.extend_from_slice(&(long.len() as u32).to_be_bytes());
    bind.extend_from_slice(long.as_bytes());
    bind.extend_from_slice(b"\0\0");
    let execute = |bind: &[u8]| {
        let mut segment = message(b'B', bind);
        segment.extend(message(b'E', b"\0\0\0\0\0"));
        segment.extend(message(b'S', b""));
        segment
    };
    wire.send(&message(b'P', b"s\0SELECT $1::text::int\0\0\0")).await;
    wire.send(&execute(&bind)).await;
    assert_eq!(wire.ready().await, "1E22P02Z");
    wire.send(&execute(b"\0s\0\0\0\0\x01\0\0\0\x021\x30\0\0")).await;
    assert_eq!(wire.ready().await, "2DCZ");
    // A statement on all nodes.
    assert_eq!(wire.ask(&format!("SELECT '{long}'::text::int + id FROM t")).await, "E22P02Z");
    assert_eq!(wire.ask("BEGIN").await, "CZ");
    assert_eq!(wire.ask("SELECT repeat('x', 2000000)::int").await, "E22P02Z");
    assert_eq!(wire.ask("SELECT 1").await, "E25P02Z");
    assert_eq!(wire.ask("ROLLBACK").await, "CZ");
}

/// Each Sync is five bytes to the client and a request to remember here.
#[tokio::test]
async fn requests_without_end_behind_a_slow_one_wait_in_the_socket() {
    const SYNCS: usize = 400_000;
    let b = Binary::start(1, "");
    let before = b.memory();
    let (mut reads, mut writes) = split(Wire::login(b.port).await.tcp);
    let writing = tokio::spawn(async move {
        writes.write_all(&query("SELECT pg_sleep(3)")).await.unwrap();
        writes.write_all(&message(b'S', b"").repeat(SYNCS)).await.unwrap();
    });
    let mut most = 0;
    let mut ready = 0;
    while ready <= SYNCS {
        let mut header = [0; 5];
        reads.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
        reads.read_exact(&mut body).await.unwrap();
        assert_ne!(header[0], b'E');
        ready += usize::from(header[0] == b'Z');
        if ready == 1 || ready % 50_000 == 0 {
            most = b.memory().max(most);
        }
    }
    writing.await.unwrap();
    assert!(most < before + ROOM, "{before} MB, then {most} MB");
}

#[tokio::test]
async fn what_a_session_keeps_is_bounded() {
    let p = Proxy::start_with(1, 1, |c| {
        c.auth.method = AuthMethod::Trust;
        c.limits.max_session = 1 << 20;
    })
    .await;
    let mut wire = Wire::login(p.port()).await;
    let much = "x".repeat(300_000);
    for (n, answer) in ["CZ", "CZ", "CZ", "E54000Z", "E54000Z"].into_iter().enumerate() {
        assert_eq!(wire.ask(&format!("SET x.a{n} = '{much}'")).await, answer, "{n}");
    }
    // What is there already may change, and what is not kept may be as long as it likes.
    assert_eq!(wire.ask(&format!("SELECT length('{much}{much}')")).await, "TDCZ");
    assert_eq!(wire.ask("SELECT length(current_setting('x.a2'))").await, "TDCZ");
    assert_eq!(wire.ask("RESET ALL").await, "CZ");
    let parse = |name: &str, sql: &str| {
        let body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat();
        [message(b'P', &body), message(b'S', b"")].concat()
    };
    let sql = format!("SELECT '{much}'");
    for (n, answer) in ["1Z", "1Z", "1Z", "E54000Z"].into_iter().enumerate() {
        wire.send(&parse(&format!("s{n}"), &sql)).await;
        assert_eq!(wire.ready().await, answer, "{n}");
    }
    // The unnamed one is kept by no name.
    wire.send(&parse("", &sql)).await;
    assert_eq!(wire.ready().await, "1Z");
    assert_eq!(wire.ask("BEGIN; SELECT 1").await, "CTDCZ");
    wire.send(&message(b'B', b"p\0s0\0\0\0\0\0\0\0")).await;
    wire.send(&message(b'S', b"")).await;
    assert_eq!(wire.ready().await, "E54000Z", "a portal keeps its statement");
    assert_eq!(wire.ask("ROLLBACK; DEALLOCATE ALL").await, "CCZ");
    for (n, answer) in ["1Z", "1Z", "1Z", "E54000Z"].into_iter().enumerate() {
        wire.send(&parse(&format!("s{n}"), &sql)).await;
        assert_eq!(wire.ready().await, answer, "{n}");
    }
}
