//! The held phase: drain, fence, catch up, attach ║ detach and catalog, open.
//!
//! Everything that can be made ready before is made ready before: connections, statements, the
//! texts of the transactions, a rehearsed ATTACH. An error up to the journal's commit leads back to the
//! source, unfenced; whether it was reached is never guessed, but read from the target. After it only
//! forward: the gate stays closed until the routing table tells the new truth.
//!
//! Until ATTACH is sent the workers open their gates by themselves after `max_pause`, whatever has
//! become of this task, and the source serves. From then on opening could give a wrong answer, so the
//! gate is sealed first; if it has opened meanwhile, ATTACH is not sent.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::Statement;

use super::cleanup::Kind;
use super::ctx::Ctx;
use super::detach;
use super::error::StepError;
use super::fence::{self, Fence, Stamp};
use super::journal;
use super::leaves;
use super::link::Link;
use super::machine::{Found, HoldStep};
use super::marker::Marker;
use super::plan::Plan;
use super::progress::{HoldTimes, Progress};
use super::replication;
use crate::catalog::{Store, moves};
use crate::failpoint;
use crate::gate::{Blocked, Blocker, Closed, Gates, Scope};
use crate::topology::Epoch;

fn before(step: HoldStep) {
    failpoint::hit(&format!("move.{}.before", step.name()));
}

fn after(step: HoldStep) {
    failpoint::hit(&format!("move.{}.after", step.name()));
}

/// What is made ready before traffic is held.
struct Prepared {
    fence: Fence,
    stamp: Stamp,
    marker: Marker,
    attach: String,
    tail: Tail,
    /// On the source, beside the session that puts up the fence.
    beside: Link,
}

/// What the steps behind the journal need.
struct Tail {
    flip: Statement,
    watch: detach::Watch,
    detach: Vec<detach::Detacher>,
}

impl Tail {
    async fn prepare(ctx: &Ctx) -> Result<Self, StepError> {
        let plan = &ctx.plan;
        let detach = detach::Detacher::open(ctx).await?;
        Ok(Self {
            flip: ctx.home.told(
                "preparing the catalog's part",
                moves::prepare_flip(&ctx.home.client).await,
            )?,
            watch: detach::Watch::prepare(&ctx.source, plan).await?,
            detach,
        })
    }
}

async fn prepare(ctx: &Ctx) -> Result<Prepared, StepError> {
    let plan = &ctx.plan;
    ctx.promise(plan.target.id, Kind::Journal.name(), &plan.id.to_string()).await?;
    if !replication::is_in_step(ctx).await? {
        return Err(StepError::Blocked("not every leaf is in step yet".into()));
    }
    for t in &plan.tables {
        ctx.promise(plan.source.id, Kind::Fence.name(), &t.leaf).await?;
    }
    let lifting = fence::lifting(&ctx.target, plan).await?;
    let fence = Fence::prepare(&ctx.source, plan).await?;
    fence.rehearse(&ctx.source, plan).await?;
    Ok(Prepared {
        fence,
        stamp: Stamp::now(),
        marker: Marker::prepare(&ctx.source, &ctx.target, plan).await?,
        attach: journal::attach_and_commit(plan, &leaves::attach_all(ctx, &lifting).await?),
        tail: Tail::prepare(ctx).await?,
        beside: ctx.open_link(&plan.source).await?,
    })
}

