//! Moves, and whatever may happen to them, in any order: pgshunt killed or ended, nodes killed or
//! hanging, moves rolled back, cancelled and finished, under traffic. Seeded: the seed is printed, and
//! `PGSHUNT_CHAOS=<seed>:<seconds>` runs another one, or longer.

use std::time::{Duration, Instant};

use pgshunt::local::LocalCluster;
use pgshunt::moves::State;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::child::{Home, Served};
use super::scene::{assert_tidy, make_table};
use super::traffic::{Load, SHARDS, Traffic};
use crate::support::{Console, PATIENCE, connect};

struct Chaos {
    nodes: LocalCluster,
    home: Home,
    served: Served,
    console: Console,
    traffic: Traffic,
    random: StdRng,
    /// What was done, for whoever reads of a failure.
    story: Vec<String>,
}

impl Chaos {
    async fn start(seed: u64) -> Self {
        let nodes = tokio::task::spawn_blocking(|| LocalCluster::start(3)).await.unwrap().unwrap();
        let home = Home::new(&nodes.config);
        let served = Served::start(&home, None).await;
        let console = Console::open(served.port, "pgshunt").await;
        make_table(&console, &connect(served.port).await).await;
        let load = Load {
            writers: 4,
            pause: Duration::from_millis(4),
            bears_errors: true,
            ..Load::default()
        };
        let traffic = Traffic::start(served.port, load);
        let random = StdRng::seed_from_u64(seed);
        Self { nodes, home, served, console, traffic, random, story: Vec::new() }
    }

    fn tell(&mut self, line: String) {
        eprintln!("{line}");
        self.story.push(line);
    }

    /// Says it to the console; that it makes no sense now is no failure.
    async fn say(&mut self, command: String) {
        let answer = self.console.client.batch_execute(&command).await;
        let answer = match &answer {
            Ok(()) => "ok".to_owned(),
            Err(e) => e.as_db_error().map_or_else(|| e.to_string(), |db| db.message().to_owned()),
        };
        self.tell(format!("{command}: {answer}"));
    }

    async fn renew(&mut self) {
        self.served = Served::start(&self.home, None).await;
        self.traffic.go_to(self.served.port);
        self.console = Console::open(self.served.port, "pgshunt").await;
    }

    async fn blow(&mut self) {
        let node = self.random.random_range(0..self.nodes.nodes.len());
        let name = self.nodes.nodes[node].name().to_owned();
        match self.random.random_range(0..100) {
            0..45 => {
                let shard = self.random.random_range(1..=SHARDS);
                self.say(format!("MOVE SHARD {shard} TO {name} NOWAIT")).await;
            }
            45..58 => self.say("ROLLBACK MOVE NOWAIT".into()).await,
            58..66 => self.say("CANCEL MOVE".into()).await,
            66..76 => self.say("FINISH MOVE".into()).await,
            76..84 => {
                self.tell("pgshunt is killed".into());
                self.served.kill();
                self.renew().await;
            }
            84..88 => {
                self.tell("pgshunt is asked to end".into());
                self.served.end().await;
                self.renew().await;
            }
            88..95 => {
                self.tell(format!("{name} is killed"));
                self.nodes.nodes[node].kill().unwrap();
                self.breathe(300).await;
                self.nodes.nodes[node].restart().unwrap();
            }
            _ => {
                self.tell(format!("{name} hangs"));
                self.nodes.nodes[node].freeze();
                self.breathe(1500).await;
                self.nodes.nodes[node].thaw();
            }
        }
    }

    /// Time passes between two blows.
    async fn breathe(&mut self, most: u64) {
        let ms = self.random.random_range(0..most);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Lets all moves come to their end, and looks at what is there.
    async fn settle(&mut self) {
        let since = Instant::now();
        loop {
            assert!(since.elapsed() < 2 * PATIENCE, "moves do not end: {}", self.told().await);
            let ids = self.console.column("SHOW MOVES", "move_id").await;
            let states = self.console.column("SHOW MOVES", "state").await;
            let mut over = true;
            for (id, state) in ids.iter().zip(&states) {
                over &= [State::Done, State::Failed].iter().any(|s| s.name() == state);
                if state == State::Soaking.name() {
                    self.say(format!("FINISH MOVE {id}")).await;
                }
            }
            if over {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.traffic.flows("when all is quiet").await;
        let case = self.told().await;
        self.traffic.compare(&self.nodes, &case).await;
        assert_tidy(&self.nodes, &case).await;
    }

    async fn told(&self) -> String {
        let mut all = self.story.join("\n");
        for line in self.console.lines("SHOW MOVES").await {
            let said = line.iter().filter_map(|(n, v)| v.as_ref().map(|v| format!("{n}={v}")));
            all += &format!("\n{}", said.collect::<Vec<_>>().join(" "));
        }
        format!("{all}\n{}", self.home.said())
    }
}

/// What clients may be told when what they are connected to dies or hangs.
const TOLD: &[&str] = &["connection closed", "connecting to", "(08006)", "(57P0", "(53300)"];

async fn storm(seed: u64, time: Duration) {
    eprintln!("chaos with seed {seed}");
    let mut chaos = Chaos::start(seed).await;
    let since = Instant::now();
    let mut rounds = 0;
    while since.elapsed() < time {
        for _ in 0..12 {
            chaos.blow().await;
            chaos.breathe(400).await;
        }
        chaos.settle().await;
        rounds += 1;
        chaos.story.clear();
    }
    let moves = chaos.console.column("SHOW MOVES", "state").await;
    let done = moves.iter().filter(|s| *s == State::Done.name()).count();
    eprintln!("{rounds} rounds, {} moves, {done} of them done", moves.len());
    let mut errors = chaos.traffic.end(&chaos.nodes, "at the end").await;
    errors.retain(|e| !TOLD.iter().any(|t| e.contains(t)));
    assert_eq!(errors, Vec::<String>::new());
}

#[tokio::test]
async fn whatever_happens_nothing_is_lost_and_nothing_left_over() {
    let (seed, seconds) = match std::env::var("PGSHUNT_CHAOS") {
        Ok(given) => {
            let (seed, seconds) = given.split_once(':').expect("<seed>:<seconds>");
            (seed.parse().expect("a seed"), seconds.parse().expect("seconds"))
        }
        Err(_) => (rand::rng().random(), 15),
    };
    storm(seed, Duration::from_secs(seconds)).await;
}
