//! The task of one move: connects, settles what a crash left, carries the move on to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::ctx::{Ctx, Signal, lock_home};
use super::cutover;
use super::error::StepError;
use super::executor;
use super::link::Link;
use super::machine::{CANCELLED, Found, Machine, State};
use super::mover::Mover;
use super::plan::Plan;
use super::progress::Progress;
use crate::catalog::moves::{self, MoveRow};
use crate::gate::Scope;
use crate::topology::MoveId;

/// Returns the state the move was left in; `known` hears when it is known who serves the shard.
pub async fn run(
    mover: Arc<Mover>,
    row: MoveRow,
    progress: watch::Sender<Progress>,
    signal: watch::Receiver<Signal>,
    known: oneshot::Sender<()>,
) -> State {
    let left = carry_out(&mover, &row, progress, signal, known).await;
    tracing::info!(move_id = row.id.0, state = %left, "move");
    if let (Some(old), State::Failed) = (row.rollback_of, left) {
        soak_again(&mover, old).await;
    }
    left
}

/// The move that a failed rollback would have taken back soaks on.
async fn soak_again(mover: &Arc<Mover>, old: MoveId) {
    loop {
        let row = async {
            let client = mover.store.home_client().await?;
            let client = client.lock().await;
            Ok::<_, StepError>(
                moves::one(&client, old).await.map_err(crate::catalog::CatalogError::from)?,
            )
        };
        match row.await {
            Ok(Some(row)) if row.state == State::Soaking.name() => {
                drop(mover.spawn(row));
                return;
            }
            Ok(_) => return,
            Err(e) => tracing::info!(move_id = old.0, error = %e, "to soak again"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn carry_out(
    mover: &Arc<Mover>,
    row: &MoveRow,
    progress: watch::Sender<Progress>,
    signal: watch::Receiver<Signal>,
    known: oneshot::Sender<()>,
) -> State {
    let asked = State::from_name(&row.state).unwrap_or(State::Planned);
    // Until it is known who serves, nobody is served: not even while the nodes cannot be asked.
    let closed = match asked {
        State::Cutover => {
            let scope = Scope::Shard { group: row.group, shard: row.shard };
            let patience = mover.config.cutover_drain_timeout;
            Some(cutover::close_for_recovery(&mover.gates, scope, patience, &progress).await)
        }
        _ => None,
    };
    let mut ctx = match connect(mover, row, progress, signal).await {
        Ok(ctx) => *ctx,
        Err(left) => return left,
    };
    let found = match (asked, closed) {
        (State::Cutover, Some(closed)) => match cutover::recover(&mut ctx, closed).await {
            Ok(found) => found,
            Err(e) => {
                tracing::warn!(move_id = row.id.0, error = %e, "left to another process");
                return asked;
            }
        },
        (State::Switched, _) => {
            if let Err(e) = cutover::settle(&mut ctx).await {
                tracing::warn!(move_id = row.id.0, error = %e, "to be settled");
            }
            Found::Journal
        }
        _ => Found::NoJournal,
    };
    // Nobody waits if this is no start-up.
    let _ = known.send(());
    let error = row.error.clone().or_else(|| row.end_asked.then(|| CANCELLED.into()));
    let machine = Machine::resume(ctx.plan.kind, asked, row.step.as_deref(), found, error);
    executor::run(&mut ctx, machine).await
}

/// Opens the move's connections; tries until all nodes are there. `Err`: the state in which the move
/// is left, because it is not ours, or because it was to be undone and has made nothing.
async fn connect(
    mover: &Mover,
    row: &MoveRow,
    progress: watch::Sender<Progress>,
    mut signal: watch::Receiver<Signal>,
) -> Result<Box<Ctx>, State> {
    let asked = State::from_name(&row.state).unwrap_or(State::Planned);
    let mut tried = 0u32;
    let mut home = None;
    loop {
        match open(mover, row, &mut home).await {
            Ok((plan, home, source, target)) => {
                let soaks = asked == State::Soaking;
                return Ok(Box::new(Ctx {
                    plan,
                    store: mover.store.clone(),
                    gates: mover.gates.clone(),
                    config: mover.config.clone(),
                    home,
                    source,
                    target,
                    progress,
                    signal,
                    detaching: Vec::new(),
                    soaked: if soaks { row.in_state } else { Duration::ZERO },
                    soaking_since: None,
                }));
            }
            Err(StepError::LockLost) => {
                tracing::warn!(move_id = row.id.0, "carried out by another process");
                return Err(asked);
            }
            Err(e) => {
                tracing::info!(move_id = row.id.0, error = %e, "waiting for the nodes");
                let hopeless = matches!(e, StepError::Refused(_)).then(|| e.to_string());
                let cancelled = *signal.borrow() == Signal::Cancel;
                let why = hopeless.or_else(|| cancelled.then(|| CANCELLED.into()));
                progress.send_modify(|p| p.blocker = Some(e.to_string()));
                if may_be_dropped(asked)
                    && let Some(why) = why
                    && drop_unmade(row, &why, &mut home, &progress).await
                {
                    return Err(State::Failed);
                }
            }
        }
        tried += 1;
        let before = *signal.borrow();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50 << tried.min(6))) => {}
            now = signal.wait_for(|s| *s != before) => match now.map(|s| *s) {
                Ok(Signal::HandOver) | Err(_) => return Err(asked),
                Ok(Signal::None | Signal::Cancel | Signal::Finish) => {}
            }
        }
    }
}

/// Whether a move that stands here may have made nothing on the nodes.
fn may_be_dropped(state: State) -> bool {
    state == State::Undoing || (state.can_be_undone() && state != State::Cutover)
}

/// Ends a move that has made nothing on any node with home alone. False: it has, or home is away.
async fn drop_unmade(
    row: &MoveRow,
    why: &str,
    home: &mut Option<Link>,
    progress: &watch::Sender<Progress>,
) -> bool {
    let Some(home) = home.as_mut().filter(|h| !h.is_closed()) else { return false };
    let dropped = async {
        if row.rollback_of.is_none() {
            if !moves::promised(&home.client, row.id).await?.is_empty() {
                return Ok(false);
            }
            let (id, shard, node) = (row.id, row.shard, row.target);
            moves::forget_placement(&mut home.client, id, shard, node, "copying").await?;
        }
        let mut last = progress.borrow().clone();
        last.state = State::Failed;
        last.step = None;
        last.blocker = None;
        last.error = Some(row.error.clone().unwrap_or_else(|| why.to_owned()));
        let written = moves::record(&home.client, row.id, &last.to_record()).await?;
        progress.send_replace(last);
        Ok::<_, tokio_postgres::Error>(written)
    };
    match dropped.await {
        Ok(dropped) => dropped,
        Err(error) => {
            tracing::info!(move_id = row.id.0, %error, "to be dropped");
            false
        }
    }
}

/// Connections to home, which holds the lock and is kept from one try to the next, source and target.
async fn open(
    mover: &Mover,
    row: &MoveRow,
    kept: &mut Option<Link>,
) -> Result<(Plan, Link, Link, Link), StepError> {
    let connector = mover.store.connector();
    let routes = mover.store.reload().await?;
    if kept.as_ref().is_none_or(Link::is_closed) {
        *kept = Some(lock_home(connector, routes.home(), row.id, row.rollback_of).await?);
    }
    let plan = Plan::new(row, &routes)?;
    let source = Link::open(connector, &plan.source, row.id).await?;
    let target = Link::open(connector, &plan.target, row.id).await?;
    let Some(home) = kept.take() else { return Err(StepError::LockLost) };
    // With the lock ours, whatever still runs under this move's name is a dead process's.
    for link in [&source, &target] {
        if let Err(e) = link.end_others(row.id, &home).await {
            *kept = Some(home);
            return Err(e);
        }
    }
    Ok((plan, home, source, target))
}
