//! Taking the leaves from their parents on the source, CONCURRENTLY.
//!
//! Phase one, seen as `pg_inherits.inhdetachpending`, is what a cutover needs: from its commit on
//! no new statement finds the leaf through its parent. Phase two waits for every transaction that may
//! still see it, in the background. A plain DETACH would deadlock with writers. A parent bears one
//! pending DETACH at a time.
//!
//! Each DETACH keeps its connection until its second phase is over. A group of more tables than there
//! are connections ends the second phase as soon as the first is seen, which leaves it to FINALIZE, and
//! goes on with the next table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::Statement;

use super::cleanup;
use super::ctx::Ctx;
use super::error::StepError;
use super::facts;
use super::link::Link;
use super::machine::Kind;
use super::plan::{Plan, PlanTable};
use super::replication;

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

/// How many DETACHes run at a time.
pub const CONNECTIONS: usize = 8;

/// A connection that detaches, and the server process behind it.
pub struct Detacher {
    link: Arc<Link>,
    pid: i32,
}

impl Detacher {
    /// One for each table, but no more than [`CONNECTIONS`], and fewer where the node has no more.
    pub async fn open(ctx: &Ctx) -> Result<Vec<Self>, StepError> {
        let mut all = Vec::new();
        for t in ctx.plan.tables.iter().take(CONNECTIONS) {
            let link = match ctx.open_link(&ctx.plan.source).await {
                Ok(link) => link,
                Err(e) if e.sqlstate() == Some("53300") && !all.is_empty() => break,
                Err(e) => return Err(e),
            };
            // Fills the session's caches with what DETACH will want to know.
            let sql = "SELECT pg_backend_pid(), pg_get_partkeydef($1::text::regclass)";
            let pid = link.one("warming up", sql, &[&t.parent]).await?.get(0);
            all.push(Self { link: Arc::new(link), pid });
        }
        Ok(all)
    }

    fn start(&self, t: &PlanTable) -> Background {
        let sql = format!("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY", t.parent, t.leaf);
        let link = self.link.clone();
        tokio::spawn(async move { link.batch("detaching", &sql).await })
    }
}

/// A DETACH under way: the table's place in the plan, and its task.
struct Running {
    table: usize,
    by: Detacher,
    task: Background,
}

/// Sends DETACH for each leaf that is attached and returns when all are past phase one. The handles are
/// the second phases that go on.
pub async fn begin(
    link: &Link,
    watch: &Watch,
    plan: &Plan,
    mut free: Vec<Detacher>,
) -> Result<Vec<Background>, StepError> {
    let mut phases = watch.phases(link).await?;
    let attached = |phases: &[Phase]| -> Vec<usize> {
        (0..phases.len()).filter(|&i| phases[i] == Phase::Attached).collect()
    };
    let mut waiting = attached(&phases);
    waiting.reverse();
    let mut running: Vec<Running> = Vec::new();
    let since = Instant::now();
    loop {
        while let Some(&table) = waiting.last()
            && let Some(by) = free.pop()
        {
            waiting.pop();
            running.push(Running { table, task: by.start(&plan.tables[table]), by });
        }
        phases = watch.phases(link).await?;
        if attached(&phases).is_empty() {
            return Ok(running.into_iter().map(|r| r.task).collect());
        }
        let mut kept = Vec::new();
        for r in running {
            match (phases[r.table], r.task.is_finished()) {
                // One that has ended without having done its work says why.
                (Phase::Attached, true) => ended(r.task.await)?,
                (Phase::Pending | Phase::Detached, _) if !waiting.is_empty() => {
                    let sql = "SELECT pg_cancel_backend($1)";
                    link.query("leaving a DETACH to FINALIZE", sql, &[&r.by.pid]).await?;
                    // Cancelled or done: both are seen in the leaf's phase.
                    let _ = ended(r.task.await);
                    free.push(r.by);
                }
                _ => kept.push(r),
            }
        }
        running = kept;
        if running.is_empty() && waiting.is_empty() && !watch.is_begun(link).await? {
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
                () = tokio::time::sleep(Duration::from_secs(1)) => waiting(ctx).await?,
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

/// Once a second. The way back begins behind this step, and must not fill the serving node's disk with
/// WAL meanwhile: without its slot the soaking ends at once.
async fn waiting(ctx: &Ctx) -> Result<(), StepError> {
    name_the_oldest(ctx).await;
    if ctx.plan.kind == Kind::Forward && replication::reverse_is_too_far_behind(ctx).await? {
        cleanup::drop_slot_now(&ctx.target, &ctx.plan.reverse()).await?;
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
            Err(e) if e.sqlstate() == Some("57014") => waiting(ctx).await?,
            other => return other,
        }
    }
}
