//! Does what the machine decides, and tells it how that went.

use std::time::{Duration, Instant};

use super::check;
use super::cleanup::{self, Which};
use super::ctx::{Ctx, Signal};
use super::cutover;
use super::detach;
use super::error::StepError;
use super::facts;
use super::fence;
use super::leaves;
use super::machine::{Effect, Input, Machine, State, Step};
use super::node::ensure_node_schema;
use super::progress::Progress;
use super::ready;
use super::replication;
use crate::catalog::moves;
use crate::catalog::reserved::must_be_ours;
use crate::failpoint;
use crate::topology::NodeId;

/// Carries a move on until nothing is left to do here: it is over, or another took it over.
/// Returns the state it was left in.
pub async fn run(ctx: &mut Ctx, mut machine: Machine) -> State {
    let mut input = Input::Begin;
    loop {
        let mut effects = Vec::new();
        machine.handle(input, &mut effects);
        input = Input::Begin;
        for effect in effects {
            match effect {
                Effect::Record { state, step, error, blocker } => {
                    let mut next = ctx.progress.borrow().clone();
                    next.state = state;
                    next.step = step.map(Step::name);
                    next.error = error;
                    next.blocker = blocker;
                    next.attempts += u32::from(step == Some(Step::Cutover));
                    if record(ctx, &next).await.is_err() {
                        return machine.state();
                    }
                    ctx.progress.send_replace(next);
                }
                Effect::Pause { tried } => pause(ctx, &machine, tried).await,
                Effect::Run(step) => match run_step(ctx, &machine, step).await {
                    Ok(()) => input = Input::Done,
                    Err(e) => {
                        tracing::info!(move_id = ctx.plan.id.0, step = step.name(), error = %e, "step");
                        match e.into_input() {
                            Some(i) => input = i,
                            None => return machine.state(),
                        }
                    }
                },
                Effect::Stop => return machine.state(),
            }
        }
    }
}

