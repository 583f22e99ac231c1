//! The wait before a cutover: until the held phase promises to be short.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::ctx::Ctx;
use super::cutover;
use super::error::StepError;
use super::failures::Failures;
use super::fence;
use super::leaves;
use super::marker::Marker;
use super::replication;
use super::throttle::{self, Advice, Throttle};

/// A long wait for one marker says enough; it need not be waited to its end.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
const IN_A_ROW: u32 = 3;
/// How long one look for clients in the way lasts, and how long it is until the next.
const LOOK: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Until the lag is small and a marker's round trip is short, three times in a row, nothing is known
/// to block, and the ATTACH has been rehearsed.
pub async fn wait(ctx: &Ctx) -> Result<(), StepError> {
    ctx.plan.check_tables(&ctx.store.routes().load())?;
    let hold = AtomicU64::new(0);
    tokio::select! {
        caught_up = catch_up(ctx, &hold) => caught_up?,
        () = slow_writers(ctx, &hold) => {}
    }
    nobody_blocks(ctx).await?;
    rehearse(ctx).await
}

/// Until the target follows closely; says in `hold` (milliseconds) how much the writers are slowed.
async fn catch_up(ctx: &Ctx, hold: &AtomicU64) -> Result<(), StepError> {
    let mut marker = Marker::prepare(&ctx.source, &ctx.target, &ctx.plan).await?;
    // Whoever begins in a turn is through with one statement in it, however short the turn: only longer
    // holds let less through.
    let longest = ctx.config.max_pause.saturating_sub(throttle::RUN);
    let mut throttle = Throttle::new(Instant::now(), longest);
    let mut failures = Failures::default();
    let mut good = 0;
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
        let mut why = match trip {
            Some(t) => format!("a marker takes {} ms, {lag} bytes of WAL behind", t.as_millis()),
            None => format!("the target is behind by {lag} bytes of WAL"),
        };
        let time = match throttle.advise(Instant::now(), lag) {
            // It follows, but its answers are slow: holding writers for long would be for nothing.
            Advice::Hold(time) if lag < ctx.config.ready_lag => time.min(throttle::RUN),
            Advice::GiveUp if lag < ctx.config.ready_lag => throttle::RUN,
            Advice::Hold(time) => time,
            Advice::GiveUp => {
                return Err(StepError::Refused(format!(
                    "{} cannot follow the writers of the shard, however much they are slowed: {why}",
                    ctx.plan.target.name
                )));
            }
        };
        hold.store(time.as_millis() as u64, Ordering::Relaxed);
        if !time.is_zero() {
            let (held, run) = (time.as_millis(), throttle::RUN.as_millis());
            why += &format!("; writers are held {held} ms and run {run} ms by turns");
        }
        ctx.show(|p| p.blocker = Some(why));
        failures.look(ctx).await?;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    ctx.show(|p| p.blocker = None);
    Ok(())
}

/// One apply worker follows many writers: the shard's traffic is held for a moment, again and again,
/// which leaves the worker the rest of the time. Never ends.
async fn slow_writers(ctx: &Ctx, hold: &AtomicU64) {
    loop {
        let time = Duration::from_millis(hold.load(Ordering::Relaxed));
        if !time.is_zero() {
            let since = Instant::now();
            // One that does not drain in this time has held the others up all the same.
            let closed = ctx.gates.close(ctx.plan.scope(), time, Some(time)).await;
            tokio::time::sleep(time.saturating_sub(since.elapsed())).await;
            drop(closed);
            ctx.show(|p| p.add_hold(since.elapsed().min(time)));
        }
        tokio::time::sleep(throttle::RUN).await;
    }
}

/// Clients of ours whose transaction is open for longer than a drain may take would make all others
/// wait for it in vain: they are waited for outside of the hold.
async fn no_client_blocks(ctx: &Ctx) -> Result<(), StepError> {
    let since = Instant::now();
    loop {
        let open = ctx.gates.blockers(ctx.plan.scope()).await;
        let old: Vec<_> =
            open.into_iter().filter(|b| b.open_for > ctx.config.cutover_drain_timeout).collect();
        if old.is_empty() {
            return Ok(());
        }
        let who = cutover::names(&old);
        if since.elapsed() > LOOK {
            return Err(StepError::Blocked(who));
        }
        ctx.show(|p| p.blocker = Some(who));
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Traffic is not held for a cutover that will find somebody in the way: who has been open for
/// longer than the drain may take, and holds the leaves, will not go within it either.
async fn nobody_blocks(ctx: &Ctx) -> Result<(), StepError> {
    no_client_blocks(ctx).await?;
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
