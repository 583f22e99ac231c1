//! A small cluster made by plain SQL, and writers that keep a ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgshunt::backend::control::Connector;
use pgshunt::catalog::Store;
use pgshunt::gate::Gates;
use pgshunt::moves::{Mover, Progress, State};
use pgshunt::topology::{FENCE_SQLSTATE, MoveId, NodeId, ShardId};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::support::{self, DATABASE, LocalCluster, PATIENCE, connect, connect_as};

pub const SHARDS: i32 = 4;
/// Keys that writers use.
const KEYS: i32 = 4000;

pub struct World {
    pub cluster: LocalCluster,
    pub store: Arc<Store>,
    /// remainder of each key
    remainders: Arc<Vec<i32>>,
}

/// What each table of the test's group looks like, by name.
pub const ACCOUNTS: &str = "CREATE TABLE public.accounts (id int NOT NULL, v bigint NOT NULL DEFAULT 0, \
     note text, PRIMARY KEY (id)) PARTITION BY HASH (id); \
     CREATE INDEX accounts_v ON public.accounts (v)";
/// Colocated with `accounts`; its foreign key is made from leaf to leaf.
pub const ENTRIES: &str = "CREATE TABLE public.entries (id int NOT NULL, n int NOT NULL, \
     PRIMARY KEY (id, n)) PARTITION BY HASH (id)";
const ENTRIES_KEY: &str = "ALTER TABLE shard_{s}.entries ADD CONSTRAINT entries_id_fkey \
     FOREIGN KEY (id) REFERENCES shard_{s}.accounts (id)";

