//! COPY into and from distributed tables, over three nodes and beside one plain PostgreSQL.

mod queries;
mod random;
mod talk;

use std::time::Duration;

use talk::{End, Told, ask, copy_in, give, hear};

use crate::differential::wire::Wire;
use crate::support::*;

/// Three nodes under pgshunt and a plain server; then the test, on a thread of its own since its clients
/// block. It is given the ports: pgshunt's, and those of the servers.
async fn with_ports(test: impl FnOnce(u16, &[u16]) + Send + 'static) {
    let proxy = Proxy::start(4, 3).await;
    let port = proxy.port();
    let servers: Vec<u16> = proxy.nodes.nodes.iter().map(|n| n.port()).collect();
    tokio::task::spawn_blocking(move || test(port, &servers)).await.unwrap();
}

#[tokio::test]
async fn generated_data() {
    with_ports(|port, servers| {
        random::run(&mut Wire::connect(port), &mut Wire::connect(servers[3]));
    })
    .await;
}

const TABLE: &str = "CREATE TABLE t (k int PRIMARY KEY, v text) PARTITION BY HASH (k)";

fn table(port: u16) -> Wire {
    let mut wire = Wire::connect(port);
    wire.does(TABLE);
    wire
}

/// Rows on the nodes themselves, and transactions that stand prepared there.
fn audit(servers: &[u16]) -> (i64, i64) {
    let ask = |port: u16, sql: &str| -> i64 {
        let value = Wire::connect(port).does(sql)[0].rows[0][0].clone().unwrap();
        String::from_utf8(value).unwrap().parse().unwrap()
    };
    let sum = |sql: &str| servers[..3].iter().map(|p| ask(*p, sql)).sum();
    (sum("SELECT count(*) FROM t"), sum("SELECT count(*) FROM pg_prepared_xacts"))
}

fn lines(range: std::ops::Range<i32>) -> Vec<u8> {
    range.map(|k| format!("{k}\tv{k}\n")).collect::<String>().into_bytes()
}

fn code(told: &Told) -> &str {
    told.error.as_ref().map_or("", |e| &e.sqlstate)
}

#[tokio::test]
async fn alone_it_is_all_or_nothing() {
    with_ports(|port, servers| {
        let mut c = table(port);
        let all = lines(0..5000);
        assert_eq!(copy_in(&mut c, "COPY t FROM STDIN", &[&all], End::Done).tag, "COPY 5000");
        assert_eq!(audit(servers), (5000, 0));
        // The last row is there already; the others are on all nodes.
        let again = [lines(5000..9000), lines(77..78)].concat();
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&again], End::Done);
        assert_eq!((code(&told), told.status), ("23505", b'I'));
        assert_eq!(told.error.unwrap().context, "COPY t, line 4001");
        assert_eq!(audit(servers), (5000, 0));
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&lines(5000..9000)], End::Fail);
        assert_eq!((code(&told), told.status), ("57014", b'I'));
        assert_eq!(told.error.unwrap().context, "COPY t, line 4001");
        assert_eq!(audit(servers), (5000, 0));
        assert_eq!(copy_in(&mut c, "COPY t FROM STDIN", &[], End::Done).tag, "COPY 0");
        c.does("SELECT 1");
    })
    .await;
}

#[tokio::test]
async fn within_a_transaction_it_ends_as_that_does() {
    with_ports(|port, servers| {
        let mut c = table(port);
        c.does("BEGIN");
        c.does("INSERT INTO t VALUES (1, 'a')");
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&lines(10..20)], End::Done);
        assert_eq!((told.tag.as_str(), told.status), ("COPY 10", b'T'));
        c.does("SAVEPOINT s");
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&lines(15..30)], End::Done);
        assert_eq!((code(&told), told.status), ("23505", b'E'));
        c.does("ROLLBACK TO s");
        assert_eq!(c.does("SELECT count(*) FROM t")[0].rows[0][0].as_deref(), Some(&b"11"[..]));
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&lines(20..30)], End::Done);
        assert_eq!(told.tag, "COPY 10");
        c.does("COMMIT");
        assert_eq!(audit(servers), (21, 0));
        c.does("BEGIN");
        copy_in(&mut c, "COPY t FROM STDIN", &[&lines(30..40)], End::Done);
        c.does("ROLLBACK");
        c.does("BEGIN");
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[b"x\n"], End::Done);
        assert_eq!((code(&told), told.status), ("22P02", b'E'));
        assert_eq!(c.does("COMMIT")[0].tag, "ROLLBACK");
        assert_eq!(audit(servers), (21, 0));
    })
    .await;
}

