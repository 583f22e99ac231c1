//! Many clients that do everything wrong at once, in front of pools that are too small. Afterwards
//! nothing is lost, nothing is half done, and nobody holds anything.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::wire::{TERMINATE, Wire, message, query};
use super::*;

const CLIENTS: u64 = 24;
const ROUNDS: usize = 40;
const KEYS: i32 = 12;

struct Troublemaker {
    port: u16,
    dice: StdRng,
    wire: Wire,
}

/// What a statement may end with when the line is long or a cancel comes.
fn is_excuse(answer: &str) -> bool {
    answer.contains("E53300") || answer.contains("E57014")
}

impl Troublemaker {
    async fn again(&mut self) {
        self.wire = Wire::login(self.port).await;
    }

    fn change(&mut self, by: i32) -> String {
        let id = self.dice.random_range(0..KEYS);
        format!("UPDATE t SET v = v + {by} WHERE id = {id}")
    }

    /// A transaction that changes nothing in sum; false: it found an excuse.
    async fn transaction(&mut self) {
        let id = self.dice.random_range(0..KEYS);
        let mut failed = false;
        for sql in [
            "BEGIN".to_owned(),
            format!("UPDATE t SET v = v + 1 WHERE id = {id}"),
            format!("UPDATE t SET v = v - 1 WHERE id = {id}"),
        ] {
            let answer = self.wire.ask(&sql).await;
            if answer != "CZ" {
                assert!(is_excuse(&answer), "{sql}: {answer}");
                failed = true;
                break;
            }
        }
        let end = if failed { "ROLLBACK" } else { "COMMIT" };
        assert_eq!(self.wire.ask(end).await, "CZ");
    }

    async fn round(&mut self) {
        match self.dice.random_range(0..10) {
            0 | 1 => self.transaction().await,
            // Killed in a transaction.
            2 => {
                self.wire.ask("BEGIN").await;
                let sql = self.change(1);
                let answer = self.wire.ask(&sql).await;
                assert!(answer == "CZ" || is_excuse(&answer), "{answer}");
                self.again().await;
            }
            // Killed before its transaction was answered.
            3 => {
                let batch = [query("BEGIN"), query(&self.change(1))].concat();
                self.wire.send(&batch).await;
                self.again().await;
            }
            // Gone with a goodbye, all of it sent.
            4 => {
                let sql = format!("{}; {}", self.change(0), "SELECT 1");
                self.wire.send(&[&query(&sql)[..], TERMINATE].concat()).await;
                self.again().await;
            }
            5 => {
                self.wire.send(&query("SELECT pg_sleep(0.02)")).await;
                for _ in 0..self.dice.random_range(1..4) {
                    self.wire.cancel(self.port).await;
                }
                let answer = self.wire.ready().await;
                assert!(answer == "TDCZ" || is_excuse(&answer), "{answer}");
            }
            // Killed in a COPY.
            6 => {
                self.wire.send(&query("COPY c FROM STDIN")).await;
                self.wire.send(&message(b'd', b"1\n")).await;
                self.again().await;
            }
            7 => {
                let garbage: Vec<u8> = (0..50).map(|_| self.dice.random()).collect();
                self.wire.send(&message(b'B', &garbage)).await;
                self.again().await;
            }
            8 => {
                // Each node's part is of one moment, and at each moment it is zero.
                self.wire.send(&query("SELECT sum(v) FROM t")).await;
                let mut answer = String::new();
                while !answer.ends_with('Z') {
                    let (tag, body) = self.wire.next().await.expect("an answer");
                    answer.push(tag as char);
                    match tag {
                        b'D' => assert_eq!(body, b"\0\x01\0\0\0\x010", "one value, zero"),
                        b'E' => answer += &super::wire::field(&body, b'C'),
                        _ => {}
                    }
                }
                assert!(answer == "TDCZ" || is_excuse(&answer), "{answer}");
            }
            // Killed with a statement on all nodes under way.
            _ => {
                self.wire.send(&query("SELECT id, v FROM t")).await;
                self.again().await;
            }
        }
    }
}

#[tokio::test]
async fn after_the_storm_everything_is_in_its_place() {
    let p = Proxy::start_with(2, 2, |c| {
        trusting(c);
        c.pool.size = 3;
    })
    .await;
    let console = p.console().await;
    console.does("SET shard_count = 4").await;
    let mut wire = Wire::login(p.port()).await;
    wire.ask("CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY HASH (id)").await;
    wire.ask("CREATE TABLE c (a int)").await;
    for id in 0..KEYS {
        assert_eq!(wire.ask(&format!("INSERT INTO t VALUES ({id}, 0)")).await, "CZ");
    }
    let storm: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let port = p.port();
            tokio::spawn(async move {
                let wire = Wire::login(port).await;
                let mut client = Troublemaker { port, dice: StdRng::seed_from_u64(seed), wire };
                for _ in 0..ROUNDS {
                    client.round().await;
                }
            })
        })
        .collect();
    for (seed, client) in storm.into_iter().enumerate() {
        client.await.unwrap_or_else(|e| panic!("client {seed}: {e}"));
    }
    wait_for("everybody to let go", async || {
        let pools = p.server.shared.pools.figures();
        let held: usize = pools.iter().map(|f| f.servers_active + f.clients_waiting).sum();
        (held == 0).then_some(())
    })
    .await;
    wait_for("the killed clients to be forgotten", async || {
        (console.column("SHOW CLIENTS", "database").await.len() == 2).then_some(())
    })
    .await;
    for node in &p.nodes.nodes {
        let client = connect(node.port()).await;
        assert_eq!(value::<i64>(&client, "SELECT sum(v) FROM t").await, 0, "{}", node.name());
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE '%transaction%' \
                   AND application_name NOT LIKE 'pgshunt %'";
        assert_eq!(value::<i64>(&client, sql).await, 0, "{}", node.name());
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                   AND application_name NOT LIKE 'pgshunt %' AND pid <> pg_backend_pid()";
        // This test's own sessions may be on their way out.
        wait_for("no more connections than allowed", async || {
            (value::<i64>(&client, sql).await <= 3).then_some(())
        })
        .await;
    }
    assert_eq!(value::<i64>(&node(&p).await, "SELECT count(*) FROM c").await, 0);
    // All connections of all pools are fit for use at once.
    let mut holders = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::login(p.port()).await;
        assert_eq!(wire.ask("BEGIN; SELECT 1").await, "CTDCZ");
        holders.push(wire);
    }
    for mut wire in holders {
        assert_eq!(wire.ask("COMMIT").await, "CZ");
    }
}
