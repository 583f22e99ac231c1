//! The console's commands at the wrong time: a refused one changes nothing, and no order of them loses a
//! shard. The last test is seeded: `PGSHUNT_COMMANDS=<first seed>:<how many>` runs others.

use std::time::{Duration, Instant};

use pgshunt::local::LocalCluster;
use pgshunt::moves::State;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::child::{Home, Served};
use super::scene::{
    Brake, assert_tidy, last_move, make_table, proxy_with, serves, until_move, until_state,
};
use super::traffic::{Load, SHARDS, Traffic};
use crate::support::{Console, PATIENCE, connect, value, wait_for};

async fn state_of(console: &Console, id: usize) -> String {
    console.column("SHOW MOVES", "state").await[id - 1].clone()
}

async fn until_over(console: &Console, id: usize) {
    wait_for(&format!("move {id} to be done"), async || {
        (state_of(console, id).await == State::Done.name()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_rollback_or_finish_changes_nothing() {
    let p = proxy_with(3, |_| {}).await;
    let c = p.console().await;
    let traffic = Traffic::start(p.port(), Load { writers: 3, ..Load::default() });
    c.does("MOVE SHARD 1 TO node3").await;
    until_state(&c, State::Soaking).await;
    let brake = Brake::pull(&p.nodes.nodes[2], 1).await;
    c.does("ROLLBACK MOVE 1 NOWAIT").await;
    for command in ["ROLLBACK MOVE 1", "ROLLBACK MOVE", "FINISH MOVE 1"] {
        let e = c.refused(command).await;
        assert_eq!((e.code().code(), e.hint().is_some()), ("55000", true), "{command}: {e:?}");
        assert!(e.message().contains("is being rolled back by move 2"), "{command}: {e:?}");
    }
    brake.release().await;
    until_over(&c, 2).await;
    assert_eq!(state_of(&c, 1).await, State::Done.name());
    c.does("MOVE SHARD 1 TO node2").await;
    until_state(&c, State::Soaking).await;
    c.does("ROLLBACK MOVE").await;
    until_over(&c, 4).await;
    assert_eq!(serves(&c, 1).await, "node1");

    // A move whose end was asked for waits its turn in the group; it cannot be taken back meanwhile.
    c.does("MOVE SHARD 1 TO node2").await;
    until_state(&c, State::Soaking).await;
    let brake = Brake::pull(&p.nodes.nodes[2], 3).await;
    c.does("MOVE SHARD 3 TO node2 NOWAIT").await;
    until_move(&c, "blocker", |b| b.contains("pid ")).await;
    let busy = c.refused("ROLLBACK MOVE 5").await;
    assert_eq!(busy.code().code(), "55006", "{busy:?}");
    c.does("FINISH MOVE 5").await;
    let since = Instant::now();
    let e = c.refused("ROLLBACK MOVE 5").await;
    assert!(e.message().contains("is being finished"), "{e:?}");
    assert!(since.elapsed() < Duration::from_secs(1), "it is refused at once");
    brake.release().await;
    until_over(&c, 5).await;
    until_state(&c, State::Soaking).await;
    c.does("FINISH MOVE 6").await;
    until_over(&c, 6).await;
    let states = c.column("SHOW MOVES", "state").await;
    assert!(states.iter().all(|s| s == State::Done.name()), "{states:?}");
    assert_tidy(&p.nodes, "at the end").await;
    assert_eq!(traffic.end(&p.nodes, "at the end").await, Vec::<String>::new());
}

/// The catalog has lost sight of who serves; the journal and the nodes have not.
#[tokio::test]
async fn placements_that_are_gone_are_found_again() {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(2)).await.unwrap().unwrap();
    let home = Home::new(&nodes.config);
    let mut served = Served::start(&home, Some("move.catalog.before")).await;
    let c = Console::open(served.port, "pgshunt").await;
    make_table(&c, &connect(served.port).await).await;
    let client = connect(served.port).await;
    for id in 1..=100 {
        let sql = format!("INSERT INTO accounts (id, owner) VALUES ({id}, -1)");
        client.batch_execute(&sql).await.unwrap();
    }
    // The answer may be the end of the process.
    let _ = c.client.batch_execute("MOVE SHARD 1 TO node2 NOWAIT").await;
    served.dies().await;
    let catalog = connect(nodes.nodes[0].port()).await;
    let lost = "DELETE FROM pgshunt.placements WHERE shard_id = 1 AND node_id = 2";
    assert_eq!(catalog.execute(lost, &[]).await.unwrap(), 1);
    served = Served::start(&home, None).await;
    let c = Console::open(served.port, "pgshunt").await;
    until_state(&c, State::Soaking).await;
    assert_eq!(serves(&c, 1).await, "node2");
    c.does("FINISH MOVE").await;
    until_state(&c, State::Done).await;
    assert_tidy(&nodes, "the target's placement was gone").await;

    served.kill();
    catalog.batch_execute("DELETE FROM pgshunt.placements WHERE shard_id = 1").await.unwrap();
    let served = Served::start(&home, None).await;
    let rows: i64 = value(&connect(served.port).await, "SELECT count(*) FROM accounts").await;
    assert_eq!(rows, 100);
    assert_tidy(&nodes, "all placements of a shard were gone").await;
}

#[tokio::test]
async fn a_cancelled_move_says_so_after_a_crash_and_ends_without_a_source_that_is_dead() {
    let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(3)).await.unwrap().unwrap();
    let mut nodes = nodes;
    let home = Home::new(&nodes.config);
    let mut served = Served::start(&home, Some("move.drop_objects.before")).await;
    let c = Console::open(served.port, "pgshunt").await;
    make_table(&c, &connect(served.port).await).await;
    let brake = Brake::pull(&nodes.nodes[0], 1).await;
    c.does("MOVE SHARD 1 TO node3 NOWAIT").await;
    until_move(&c, "blocker", |b| b.contains("pid ")).await;
    let _ = c.client.batch_execute("CANCEL MOVE").await;
    served.dies().await;
    brake.release().await;
    served = Served::start(&home, None).await;
    let c = Console::open(served.port, "pgshunt").await;
    until_state(&c, State::Failed).await;
    assert_eq!(last_move(&c, "error").await, "cancelled by CANCEL MOVE");
    assert_tidy(&nodes, "undone after a crash").await;

    // Shard 2 is on node2, which dies: the move has made nothing yet.
    nodes.nodes[1].kill().unwrap();
    c.does("MOVE SHARD 2 TO node3 NOWAIT").await;
    until_move(&c, "blocker", |b| b.contains("node2")).await;
    c.does("CANCEL MOVE").await;
    until_state(&c, State::Failed).await;
    assert_eq!(last_move(&c, "error").await, "cancelled by CANCEL MOVE");
    c.does("MOVE SHARD 2 TO node3 NOWAIT").await;
    until_move(&c, "blocker", |b| b.contains("node2")).await;
    served.kill();
    let client = connect(nodes.nodes[0].port()).await;
    let asked = "UPDATE pgshunt.moves SET cancel_requested = true WHERE state = 'planned'";
    assert_eq!(client.execute(asked, &[]).await.unwrap(), 1);
    let served = Served::start(&home, None).await;
    let c = Console::open(served.port, "pgshunt").await;
    until_state(&c, State::Failed).await;
    nodes.nodes[1].restart().unwrap();
    assert_tidy(&nodes, "cancelled with a dead source").await;
}

struct Storm {
    nodes: LocalCluster,
    home: Home,
    served: Served,
    traffic: Traffic,
    random: StdRng,
    /// What was done, for whoever reads of a failure.
    story: Vec<String>,
}

impl Storm {
    async fn start() -> Self {
        let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(3)).await.unwrap().unwrap();
        let home = Home::new(&nodes.config);
        let served = Served::start(&home, None).await;
        make_table(&Console::open(served.port, "pgshunt").await, &connect(served.port).await).await;
        let load = Load {
            writers: 3,
            pause: Duration::from_millis(8),
            bears_errors: true,
            ..Load::default()
        };
        let traffic = Traffic::start(served.port, load);
        let random = StdRng::seed_from_u64(0);
        Self { nodes, home, served, traffic, random, story: Vec::new() }
    }

    /// A command, of a move that may be there or may have been, or of none.
    fn command(&mut self, moves: i64) -> String {
        let shard = self.random.random_range(1..=SHARDS);
        let node = self.random.random_range(1..=3);
        let (first, last) = ((moves - 3).max(1), moves + 1);
        let id = match self.random.random_range(0..3) {
            0 => String::new(),
            _ => format!(" {}", self.random.random_range(first..=last)),
        };
        let (verb, target) = match self.random.random_range(0..100) {
            0..34 => return format!("MOVE SHARD {shard} TO node{node} NOWAIT"),
            34..52 => return format!("ROLLBACK MOVE{id} NOWAIT"),
            52..62 => return format!("CANCEL MOVE{id}"),
            62..74 => return format!("FINISH MOVE{id}"),
            n => (if n < 85 { "PAUSE" } else { "RESUME" }, n % 4),
        };
        match target {
            0 => verb.to_owned(),
            1 => format!("{verb} SHARD {shard}"),
            2 => format!("{verb} NODE node{node}"),
            _ => format!("{verb} {}", crate::support::DATABASE),
        }
    }

    /// Several consoles give a command each, at once; some of them twice.
    async fn blow(&mut self) {
        let c = Console::open(self.served.port, "pgshunt").await;
        let moves = c.column("SHOW MOVES", "move_id").await.len() as i64;
        let mut said = Vec::new();
        for _ in 0..self.random.random_range(1..=3) {
            let command = self.command(moves);
            for _ in 0..self.random.random_range(1..=2) {
                said.push(command.clone());
            }
        }
        let port = self.served.port;
        let all = said.into_iter().map(|command| async move {
            let console = Console::open(port, "pgshunt").await;
            // One that still waits is given up when its console leaves.
            let answer = console.client.batch_execute(&command);
            let answer = tokio::time::timeout(Duration::from_millis(700), answer).await;
            let answer = match answer {
                Err(_) => "given up".to_owned(),
                Ok(Ok(())) => "ok".to_owned(),
                Ok(Err(e)) => e.as_db_error().map_or(e.to_string(), |db| db.message().to_owned()),
            };
            format!("{command}: {answer}")
        });
        let told = futures_util::future::join_all(all).await;
        self.story.extend(told);
        if self.random.random_range(0..8) == 0 {
            self.story.push("pgshunt is killed".into());
            self.served.kill();
            self.served = Served::start(&self.home, None).await;
            self.traffic.go_to(self.served.port);
        }
        let ms = self.random.random_range(0..250);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Everything goes on and every move comes to its end; then nothing is lost and nothing left.
    async fn settle(&mut self, seed: u64) {
        let c = Console::open(self.served.port, "pgshunt").await;
        let mut targets = vec![String::new(), format!(" {}", crate::support::DATABASE)];
        targets.extend((1..=SHARDS).map(|s| format!(" SHARD {s}")));
        targets.extend((1..=3).map(|n| format!(" NODE node{n}")));
        for target in targets {
            // Most are not paused.
            let _ = c.client.batch_execute(&format!("RESUME{target}")).await;
        }
        let since = Instant::now();
        loop {
            let ids = c.column("SHOW MOVES", "move_id").await;
            let states = c.column("SHOW MOVES", "state").await;
            for (id, _) in ids.iter().zip(&states).filter(|(_, s)| *s == State::Soaking.name()) {
                // Refused while its rollback is under way.
                let _ = c.client.batch_execute(&format!("FINISH MOVE {id}")).await;
            }
            if states.iter().all(|s| s == State::Done.name() || s == State::Failed.name()) {
                break;
            }
            let late = since.elapsed() > 2 * PATIENCE;
            assert!(!late, "seed {seed}: moves do not end: {}", self.told(&c).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let case = format!("seed {seed}: {}", self.told(&c).await);
        let errors = c.column("SHOW MOVES", "error").await;
        let states = c.column("SHOW MOVES", "state").await;
        for (state, error) in states.iter().zip(&errors) {
            let reason = state == State::Done.name() || !error.is_empty();
            assert!(reason, "a failed move has a reason: {case}");
            assert!(!error.contains("does not exist"), "{error}: {case}");
        }
        self.traffic.flows(&case).await;
        self.traffic.compare(&self.nodes, &case).await;
        assert_tidy(&self.nodes, &case).await;
    }

    async fn told(&self, console: &Console) -> String {
        let mut all = self.story.join("\n");
        for line in console.lines("SHOW MOVES").await {
            let said = line.iter().filter_map(|(n, v)| v.as_ref().map(|v| format!("{n}={v}")));
            all += &format!("\n{}", said.collect::<Vec<_>>().join(" "));
        }
        format!("{all}\n{}", self.home.said())
    }
}

/// What clients may be told when the pgshunt they are connected to dies.
const TOLD: &[&str] = &["connection closed", "connecting to", "(08006)"];

#[tokio::test]
async fn commands_in_any_order_and_number_lose_no_shard_and_close_no_gate() {
    let (first, count): (u64, u64) = match std::env::var("PGSHUNT_COMMANDS") {
        Ok(given) => {
            let (first, count) = given.split_once(':').expect("<first seed>:<how many>");
            (first.parse().expect("a seed"), count.parse().expect("a count"))
        }
        Err(_) => (rand::rng().random_range(0..1 << 40), 2),
    };
    let mut storm = Storm::start().await;
    for seed in first..first + count {
        let since = Instant::now();
        storm.random = StdRng::seed_from_u64(seed);
        storm.story.clear();
        for _ in 0..12 {
            storm.blow().await;
        }
        storm.settle(seed).await;
        let said = storm.story.len();
        eprintln!("seed {seed}: {said} commands and crashes in {:?}", since.elapsed());
    }
    let moves = connect(storm.nodes.nodes[0].port()).await;
    let moves: i64 = value(&moves, "SELECT count(*) FROM pgshunt.moves").await;
    eprintln!("{count} seeds, {moves} moves");
    let mut errors = storm.traffic.end(&storm.nodes, "at the end").await;
    errors.retain(|e| !TOLD.iter().any(|t| e.contains(t)));
    assert_eq!(errors, Vec::<String>::new());
}