/// One attempt. `Ok`: the journal is committed, the catalog and the routing table tell it, and the
/// gate is open. Any error but a lost lock: the source serves.
pub async fn attempt(ctx: &mut Ctx) -> Result<(), StepError> {
    let mut ready = prepare(ctx).await?;
    let mut times = HoldTimes::default();
    let max_pause = ctx.config.max_pause;
    before(HoldStep::Drain);
    let since = Instant::now();
    let closing =
        ctx.gates.close(ctx.plan.scope(), ctx.config.cutover_drain_timeout, Some(max_pause));
    let mut closed = match closing.await {
        Ok(closed) => closed,
        Err(b) => {
            ctx.show(|p| p.add_hold(b.waited));
            return Err(blocked(b));
        }
    };
    times.push(HoldStep::Drain, since.elapsed());
    after(HoldStep::Drain);

    let deadline = since + max_pause;
    // The last quarter is for ATTACH, or for lifting the fence again.
    let early = deadline - max_pause / 4;
    let caught_up = catch_up(ctx, &mut ready, early, &mut times);
    let caught_up = match tokio::time::timeout_at(early.into(), caught_up).await {
        Ok(done) => done,
        Err(_) => Err(StepError::Blocked("a node did not answer within max_pause".into())),
    };
    if let Err(e) = caught_up {
        // ATTACH was not sent, so the target need not be asked, and may well be away.
        lift_again(ctx, ready.stamp).await;
        // The workers have opened by themselves then.
        let held = closed.open().min(max_pause);
        ctx.show(|p| p.add_hold(held));
        return Err(e);
    }
    if let Err(e) = attach(ctx, &ready, &mut closed, deadline, &mut times).await {
        match e {
            NotAttached::NotSent(e) => {
                lift_again(ctx, ready.stamp).await;
                let held = closed.open();
                ctx.show(|p| p.add_hold(held));
                return Err(e);
            }
            NotAttached::Unknown(e) => match resolve(ctx).await? {
                Found::NoJournal => {
                    let held = closed.open();
                    ctx.show(|p| p.add_hold(held));
                    return Err(e);
                }
                Found::Journal => {}
            },
        }
    }
    complete(ctx, Some(ready.tail), &mut times).await?;
    open(ctx, closed, times);
    Ok(())
}

fn open(ctx: &Ctx, closed: Closed, times: HoldTimes) {
    before(HoldStep::Open);
    let held = closed.open();
    after(HoldStep::Open);
    tracing::info!(
        move_id = ctx.plan.id.0,
        shard = ctx.plan.shard.0,
        held_us = held.as_micros() as u64,
        "switched"
    );
    ctx.show(|p| {
        p.add_hold(held);
        p.hold = times;
        p.blocker = None;
    });
}

/// Clients with open transactions, for SHOW MOVES.
pub fn names(clients: &[Blocker]) -> String {
    let name =
        |c: &Blocker| format!("client {} (transaction open for {:.1?})", c.client, c.open_for);
    clients.iter().map(name).collect::<Vec<_>>().join("; ")
}

fn blocked(b: Blocked) -> StepError {
    StepError::Blocked(if b.blockers.is_empty() {
        format!("the gate did not drain within {:?}", b.waited)
    } else {
        names(&b.blockers)
    })
}

/// Fences the source and waits until the target has all that was written before.
async fn catch_up(
    ctx: &Ctx,
    ready: &mut Prepared,
    early: Instant,
    times: &mut HoldTimes,
) -> Result<(), StepError> {
    before(HoldStep::Fence);
    let since = Instant::now();
    let (marker, seq) = ready.marker.write();
    raise_fence(ctx, ready, &marker, early).await?;
    times.push(HoldStep::Fence, since.elapsed());
    after(HoldStep::Fence);

    before(HoldStep::CatchUp);
    let since = Instant::now();
    if !ready.marker.arrived(&ctx.target, seq, early).await? {
        let e = format!("{} did not catch up within the pause", ctx.plan.target.name);
        return Err(StepError::Blocked(e));
    }
    times.push(HoldStep::CatchUp, since.elapsed());
    after(HoldStep::CatchUp);
    Ok(())
}

enum NotAttached {
    NotSent(StepError),
    /// It may have been committed all the same.
    Unknown(StepError),
}

async fn attach(
    ctx: &Ctx,
    ready: &Prepared,
    closed: &mut Closed,
    deadline: Instant,
    times: &mut HoldTimes,
) -> Result<(), NotAttached> {
    let over = || StepError::Blocked("max_pause was over before the ATTACH".into());
    before(HoldStep::Attach);
    let since = Instant::now();
    let Some(left) = deadline.checked_duration_since(since).filter(|d| !d.is_zero()) else {
        return Err(NotAttached::NotSent(over()));
    };
    if !closed.seal().await {
        return Err(NotAttached::NotSent(over()));
    }
    let sql = format!(
        "SET LOCAL lock_timeout = {}; SET LOCAL synchronous_commit = on; {}",
        left.as_millis().max(1),
        ready.attach
    );
    ctx.target.transaction("attaching the leaves", &sql).await.map_err(NotAttached::Unknown)?;
    times.push(HoldStep::Attach, since.elapsed());
    after(HoldStep::Attach);
    Ok(())
}

