//! The moves of this process: starts them, resumes them, and takes the console's requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::ctx::{Ctx, Signal, lock_home};
use super::cutover;
use super::error::{StepError, words};
use super::executor;
use super::link::Link;
use super::machine::{Found, Kind, Machine, State};
use super::plan::Plan;
use super::progress::Progress;
use crate::catalog::moves::{self, MoveRow, NewMove};
use crate::catalog::{CatalogError, Store};
use crate::config;
use crate::gate::Gates;
use crate::topology::{MoveId, NodeId, ShardId};

/// Why a request of the console is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("shard {0} does not exist")]
    UnknownShard(ShardId),
    #[error("node {0} does not exist")]
    UnknownNode(NodeId),
    #[error("shard {shard} is on that node already")]
    AlreadyThere { shard: ShardId },
    #[error("move {0} is changing this colocation group")]
    Busy(MoveId),
    #[error("shard {shard} can still go back by ROLLBACK MOVE {soaking}")]
    Soaking { shard: ShardId, soaking: MoveId },
    #[error("move {0} does not exist")]
    UnknownMove(MoveId),
    #[error("there is no move that {0}")]
    NoneThat(&'static str),
    #[error("move {id} is {state} and cannot be {wanted}")]
    WrongState { id: MoveId, state: State, wanted: &'static str },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("catalog: {}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("{0}")]
    Node(String),
}

impl MoveError {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::UnknownShard(_) | Self::UnknownNode(_) | Self::UnknownMove(_) => "42704",
            Self::NoneThat(_) => "42704",
            Self::AlreadyThere { .. } | Self::WrongState { .. } => "55000",
            Self::Busy(_) | Self::Soaking { .. } => "55006",
            Self::Catalog(CatalogError::GivenUp(_)) => "57P01",
            Self::Catalog(_) | Self::Postgres(_) => "58000",
            Self::Node(_) => "08001",
        }
    }

    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnknownShard(_) => Some("SHOW SHARDS lists them."),
            Self::UnknownNode(_) => Some("SHOW NODES lists them."),
            Self::UnknownMove(_) | Self::NoneThat(_) => Some("SHOW MOVES lists them."),
            Self::Busy(_) => Some("Wait for it, or end it with CANCEL MOVE."),
            Self::Soaking { .. } => Some("FINISH MOVE ends its soaking now."),
            Self::WrongState { state: State::Soaking, .. } => Some("ROLLBACK MOVE takes it back."),
            Self::AlreadyThere { .. } | Self::WrongState { .. } => None,
            Self::Catalog(_) | Self::Postgres(_) | Self::Node(_) => None,
        }
    }
}

/// A move that a task of this process carries out.
struct Running {
    progress: watch::Receiver<Progress>,
    signal: watch::Sender<Signal>,
    task: JoinHandle<State>,
}

pub struct Mover {
    store: Arc<Store>,
    gates: Gates,
    config: config::Moves,
    running: Mutex<BTreeMap<MoveId, Running>>,
}

impl Mover {
    pub fn new(store: Arc<Store>, gates: Gates, config: config::Moves) -> Arc<Self> {
        Arc::new(Self { store, gates, config, running: Mutex::default() })
    }

    /// MOVE SHARD: plans the move and lets a task carry it out.
    pub async fn start(
        self: &Arc<Self>,
        shard: ShardId,
        target: NodeId,
    ) -> Result<MoveId, MoveError> {
        let _permit = self.store.permit().await?;
        let routes = self.store.reload().await?;
        let at = *routes.shard(shard).ok_or(MoveError::UnknownShard(shard))?;
        let node = routes.node(target).ok_or(MoveError::UnknownNode(target))?;
        if at.node == target {
            return Err(MoveError::AlreadyThere { shard });
        }
        // A node that is away is told at once rather than by a move that waits for it.
        let reached = self.store.connector().connect(node).await;
        reached.map_err(|e| MoveError::Node(e.to_string()))?;
        let mut tables: Vec<_> = routes.tables_of(at.group).map(|t| t.id).collect();
        tables.sort_unstable();
        let new =
            NewMove { shard, group: at.group, source: at.node, target, tables, rollback_of: None };
        let row = {
            let client = self.store.home_client().await?;
            let mut client = client.lock().await;
            if let Some(soaking) = moves::soaking_of(&client, shard).await? {
                return Err(MoveError::Soaking { shard, soaking });
            }
            self.insert(&mut client, &new).await?
        };
        self.store.reload().await?;
        let id = row.id;
        self.spawn(row);
        Ok(id)
    }

