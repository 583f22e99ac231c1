//! The moves of this process: starts them, resumes them, and takes the console's requests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::ctx::Signal;
use super::machine::State;
use super::progress::Progress;
use super::request::{self, Refusal, Request, Standing};
use super::task;
use crate::backend::control::words;
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
    #[error("a table of this colocation group is being changed")]
    Changing,
    #[error("shard {shard} can still go back by ROLLBACK MOVE {soaking}")]
    Soaking { shard: ShardId, soaking: MoveId },
    #[error("move {0} does not exist")]
    UnknownMove(MoveId),
    #[error("there is no move that {0}")]
    NoneThat(&'static str),
    #[error("move {id} is being rolled back by move {by}")]
    BeingRolledBack { id: MoveId, by: MoveId },
    #[error("move {0} is being finished and cannot be rolled back")]
    BeingFinished(MoveId),
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
            Self::BeingRolledBack { .. } | Self::BeingFinished(_) => "55000",
            Self::Busy(_) | Self::Changing | Self::Soaking { .. } => "55006",
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
            Self::Changing => Some("A transaction with DDL is open: wait for its end."),
            Self::BeingRolledBack { .. } => Some("CANCEL MOVE of the rollback lets it soak again."),
            Self::BeingFinished(_) => Some("MOVE SHARD brings the shard back."),
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
    pub(super) store: Arc<Store>,
    pub(super) gates: Gates,
    pub(super) config: config::Moves,
    running: Mutex<BTreeMap<MoveId, Running>>,
    /// Held for the whole of a request: what was decided is carried out before another is judged.
    requests: tokio::sync::Mutex<()>,
}

/// How many moves that are over keep their progress in this process, for who watches them to the end.
const KEPT: usize = 64;
/// How many moves that are over SHOW MOVES tells; the catalog has all.
const SHOWN: u32 = 1000;
/// How long the task of a move that soaks may take to let go, before it is ended.
const LET_GO: Duration = Duration::from_secs(1);

impl Mover {
    pub fn new(store: Arc<Store>, gates: Gates, config: config::Moves) -> Arc<Self> {
        let requests = tokio::sync::Mutex::default();
        Arc::new(Self { store, gates, config, running: Mutex::default(), requests })
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
        let _one_at_a_time = self.requests.lock().await;
        let row = {
            let client = self.store.home_client().await?;
            let mut client = client.lock().await;
            let tx = client.transaction().await?;
            if let Some(soaking) = moves::soaking_of(&tx, shard).await? {
                return Err(MoveError::Soaking { shard, soaking });
            }
            insert(tx, &new).await?
        };
        let id = row.id;
        self.spawn(row);
        // The task reads the catalog for itself; a reader of routes sees the copy announced later.
        self.store.reload().await?;
        Ok(id)
    }

    /// ROLLBACK MOVE: another cutover, the other way. `None`: the newest move that soaks.
    pub async fn rollback(self: &Arc<Self>, id: Option<MoveId>) -> Result<MoveId, MoveError> {
        let _permit = self.store.permit().await?;
        let _one_at_a_time = self.requests.lock().await;
        let row = {
            let client = self.store.home_client().await?;
            let mut client = client.lock().await;
            let tx = client.transaction().await?;
            let old = admitted(&tx, Request::Rollback, id).await?;
            let new = NewMove {
                shard: old.shard,
                group: old.group,
                source: old.target,
                target: old.source,
                tables: old.tables,
                rollback_of: Some(old.id),
            };
            insert(tx, &new).await?
        };
        // From here on the old move's row is the rollback's: its task cannot record anything.
        if let Some(old) = row.rollback_of {
            self.stop(old, Signal::HandOver).await;
        }
        let id = row.id;
        self.spawn(row);
        Ok(id)
    }

    /// CANCEL MOVE: undoes a move that has not switched. `None`: the newest such.
    pub async fn cancel(&self, id: Option<MoveId>) -> Result<MoveId, MoveError> {
        self.end(Request::Cancel, id, Signal::Cancel).await
    }

    /// FINISH MOVE: ends soaking now. `None`: the newest move that soaks.
    pub async fn finish(&self, id: Option<MoveId>) -> Result<MoveId, MoveError> {
        self.end(Request::Finish, id, Signal::Finish).await
    }

