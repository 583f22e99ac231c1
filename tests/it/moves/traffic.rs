//! Clients of pgshunt that write, read and count without pause and know what must be there.
//!
//! Every writer has rows of its own and one connection, so what it was answered is exactly what any
//! later answer must show: a read of its row, and a count and a sum over all nodes. It speaks both
//! protocols, pipelines, and writes two rows in one transaction. A write without an answer may have
//! happened or not; its row is left alone from then on, and may be either in the end.
//!
//! They run on a thread of their own, as applications do, and not on the control runtime.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future;
use pgshunt::hash::KeyValue;
use tokio::sync::RwLock;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::promises::{Doubt, Ledger, judge, rows};
use crate::support::{DATABASE, LocalCluster, PASSWORD, PATIENCE, SUPERUSER, connect_as};

/// The table they use. `owner` tells the writers' rows apart.
pub const TABLE: &str = "CREATE TABLE accounts (id int NOT NULL, owner int NOT NULL, \
     v int NOT NULL DEFAULT 0, note text, PRIMARY KEY (id)) PARTITION BY HASH (id)";
pub const SHARDS: i32 = 4;

/// The shard (counted from 1, as a first group's are) that PostgreSQL puts `id` in.
pub fn shard_of(id: i32) -> i32 {
    (KeyValue::Int(i64::from(id)).row_hash() % SHARDS as u64) as i32 + 1
}

/// The first ids from `from` on that are in this shard.
pub fn ids_in(shard: i32, from: i32) -> impl Iterator<Item = i32> {
    (from..).filter(move |&id| shard_of(id) == shard)
}

#[derive(Debug, Clone)]
pub struct Load {
    pub writers: i32,
    /// Between two operations of one writer.
    pub pause: Duration,
    /// The shards they use; all if empty.
    pub shards: Vec<i32>,
    /// Errors are expected (pgshunt or a node dies): the writer connects again and goes on.
    pub bears_errors: bool,
    /// Whether they count over all nodes, which waits for every move.
    pub gathers: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            writers: 8,
            pause: Duration::from_millis(2),
            shards: Vec::new(),
            bears_errors: false,
            gathers: true,
        }
    }
}

/// What the writers share with whoever watches them.
#[derive(Default)]
pub struct Seen {
    stop: AtomicBool,
    port: AtomicU64,
    pub statements: AtomicU64,
    pub writes: AtomicU64,
    pub gathers: AtomicU64,
    errors: Mutex<Vec<String>>,
    /// Held for reading by every operation, for writing by whoever compares.
    quiet: RwLock<()>,
    /// Each operation's time, in microseconds.
    times: Mutex<Vec<u32>>,
    ledgers: Mutex<BTreeMap<i32, Ledger>>,
}

pub struct Traffic {
    bears_errors: bool,
    pub seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Clients of the pgshunt at `port`.
    pub fn start(port: u16, load: Load) -> Self {
        let seen = Arc::new(Seen::default());
        seen.port.store(port.into(), Ordering::SeqCst);
        let (shared, bears_errors) = (seen.clone(), load.bears_errors);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let writers = (0..load.writers).map(|n| {
                    let writer = Writer {
                        owner: n,
                        step: load.writers,
                        next: n + 1,
                        turn: n as usize,
                        load: load.clone(),
                        seen: shared.clone(),
                        ledger: Ledger::default(),
                    };
                    tokio::spawn(writer.run())
                });
                for ended in future::join_all(writers).await {
                    if let Err(e) = ended {
                        shared.note(format!("a writer ended: {e}"));
                    }
                }
            });
        });
        Self { bears_errors, seen, thread: Some(thread) }
    }

    /// Another pgshunt took the place of the one that died.
    pub fn go_to(&self, port: u16) {
        self.seen.port.store(port.into(), Ordering::SeqCst);
    }

    pub fn errors(&self) -> Vec<String> {
        self.seen.errors.lock().unwrap().clone()
    }

    /// Operations so far; more of them show that traffic flows.
    pub fn statements(&self) -> u64 {
        self.seen.statements.load(Ordering::SeqCst)
    }

    /// Until each of the writers has had its turn some times.
    pub async fn flows(&self, what: &str) {
        let enough = self.statements() + 100;
        crate::support::wait_for(&format!("traffic {what}"), || async {
            assert!(self.bears_errors || self.errors().is_empty(), "{what}: {:?}", self.errors());
            (self.statements() >= enough).then_some(())
        })
        .await;
    }

    /// How long operations took since the last call, in microseconds, ascending.
    pub fn take_times(&self) -> Vec<u32> {
        let mut times = std::mem::take(&mut *self.seen.times.lock().unwrap());
        times.sort_unstable();
        times
    }

    /// Holds the writers for an instant and compares what is on the nodes with what they know.
    pub async fn compare(&self, nodes: &LocalCluster, case: &str) {
        let _nobody_writes = self.seen.quiet.write().await;
        let ledgers = self.seen.ledgers.lock().unwrap().clone();
        assert!(!ledgers.is_empty(), "{case}: nobody wrote");
        judge(&ledgers, rows(nodes).await, case);
    }

    /// Ends the writers and compares; the errors they met are the answer.
    pub async fn end(mut self, nodes: &LocalCluster, case: &str) -> Vec<String> {
        self.seen.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("it runs until it is ended");
        tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
        self.compare(nodes, case).await;
        self.errors()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::SeqCst);
    }
}

