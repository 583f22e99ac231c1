//! The same conversations with pgshunt and with one plain PostgreSQL: each message is answered alike.
//!
//! `scripts.txt` has those that are known to be hard; `random.rs` makes more from a seed.

#[path = "../../golden/messages.rs"]
mod messages;
mod random;
mod scripts;
pub mod talk;

use std::collections::BTreeMap;

use talk::{Talk, Until};

use crate::support::*;

/// pgshunt over two nodes, and a server of its own, with the same tables.
pub struct Pair {
    pgshunt: u16,
    plain: u16,
    /// A key that lives on the home node, and one that does not.
    pub keys: [i32; 2],
}

/// A client of both.
pub struct Both {
    ours: Talk,
    plain: Talk,
    /// Which of two errors of a failed transaction comes first is not looked at.
    pub loosely: bool,
}

/// Whether they differ in no more than which of the errors that a failed transaction, or a name, may
/// have comes first.
fn alike(wanted: &[String], got: &[String]) -> bool {
    let either = |m: &str| {
        ["Error 25P02", "Error 42P05", "Error 26000", "Error 34000", "Error 55000"]
            .iter()
            .any(|e| m.starts_with(e))
    };
    wanted.len() == got.len()
        && wanted.iter().zip(got).all(|(w, g)| {
            // pgshunt looks at the name, and at the node, before the text is parsed.
            let first = ["Error 42P05", "Error 25P02"].iter().any(|e| g.starts_with(e));
            let taken = w.starts_with("Error ") && first;
            w == g || taken || (either(w) && either(g))
        })
}

impl Both {
    pub fn open(pair: &Pair, parameters: &[(String, String)]) -> Self {
        Self {
            ours: Talk::open(pair.pgshunt, parameters),
            plain: Talk::open(pair.plain, parameters),
            loosely: false,
        }
    }

    /// Says it to both, and tells how their answers differ, if they do.
    pub fn say(&mut self, line: &str, until: Until) -> Result<Vec<String>, String> {
        self.plain.say(line);
        let wanted = self.plain.hear(until);
        self.ours.say(line);
        let got = self.ours.hear(until);
        let loosely = self.loosely && alike(&wanted, &got);
        if wanted != got && !loosely {
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
        // What a DISCARD ALL and an error in one segment leave is put right with the next statement.
        if !self.loosely && told(&self.plain) != told(&self.ours) {
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
const LOCAL: &str = "CREATE TABLE local (id int, v text); INSERT INTO local VALUES (1, 'one')";

async fn with_pair(test: impl FnOnce(&Pair) + Send + 'static) {
    let proxy = Proxy::start(3, 2).await;
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
    let here: i32 = value(&home, "SELECT min(id) FROM t").await;
    let there: i32 =
        value(&connect(proxy.nodes.nodes[1].port()).await, "SELECT min(id) FROM t").await;
    let pair =
        Pair { pgshunt: proxy.port(), plain: proxy.nodes.nodes[2].port(), keys: [here, there] };
    // pgshunt's control runtime is this one: it must not be blocked.
    tokio::task::spawn_blocking(move || test(&pair)).await.unwrap();
}

#[tokio::test]
async fn known_conversations() {
    with_pair(scripts::run).await;
}

#[tokio::test]
async fn random_conversations() {
    with_pair(random::run).await;
}