    /// ROLLBACK MOVE: another cutover, the other way. `None`: the newest move that soaks.
    pub async fn rollback(self: &Arc<Self>, id: Option<MoveId>) -> Result<MoveId, MoveError> {
        let _permit = self.store.permit().await?;
        let old = self.find(id, "soaks", |s| s == State::Soaking, "rolled back").await?;
        // Its task lets go first, so that soaking does not end under the rollback.
        self.stop(old.id, Signal::HandOver).await;
        let new = NewMove {
            shard: old.shard,
            group: old.group,
            source: old.target,
            target: old.source,
            tables: old.tables.clone(),
            rollback_of: Some(old.id),
        };
        let inserted = {
            let client = self.store.home_client().await?;
            let mut client = client.lock().await;
            match moves::one(&client, old.id).await? {
                Some(now) if now.state == State::Soaking.name() => {
                    self.insert(&mut client, &new).await
                }
                _ => Err(MoveError::NoneThat("soaks")),
            }
        };
        match inserted {
            Ok(row) => {
                let id = row.id;
                self.spawn(row);
                Ok(id)
            }
            Err(e) => {
                self.spawn(old);
                Err(e)
            }
        }
    }

    /// CANCEL MOVE: undoes a move that has not switched. `None`: the newest such.
    pub async fn cancel(&self, id: Option<MoveId>) -> Result<MoveId, MoveError> {
        let _permit = self.store.permit().await?;
        let row = self.find(id, "can be cancelled", State::can_be_undone, "cancelled").await?;
        {
            let client = self.store.home_client().await?;
            let client = client.lock().await;
            moves::request_cancel(&client, row.id).await?;
        }
        self.signal(row.id, Signal::Cancel);
        Ok(row.id)
    }

    /// FINISH MOVE: ends soaking now. `None`: the newest move that soaks.
    pub async fn finish(&self, id: Option<MoveId>) -> Result<MoveId, MoveError> {
        let _permit = self.store.permit().await?;
        let row = self.find(id, "soaks", |s| s == State::Soaking, "finished").await?;
        self.signal(row.id, Signal::Finish);
        Ok(row.id)
    }

    /// How a move of this process goes; the last value stays when it is over.
    pub fn subscribe(&self, id: MoveId) -> Option<watch::Receiver<Progress>> {
        self.lock().get(&id).map(|r| r.progress.clone())
    }

    /// The moves this process carries out now, without asking the catalog: for metrics.
    pub fn running(&self) -> Vec<Progress> {
        self.lock()
            .values()
            .map(|r| r.progress.borrow().clone())
            .filter(|p| !p.state.is_over())
            .collect()
    }

    /// All moves, oldest first: SHOW MOVES.
    pub async fn list(&self) -> Result<Vec<Progress>, MoveError> {
        let rows = {
            let client = self.store.home_client().await?;
            let client = client.lock().await;
            moves::all(&client).await?
        };
        let running = self.lock();
        Ok(rows
            .iter()
            .map(|row| {
                let told = Progress::from_row(row);
                match running.get(&row.id) {
                    // A rollback ends the move it takes back in the catalog only.
                    Some(r) if !told.state.is_over() => r.progress.borrow().clone(),
                    Some(r) => Progress { hold: r.progress.borrow().hold.clone(), ..told },
                    None => told,
                }
            })
            .collect())
    }