#[tokio::test]
async fn an_error_is_told_before_all_data_is_sent() {
    with_ports(|port, servers| {
        let mut c = table(port);
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&lines(0..30), b"x\n"], End::Silence);
        assert_eq!(told.error, None);
        let mut told = Told::default();
        // More than all buffers hold would have to be sent otherwise.
        give(&mut c, &[&lines(40..9000)], End::Silence);
        while !hear(&mut c, &mut told) {}
        assert_eq!((code(&told), told.status), ("22P02", b'I'));
        assert_eq!(told.error.unwrap().context, "COPY t, line 31, column k: \"x\"");
        // What is late is dropped.
        give(&mut c, &[&lines(40..90)], End::Done);
        c.does("SELECT 1");
        assert_eq!(audit(servers), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn rows_of_any_size_and_many() {
    with_ports(|port, servers| {
        let mut c = table(port);
        let row = |k: i32, size: usize| format!("{k}\t{}\n", "x".repeat(size)).into_bytes();
        let rows = [row(1, 10 << 20), row(2, 1), row(3, 3 << 20), row(4, 0)].concat();
        let chunks: Vec<&[u8]> = rows.chunks(99_999).collect();
        assert_eq!(copy_in(&mut c, "COPY t FROM STDIN", &chunks, End::Done).tag, "COPY 4");
        let told = ask(&mut c, "COPY t TO STDOUT");
        assert_eq!(told.data.iter().map(Vec::len).sum::<usize>(), rows.len());
        let long = row(5, 70 << 20);
        let chunks: Vec<&[u8]> = long.chunks(1 << 20).collect();
        assert_eq!(code(&copy_in(&mut c, "COPY t FROM STDIN", &chunks, End::Done)), "54000");
        let mut many = lines(10..200_000);
        many.extend(b"200000\n");
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&many], End::Done);
        assert_eq!(told.error.unwrap().context, "COPY t, line 199991: \"200000\"");
        assert_eq!(audit(servers), (4, 0));
    })
    .await;
}

#[tokio::test]
async fn who_leaves_in_the_middle_leaves_nothing() {
    with_ports(|port, servers| {
        drop(table(port));
        let mut c = Wire::connect(port);
        copy_in(&mut c, "COPY t FROM STDIN", &[&lines(0..9000)], End::Silence);
        drop(c);
        let mut c = Wire::connect(port);
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&lines(0..9000)], End::Done);
        assert_eq!(told.tag, "COPY 9000", "what was there before is in nobody's way");
        assert_eq!(audit(servers), (9000, 0));
        // A message that has no place within a COPY.
        copy_in(&mut c, "COPY t FROM STDIN", &[&lines(9000..9100)], End::Silence);
        c.send(|out| postgres_protocol::message::frontend::query("SELECT 1", out).unwrap());
        let mut told = Told::default();
        hear(&mut c, &mut told);
        assert_eq!(code(&told), "08P01");
        let mut c = Wire::connect(port);
        c.does("DELETE FROM t WHERE k = 1");
        assert_eq!(audit(servers), (8999, 0));
    })
    .await;
}

