//! All kinds of clients at once, over several changes of processes: none of them is disturbed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinHandle;

use super::*;

/// What goes on until it is told to stop, and what went wrong.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<(), String>>>,
}

impl Traffic {
    /// Clients with settings and prepared statements of their own that write in transactions, and
    /// others that connect anew all the time.
    async fn start(port: u16) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = Vec::new();
        for writer in 0..6 {
            let (stop, done) = (stop.clone(), done.clone());
            let mut client = Guest::open(port, writer % 3 == 0).await.client;
            tasks.push(tokio::spawn(async move {
                let failed = |e: tokio_postgres::Error| format!("writer {writer}: {e:?}");
                let name = format!("writer-{writer}");
                client
                    .batch_execute(&format!("SET application_name = '{name}'"))
                    .await
                    .map_err(failed)?;
                let insert =
                    client.prepare("INSERT INTO t VALUES ($1, $2)").await.map_err(failed)?;
                let mut n = 0;
                while !stop.load(Ordering::Acquire) {
                    n += 1;
                    let key = writer * 1_000_000 + n;
                    let transaction = client.transaction().await.map_err(failed)?;
                    transaction.execute(&insert, &[&key, &0i64]).await.map_err(failed)?;
                    transaction
                        .execute("UPDATE t SET n = n + 1 WHERE id = $1", &[&key])
                        .await
                        .map_err(failed)?;
                    transaction.commit().await.map_err(failed)?;
                    done.fetch_add(1, Ordering::AcqRel);
                    let now =
                        client.query_one("SHOW application_name", &[]).await.map_err(failed)?;
                    if now.get::<_, String>(0) != name {
                        return Err(format!("{name} has become {now:?}"));
                    }
                }
                Ok(())
            }));
        }
        for _ in 0..2 {
            let stop = stop.clone();
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    let client = connect_as(port, DATABASE, SUPERUSER, PASSWORD)
                        .await
                        .map_err(|e| format!("a new connection: {e:?}"))?;
                    client
                        .query_one("SELECT 1", &[])
                        .await
                        .map_err(|e| format!("the first statement: {e:?}"))?;
                }
                Ok(())
            }));
        }
        let others = [false, true].map(|tls| tokio::spawn(keeps_a_table(port, tls, stop.clone())));
        tasks.extend(others);
        tasks.push(tokio::spawn(watches(port, stop.clone())));
        let (said, listening) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        for listener in 0..LISTENERS {
            tasks.push(tokio::spawn(listens(port, listener, said.clone(), listening.clone())));
        }
        tasks.push(tokio::spawn(counts(port, said, listening, stop.clone())));
        Self { stop, done, tasks }
    }

    /// Until so many more transactions are committed.
    async fn goes_on(&self, more: u64) {
        let until = self.done.load(Ordering::Acquire) + more;
        wait_for("traffic", async || {
            let broken = self.tasks.iter().any(JoinHandle::is_finished);
            (broken || self.done.load(Ordering::Acquire) >= until).then_some(())
        })
        .await;
    }

    /// The number of committed transactions.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let mut wrong = Vec::new();
        for t in self.tasks {
            wrong.extend(t.await.unwrap().err());
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        self.done.load(Ordering::Acquire)
    }
}