    /// At start-up: carries on what an earlier process left. Returns when it is known who serves
    /// each of those shards, or after `deadline`, with the gates of the others still closed.
    pub async fn resume_all(self: &Arc<Self>, deadline: Duration) -> Result<usize, MoveError> {
        let rows = {
            let client = self.store.home_client().await?;
            let client = client.lock().await;
            moves::unfinished(&client).await?
        };
        let taken_back: Vec<_> = rows.iter().filter_map(|r| r.rollback_of).collect();
        let mut known = Vec::new();
        let mut count = 0;
        for row in rows {
            // While its rollback is under way, a soaking move waits.
            if taken_back.contains(&row.id) || self.lock().contains_key(&row.id) {
                continue;
            }
            count += 1;
            known.push(self.spawn(row));
        }
        let all = async {
            for k in known {
                // A task that ended says nothing and keeps nobody waiting.
                let _ = k.await;
            }
        };
        if tokio::time::timeout(deadline, all).await.is_err() {
            tracing::warn!("some moves cannot be settled yet; their shards stay held");
        }
        Ok(count)
    }

    /// At shutdown: ends the tasks between two steps' writes and frees the moves for another process,
    /// which finds them as after a crash. A held phase is waited for.
    pub async fn release(&self) {
        let all = std::mem::take(&mut *self.lock());
        for (id, r) in all {
            let mut progress = r.progress.clone();
            let held = |p: &Progress| p.state == State::Cutover;
            // Ends when the task ends, too.
            let _ = progress.wait_for(|p| !held(p)).await;
            r.task.abort();
            if let Err(e) = r.task.await
                && !e.is_cancelled()
            {
                tracing::error!(move_id = id.0, error = %e, "the task of a move ended");
            }
        }
    }

    /// Waits until the move's task has ended, and says in which state.
    pub async fn wait(&self, id: MoveId) -> Option<State> {
        let mut progress = self.subscribe(id)?;
        // Ends with the sender, that is with the task.
        while progress.changed().await.is_ok() {}
        let state = progress.borrow().state;
        Some(state)
    }