impl Seen {
    fn note(&self, error: String) {
        let mut errors = self.errors.lock().unwrap();
        if errors.len() < 200 {
            errors.push(error);
        }
    }
}

/// A connection with its prepared statements.
struct Session {
    client: Client,
    insert: Statement,
    add: Statement,
    delete: Statement,
    read: Statement,
    sums: Statement,
}

impl Session {
    async fn open(port: u16) -> Result<Self, tokio_postgres::Error> {
        let client = connect_as(port, DATABASE, SUPERUSER, PASSWORD).await?;
        let sums = "SELECT count(*), sum(v) FROM accounts WHERE owner = $1";
        Ok(Self {
            insert: client
                .prepare("INSERT INTO accounts (id, owner, v) VALUES ($1, $2, 0)")
                .await?,
            add: client.prepare("UPDATE accounts SET v = v + 1 WHERE id = $1").await?,
            delete: client.prepare("DELETE FROM accounts WHERE id = $1").await?,
            read: client.prepare("SELECT v::bigint FROM accounts WHERE id = $1").await?,
            sums: client.prepare(sums).await?,
            client,
        })
    }
}

enum Wrong {
    Postgres(tokio_postgres::Error),
    /// An answer that cannot be true: never borne.
    Answer(String),
}

impl From<tokio_postgres::Error> for Wrong {
    fn from(e: tokio_postgres::Error) -> Self {
        Self::Postgres(e)
    }
}

fn one(n: u64, what: &str, id: i32) -> Result<(), Wrong> {
    if n == 1 { Ok(()) } else { Err(Wrong::Answer(format!("{what} {id} affected {n} rows"))) }
}

fn affected(answer: &[SimpleQueryMessage]) -> u64 {
    let done = answer.iter().find_map(|m| match m {
        SimpleQueryMessage::CommandComplete(n) => Some(*n),
        _ => None,
    });
    done.unwrap_or(0)
}

struct Writer {
    owner: i32,
    step: i32,
    next: i32,
    turn: usize,
    load: Load,
    seen: Arc<Seen>,
    ledger: Ledger,
}