#[tokio::test]
async fn a_node_that_dies_takes_the_copy_with_it() {
    let mut proxy = Proxy::start(3, 3).await;
    let port = proxy.port();
    let servers: Vec<u16> = proxy.nodes.nodes.iter().map(|n| n.port()).collect();
    let mut c = tokio::task::spawn_blocking(move || {
        let mut c = table(port);
        copy_in(&mut c, "COPY t FROM STDIN", &[&lines(0..9000)], End::Silence);
        c
    })
    .await
    .unwrap();
    proxy.nodes.nodes[1].stop(StopMode::Immediate).unwrap();
    let (mut c, told) = tokio::task::spawn_blocking(move || {
        let mut told = Told::default();
        while !hear(&mut c, &mut told) {}
        (c, told)
    })
    .await
    .unwrap();
    assert!(["08006", "57P02"].contains(&code(&told)), "{told:?}");
    proxy.nodes.nodes[1].restart().unwrap();
    tokio::task::spawn_blocking(move || {
        assert_eq!(audit(&servers), (0, 0));
        let told = copy_in(&mut c, "COPY t FROM STDIN", &[&lines(0..90)], End::Done);
        assert_eq!(told.tag, "COPY 90");
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_shard_that_moves_waits_for_the_copy() {
    let proxy = Proxy::start(3, 3).await;
    let port = proxy.port();
    let servers: Vec<u16> = proxy.nodes.nodes.iter().map(|n| n.port()).collect();
    let console = proxy.console().await;
    let copies = tokio::task::spawn_blocking(move || {
        let mut c = table(port);
        for n in 0..60 {
            let told = copy_in(
                &mut c,
                "COPY t FROM STDIN",
                &[&lines(n * 100..n * 100 + 50)],
                End::Silence,
            );
            assert_eq!(told.error, None);
            std::thread::sleep(Duration::from_millis(20));
            give(&mut c, &[&lines(n * 100 + 50..n * 100 + 100)], End::Done);
            let mut told = Told::default();
            while !hear(&mut c, &mut told) {}
            assert_eq!(told.tag, "COPY 100", "{told:?}");
        }
    });
    let reader = proxy.client().await;
    wait_for("the first copies", async || {
        let counted = texts(&reader, "SELECT count(*) FROM pg_tables WHERE tablename = 't'").await;
        let made =
            counted == ["1"] && texts(&reader, "SELECT count(*) > 500 FROM t").await == ["t"];
        made.then_some(())
    })
    .await;
    let nodes = console.column("SHOW SHARDS", "node").await;
    let shards = console.column("SHOW SHARDS", "shard_id").await;
    for (shard, node) in shards.iter().zip(nodes).take(3) {
        let target = if node == "node1" { "node2" } else { "node1" };
        console.does(&format!("MOVE SHARD {shard} TO {target}")).await;
    }
    copies.await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut c = Wire::connect(port);
        let counted = c.does("SELECT count(*) FROM t")[0].rows[0][0].clone();
        assert_eq!(counted.as_deref(), Some(&b"6000"[..]));
        assert_eq!(audit(&servers).1, 0);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn by_the_extended_protocol_and_cancelled() {
    use futures_util::SinkExt;
    let proxy = Proxy::start(3, 3).await;
    let c = proxy.client().await;
    c.batch_execute(TABLE).await.unwrap();
    let rows = |n: i32| bytes::Bytes::from(lines(n * 1000..n * 1000 + 1000));
    let count = async || value::<i64>(&c, "SELECT count(*) FROM t").await;
    let mut sink = Box::pin(c.copy_in("COPY t FROM STDIN").await.unwrap());
    for n in 0..5 {
        sink.send(rows(n)).await.unwrap();
    }
    assert_eq!(sink.as_mut().finish().await.unwrap(), 5000);
    assert_eq!(count().await, 5000);
    let mut sink = Box::pin(c.copy_in("COPY t FROM STDIN").await.unwrap());
    sink.send(rows(5)).await.unwrap();
    sink.send(rows(4)).await.unwrap();
    let error = sink.as_mut().finish().await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    assert_eq!(count().await, 5000);
    let sink = Box::pin(c.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap());
    // Without an end it is given up.
    drop(sink);
    assert_eq!(count().await, 5000);
    c.batch_execute("BEGIN").await.unwrap();
    let mut sink = Box::pin(c.copy_in("COPY t FROM STDIN").await.unwrap());
    sink.send(rows(5)).await.unwrap();
    assert_eq!(sink.as_mut().finish().await.unwrap(), 1000);
    assert_eq!(count().await, 6000);
    c.batch_execute("ROLLBACK").await.unwrap();
    let out = c.copy_out("COPY t TO STDOUT").await.unwrap();
    let all: Vec<bytes::Bytes> = futures_util::TryStreamExt::try_collect(out).await.unwrap();
    assert_eq!(all.len(), 5000);

    let mut sink = Box::pin(c.copy_in("COPY t FROM STDIN").await.unwrap());
    sink.send(rows(5)).await.unwrap();
    c.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
    for n in 6..40 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if sink.send(rows(n)).await.is_err() {
            break;
        }
    }
    let error = sink.as_mut().finish().await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    assert_eq!(count().await, 5000);
}

#[tokio::test]
async fn what_cannot_be_done_exactly_is_refused_before_it_begins() {
    with_ports(|port, _| {
        let mut c = table(port);
        c.does("CREATE TABLE g (a int, k varchar(9), b int GENERATED ALWAYS AS (a + 1) STORED) PARTITION BY HASH (k)");
        for sql in [
            "COPY t FROM '/etc/passwd'",
            "COPY t TO '/tmp/never'",
            "COPY t FROM PROGRAM 'true'",
            "COPY t (v) FROM STDIN",
            "COPY t FROM STDIN WITH (ENCODING 'latin1')",
            "COPY t FROM STDIN WHERE k > random()",
            "COPY t FROM STDIN; SELECT 1",
            "COPY (SELECT count(*) FROM t) TO '/tmp/never'",
        ] {
            let told = copy_in(&mut c, sql, &[], End::Done);
            assert_eq!((code(&told), told.status), ("0A000", b'I'), "{sql}: {told:?}");
            assert_eq!(told.formats, b"", "{sql}");
        }
        let told = copy_in(&mut c, "COPY t FROM STDIN WHERE k % 2 = 0", &[&lines(0..10)], End::Done);
        assert_eq!(told.tag, "COPY 5");
        let told = copy_in(&mut c, "COPY t FROM STDIN WITH (FORMAT nothing)", &[], End::Done);
        assert_eq!(code(&told), "0A000");
        let told = copy_in(&mut c, "COPY t FROM STDIN WITH (DELIMITER 'ab')", &[], End::Done);
        assert_eq!(code(&told), "0A000", "in PostgreSQL's words");
        // Values that may be stored otherwise than they are written.
        let told = copy_in(&mut c, "COPY g FROM STDIN", &[b"1\ta\n2\tb \n"], End::Done);
        assert_eq!(code(&told), "0A000");
        assert_eq!(told.error.unwrap().context, "COPY g, line 2");
        assert_eq!(copy_in(&mut c, "COPY g FROM STDIN", &[b"1\ta\n"], End::Done).tag, "COPY 1");
        assert_eq!(ask(&mut c, "COPY g TO STDOUT").data.concat(), b"1\ta\n");
        assert_eq!(code(&ask(&mut c, "COPY g (b) TO STDOUT")), "42P10");
    })
    .await;
}