    async fn insert(
        &self,
        client: &mut tokio_postgres::Client,
        new: &NewMove,
    ) -> Result<MoveRow, MoveError> {
        match moves::insert(client, new).await {
            Ok(id) => moves::one(client, id).await?.ok_or(MoveError::UnknownMove(id)),
            Err(e) if e.code().is_some_and(|c| c.code() == "23505") => {
                match moves::active_in_group(client, new.group).await? {
                    Some(other) => Err(MoveError::Busy(other)),
                    None => Err(e.into()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn find(
        &self,
        id: Option<MoveId>,
        that: &'static str,
        fits: impl Fn(State) -> bool,
        wanted: &'static str,
    ) -> Result<MoveRow, MoveError> {
        let client = self.store.home_client().await?;
        let client = client.lock().await;
        let state = |row: &MoveRow| State::from_name(&row.state).unwrap_or(State::Failed);
        match id {
            Some(id) => {
                let row = moves::one(&client, id).await?.ok_or(MoveError::UnknownMove(id))?;
                if fits(state(&row)) {
                    return Ok(row);
                }
                Err(MoveError::WrongState { id, state: state(&row), wanted })
            }
            None => moves::unfinished(&client)
                .await?
                .into_iter()
                .rfind(|row| fits(state(row)))
                .ok_or(MoveError::NoneThat(that)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<MoveId, Running>> {
        // Nothing that could panic happens under it.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, id: MoveId, signal: Signal) {
        if let Some(r) = self.lock().get(&id) {
            r.signal.send_replace(signal);
        }
    }

    async fn stop(&self, id: MoveId, signal: Signal) {
        let taken = self.lock().remove(&id);
        if let Some(r) = taken {
            r.signal.send_replace(signal);
            if let Err(e) = r.task.await {
                tracing::error!(move_id = id.0, error = %e, "the task of a move ended");
            }
        }
    }

    /// Starts the task; the receiver hears when it is known who serves the shard.
    fn spawn(self: &Arc<Self>, row: MoveRow) -> oneshot::Receiver<()> {
        let id = row.id;
        let (progress, seen) = watch::channel(Progress::from_row(&row));
        let first = if row.cancel_requested { Signal::Cancel } else { Signal::None };
        let (signal, heard) = watch::channel(first);
        let (known, is_known) = oneshot::channel();
        let this = self.clone();
        // Under the lock, so that the task cannot look for itself before it is there.
        let mut running = self.lock();
        let task = tokio::spawn(async move { this.carry_out(row, progress, heard, known).await });
        running.insert(id, Running { progress: seen, signal, task });
        is_known
    }

    async fn carry_out(
        self: Arc<Self>,
        row: MoveRow,
        progress: watch::Sender<Progress>,
        signal: watch::Receiver<Signal>,
        known: oneshot::Sender<()>,
    ) -> State {
        let asked = State::from_name(&row.state).unwrap_or(State::Planned);
        let Some(mut ctx) = self.connect(&row, progress, signal).await else { return asked };
        let found = if asked == State::Cutover {
            match cutover::recover(&mut ctx).await {
                Ok(found) => found,
                Err(e) => {
                    tracing::warn!(move_id = row.id.0, error = %e, "left to another process");
                    return asked;
                }
            }
        } else if asked == State::Switched {
            if let Err(e) = cutover::settle(&mut ctx).await {
                tracing::warn!(move_id = row.id.0, error = %e, "to be settled");
            }
            Found::Journal
        } else {
            Found::NoJournal
        };
        // Nobody waits if this is no start-up.
        let _ = known.send(());
        let machine = Machine::resume(ctx.plan.kind, asked, row.step.as_deref(), found);
        let left = executor::run(&mut ctx, machine).await;
        tracing::info!(move_id = row.id.0, state = %left, "move");
        if ctx.plan.kind == Kind::Rollback && left == State::Failed {
            // The move it would have taken back soaks on; its lock goes with this context.
            let old = ctx.plan.rollback_of;
            let row = match old {
                Some(old) => moves::one(&ctx.home.client, old).await.ok().flatten(),
                None => None,
            };
            drop(ctx);
            if let Some(row) = row {
                self.spawn(row);
            }
        }
        left
    }

    /// Opens the move's connections; tries until all nodes are there. `None`: it is not ours.
    async fn connect(
        &self,
        row: &MoveRow,
        progress: watch::Sender<Progress>,
        signal: watch::Receiver<Signal>,
    ) -> Option<Ctx> {
        let mut tried = 0u32;
        loop {
            match self.open(row).await {
                Ok((plan, home, source, target)) => {
                    return Some(Ctx {
                        plan,
                        store: self.store.clone(),
                        gates: self.gates.clone(),
                        config: self.config.clone(),
                        home,
                        source,
                        target,
                        progress,
                        signal,
                        detaching: Vec::new(),
                        soaked: if row.state == State::Soaking.name() {
                            row.in_state
                        } else {
                            Duration::ZERO
                        },
                        soaking_since: None,
                    });
                }
                Err(e @ (StepError::LockLost | StepError::Refused(_))) => {
                    tracing::warn!(move_id = row.id.0, error = %e, "not carried on here");
                    progress.send_modify(|p| p.error = Some(e.to_string()));
                    return None;
                }
                Err(e) => {
                    tracing::info!(move_id = row.id.0, error = %e, "waiting for the nodes");
                    progress.send_modify(|p| p.blocker = Some(e.to_string()));
                }
            }
            tried += 1;
            tokio::time::sleep(Duration::from_millis(50 << tried.min(6))).await;
        }
    }

    async fn open(&self, row: &MoveRow) -> Result<(Plan, Link, Link, Link), StepError> {
        let routes = self.store.reload().await?;
        let plan = Plan::new(row, &routes)?;
        let connector = self.store.connector();
        let home = lock_home(connector, routes.home(), &plan).await?;
        let source = Link::open(connector, &plan.source, row.id).await?;
        let target = Link::open(connector, &plan.target, row.id).await?;
        // With the lock ours, whatever still runs under this move's name is a dead process's.
        for link in [&source, &target] {
            link.end_others(row.id, &home).await?;
        }
        Ok((plan, home, source, target))
    }
}