impl Writer {
    async fn run(mut self) {
        let mut session = None;
        let mut broken_since: Option<Instant> = None;
        while !self.seen.stop.load(Ordering::SeqCst) {
            let port = self.seen.port.load(Ordering::SeqCst) as u16;
            let open = match session.take() {
                Some(open) => open,
                None => match Session::open(port).await {
                    Ok(open) => open,
                    Err(e) => {
                        let since = *broken_since.get_or_insert_with(Instant::now);
                        if !self.load.bears_errors || since.elapsed() > PATIENCE {
                            self.seen.note(format!("connecting to {port}: {}", words(&e)));
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
            };
            let seen = self.seen.clone();
            let not_compared = seen.quiet.read().await;
            let since = Instant::now();
            let done = self.step(&open).await;
            seen.ledgers.lock().unwrap().insert(self.owner, self.ledger.clone());
            let done_well = done.is_ok();
            match done {
                Ok(()) => {
                    broken_since = None;
                    let mut times = seen.times.lock().unwrap();
                    times.push(since.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
                }
                Err(Wrong::Answer(e)) => {
                    seen.note(format!("WRONG: {e}"));
                    return;
                }
                Err(Wrong::Postgres(e)) => {
                    seen.note(format!("{} (turn {})", words(&e), self.turn % 64));
                    if !self.load.bears_errors {
                        return;
                    }
                }
            }
            seen.statements.fetch_add(1, Ordering::SeqCst);
            // A transaction that failed half-way ends here; outside of one nothing happens.
            let usable = match done_well {
                true => true,
                false => open.client.batch_execute("ROLLBACK").await.is_ok(),
            };
            if usable && !open.client.is_closed() {
                session = Some(open);
            }
            drop(not_compared);
            tokio::time::sleep(self.load.pause).await;
        }
    }

    async fn step(&mut self, s: &Session) -> Result<(), Wrong> {
        self.turn += 1;
        if self.ledger.certain.len() < 8 {
            return self.insert(s, self.turn.is_multiple_of(2)).await;
        }
        match self.turn % 16 {
            0 | 4 => self.insert(s, self.turn.is_multiple_of(8)).await,
            1 | 9 => self.update(s, self.turn % 16 == 1).await,
            2 | 10 | 13 => self.read(s).await,
            3 => self.transaction(s).await,
            11 => self.transaction_in_one_text(s).await,
            5 => self.transaction_pipelined(s).await,
            6 | 12 => self.pipelined(s).await,
            7 => self.delete(s, self.turn % 32 == 7).await,
            _ if !self.load.gathers => self.read(s).await,
            _ => self.sums(s, self.turn % 16 == 8).await,
        }
    }

    fn id(&self, n: usize) -> i32 {
        let len = self.ledger.certain.len();
        *self.ledger.certain.keys().nth((self.turn * 7 + n) % len).expect("it is within")
    }

    /// Two rows of one shard.
    fn two(&self) -> Option<(i32, i32)> {
        let a = self.id(0);
        let other = |b: &&i32| **b != a && shard_of(**b) == shard_of(a);
        let b = *self.ledger.certain.keys().rev().find(other)?;
        Some((a.min(b), a.max(b)))
    }

    /// From now on this is in doubt; [`Writer::sure`] when the answer is there.
    fn sent(&mut self, changes: &[(i32, Option<i64>)]) {
        let rows = changes
            .iter()
            .map(|(id, after)| (*id, self.ledger.certain.remove(id), *after))
            .collect();
        self.ledger.doubtful.push(Doubt { rows });
    }

    fn sure(&mut self) {
        let doubt = self.ledger.doubtful.pop().expect("something was sent");
        for (id, _, after) in doubt.rows {
            if let Some(v) = after {
                self.ledger.certain.insert(id, v);
            }
        }
        self.seen.writes.fetch_add(1, Ordering::SeqCst);
    }

    /// The transaction was certainly rolled back.
    fn undone(&mut self) {
        let doubt = self.ledger.doubtful.pop().expect("something was sent");
        for (id, before, _) in doubt.rows {
            if let Some(v) = before {
                self.ledger.certain.insert(id, v);
            }
        }
    }

    fn value(&self, id: i32) -> i64 {
        self.ledger.certain.get(&id).copied().unwrap_or(0)
    }

    async fn insert(&mut self, s: &Session, simple: bool) -> Result<(), Wrong> {
        while !self.load.shards.is_empty() && !self.load.shards.contains(&shard_of(self.next)) {
            self.next += self.step;
        }
        let (id, owner) = (self.next, self.owner);
        self.next += self.step;
        self.sent(&[(id, Some(0))]);
        let n = if simple {
            let sql = format!("INSERT INTO accounts (id, owner) VALUES ({id}, {owner})");
            affected(&s.client.simple_query(&sql).await?)
        } else {
            s.client.execute(&s.insert, &[&id, &owner]).await?
        };
        one(n, "INSERT", id)?;
        self.sure();
        Ok(())
    }

    async fn update(&mut self, s: &Session, simple: bool) -> Result<(), Wrong> {
        let id = self.id(0);
        self.sent(&[(id, Some(self.value(id) + 1))]);
        let n = if simple {
            let sql = format!("UPDATE accounts SET v = v + 1 WHERE id = {id}");
            affected(&s.client.simple_query(&sql).await?)
        } else {
            s.client.execute(&s.add, &[&id]).await?
        };
        one(n, "UPDATE", id)?;
        self.sure();
        Ok(())
    }

    async fn delete(&mut self, s: &Session, simple: bool) -> Result<(), Wrong> {
        let id = self.id(0);
        self.sent(&[(id, None)]);
        let n = if simple {
            let sql = format!("DELETE FROM accounts WHERE id = {id}");
            affected(&s.client.simple_query(&sql).await?)
        } else {
            s.client.execute(&s.delete, &[&id]).await?
        };
        one(n, "DELETE", id)?;
        self.sure();
        Ok(())
    }

    async fn read(&mut self, s: &Session) -> Result<(), Wrong> {
        let id = self.id(0);
        let rows = s.client.query(&s.read, &[&id]).await?;
        let is: Vec<i64> = rows.iter().map(|r| r.get(0)).collect();
        self.expect(id, &is, self.value(id))
    }

    fn expect(&self, id: i32, is: &[i64], should: i64) -> Result<(), Wrong> {
        if is == [should] {
            return Ok(());
        }
        Err(Wrong::Answer(format!("row {id} was read as {is:?}, it is {should}")))
    }

    /// One write each: BEGIN, two updates, COMMIT.
    async fn transaction(&mut self, s: &Session) -> Result<(), Wrong> {
        let Some((a, b)) = self.two() else { return Ok(()) };
        self.sent(&[(a, Some(self.value(a) + 1)), (b, Some(self.value(b) + 1))]);
        s.client.batch_execute("BEGIN").await?;
        one(s.client.execute(&s.add, &[&a]).await?, "first UPDATE", a)?;
        let sql = format!("UPDATE accounts SET v = v + 1 WHERE id = {b}");
        one(affected(&s.client.simple_query(&sql).await?), "second UPDATE", b)?;
        s.client.batch_execute("COMMIT").await?;
        self.sure();
        Ok(())
    }

    async fn transaction_in_one_text(&mut self, s: &Session) -> Result<(), Wrong> {
        let id = self.id(0);
        self.sent(&[(id, Some(self.value(id) + 2))]);
        let one_of = format!("UPDATE accounts SET v = v + 1 WHERE id = {id}");
        s.client.batch_execute(&format!("BEGIN; {one_of}; {one_of}; COMMIT")).await?;
        self.sure();
        Ok(())
    }

    /// All of it on its way before the first answer; every fourth is rolled back.
    async fn transaction_pipelined(&mut self, s: &Session) -> Result<(), Wrong> {
        let Some((a, b)) = self.two() else { return Ok(()) };
        let end = if self.turn % 64 == 5 { "ROLLBACK" } else { "COMMIT" };
        self.sent(&[(a, Some(self.value(a) + 1)), (b, Some(self.value(b) + 1))]);
        let (begun, first, second, ended) = future::join4(
            s.client.batch_execute("BEGIN"),
            s.client.execute(&s.add, &[&a]),
            s.client.execute(&s.add, &[&b]),
            s.client.batch_execute(end),
        )
        .await;
        begun?;
        one(first?, "first UPDATE", a)?;
        one(second?, "second UPDATE", b)?;
        ended?;
        if end == "COMMIT" {
            self.sure()
        } else {
            self.undone()
        }
        Ok(())
    }

    /// Two writes to any shards and a read between them, sent together.
    async fn pipelined(&mut self, s: &Session) -> Result<(), Wrong> {
        let (a, b) = (self.id(0), self.id(3));
        if a == b {
            return Ok(());
        }
        let (va, vb) = (self.value(a) + 1, self.value(b) + 1);
        self.sent(&[(a, Some(va))]);
        self.sent(&[(b, Some(vb))]);
        let (first, read, second) = future::join3(
            s.client.execute(&s.add, &[&a]),
            s.client.query(&s.read, &[&a]),
            s.client.execute(&s.add, &[&b]),
        )
        .await;
        one(second?, "UPDATE", b)?;
        self.sure();
        one(first?, "UPDATE", a)?;
        self.sure();
        let is: Vec<i64> = read?.iter().map(|r| r.get(0)).collect();
        self.expect(a, &is, va)
    }

    /// Over all nodes, and exact: nobody else writes these rows.
    async fn sums(&mut self, s: &Session, simple: bool) -> Result<(), Wrong> {
        let owner = self.owner;
        let (count, sum) = if simple {
            let sql = format!("SELECT count(*), sum(v) FROM accounts WHERE owner = {owner}");
            let answer = s.client.simple_query(&sql).await?;
            let row = answer.iter().find_map(|m| match m {
                SimpleQueryMessage::Row(r) => Some(r),
                _ => None,
            });
            let number = |i| row.and_then(|r| r.get(i)).and_then(|t| t.parse::<i64>().ok());
            (number(0).unwrap_or(-1), number(1).unwrap_or(0))
        } else {
            let row = s.client.query_one(&s.sums, &[&owner]).await?;
            (row.get(0), row.get::<_, Option<i64>>(1).unwrap_or(0))
        };
        self.seen.gathers.fetch_add(1, Ordering::SeqCst);
        let rows = self.ledger.certain.len() as i64;
        let total: i64 = self.ledger.certain.values().sum();
        let doubted = self.ledger.doubtful.iter().flat_map(|d| &d.rows);
        let (mut most, mut most_total) = (rows, total);
        for (_, before, after) in doubted {
            most += i64::from(before.is_some() || after.is_some());
            most_total += before.unwrap_or(0).max(after.unwrap_or(0));
        }
        if (rows..=most).contains(&count) && (total..=most_total).contains(&sum) {
            return Ok(());
        }
        Err(Wrong::Answer(format!(
            "counted {count} rows with a sum of {sum}; there are {rows} to {most} with {total} to {most_total}"
        )))
    }
}

/// The server's message with its SQLSTATE; tokio-postgres alone says "db error".
fn words(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!(
            "{} ({}){}",
            db.message(),
            db.code().code(),
            db.hint().map(|h| format!(" hint: {h}")).unwrap_or_default()
        ),
        None => match std::error::Error::source(e) {
            Some(source) => format!("{e}: {source}"),
            None => e.to_string(),
        },
    }
}
