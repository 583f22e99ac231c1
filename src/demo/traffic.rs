//! Clients that write, read and count without pause, and write down what they were promised.
//!
//! Each has one connection and rows of its own, some statements by the simple protocol and some
//! prepared, as applications do. It knows nothing of shards, except that it keeps the two rows of a
//! transaction in one: `hash(id)` tells which ids go together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::{Client, Config as PgConfig, NoTls, SimpleQueryMessage, Statement};

use super::latency::{Latencies, Part};
use super::ledger::Ledger;
use crate::hash::KeyValue;

pub const TABLE: &str = "part_hash_test";

/// Between two statements of one client. Without a pause the figures would show how long a queue
/// for two cores is, and nothing else.
const PAUSE: Duration = Duration::from_millis(2);

/// What all clients share.
#[derive(Debug, Default)]
pub struct Progress {
    stop: AtomicBool,
    part: AtomicU8,
    /// Rows that are certainly there, and rows that may be: a count lies between.
    rows_acknowledged: AtomicI64,
    rows_sent: AtomicI64,
}

impl Progress {
    /// `rows` are there before the first client starts.
    pub fn new(rows: i64) -> Arc<Self> {
        let progress = Self::default();
        progress.rows_acknowledged.store(rows, Ordering::SeqCst);
        progress.rows_sent.store(rows, Ordering::SeqCst);
        Arc::new(progress)
    }

    /// Statements that begin from now on belong to `part`.
    pub fn enter(&self, part: Part) {
        self.part.store(part as u8, Ordering::SeqCst);
    }

    /// Each client ends after the statement or transaction it is in.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    fn part(&self) -> Part {
        match self.part.load(Ordering::Relaxed) {
            0 => Part::Before,
            1 => Part::Moving,
            _ => Part::After,
        }
    }
}

/// What one client has to tell at the end.
#[derive(Debug, Default)]
pub struct Outcome {
    pub ledger: Ledger,
    pub latencies: Latencies,
    pub statements: u64,
    pub errors: u64,
    /// The first few of them in words.
    pub messages: Vec<String>,
}

impl Outcome {
    fn error(&mut self, message: String) {
        self.errors += 1;
        if self.messages.len() < 5 {
            self.messages.push(message);
        }
    }
}

/// Which shard of `count` PostgreSQL puts the row in.
pub fn shard_of(id: i32, count: u64) -> u64 {
    KeyValue::Int(i64::from(id)).row_hash() % count
}

/// The statements of one client are prepared once per connection.
struct Session {
    client: Client,
    read: Statement,
    add: Statement,
}

impl Session {
    async fn open(config: &PgConfig) -> Result<Self, tokio_postgres::Error> {
        #[expect(clippy::disallowed_methods, reason = "a client's connection, to pgshunt")]
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // How it ends shows in the client's next call.
            let _ = connection.await;
        });
        let read = client.prepare(&format!("SELECT payload FROM {TABLE} WHERE id = $1")).await?;
        let add = client
            .prepare(&format!("UPDATE {TABLE} SET payload = payload + 1 WHERE id = $1"))
            .await?;
        Ok(Self { client, read, add })
    }
}

/// One client, from its first statement to the end of [`Progress::stop`].
pub struct Worker {
    config: PgConfig,
    progress: Arc<Progress>,
    random: StdRng,
    outcome: Outcome,
    /// Own rows by shard, so that a transaction finds two that live together.
    rows: Vec<Vec<i32>>,
    next_id: i32,
    step: i32,
}