impl World {
    /// `nodes` servers and a group of the given tables, whose shards take turns on the first two.
    pub async fn new(nodes: usize, tables: &[(&str, &str)]) -> Self {
        let cluster = tokio::task::spawn_blocking(move || LocalCluster::start(nodes))
            .await
            .unwrap()
            .unwrap_or_else(|e| panic!("starting nodes: {e}"));
        let connector = Arc::new(Connector::new(&cluster.config));
        let store = Store::open(connector, &cluster.config.cluster.nodes).await.unwrap();
        for node in &cluster.nodes {
            let c = connect(node.port()).await;
            c.batch_execute("CREATE ROLE app LOGIN PASSWORD 'app'; CREATE ROLE reader LOGIN")
                .await
                .unwrap();
            for (name, ddl) in tables {
                c.batch_execute(ddl).await.unwrap();
                c.batch_execute(&format!(
                    "ALTER TABLE public.{name} OWNER TO app; GRANT SELECT ON public.{name} TO reader"
                ))
                .await
                .unwrap();
            }
        }
        let home = connect(cluster.nodes[0].port()).await;
        home.batch_execute(&format!(
            "INSERT INTO pgshunt.colocation_groups (key_types, shard_count) VALUES ('{{integer}}', {SHARDS});
             INSERT INTO pgshunt.shards (group_id, modulus, remainder) SELECT 1, {SHARDS}, r FROM generate_series(0, {SHARDS} - 1) r;
             INSERT INTO pgshunt.placements (shard_id, node_id, state, since) SELECT shard_id, 1 + remainder % 2, 'active', 1 FROM pgshunt.shards"
        ))
        .await
        .unwrap();
        for (name, _) in tables {
            home.execute(
                "INSERT INTO pgshunt.tables (group_id, schema_name, table_name, key_columns, column_names, column_types)
                 SELECT 1, 'public', $1, '{id}', array_agg(attname::text ORDER BY attnum), array_agg(atttypid ORDER BY attnum)
                 FROM pg_attribute WHERE attrelid = ('public.' || $1)::regclass AND attnum > 0",
                &[name],
            )
            .await
            .unwrap();
        }
        for s in 1..=SHARDS {
            let c = connect(cluster.nodes[((s - 1) % 2) as usize].port()).await;
            c.batch_execute(&format!(
                "CREATE SCHEMA shard_{s}; GRANT USAGE ON SCHEMA shard_{s} TO app, reader"
            ))
            .await
            .unwrap();
            for (name, _) in tables {
                c.batch_execute(&format!(
                    "CREATE TABLE shard_{s}.{name} PARTITION OF public.{name} FOR VALUES WITH (MODULUS {SHARDS}, REMAINDER {});
                     ALTER TABLE shard_{s}.{name} OWNER TO app; GRANT SELECT ON shard_{s}.{name} TO reader",
                    s - 1
                ))
                .await
                .unwrap();
            }
            if tables.iter().any(|(name, _)| *name == "entries") {
                c.batch_execute(&ENTRIES_KEY.replace("{s}", &s.to_string())).await.unwrap();
            }
        }
        store.reload().await.unwrap();
        let remainders = home
            .query(
                &format!(
                    "SELECT (SELECT r FROM generate_series(0, {SHARDS} - 1) r WHERE
                       satisfies_hash_partition('public.accounts'::regclass, {SHARDS}, r, k))
                     FROM generate_series(0, {KEYS} - 1) k ORDER BY k"
                ),
                &[],
            )
            .await
            .unwrap()
            .iter()
            .map(|r| r.get(0))
            .collect();
        Self { cluster, store: Arc::new(store), remainders: Arc::new(remainders) }
    }

    pub async fn accounts(nodes: usize) -> Self {
        Self::new(nodes, &[("accounts", ACCOUNTS)]).await
    }

    pub fn mover(&self) -> Arc<Mover> {
        self.mover_with(|_| {})
    }

    pub fn mover_with(&self, change: impl FnOnce(&mut pgshunt::config::Moves)) -> Arc<Mover> {
        let mut config = self.cluster.config.moves.clone();
        change(&mut config);
        Mover::new(self.store.clone(), Gates::new(vec![]), config)
    }

    pub async fn node(&self, id: NodeId) -> Client {
        connect(self.cluster.nodes[(id.0 - 1) as usize].port()).await
    }

    pub fn serves(&self, shard: i32) -> NodeId {
        self.store.routes().load().shard(ShardId(shard)).unwrap().node
    }

    /// Rows beside those of the writers, in every shard.
    pub async fn fill(&self, rows: i32) {
        for s in 1..=SHARDS {
            let c = self.node(self.serves(s)).await;
            c.batch_execute(&format!(
                "INSERT INTO shard_{s}.accounts SELECT k, 0, repeat('x', 20)
                 FROM generate_series(1000000, 1000000 + {rows}) k
                 WHERE satisfies_hash_partition('public.accounts'::regclass, {SHARDS}, {}, k)",
                s - 1
            ))
            .await
            .unwrap_or_else(|e| panic!("{e:?}"));
        }
    }

    /// Exactly one node serves each shard, the catalog says the same, and nothing is left over.
    pub async fn assert_tidy(&self, case: &str) {
        let routes = self.store.reload().await.unwrap();
        let home = self.node(NodeId(1)).await;
        let records: i64 =
            support::value(&home, "SELECT count(*) FROM pgshunt.cleanup_records").await;
        assert_eq!(records, 0, "{case}: cleanup records are left");
        let placements: i64 =
            support::value(&home, "SELECT count(*) FROM pgshunt.placements").await;
        assert_eq!(placements, i64::from(SHARDS), "{case}: placements");
        let mut attached: HashMap<i32, Vec<NodeId>> = HashMap::new();
        for node in routes.nodes() {
            let c = self.node(node.id).await;
            if support::value::<bool>(&c, "SELECT to_regclass('pgshunt.fences') IS NOT NULL").await
            {
                let left = pgshunt::moves::leftovers(&c).await.unwrap();
                assert_eq!(left, Vec::<String>::new(), "{case}: left over on {}", node.name);
            }
            let leaves = c
                .query(
                    "SELECT DISTINCT substr(n.nspname, 7)::int FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                     JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE NOT inhdetachpending AND n.nspname ~ '^shard_[0-9]+$' AND c.relkind = 'r'",
                    &[],
                )
                .await
                .unwrap();
            for l in leaves {
                attached.entry(l.get(0)).or_default().push(node.id);
            }
        }
        for s in 1..=SHARDS {
            let at = routes.shard(ShardId(s)).unwrap().node;
            assert_eq!(attached.get(&s), Some(&vec![at]), "{case}: nodes that serve shard {s}");
        }
    }
}