/// Writes the move's row; tries until home is there, and until the group is free for a move that has
/// soaked. Fails only when the row is not this task's any more.
async fn record(ctx: &mut Ctx, p: &Progress) -> Result<(), StepError> {
    loop {
        let written = moves::record(&ctx.home.client, ctx.plan.id, &p.to_record()).await;
        match ctx.home.told("recording the move", written) {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(StepError::HandedOver),
            Err(e) if e.sqlstate() == Some("23505") => {
                ctx.show(|p| p.blocker = Some("another move of this colocation group".into()));
                let mut signal = ctx.signal.clone();
                tokio::select! {
                    _ = signal.wait_for(|s| *s == Signal::HandOver) => return Err(StepError::HandedOver),
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
            Err(e) => {
                tracing::warn!(move_id = ctx.plan.id.0, error = %e, "cannot record");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        // Whatever else keeps us from home is met again by the next try.
        if let Err(StepError::LockLost) = ctx.ensure_home().await {
            return Err(StepError::LockLost);
        }
    }
}

/// Backs off; CANCEL MOVE ends the pause.
async fn pause(ctx: &mut Ctx, machine: &Machine, tried: u32) {
    let time = Duration::from_millis(50 << tried.min(6));
    if machine.can_cancel() {
        let mut signal = ctx.signal.clone();
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = signal.wait_for(|s| *s == Signal::Cancel) => {}
        }
    } else {
        tokio::time::sleep(time).await;
    }
}

async fn run_step(ctx: &mut Ctx, machine: &Machine, step: Step) -> Result<(), StepError> {
    if machine.can_cancel() && *ctx.signal.borrow() == Signal::Cancel {
        return Err(StepError::Cancelled);
    }
    if matches!(step, Step::Unfence | Step::DropObjects) && has_made_nothing(ctx).await? {
        // The nodes need not be there for that.
        return forget_placement(ctx, ctx.plan.target.id, "copying").await;
    }
    ctx.ensure_links().await?;
    failpoint::hit(&format!("move.{}.before", step.name()));
    // The held phase is never dropped half-way. Every other step bears it as it bears a crash.
    let droppable = machine.can_cancel() && step != Step::Cutover;
    let done = if droppable {
        let mut signal = ctx.signal.clone();
        tokio::select! {
            done = act(ctx, step) => done,
            _ = signal.wait_for(|s| *s == Signal::Cancel) => Err(StepError::Cancelled),
        }
    } else {
        act(ctx, step).await
    };
    if matches!(done, Err(StepError::Cancelled)) {
        // A lost connection here is found again by the steps that undo.
        if let Err(e) = ctx.renew_links().await {
            tracing::info!(move_id = ctx.plan.id.0, error = %e, "renewing connections");
        }
    }
    done?;
    failpoint::hit(&format!("move.{}.after", step.name()));
    Ok(())
}

async fn act(ctx: &mut Ctx, step: Step) -> Result<(), StepError> {
    match step {
        Step::Discard => cleanup::remove(ctx, Which::All).await,
        Step::Preflight => preflight(ctx).await,
        Step::CreateLeaves => create_leaves(ctx).await,
        Step::Publish => replication::publish_forward(ctx).await,
        Step::Subscribe => replication::subscribe_forward(ctx).await,
        Step::Copy => replication::copy(ctx).await,
        Step::BuildIndexes => leaves::build_indexes(ctx).await,
        Step::AddForeignKeys => leaves::add_foreign_keys(ctx).await,
        Step::PrepareReverse => replication::prepare_reverse(ctx).await,
        Step::Recheck => leaves::keep_attachable(ctx, &ctx.target).await,
        Step::AwaitReady => ready::wait(ctx).await,
        Step::Cutover => cutover::attempt(ctx).await,
        Step::Settle => cutover::settle(ctx).await,
        Step::DropForward => {
            cleanup::remove(ctx, Which::Replication(&ctx.plan.forward())).await?;
            leaves::allow_autovacuum(ctx).await
        }
        Step::StartReverse => replication::start_reverse(ctx).await,
        Step::FinishDetach => detach::finish(ctx).await,
        Step::KeepAttachable => keep_attachable(ctx).await,
        Step::Soak => soak(ctx).await,
        Step::DropReverse => cleanup::remove(ctx, Which::Replication(&ctx.plan.reverse())).await,
        Step::DropRetired => {
            cleanup::remove(ctx, Which::Schema).await?;
            forget_placement(ctx, ctx.plan.source.id, "retired").await
        }
        Step::DropScaffold => cleanup::remove(ctx, Which::All).await,
        Step::Unfence => unfence(ctx).await,
        Step::DropObjects => {
            cleanup::remove(ctx, Which::All).await?;
            forget_placement(ctx, ctx.plan.target.id, "copying").await
        }
    }
}

async fn preflight(ctx: &Ctx) -> Result<(), StepError> {
    for link in [&ctx.source, &ctx.target] {
        link.told("preparing the node", ensure_node_schema(&link.client).await)?;
    }
    ctx.source.batch("looking at the shard's schema", &must_be_ours(&[ctx.plan.schema()])).await?;
    ctx.plan.check_tables(&ctx.store.routes().load())?;
    let source = facts::read(&ctx.source, &ctx.plan, true).await?;
    let target = facts::read(&ctx.target, &ctx.plan, false).await?;
    let verdict = check::judge(&source, &target, ctx.config.oldest_transaction);
    ctx.show(|p| p.notices = verdict.notices);
    if !verdict.refusals.is_empty() {
        return Err(StepError::Refused(verdict.refusals.join("; ")));
    }
    if !verdict.waits.is_empty() {
        return Err(StepError::Blocked(verdict.waits.join("; ")));
    }
    Ok(())
}

async fn create_leaves(ctx: &Ctx) -> Result<(), StepError> {
    for t in &ctx.plan.tables {
        let leaf = facts::leaf(&ctx.source, &ctx.plan, t).await?;
        match leaf.map(|l| l.identity) {
            None | Some(check::Identity::Given) => {}
            Some(check::Identity::Index(i)) => leaves::set_identity(ctx, &t.leaf, Some(&i)).await?,
            Some(check::Identity::Full) => leaves::set_identity(ctx, &t.leaf, None).await?,
        }
    }
    leaves::create(ctx).await
}

/// The retired leaves can follow and come back only if they are still harmless. If somebody has changed
/// them before the fence stood, there is no way back, and the slot need not be kept: soaking ends.
async fn keep_attachable(ctx: &Ctx) -> Result<(), StepError> {
    let why = match leaves::keep_attachable(ctx, &ctx.source).await {
        Err(StepError::Refused(why)) => why,
        other => return other,
    };
    ctx.show(|p| p.notices.push(format!("this move cannot be rolled back: {why}")));
    cleanup::drop_slot_now(&ctx.target, &ctx.plan.reverse()).await
}

/// Keeps the retired leaves current until the time is over or somebody asks. When the retired node
/// stays away, the slot must not fill the disk of the one that serves: then soaking ends.
async fn soak(ctx: &mut Ctx) -> Result<(), StepError> {
    let begun = *ctx.soaking_since.get_or_insert_with(Instant::now);
    let mut signal = ctx.signal.clone();
    loop {
        let left = ctx.config.soak_time.saturating_sub(ctx.soaked + begun.elapsed());
        ctx.show(|p| p.eta = Some(left));
        let asked = tokio::select! {
            s = signal.wait_for(|s| matches!(s, Signal::Finish | Signal::HandOver)) => {
                s.map_or(Signal::HandOver, |s| *s)
            }
            () = tokio::time::sleep(left.min(Duration::from_secs(1))) => Signal::None,
        };
        ctx.show(|p| p.eta = None);
        match asked {
            Signal::HandOver => return Err(StepError::HandedOver),
            Signal::Finish => return Ok(()),
            Signal::None | Signal::Cancel if left.is_zero() => return Ok(()),
            Signal::None | Signal::Cancel => {}
        }
        if replication::reverse_is_too_far_behind(ctx).await? {
            cleanup::drop_slot_now(&ctx.target, &ctx.plan.reverse()).await?;
            return Ok(());
        }
    }
}

/// Lifts the fence, which only stands where the journal has nothing: the machine undoes nothing else.
async fn unfence(ctx: &Ctx) -> Result<(), StepError> {
    for link in [&ctx.source, &ctx.target] {
        link.told("preparing the node", ensure_node_schema(&link.client).await)?;
    }
    if super::journal::is_committed(&ctx.target, &ctx.plan).await? {
        return Err(StepError::Refused(format!(
            "{} has this move in its journal; it must not be undone",
            ctx.plan.target.name
        )));
    }
    let ours = fence::is_of(&ctx.source, &ctx.plan).await?;
    if ours { fence::lift(&ctx.source, &ctx.plan, None).await } else { Ok(()) }
}

/// Nothing on any node is this move's: whatever it makes is promised first.
async fn has_made_nothing(ctx: &mut Ctx) -> Result<bool, StepError> {
    ctx.ensure_home().await?;
    let promised = moves::promised(&ctx.home.client, ctx.plan.base()).await;
    Ok(ctx.home.told("reading the cleanup records", promised)?.is_empty())
}

async fn forget_placement(ctx: &mut Ctx, node: NodeId, state: &str) -> Result<(), StepError> {
    let (id, shard) = (ctx.plan.id, ctx.plan.shard);
    let done = moves::forget_placement(&mut ctx.home.client, id, shard, node, state).await;
    ctx.home.told("forgetting the placement", done)?;
    ctx.store.reload().await?;
    Ok(())
}