    async fn end(
        &self,
        request: Request,
        id: Option<MoveId>,
        signal: Signal,
    ) -> Result<MoveId, MoveError> {
        let _permit = self.store.permit().await?;
        let _one_at_a_time = self.requests.lock().await;
        let row = {
            let client = self.store.home_client().await?;
            let mut client = client.lock().await;
            let tx = client.transaction().await?;
            let row = admitted(&tx, request, id).await?;
            moves::ask_for_end(&tx, row.id).await?;
            tx.commit().await?;
            row
        };
        self.signal(row.id, signal);
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

    /// The moves, oldest first: SHOW MOVES.
    pub async fn list(&self) -> Result<Vec<Progress>, MoveError> {
        let rows = {
            let client = self.store.home_client().await?;
            let client = client.lock().await;
            moves::recent(&client, SHOWN).await?
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
            moves::settle_hand_overs(&client).await?;
            moves::unfinished(&*client).await?
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
        let Some(mut r) = taken else { return };
        r.signal.send_replace(signal);
        let ended = match tokio::time::timeout(LET_GO, &mut r.task).await {
            Ok(ended) => ended,
            Err(_) => {
                r.task.abort();
                r.task.await
            }
        };
        if let Err(e) = ended
            && !e.is_cancelled()
        {
            tracing::error!(move_id = id.0, error = %e, "the task of a move ended");
        }
    }

    /// Starts the task; the receiver hears when it is known who serves the shard.
    pub(super) fn spawn(self: &Arc<Self>, row: MoveRow) -> oneshot::Receiver<()> {
        let id = row.id;
        let (progress, seen) = watch::channel(Progress::from_row(&row));
        let first = match (row.end_asked, row.state == State::Soaking.name()) {
            (false, _) => Signal::None,
            (true, false) => Signal::Cancel,
            (true, true) => Signal::Finish,
        };
        let (signal, heard) = watch::channel(first);
        let (known, is_known) = oneshot::channel();
        let this = self.clone();
        // Under the lock, so that the task cannot look for itself before it is there.
        let mut running = self.lock();
        forget_old(&mut running);
        let task = tokio::spawn(async move { task::run(this, row, progress, heard, known).await });
        running.insert(id, Running { progress: seen, signal, task });
        is_known
    }
}

/// Plans a move and commits; whoever asks for the row afterwards may find it further on.
async fn insert(tx: Transaction<'_>, new: &NewMove) -> Result<MoveRow, MoveError> {
    // A unique violation fails the transaction, so who is in the way is asked first.
    if let Some(other) = moves::active_in_group(&tx, new.group).await? {
        return Err(MoveError::Busy(other));
    }
    let id = moves::insert(&tx, new).await.map_err(|e| match e.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => MoveError::Changing,
        _ => e.into(),
    })?;
    let row = moves::locked(&tx, id).await?.ok_or(MoveError::UnknownMove(id))?;
    tx.commit().await?;
    Ok(row)
}

/// The row of the move that a request is about, locked, if the request is to be carried out.
async fn admitted(
    tx: &Transaction<'_>,
    request: Request,
    id: Option<MoveId>,
) -> Result<MoveRow, MoveError> {
    let state = |row: &MoveRow| State::from_name(&row.state).unwrap_or(State::Failed);
    let id = match id {
        Some(id) => id,
        None => moves::unfinished(tx)
            .await?
            .iter()
            .rfind(|row| request::is_about(request, state(row)))
            .map(|row| row.id)
            .ok_or(MoveError::NoneThat(request.wants()))?,
    };
    let row = moves::locked(tx, id).await?.ok_or(MoveError::UnknownMove(id))?;
    let rollback = moves::rollback_of(tx, id).await?;
    let busy = moves::active_in_group(tx, row.group).await?;
    let standing = Standing {
        state: state(&row),
        end_asked: row.end_asked,
        rollback,
        busy: busy.filter(|&b| b != id && Some(b) != rollback),
    };
    request::judge(request, standing).map(|()| row).map_err(|refusal| match refusal {
        Refusal::WrongState => {
            MoveError::WrongState { id, state: standing.state, wanted: request.participle() }
        }
        Refusal::BeingRolledBack(by) => MoveError::BeingRolledBack { id, by },
        Refusal::BeingFinished => MoveError::BeingFinished(id),
        Refusal::Busy(other) => MoveError::Busy(other),
    })
}

/// Forgets the oldest of the moves that are over, save the last [`KEPT`].
fn forget_old(running: &mut BTreeMap<MoveId, Running>) {
    let ended: Vec<MoveId> =
        running.iter().filter(|(_, r)| r.task.is_finished()).map(|(id, _)| *id).collect();
    for id in ended.iter().take(ended.len().saturating_sub(KEPT)) {
        running.remove(id);
    }
}