/// Puts the fence up; if its lock is not granted, says who had it.
async fn raise_fence(
    ctx: &Ctx,
    ready: &Prepared,
    marker: &str,
    until: Instant,
) -> Result<(), StepError> {
    let left = until.saturating_duration_since(Instant::now());
    // Given up by the node in time, so that it is known who was in the way.
    let patience = ctx.config.cutover_drain_timeout.min(left / 8 * 7);
    let raise = ready.fence.raise(&ctx.source, ready.stamp, marker, patience);
    tokio::pin!(raise);
    let (done, who) = tokio::select! {
        done = &mut raise => (done, None),
        () = tokio::time::sleep(patience / 2) => {
            let who = fence::blockers(&ready.beside, &ctx.plan, Duration::ZERO).await;
            (raise.await, who.ok().flatten())
        }
    };
    match done {
        Err(e) if e.is_lock_conflict() => Err(StepError::Blocked(who.unwrap_or_else(|| {
            format!("{}: a writer that has ended meanwhile", ctx.plan.source.name)
        }))),
        other => other,
    }
}

/// Leaves the source unfenced when an attempt was given up before ATTACH was sent. Tries until it
/// is, and asks the source only: home and the target may be away. Whatever the attempt left
/// running there ends first, so that no fence comes up behind it.
async fn lift_again(ctx: &mut Ctx, stamp: Stamp) {
    while let Err(e) = try_to_lift(ctx, stamp).await {
        tracing::warn!(move_id = ctx.plan.id.0, error = %e, "the source is not unfenced yet");
        ctx.show(|p| p.error = Some(e.to_string()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ctx.show(|p| p.error = None);
}

async fn try_to_lift(ctx: &mut Ctx, stamp: Stamp) -> Result<(), StepError> {
    ctx.source = ctx.open_link(&ctx.plan.source.clone()).await?;
    ctx.source.end_others(ctx.plan.id, &ctx.home).await?;
    fence::lift(&ctx.source, &ctx.plan, Some(stamp)).await
}

/// Finds out who serves, when ATTACH may have been committed or not, and leaves the source unfenced
/// if it does. Tries until it knows. The move's other sessions end first, so that nothing commits
/// behind it.
async fn resolve(ctx: &mut Ctx) -> Result<Found, StepError> {
    loop {
        match try_resolve(ctx).await {
            Ok(found) => return Ok(found),
            Err(StepError::LockLost) => return Err(StepError::LockLost),
            Err(e) => {
                tracing::warn!(move_id = ctx.plan.id.0, error = %e, "cannot tell yet who serves");
                ctx.show(|p| p.error = Some(e.to_string()));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn try_resolve(ctx: &mut Ctx) -> Result<Found, StepError> {
    ctx.ensure_links().await?;
    for link in [&ctx.source, &ctx.target] {
        link.end_others(ctx.plan.id, &ctx.home).await?;
    }
    let found = if journal::is_committed(&ctx.target, &ctx.plan).await? {
        Found::Journal
    } else {
        fence::lift(&ctx.source, &ctx.plan, None).await?;
        Found::NoJournal
    };
    ctx.show(|p| p.error = None);
    Ok(found)
}

/// What follows from the journal: the source's leaves leave their parents, the catalog and the
/// routing table tell who serves. Tries until it is done; only a lost lock ends it otherwise.
async fn complete(
    ctx: &mut Ctx,
    mut ready: Option<Tail>,
    times: &mut HoldTimes,
) -> Result<(), StepError> {
    loop {
        let taken = match ready.take() {
            Some(tail) => Ok(tail),
            None => reopen(ctx).await,
        };
        let done = match taken {
            Ok(tail) => detach_and_tell(ctx, tail, times).await,
            Err(e) => Err(e),
        };
        match done {
            Ok(()) => return Ok(()),
            Err(StepError::LockLost) => return Err(StepError::LockLost),
            Err(e) => {
                tracing::warn!(move_id = ctx.plan.id.0, error = %e, "the switch is not complete yet");
                ctx.show(|p| p.error = Some(e.to_string()));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn reopen(ctx: &mut Ctx) -> Result<Tail, StepError> {
    ctx.ensure_links().await?;
    Tail::prepare(ctx).await
}

/// Detach and catalog do not depend on one another, and traffic waits for both.
async fn detach_and_tell(
    ctx: &mut Ctx,
    tail: Tail,
    times: &mut HoldTimes,
) -> Result<(), StepError> {
    let Tail { flip, watch, detach: links } = tail;
    let (home, source, plan, store) = (&mut ctx.home, &ctx.source, &ctx.plan, &ctx.store);
    let since = Instant::now();
    let detaching = async {
        before(HoldStep::Detach);
        let handles = detach::begin(source, &watch, plan, links).await?;
        after(HoldStep::Detach);
        Ok::<_, StepError>((handles, since.elapsed()))
    };
    let telling = async {
        before(HoldStep::Catalog);
        tell(home, plan, store, &flip).await?;
        after(HoldStep::Catalog);
        Ok::<_, StepError>(since.elapsed())
    };
    let (detached, told) = tokio::join!(detaching, telling);
    let (handles, detach_took) = detached?;
    ctx.detaching.extend(handles);
    let tell_took = told?;
    times.push(HoldStep::Detach, detach_took);
    times.push(HoldStep::Catalog, tell_took);
    ctx.show(|p| p.error = None);
    Ok(())
}

/// Flips the placements and publishes the new routing table. The journal has decided, so placements
/// that contradict it are mended first.
async fn tell(
    home: &mut Link,
    plan: &Plan,
    store: &Store,
    flip: &Statement,
) -> Result<(), StepError> {
    let routes = store.routes();
    if let Some(epoch) = flip_placements(home, plan, flip).await? {
        match routes.load().with_moved(plan.shard, plan.target.id, epoch) {
            Some(next) => routes.publish(next),
            None => drop(store.reload().await?),
        }
        return Ok(());
    }
    let serves = moves::served_by(&home.client, plan.shard).await;
    if home.told("asking the catalog", serves)? != Some(plan.target.id) {
        let (shard, source, target) = (plan.shard, plan.source.id, plan.target.id);
        tracing::warn!(move_id = plan.id.0, shard = shard.0, "placements mended by the journal");
        let mended = moves::mend_placements(&mut home.client, shard, source, target).await;
        home.told("mending the placements", mended)?;
        if flip_placements(home, plan, flip).await?.is_none() {
            return Err(StepError::Refused(format!(
                "the catalog does not take shard {shard} as served by {}",
                plan.target.name
            )));
        }
    }
    store.reload().await?;
    Ok(())
}

async fn flip_placements(
    home: &Link,
    plan: &Plan,
    flip: &Statement,
) -> Result<Option<Epoch>, StepError> {
    let (source, target) = (plan.source.id, plan.target.id);
    let flipped =
        moves::flip(&home.client, flip, plan.id, plan.shard, source, target, plan.rollback_of);
    home.told("telling the catalog", flipped.await)
}

/// After a crash in the cutover: finds out who serves, completes what the journal has decided, and
/// opens the gate.
pub async fn recover(ctx: &mut Ctx, closed: Closed) -> Result<Found, StepError> {
    let found = resolve(ctx).await?;
    if found == Found::Journal {
        complete(ctx, None, &mut HoldTimes::default()).await?;
    }
    before(HoldStep::Open);
    closed.open();
    after(HoldStep::Open);
    Ok(found)
}

/// What a crash may have left undone after the catalog was told: a leaf that still answers through
/// its parent, beside the one that serves.
pub async fn settle(ctx: &mut Ctx) -> Result<(), StepError> {
    let watch = detach::Watch::prepare(&ctx.source, &ctx.plan).await?;
    if watch.is_begun(&ctx.source).await? {
        return Ok(());
    }
    let patience = ctx.config.cutover_drain_timeout;
    let closed = close_for_recovery(&ctx.gates, ctx.plan.scope(), patience, &ctx.progress).await;
    complete(ctx, None, &mut HoldTimes::default()).await?;
    closed.open();
    Ok(())
}

/// A gate that stays closed until it is known who serves.
pub async fn close_for_recovery(
    gates: &Gates,
    scope: Scope,
    patience: Duration,
    progress: &watch::Sender<Progress>,
) -> Closed {
    loop {
        match gates.close(scope, patience, None).await {
            Ok(mut closed) => {
                // Without a deadline no worker has opened it.
                closed.seal().await;
                return closed;
            }
            Err(b) => {
                let who = blocked(b).to_string();
                tracing::warn!(blocker = %who, "recovery waits");
                progress.send_modify(|p| p.blocker = Some(who));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
