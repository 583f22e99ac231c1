//! The wait before a cutover: until the held phase promises to be short.

use std::time::{Duration, Instant};

use super::ctx::Ctx;
use super::error::StepError;
use super::fence;
use super::leaves;
use super::marker::Marker;
use super::replication;

/// A long wait for one marker says enough; it need not be waited to its end.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
const IN_A_ROW: u32 = 3;
/// How long the target may fail to gain on the source before the writers are slowed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long they are held at a time, and how long they run between.
const PULSE: Duration = Duration::from_millis(50);

/// Until the lag is small and a marker's round trip is short, three times in a row, nothing is known
/// to block, and the ATTACH has been rehearsed.
pub async fn wait(ctx: &Ctx) -> Result<(), StepError> {
    ctx.plan.check_tables(&ctx.store.routes().load())?;
    let mut marker = Marker::prepare(&ctx.source, &ctx.target, &ctx.plan).await?;
    let mut good = 0;
    let mut pace = Pace { since: Instant::now(), lag: u64::MAX };
    while good < IN_A_ROW {
        let trip = marker.round_trip(&ctx.source, &ctx.target, PROBE_LIMIT).await?;
        let lag = replication::check_slot(ctx).await?;
        let in_step = replication::is_in_step(ctx).await?;
        let short = trip.is_some_and(|t| t < ctx.config.ready_round_trip);
        if short && in_step && lag < ctx.config.ready_lag {
            good += 1;
            continue;
        }
        good = 0;
        let why = match trip {
            Some(t) => format!("a marker takes {} ms, {lag} bytes of WAL behind", t.as_millis()),
            None => format!("the target is behind by {lag} bytes of WAL"),
        };
        ctx.show(|p| p.blocker = Some(why));
        if pace.is_lost(lag) {
            slow_writers(ctx, &mut marker).await?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ctx.show(|p| p.blocker = None);
    nobody_blocks(ctx).await?;
    rehearse(ctx).await
}

/// Whether the target gains on the source at all.
struct Pace {
    since: Instant,
    lag: u64,
}

impl Pace {
    fn is_lost(&mut self, lag: u64) -> bool {
        if lag < self.lag / 10 * 9 {
            *self = Self { since: Instant::now(), lag };
        }
        self.since.elapsed() > PATIENCE
    }
}

/// One apply worker follows many writers: the shard's traffic is held for a moment, again and again,
/// which leaves the worker the rest of the time.
async fn slow_writers(ctx: &Ctx, marker: &mut Marker) -> Result<(), StepError> {
    let closing = ctx.gates.close(ctx.plan.scope(), ctx.config.cutover_drain_timeout, Some(PULSE));
    // A gate that does not drain has held the writers up all the same.
    if let Ok(closed) = closing.await {
        marker.round_trip(&ctx.source, &ctx.target, PULSE).await?;
        drop(closed);
    }
    tokio::time::sleep(PULSE).await;
    Ok(())
}

/// Traffic is not held for a cutover that will find somebody in the way: who has been open for
/// longer than the drain may take, and holds the leaves, will not go within it either.
async fn nobody_blocks(ctx: &Ctx) -> Result<(), StepError> {
    fence::step_aside(&ctx.source, &ctx.plan).await?;
    let pending = super::facts::pending_detach(&ctx.source, &ctx.plan).await?;
    if let Some(parent) = pending.first() {
        return Err(StepError::Blocked(format!(
            "{}: an earlier DETACH from {parent} has not finished",
            ctx.source.node.name
        )));
    }
    match fence::blockers(&ctx.source, &ctx.plan, ctx.config.cutover_drain_timeout).await? {
        Some(who) => Err(StepError::Blocked(who)),
        None => Ok(()),
    }
}

async fn rehearse(ctx: &Ctx) -> Result<(), StepError> {
    let lifting = fence::lifting(&ctx.target, &ctx.plan).await?;
    let took = leaves::rehearse_attach(ctx, &lifting).await?;
    // The rest of the pause belongs to the drain, the fence and the catch-up.
    if took > ctx.config.max_pause / 2 {
        return Err(StepError::Refused(format!(
            "attaching the leaves on {} takes {} ms, more than half of max_pause",
            ctx.target.node.name,
            took.as_millis()
        )));
    }
    Ok(())
}