/// Waits until a move is in one of these states, or over.
pub async fn until(mover: &Mover, id: MoveId, states: &[State]) -> Progress {
    let mut seen = mover.subscribe(id).unwrap_or_else(|| panic!("move {id} runs here"));
    let arrived = tokio::time::timeout(
        PATIENCE,
        seen.wait_for(|p| states.contains(&p.state) || p.state.is_over()),
    )
    .await;
    let last = match arrived {
        Ok(Ok(p)) => Some(p.clone()),
        Ok(Err(_)) | Err(_) => None,
    };
    last.unwrap_or_else(|| {
        panic!(
            "waited in vain for move {id} to be {states:?}: {:?}",
            mover.subscribe(id).map(|p| p.borrow().clone())
        )
    })
}

/// MOVE SHARD, then FINISH MOVE as soon as it soaks.
pub async fn move_and_finish(mover: &Arc<Mover>, shard: i32, to: NodeId) -> Progress {
    let id = mover.start(ShardId(shard), to).await.unwrap();
    let p = until(mover, id, &[State::Soaking]).await;
    assert_eq!(p.state, State::Soaking, "{p:?}");
    mover.finish(Some(id)).await.unwrap();
    let p = until(mover, id, &[]).await;
    assert_eq!(p.state, State::Done, "{p:?}");
    p
}

/// Clients that write directly to the nodes, as a router would that has no gate: whoever meets the
/// fence, a leaf that is gone or a row that is not there looks the shard up again and retries.
pub struct Writers {
    stop: Arc<AtomicBool>,
    /// Held for reading by every write, for writing by whoever compares.
    quiet: Arc<RwLock<()>>,
    tasks: Vec<JoinHandle<BTreeMap<i32, i64>>>,
    snapshot: Arc<std::sync::Mutex<BTreeMap<i32, i64>>>,
    pub retries: Arc<AtomicU64>,
    pub writes: Arc<AtomicU64>,
}

impl World {
    pub fn writers(&self, count: i32, every: Duration) -> Writers {
        let w = Writers {
            stop: Arc::default(),
            quiet: Arc::default(),
            tasks: Vec::new(),
            snapshot: Arc::default(),
            retries: Arc::default(),
            writes: Arc::default(),
        };
        let ports: Vec<u16> = self.cluster.nodes.iter().map(|n| n.port()).collect();
        let tasks = (0..count)
            .map(|i| {
                let writer = Writer {
                    keys: (i..KEYS).step_by(count as usize).collect(),
                    ports: ports.clone(),
                    store: self.store.clone(),
                    remainders: self.remainders.clone(),
                    clients: HashMap::new(),
                    ledger: BTreeMap::new(),
                    retries: w.retries.clone(),
                    snapshot: w.snapshot.clone(),
                };
                let (stop, quiet, writes) = (w.stop.clone(), w.quiet.clone(), w.writes.clone());
                tokio::spawn(writer.run(stop, quiet, writes, every))
            })
            .collect();
        Writers { tasks, ..w }
    }

    /// All rows of the writers, on all nodes, through the parents.
    async fn rows(&self) -> Vec<(i32, i64)> {
        let mut all = Vec::new();
        for n in 1..=self.cluster.nodes.len() {
            let c = self.node(NodeId(n as i32)).await;
            let rows = c
                .query(&format!("SELECT id, v FROM public.accounts WHERE id < {KEYS}"), &[])
                .await
                .unwrap();
            all.extend(rows.iter().map(|r| (r.get::<_, i32>(0), r.get::<_, i64>(1))));
        }
        all.sort_unstable();
        all
    }
}

impl Writers {
    /// Holds the writers for an instant and compares what they were acknowledged with what is there.
    pub async fn compare(&self, world: &World, case: &str) {
        let _nobody_writes = self.quiet.write().await;
        let ledger: Vec<(i32, i64)> =
            self.snapshot.lock().unwrap().iter().map(|(k, v)| (*k, *v)).collect();
        let rows = world.rows().await;
        assert!(!ledger.is_empty(), "{case}: nobody wrote");
        same(&rows, &ledger, case);
    }