/// An error of the server, or an answer that cannot be true.
enum Failure {
    Postgres(tokio_postgres::Error),
    Wrong(String),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl Worker {
    /// The `number`th of `count` clients. It owns `rows`, which are there with payload 0, and makes
    /// new ones from `first_free` on.
    pub fn new(
        config: PgConfig,
        progress: Arc<Progress>,
        number: i32,
        count: i32,
        first_free: i32,
        rows: impl IntoIterator<Item = i32>,
        shards: u64,
    ) -> Self {
        let mut worker = Self {
            config,
            progress,
            random: StdRng::seed_from_u64(number as u64),
            outcome: Outcome::default(),
            rows: vec![Vec::new(); usize::try_from(shards).unwrap_or(1)],
            next_id: first_free + number,
            step: count,
        };
        for id in rows {
            worker.outcome.ledger.given(id);
            worker.own(id);
        }
        worker
    }

    pub async fn run(mut self) -> Outcome {
        let mut session = None;
        while !self.progress.stop.load(Ordering::SeqCst) {
            let open = match session.take() {
                Some(open) => open,
                None => match Session::open(&self.config).await {
                    Ok(open) => open,
                    Err(e) => {
                        self.outcome.error(format!("connecting: {}", words(&e)));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            if let Err(failure) = self.one_step(&open).await {
                self.outcome.error(match failure {
                    Failure::Postgres(e) => words(&e),
                    Failure::Wrong(message) => message,
                });
            }
            if !open.client.is_closed() {
                session = Some(open);
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.outcome
    }

    async fn one_step(&mut self, session: &Session) -> Result<(), Failure> {
        match self.random.random_range(0..100) {
            0..25 => self.insert(session).await,
            25..55 => self.update(session).await,
            55..85 => self.read(session).await,
            85..97 => self.transaction(session).await,
            _ => self.count(session).await,
        }
    }

    async fn insert(&mut self, session: &Session) -> Result<(), Failure> {
        let id = self.next_id;
        self.next_id += self.step;
        self.progress.rows_sent.fetch_add(1, Ordering::SeqCst);
        let sql = format!("INSERT INTO {TABLE} (id, payload) VALUES ({id}, 0)");
        match self.timed(session.client.simple_query(&sql)).await {
            Ok(answer) => {
                self.outcome.ledger.inserted(id);
                self.progress.rows_acknowledged.fetch_add(1, Ordering::SeqCst);
                self.own(id);
                expect_one(affected(&answer), "INSERT of", id)
            }
            Err(e) => {
                self.outcome.ledger.insert_unanswered(id);
                Err(e.into())
            }
        }
    }

    async fn update(&mut self, session: &Session) -> Result<(), Failure> {
        let Some((id, _)) = self.two_rows() else { return Ok(()) };
        let count = self.timed(session.client.execute(&session.add, &[&id])).await;
        match count {
            Ok(1) => {
                self.outcome.ledger.added(id);
                Ok(())
            }
            Ok(n) => expect_one(n, "UPDATE of", id),
            Err(e) => {
                self.outcome.ledger.add_unanswered(id);
                Err(e.into())
            }
        }
    }

    async fn read(&mut self, session: &Session) -> Result<(), Failure> {
        let Some((id, _)) = self.two_rows() else { return Ok(()) };
        let rows = self.timed(session.client.query(&session.read, &[&id])).await?;
        let payload = match rows.as_slice() {
            [row] => row.try_get::<_, f32>(0)?,
            rows => return Err(Failure::Wrong(format!("row {id} was read {} times", rows.len()))),
        };
        if self.outcome.ledger.allows(id, payload) {
            Ok(())
        } else {
            Err(Failure::Wrong(format!("row {id} was read as {payload}, which it is not")))
        }
    }

    /// Adds one to two rows of one shard: both or neither.
    async fn transaction(&mut self, session: &Session) -> Result<(), Failure> {
        let Some((a, b)) = self.two_rows() else { return Ok(()) };
        let client = &session.client;
        let mut wrong = None;
        let inside = async {
            self.timed(client.batch_execute("BEGIN")).await?;
            for id in [a, b] {
                let count = self.timed(client.execute(&session.add, &[&id])).await?;
                if count != 1 {
                    wrong = Some(expect_one(count, "UPDATE of", id));
                }
            }
            Ok::<(), tokio_postgres::Error>(())
        }
        .await;
        if inside.is_err() || wrong.is_some() {
            // Nothing was committed, whether or not the ROLLBACK arrives.
            let _ = client.batch_execute("ROLLBACK").await;
            inside?;
            return wrong.unwrap_or(Ok(()));
        }
        let committed = self.timed(client.batch_execute("COMMIT")).await;
        for id in [a, b] {
            match committed {
                Ok(()) => self.outcome.ledger.added(id),
                Err(_) => self.outcome.ledger.add_unanswered(id),
            }
        }
        Ok(committed?)
    }

    /// Over all nodes: every acknowledged row is counted, and none twice.
    async fn count(&mut self, session: &Session) -> Result<(), Failure> {
        let least = self.progress.rows_acknowledged.load(Ordering::SeqCst);
        let sql = format!("SELECT count(*) FROM {TABLE}");
        let row = self.timed(session.client.query_one(&sql, &[])).await?;
        let count: i64 = row.try_get(0)?;
        let most = self.progress.rows_sent.load(Ordering::SeqCst);
        if (least..=most).contains(&count) {
            Ok(())
        } else {
            Err(Failure::Wrong(format!("count(*) said {count}, true is {least} to {most}")))
        }
    }

    async fn timed<T>(&mut self, statement: impl Future<Output = T>) -> T {
        let part = self.progress.part();
        let start = Instant::now();
        let answer = statement.await;
        self.outcome.latencies.record(part, start.elapsed());
        self.outcome.statements += 1;
        answer
    }

    fn own(&mut self, id: i32) {
        let shard = shard_of(id, self.rows.len() as u64) as usize;
        if let Some(rows) = self.rows.get_mut(shard) {
            rows.push(id);
        }
    }

    /// Two different rows of one shard, if there are any.
    fn two_rows(&mut self) -> Option<(i32, i32)> {
        let shard = self.random.random_range(0..self.rows.len());
        let rows = self.rows.get(shard).filter(|r| r.len() > 1)?;
        let first = self.random.random_range(0..rows.len());
        let other = (first + self.random.random_range(1..rows.len())) % rows.len();
        // In one order, so that two transactions never wait for each other.
        let (a, b) = (*rows.get(first)?, *rows.get(other)?);
        Some((a.min(b), a.max(b)))
    }
}

fn affected(answer: &[SimpleQueryMessage]) -> u64 {
    answer
        .iter()
        .find_map(|m| match m {
            SimpleQueryMessage::CommandComplete(n) => Some(*n),
            _ => None,
        })
        .unwrap_or(0)
}

fn expect_one(count: u64, what: &str, id: i32) -> Result<(), Failure> {
    match count {
        1 => Ok(()),
        n => Err(Failure::Wrong(format!("{what} row {id} affected {n} rows"))),
    }
}

/// The server's message with its SQLSTATE; tokio-postgres alone says "db error".
pub fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(e) => format!("{} ({})", e.message(), e.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}
