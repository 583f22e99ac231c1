//! Taking the leaves from their parents on the source, CONCURRENTLY.
//!
//! Phase one, seen as `pg_inherits.inhdetachpending`, is what a cutover needs: from its commit on
//! no new statement finds the leaf through its parent. Phase two waits for every transaction that may
//! still see it, in the background. A plain DETACH would deadlock with writers. A parent bears one
//! pending DETACH at a time.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::ctx::Ctx;
use super::error::StepError;
use super::link::Link;
use super::plan::{Plan, PlanTable};

type Background = JoinHandle<Result<(), StepError>>;

/// Where a leaf is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Attached,
    Pending,
    Detached,
}

async fn phases(link: &Link, plan: &Plan) -> Result<Vec<Phase>, StepError> {
    let leaves: Vec<&str> = plan.tables.iter().map(|t| t.leaf.as_str()).collect();
    let rows = link
        .query(
            "watching DETACH",
            "SELECT (SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(leaf))
             FROM unnest($1::text[]) WITH ORDINALITY AS l(leaf, n) ORDER BY n",
            &[&leaves],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|r| match r.get::<_, Option<bool>>(0) {
            None => Phase::Detached,
            Some(true) => Phase::Pending,
            Some(false) => Phase::Attached,
        })
        .collect())
}

/// Whether no statement can find a leaf through its parent any more.
pub async fn is_begun(link: &Link, plan: &Plan) -> Result<bool, StepError> {
    Ok(phases(link, plan).await?.iter().all(|p| *p != Phase::Attached))
}

/// Sends DETACH for each leaf on a connection of its own and returns when all are past phase one.
/// The connections are taken, the handles are the second phases.
pub async fn begin(
    watch: &Link,
    plan: &Plan,
    connections: Vec<Link>,
) -> Result<Vec<Background>, StepError> {
    let now = phases(watch, plan).await?;
    let mut running: Vec<Background> = Vec::new();
    for ((t, phase), link) in plan.tables.iter().zip(now).zip(connections) {
        if phase == Phase::Attached {
            let sql = format!("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY", t.parent, t.leaf);
            running.push(tokio::spawn(async move { link.batch("detaching", &sql).await }));
        }
    }
    let since = Instant::now();
    loop {
        if is_begun(watch, plan).await? {
            return Ok(running);
        }
        // One that has ended without having done its work says why.
        while let Some(i) = running.iter().position(JoinHandle::is_finished) {
            ended(running.swap_remove(i).await)?;
        }
        if running.is_empty() && !is_begun(watch, plan).await? {
            return Err(StepError::Blocked("DETACH was sent and has left no trace".into()));
        }
        if since.elapsed() > Duration::from_millis(5) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn ended(result: Result<Result<(), StepError>, tokio::task::JoinError>) -> Result<(), StepError> {
    match result {
        Ok(done) => done,
        Err(e) => Err(StepError::Blocked(format!("the task of a DETACH ended: {e}"))),
    }
}

/// Waits for the second phases, ends those that a crash has left half-way.
pub async fn finish(ctx: &mut Ctx) -> Result<(), StepError> {
    for running in std::mem::take(&mut ctx.detaching) {
        if let Err(e) = ended(running.await) {
            tracing::debug!(error = %e, "a DETACH is finished by hand");
        }
    }
    let now = phases(&ctx.source, &ctx.plan).await?;
    for (t, phase) in ctx.plan.tables.iter().zip(now) {
        match phase {
            Phase::Detached => {}
            Phase::Pending => finalize(&ctx.source, t).await?,
            Phase::Attached => {
                return Err(StepError::Blocked(format!(
                    "{}: {} is attached again",
                    ctx.source.node.name, t.leaf
                )));
            }
        }
    }
    Ok(())
}

async fn finalize(link: &Link, t: &PlanTable) -> Result<(), StepError> {
    let sql = format!("ALTER TABLE {} DETACH PARTITION {} FINALIZE", t.parent, t.leaf);
    link.batch("finishing DETACH", &sql).await
}
