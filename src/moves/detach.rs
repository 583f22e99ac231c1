//! Taking the leaves from their parents on the source, CONCURRENTLY.
//!
//! Phase one, seen as `pg_inherits.inhdetachpending`, is what a cutover needs: from its commit on
//! no new statement finds the leaf through its parent. Phase two waits for every transaction that may
//! still see it, in the background. A plain DETACH would deadlock with writers. A parent bears one
//! pending DETACH at a time.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Statement;

use super::ctx::Ctx;
use super::error::StepError;
use super::facts;
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

/// Looks at the leaves' places again and again, with one round trip each time.
#[derive(Debug, Clone)]
pub struct Watch {
    statement: Statement,
    leaves: Vec<u32>,
}

impl Watch {
    pub async fn prepare(link: &Link, plan: &Plan) -> Result<Self, StepError> {
        let doing = "preparing to watch DETACH";
        let leaves: Vec<&str> = plan.tables.iter().map(|t| t.leaf.as_str()).collect();
        let rows = link
            .query(
                doing,
                "SELECT coalesce(to_regclass(leaf)::oid, 0)
                 FROM unnest($1::text[]) WITH ORDINALITY AS l(leaf, n) ORDER BY n",
                &[&leaves],
            )
            .await?;
        let statement = link.told(
            doing,
            link.client
                .prepare(
                    "SELECT inhrelid, inhdetachpending FROM pg_inherits WHERE inhrelid = ANY ($1)",
                )
                .await,
        )?;
        let watch = Self { statement, leaves: rows.iter().map(|r| r.get(0)).collect() };
        // The first execution plans.
        watch.phases(link).await?;
        Ok(watch)
    }

    /// Where each table's leaf is.
    async fn phases(&self, link: &Link) -> Result<Vec<Phase>, StepError> {
        let rows = link.client.query(&self.statement, &[&self.leaves]).await;
        let rows = link.told("watching DETACH", rows)?;
        let phase = |leaf: &u32| match rows.iter().find(|r| r.get::<_, u32>(0) == *leaf) {
            None => Phase::Detached,
            Some(r) if r.get(1) => Phase::Pending,
            Some(_) => Phase::Attached,
        };
        Ok(self.leaves.iter().map(phase).collect())
    }

    /// Whether no statement can find a leaf through its parent any more.
    pub async fn is_begun(&self, link: &Link) -> Result<bool, StepError> {
        Ok(self.phases(link).await?.iter().all(|p| *p != Phase::Attached))
    }
}

/// Sends DETACH for each leaf that is attached, on a connection of its own, and returns when all
/// are past phase one. The connections are taken, the handles are the second phases.
pub async fn begin(
    link: &Link,
    watch: &Watch,
    plan: &Plan,
    connections: Vec<Link>,
) -> Result<Vec<Background>, StepError> {
    let now = watch.phases(link).await?;
    let mut running: Vec<Background> = Vec::new();
    for ((t, phase), own) in plan.tables.iter().zip(now).zip(connections) {
        if phase == Phase::Attached {
            let sql = format!("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY", t.parent, t.leaf);
            running.push(tokio::spawn(async move { own.batch("detaching", &sql).await }));
        }
    }
    let since = Instant::now();
    loop {
        if watch.is_begun(link).await? {
            return Ok(running);
        }
        // One that has ended without having done its work says why.
        while let Some(i) = running.iter().position(JoinHandle::is_finished) {
            ended(running.swap_remove(i).await)?;
        }
        if running.is_empty() && !watch.is_begun(link).await? {
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

/// Waits for the second phases, and ends those that a crash has left half-way.
pub async fn finish(ctx: &mut Ctx) -> Result<(), StepError> {
    let mut running = std::mem::take(&mut ctx.detaching);
    while let Some(mut one) = running.pop() {
        let done = loop {
            tokio::select! {
                done = &mut one => break ended(done),
                () = tokio::time::sleep(Duration::from_secs(1)) => name_the_oldest(ctx).await,
            }
        };
        if let Err(e) = done {
            tracing::debug!(error = %e, "a DETACH is finished by hand");
        }
    }
    let now = Watch::prepare(&ctx.source, &ctx.plan).await?.phases(&ctx.source).await?;
    for (t, phase) in ctx.plan.tables.iter().zip(now) {
        match phase {
            Phase::Detached => {}
            Phase::Pending => finalize(ctx, t).await?,
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

/// Who is waited for. That it cannot be told is no reason to stop waiting.
async fn name_the_oldest(ctx: &Ctx) {
    if let Ok(Some((age, who))) = facts::oldest_transaction(&ctx.source).await {
        let node = &ctx.source.node.name;
        ctx.show(|p| {
            p.blocker =
                Some(format!("{node}: DETACH waits for {who}, open for {}s", age.as_secs()));
        });
    }
}

/// FINALIZE waits for every older snapshot; it is asked for a second at a time, so that SHOW MOVES
/// can tell for whom.
async fn finalize(ctx: &Ctx, t: &PlanTable) -> Result<(), StepError> {
    let (link, doing) = (&ctx.source, "finishing DETACH");
    let sql = format!("ALTER TABLE {} DETACH PARTITION {} FINALIZE", t.parent, t.leaf);
    loop {
        link.batch(doing, "SET statement_timeout = '1s'").await?;
        let done = link.batch(doing, &sql).await;
        link.batch(doing, "SET statement_timeout = 0").await?;
        match done {
            Err(e) if e.sqlstate() == Some("57014") => name_the_oldest(ctx).await,
            other => return other,
        }
    }
}
