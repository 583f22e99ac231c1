//! The same conversations with pgshunt and with one plain PostgreSQL: each message is answered alike.
//!
//! `scripts.txt` has those that are known to be hard; `random.rs` makes more from a seed.

#[path = "../../golden/messages.rs"]
mod messages;
mod random;
mod scripts;
pub mod talk;

use std::collections::BTreeMap;
use std::time::Duration;

use talk::{Talk, Until};

use pgshunt::config::Config;

use crate::support::*;

/// pgshunt over two nodes, and a server of its own, with the same tables.
pub struct Pair {
    pgshunt: u16,
    plain: u16,
    /// Two keys that live on the home node, and two that do not.
    pub keys: [[i32; 2]; 2],
}

/// A client of both.
pub struct Both {
    ours: Talk,
    plain: Talk,
}

impl Both {
    pub fn open(pair: &Pair, parameters: &[(String, String)]) -> Self {
        Self {
            ours: Talk::open(pair.pgshunt, parameters),
            plain: Talk::open(pair.plain, parameters),
        }
    }

    /// Who answers later than this has not answered.
    pub fn waits(&mut self, patience: Duration) {
        (self.ours.patience, self.plain.patience) = (patience, patience);
    }

    /// Says it to both, and tells how their answers differ, if they do.
    pub fn say(&mut self, line: &str, until: Until) -> Result<Vec<String>, String> {
        self.plain.say(line);
        let wanted = self.plain.hear(until);
        self.ours.say(line);
        let got = self.ours.hear(until);
        if wanted != got {
            return Err(format!(
                "PostgreSQL: {}\npgshunt:    {}",
                wanted.join(" | "),
                got.join(" | ")
            ));
        }
        if self.plain.closed != self.ours.closed {
            return Err(format!(
                "PostgreSQL hung up: {}, pgshunt: {}",
                self.plain.closed, self.ours.closed
            ));
        }
        let told = |t: &Talk| -> BTreeMap<_, _> {
            let left_out = |n: &str| matches!(n, "is_superuser" | "session_authorization");
            t.told.clone().into_iter().filter(|(n, _)| !left_out(n)).collect()
        };
        if told(&self.plain) != told(&self.ours) {
            return Err(format!(
                "PostgreSQL's parameters: {:?}\npgshunt's:               {:?}",
                told(&self.plain),
                told(&self.ours)
            ));
        }
        Ok(got)
    }
}

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY HASH (id)";
const LOCAL: &str = "CREATE TABLE local (id int, v text); INSERT INTO local VALUES (1, 'one');
    CREATE TABLE copied (n int)";

async fn with_pair(change: impl FnOnce(&mut Config), test: impl FnOnce(&Pair) + Send + 'static) {
    let proxy = Proxy::start_with(3, 2, change).await;
    let ours = proxy.client().await;
    let plain = connect(proxy.nodes.nodes[2].port()).await;
    ours.batch_execute(SCHEMA).await.unwrap();
    plain.batch_execute(SCHEMA).await.unwrap();
    plain
        .batch_execute("CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
        .await
        .unwrap();
    for client in [&ours, &plain] {
        client.batch_execute(LOCAL).await.unwrap();
        for id in 1..=20 {
            client.batch_execute(&format!("INSERT INTO t VALUES ({id}, 'v{id}')")).await.unwrap();
        }
    }
    let home = connect(proxy.nodes.nodes[0].port()).await;
    let away = connect(proxy.nodes.nodes[1].port()).await;
    let mut keys = [[0; 2]; 2];
    for (of, node) in [&home, &away].into_iter().enumerate() {
        let found = node.query("SELECT id FROM t ORDER BY id LIMIT 2", &[]).await.unwrap();
        keys[of] = [found[0].get(0), found[1].get(0)];
    }
    drop((ours, plain, home, away));
    let pair = Pair { pgshunt: proxy.port(), plain: proxy.nodes.nodes[2].port(), keys };
    // pgshunt's control runtime is this one: it must not be blocked.
    tokio::task::spawn_blocking(move || test(&pair)).await.unwrap();
}

#[tokio::test]
async fn known_conversations() {
    with_pair(|_| {}, scripts::run).await;
}

#[tokio::test]
async fn random_conversations() {
    with_pair(|_| {}, |pair| random::run(pair, 1)).await;
}

#[tokio::test]
async fn random_conversations_over_nodes() {
    with_pair(|_| {}, random::run_over_nodes).await;
}

#[tokio::test]
async fn random_conversations_of_two() {
    let few = |config: &mut Config| {
        config.pool.size = 2;
        config.pool.server_round_robin = true;
    };
    with_pair(few, |pair| random::run(pair, 2)).await;
}

/// A segment that turns out to need another node begins again there; the transaction's earlier
/// statements cannot. What comes first in the segment must not matter.
#[tokio::test]
async fn a_transaction_that_commits_has_kept_all_of_it() {
    with_pair(
        |_| {},
        |pair| {
            let [[home, _], [away, _]] = pair.keys;
            let mut look = Talk::open(pair.pgshunt, &[]);
            let mut ask = |line: &str, answers: usize| {
                look.say(line);
                look.hear(Until::Ready(answers))
            };
            let firsts = ["ClosePortal -", "DescribePortal b", "Execute b", "CloseStatement a"];
            for (n, first) in
                firsts.into_iter().chain(["DescribeStatement a", "Bind b a"]).enumerate()
            {
                let mut talk = Talk::open(pair.pgshunt, &[]);
                let mut said = |line: String, answers: usize| {
                    talk.say(&line);
                    talk.hear(Until::Ready(answers))
                };
                said("Parse a SELECT 1 | Sync".into(), 1);
                said(
                    format!("Query BEGIN | Query UPDATE t SET v = 'kept {n}' WHERE id = {home}"),
                    2,
                );
                said("Bind b a | Sync".into(), 1);
                let last = format!("Parse - UPDATE t SET v = 'kept {n}' WHERE id = {away}");
                said(format!("{first} | {last} | Bind - - | Execute - | Sync"), 1);
                let ended = said("Query COMMIT".into(), 1);
                let committed = ended.contains(&"Complete COMMIT".to_owned());
                for key in [home, away] {
                    let found = ask(&format!("Query SELECT v FROM t WHERE id = {key}"), 1);
                    let kept = found.contains(&format!("Data kept {n}"));
                    assert_eq!(kept, committed, "{first}: {ended:?}, then {found:?}");
                }
            }
        },
    )
    .await;
}