/// Bound to its server connection by a temporary table.
async fn keeps_a_table(port: u16, tls: bool, stop: Arc<AtomicBool>) -> Result<(), String> {
    let failed = |e: tokio_postgres::Error| format!("bound, under TLS: {tls}: {e:?}");
    let client = Guest::open(port, tls).await.client;
    client.batch_execute("CREATE TEMP TABLE own (n bigint)").await.map_err(failed)?;
    let insert = client.prepare("INSERT INTO own VALUES ($1)").await.map_err(failed)?;
    let mut n = 0;
    while !stop.load(Ordering::Acquire) {
        n += 1;
        client.execute(&insert, &[&n]).await.map_err(failed)?;
        let count = client.query_one("SELECT count(*) FROM own", &[]).await.map_err(failed)?;
        if count.get::<_, i64>(0) != n {
            return Err(format!("{count:?} rows in place of {n}"));
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// At the console.
async fn watches(port: u16, stop: Arc<AtomicBool>) -> Result<(), String> {
    let console = Console::open(port, "pgshunt").await;
    while !stop.load(Ordering::Acquire) {
        let asked = console.client.simple_query("SHOW POOLS").await;
        asked.map_err(|e| format!("the console: {e:?}"))?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

const LISTENERS: u64 = 4;

/// Sends the numbers from 1 on; the last is 0.
async fn counts(
    port: u16,
    said: Arc<AtomicU64>,
    listening: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<(), String> {
    let failed = |e: tokio_postgres::Error| format!("counting: {e:?}");
    let client = connect(port).await;
    wait_for("the listeners", async || {
        (listening.load(Ordering::Acquire) == LISTENERS).then_some(())
    })
    .await;
    while !stop.load(Ordering::Acquire) {
        let n = said.fetch_add(1, Ordering::AcqRel) + 1;
        let said = client.execute("SELECT pg_notify('numbers', $1)", &[&n.to_string()]).await;
        said.map_err(failed)?;
    }
    client.batch_execute("NOTIFY numbers, '0'").await.map_err(failed)
}

/// Hears them: silent, under TLS, and with much to say itself.
async fn listens(
    port: u16,
    which: u64,
    said: Arc<AtomicU64>,
    listening: Arc<AtomicU64>,
) -> Result<(), String> {
    let failed = |e: tokio_postgres::Error| format!("listener {which}: {e:?}");
    let mut guest = Guest::open(port, which % 2 == 1).await;
    guest.client.batch_execute("LISTEN numbers").await.map_err(failed)?;
    listening.fetch_add(1, Ordering::AcqRel);
    let mut next = 1;
    loop {
        let heard = match guest.heard.try_recv() {
            Ok(heard) => heard,
            Err(_) if which >= 2 => {
                guest.client.batch_execute("BEGIN; SELECT 1").await.map_err(failed)?;
                guest.client.batch_execute("COMMIT").await.map_err(failed)?;
                continue;
            }
            Err(_) => guest.hears().await,
        };
        if heard == "0" {
            let last = said.load(Ordering::Acquire);
            return match next == last + 1 {
                true => Ok(()),
                false => Err(format!("listener {which} has heard up to {next} of {last}")),
            };
        }
        if heard != next.to_string() {
            return Err(format!("listener {which} has heard {heard} in place of {next}"));
        }
        next += 1;
    }
}

#[tokio::test]
async fn nobody_notices_that_the_process_changes() {
    let mut place = Place::new("takeover");
    let port = place.port;
    let client = connect(port).await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, n bigint) PARTITION BY HASH (id)")
        .await
        .unwrap();
    client.batch_execute("SET work_mem = '77MB'").await.unwrap();
    let shown = client.prepare("SELECT current_setting('work_mem'), $1::int").await.unwrap();
    let traffic = Traffic::start(port).await;
    let mut olds = Vec::new();
    for round in 0..4 {
        traffic.goes_on(50).await;
        // One is within a transaction, which the new process carries on.
        let slow = connect(port).await;
        slow.batch_execute("BEGIN; INSERT INTO t VALUES (-1, 0)").await.unwrap();
        olds.push(place.take_over());
        traffic.goes_on(50).await;
        slow.batch_execute("UPDATE t SET n = 1 WHERE id = -1").await.unwrap();
        slow.batch_execute("COMMIT").await.unwrap();
        slow.batch_execute("DELETE FROM t WHERE id = -1").await.unwrap();
        let row = client.query_one(&shown, &[&round]).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), ("77MB", round), "the session came along");
    }
    let console = Console::open(port, "pgshunt").await;
    let before: Vec<String> = console.column("SHOW SHARDS", "node").await;
    console.does(&format!("MOVE SHARD 1 TO {}", other(&before[0]))).await;
    traffic.goes_on(50).await;
    let done = traffic.end().await;
    for old in &mut olds {
        assert!(old.end().await.success(), "with its clients under TLS it ends");
    }
    let sum = texts(&client, "SELECT sum(n) FROM t").await;
    assert_eq!(sum, [done.to_string()], "what was acknowledged is there, once");
}