    pub async fn end(self, world: &World, case: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut ledger = BTreeMap::new();
        for t in self.tasks {
            ledger.append(&mut t.await.unwrap());
        }
        let ledger: Vec<_> = ledger.into_iter().collect();
        same(&world.rows().await, &ledger, case);
    }
}

fn same(rows: &[(i32, i64)], ledger: &[(i32, i64)], case: &str) {
    if rows == ledger {
        return;
    }
    let lost: Vec<_> = ledger.iter().filter(|l| !rows.contains(l)).take(10).collect();
    let extra: Vec<_> = rows.iter().filter(|r| !ledger.contains(r)).take(10).collect();
    panic!(
        "{case}: {} rows there, {} in the ledger; not there: {lost:?}; not in the ledger: {extra:?}",
        rows.len(),
        ledger.len()
    );
}

struct Writer {
    keys: Vec<i32>,
    ports: Vec<u16>,
    store: Arc<Store>,
    remainders: Arc<Vec<i32>>,
    clients: HashMap<NodeId, Client>,
    ledger: BTreeMap<i32, i64>,
    retries: Arc<AtomicU64>,
    snapshot: Arc<std::sync::Mutex<BTreeMap<i32, i64>>>,
}

impl Writer {
    async fn run(
        mut self,
        stop: Arc<AtomicBool>,
        quiet: Arc<RwLock<()>>,
        writes: Arc<AtomicU64>,
        every: Duration,
    ) -> BTreeMap<i32, i64> {
        let mut n = 0usize;
        while !stop.load(Ordering::Relaxed) {
            let may_write = quiet.read().await;
            let key = self.keys[n % self.keys.len()];
            n += 7;
            match self.ledger.get(&key).copied() {
                None => {
                    self.write(key, "INSERT INTO public.accounts (id, v) VALUES ($1, 0)").await;
                    self.told(key, Some(0));
                }
                // Now and then a row goes away.
                Some(v) if v % 5 == 4 => {
                    self.write(key, "DELETE FROM public.accounts WHERE id = $1").await;
                    self.told(key, None);
                }
                Some(v) => {
                    self.write(key, "UPDATE public.accounts SET v = v + 1 WHERE id = $1").await;
                    self.told(key, Some(v + 1));
                }
            }
            drop(may_write);
            writes.fetch_add(1, Ordering::Relaxed);
            if every.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(every).await;
            }
        }
        self.ledger
    }

    fn told(&mut self, key: i32, v: Option<i64>) {
        let mut shared = self.snapshot.lock().unwrap();
        match v {
            Some(v) => {
                self.ledger.insert(key, v);
                shared.insert(key, v);
            }
            None => {
                self.ledger.remove(&key);
                shared.remove(&key);
            }
        }
    }

    /// Until it is acknowledged with exactly one row.
    async fn write(&mut self, key: i32, sql: &str) {
        let since = std::time::Instant::now();
        loop {
            let shard = ShardId(self.remainders[key as usize] + 1);
            let node = self.store.routes().load().shard(shard).unwrap().node;
            if !self.clients.contains_key(&node) {
                let port = self.ports[(node.0 - 1) as usize];
                let c = connect_as(port, DATABASE, "app", "app").await.unwrap();
                self.clients.insert(node, c);
            }
            let client = &self.clients[&node];
            let why = match client.execute(sql, &[&key]).await {
                Ok(1) => return,
                Ok(n) => format!("{n} rows"),
                Err(e) => {
                    let code = e.code().map(|c| c.code().to_owned()).unwrap_or_default();
                    assert!(
                        [FENCE_SQLSTATE, "23514", "42501"].contains(&code.as_str()),
                        "{sql} {key}: {e:?}"
                    );
                    code
                }
            };
            self.retries.fetch_add(1, Ordering::Relaxed);
            assert!(since.elapsed() < PATIENCE, "{sql} {key} on {node} in vain: {why}");
            self.store.reload().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
