//! Publications, slots and subscriptions, in both directions.
//!
//! Slots are made by us and not by CREATE SUBSCRIPTION, so that each has a record before it exists.
//! The reverse slot is made during the copy: making one waits for every open transaction.

use std::time::{Duration, Instant};

use super::cleanup::Kind;
use super::ctx::Ctx;
use super::error::StepError;
use super::facts;
use super::failures::Failures;
use super::harmless::APPLIES_AS_OWNER;
use super::journal;
use super::leaves;
use super::link::Link;
use super::plan::Plan;
use super::progress::eta;
use super::replica_role;
use super::sql::{ident, literal};

/// Publication and slot of the forward direction, on the source.
pub async fn publish_forward(ctx: &Ctx) -> Result<(), StepError> {
    publish(ctx, &ctx.source, &ctx.plan.forward()).await
}

/// Publication and slot of the way back, on the target, and a subscription that sleeps on the source.
pub async fn prepare_reverse(ctx: &Ctx) -> Result<(), StepError> {
    let name = ctx.plan.reverse();
    publish(ctx, &ctx.target, &name).await?;
    subscribe(ctx, &ctx.source, &ctx.target, &name, false).await?;
    Ok(())
}

async fn publish(ctx: &Ctx, link: &Link, name: &str) -> Result<(), StepError> {
    let plan = &ctx.plan;
    let doing = "creating the publication";
    // First the publication: a slot decodes only what was published when it was made.
    ctx.promise(link.node.id, Kind::Publication.name(), name).await?;
    let owner = link
        .opt(
            doing,
            "SELECT rolname::text, rolsuper FROM pg_publication JOIN pg_roles r ON r.oid = pubowner
             WHERE pubname = $1",
            &[&name],
        )
        .await?;
    if let Some(row) = &owner
        && !row.get::<_, bool>(1)
    {
        let owner: String = row.get(0);
        return Err(taken(link, &format!("publication {name} is {owner}'s")));
    }
    if owner.is_none() {
        let sql = format!(
            "CREATE PUBLICATION {} FOR TABLE {}, {}",
            ident(name),
            plan.leaves(),
            plan.marker()
        );
        link.batch(doing, &sql).await?;
    }
    ctx.promise(link.node.id, Kind::Slot.name(), name).await?;
    create_slot(link, name).await
}

/// Something of a move's name that no move has made.
fn taken(link: &Link, what: &str) -> StepError {
    StepError::Refused(format!(
        "{}: {what}, and names that begin with pgshunt_move_ are reserved; drop it",
        link.node.name
    ))
}

async fn create_slot(link: &Link, name: &str) -> Result<(), StepError> {
    let doing = "creating the replication slot";
    let there = link
        .opt(
            doing,
            "SELECT coalesce(plugin = 'pgoutput' AND database = current_database() AND NOT temporary, false)
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await?;
    match there {
        Some(row) if row.get(0) => return Ok(()),
        Some(_) => return Err(taken(link, &format!("replication slot {name} is of another kind"))),
        None => {}
    }
    // On its own: a simple query of two statements is a transaction block, which has written nothing
    // yet but keeps the first one's snapshot.
    link.batch(doing, "SET statement_timeout = '5s'").await?;
    let create =
        format!("SELECT pg_create_logical_replication_slot({}, 'pgoutput')", literal(name));
    let made = link.batch(doing, &create).await;
    link.batch(doing, "SET statement_timeout = 0").await?;
    match made {
        Err(e) if e.sqlstate() == Some("57014") => {
            let who = facts::oldest_transaction(link).await?;
            let who = who.map_or("an open transaction".into(), |(age, who)| {
                format!("{who}, open for {}s", age.as_secs())
            });
            Err(StepError::Blocked(format!("{}: slot creation waits for {who}", link.node.name)))
        }
        other => other,
    }
}

/// The subscription of the forward direction, on the target; it starts to copy.
pub async fn subscribe_forward(ctx: &Ctx) -> Result<(), StepError> {
    let name = ctx.plan.forward();
    let id = subscribe(ctx, &ctx.target, &ctx.source, &name, true).await?;
    // The copy makes slots of its own on the source, whose names begin like this.
    let prefix = format!("pg_{id}_sync_");
    ctx.promise(ctx.plan.source.id, Kind::SyncSlots.name(), &prefix).await?;
    leaves::let_owners_apply(ctx).await?;
    let sql = format!("ALTER SUBSCRIPTION {} ENABLE", ident(&name));
    ctx.target.batch("starting the subscription", &sql).await
}

async fn subscribe(
    ctx: &Ctx,
    to: &Link,
    from: &Link,
    name: &str,
    copy: bool,
) -> Result<u32, StepError> {
    let doing = "creating the subscription";
    ctx.promise(to.node.id, Kind::Subscription.name(), name).await?;
    if let Some(id) = subscription_id(to, name).await? {
        let ours = "SELECT FROM pg_subscription s JOIN pg_roles r ON r.oid = subowner
                    WHERE s.oid = $1 AND rolsuper";
        return match to.exists(doing, ours, &[&id]).await? {
            true => Ok(id),
            false => Err(taken(to, &format!("subscription {name} is not a superuser's"))),
        };
    }
    let mut options = String::new();
    if let Some(option) = run_as_owner(to, &ctx.plan).await? {
        options += &format!(", {option}");
        // A loop is kept out by never running both directions at once; 16 can do it by itself too.
        if !copy {
            options += ", origin = none";
        }
    }
    let password = replica_role::make(ctx, from, name).await?;
    let sql = format!(
        "CREATE SUBSCRIPTION {n} CONNECTION {} PUBLICATION {n} WITH (create_slot = false, \
         slot_name = {}, enabled = false, copy_data = {copy}, synchronous_commit = 'off'{options})",
        literal(&ctx.connector().conninfo(&from.node, name, &password)),
        literal(name),
        n = ident(name),
    );
    let created = replica_role::run_unseen(to, doing, &sql);
    tokio::pin!(created);
    let created = tokio::select! {
        done = &mut created => done,
        () = tokio::time::sleep(Duration::from_secs(1)) => {
            let (to, from) = (&to.node.name, &from.node.name);
            ctx.show(|p| p.blocker = Some(format!("{to} waits for an answer of {from}")));
            created.await
        }
    };
    created.map_err(|e| replica_role::explained(e, &to.node.name, &from.node.name, name))?;
    subscription_id(to, name).await?.ok_or_else(|| {
        StepError::Refused(format!("{}: subscription {name} has vanished", to.node.name))
    })
}

/// The option that says who applies rows on a node; `None`: its version has none. `run_as_owner` is said of
/// the subscription's owner, the service role. It must be decided while the leaves' owners cannot name them
/// there, and what is evaluated then must be proven harmless in the same state (`harmless`).
async fn run_as_owner(to: &Link, plan: &Plan) -> Result<Option<String>, StepError> {
    let doing = "asking who applies rows";
    let version: i32 =
        to.one(doing, "SELECT current_setting('server_version_num')::int", &[]).await?.get(0);
    if version < APPLIES_AS_OWNER {
        return Ok(None);
    }
    // Row security that holds for the owner too does not let it apply rows.
    let forced = to.exists(doing, FORCED, &[&plan.leaf_names()]).await?;
    Ok(Some(format!("run_as_owner = {forced}")))
}

const FORCED: &str = "SELECT FROM pg_class
    WHERE relforcerowsecurity AND oid = ANY (SELECT to_regclass(unnest($1::text[]))) LIMIT 1";

async fn subscription_id(link: &Link, name: &str) -> Result<Option<u32>, StepError> {
    let row = link
        .opt(
            "looking for the subscription",
            "SELECT s.oid FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
             WHERE subname = $1 AND datname = current_database()",
            &[&name],
        )
        .await?;
    Ok(row.map(|r| r.get(0)))
}

/// Lets the retired leaves follow the serving ones, from the journal's LSN on. The origin's progress
/// is durable and asked for at each start, so the slot's own position does not matter.
pub async fn start_reverse(ctx: &Ctx) -> Result<(), StepError> {
    let doing = "starting the reverse replication";
    let name = ctx.plan.reverse();
    let lsn = journal::lsn(&ctx.target, &ctx.plan).await?;
    let Some(id) = subscription_id(&ctx.source, &name).await? else {
        return Err(StepError::Refused(format!(
            "{}: subscription {name} has vanished",
            ctx.source.node.name
        )));
    };
    let row = ctx
        .source
        .one(
            doing,
            "SELECT subenabled, coalesce(pg_replication_origin_progress($2, true), '0/0') >= $3::text::pg_lsn
             FROM pg_subscription WHERE oid = $1",
            &[&id, &format!("pg_{id}"), &lsn],
        )
        .await?;
    let (enabled, placed): (bool, bool) = (row.get(0), row.get(1));
    if !enabled && !placed {
        ctx.source
            .query(
                doing,
                "SELECT pg_replication_origin_advance($1, $2::text::pg_lsn)",
                &[&format!("pg_{id}"), &lsn],
            )
            .await?;
    }
    if !enabled {
        // When the subscription was made the leaves served, and their owners could change them.
        let as_owner = run_as_owner(&ctx.source, &ctx.plan).await?;
        if let Some(option) = as_owner {
            let sql = format!("ALTER SUBSCRIPTION {} SET ({option})", ident(&name));
            ctx.source.batch(doing, &sql).await?;
        }
    }
    if !enabled && has_slot(&ctx.target, &name).await? {
        let sql = format!("ALTER SUBSCRIPTION {} ENABLE", ident(&name));
        ctx.source.batch(doing, &sql).await?;
    }
    Ok(())
}

/// The slot of the way back is gone where the retired leaves cannot follow.
async fn has_slot(link: &Link, name: &str) -> Result<bool, StepError> {
    link.exists(
        "looking at the slot",
        "SELECT FROM pg_replication_slots WHERE slot_name = $1",
        &[&name],
    )
    .await
}

/// Waits until every leaf is copied and in step, and tells how far it is.
pub async fn copy(ctx: &Ctx) -> Result<(), StepError> {
    let doing = "copying";
    let name = ctx.plan.forward();
    let total = leaves::bytes(&ctx.source, &ctx.plan).await?;
    let since = Instant::now();
    let mut failures = Failures::default();
    ctx.show(|p| p.bytes_total = total);
    loop {
        let row = ctx
            .target
            .one(
                doing,
                "SELECT count(*), count(*) FILTER (WHERE srsubstate = 'r')
                 FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
                 WHERE subname = $1",
                &[&name],
            )
            .await?;
        let (all, ready): (i64, i64) = (row.get(0), row.get(1));
        check_slot(ctx).await?;
        let done = leaves::bytes(&ctx.target, &ctx.plan).await?;
        let rows = copied_rows(ctx).await?;
        ctx.show(|p| {
            p.bytes_done = done.min(total);
            p.rows = p.rows.max(rows);
            p.eta = eta(done, total, since.elapsed());
        });
        if all > 0 && all == ready {
            ctx.show(|p| {
                p.bytes_done = total;
                p.eta = None;
                p.blocker = None;
            });
            return Ok(());
        }
        failures.look(ctx).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn copied_rows(ctx: &Ctx) -> Result<u64, StepError> {
    let row = ctx
        .target
        .one(
            "counting copied rows",
            "SELECT coalesce(sum(greatest(pg_stat_get_tuples_inserted(c.oid), p.tuples_processed)), 0)::bigint
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN pg_stat_progress_copy p ON p.relid = c.oid
             WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind = 'r'",
            &[&ctx.plan.schema(), &ctx.plan.names()],
        )
        .await?;
    Ok(row.get::<_, i64>(0).max(0) as u64)
}

/// The slot that feeds the target must be there and must not hold back more WAL than allowed.
pub async fn check_slot(ctx: &Ctx) -> Result<u64, StepError> {
    let name = ctx.plan.feed();
    // First, so that the source's position is not the older one.
    let applied = applied(ctx, &name).await?;
    let row = ctx
        .source
        .opt(
            "looking at the slot",
            "SELECT wal_status, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint,
                    pg_wal_lsn_diff(pg_current_wal_lsn(), greatest($2::text::pg_lsn, coalesce(
                      (SELECT greatest(r.replay_lsn, r.write_lsn) FROM pg_stat_replication r
                       WHERE r.pid = s.active_pid), confirmed_flush_lsn)))::bigint
             FROM pg_replication_slots s WHERE slot_name = $1",
            &[&name, &applied],
        )
        .await?;
    let Some(row) = row else {
        return Err(StepError::Refused(format!(
            "{}: slot {name} has vanished (a failover?)",
            ctx.source.node.name
        )));
    };
    let (status, retained, lag): (Option<String>, i64, Option<i64>) =
        (row.get(0), row.get(1), row.get(2));
    if status.as_deref() == Some("lost") || retained.max(0) as u64 > ctx.config.max_retained_wal {
        return Err(StepError::Refused(format!(
            "{}: slot {name} holds back {} MB of WAL",
            ctx.source.node.name,
            retained >> 20
        )));
    }
    let lag = lag.unwrap_or(retained).max(0) as u64;
    ctx.show(|p| p.lag_bytes = Some(lag));
    Ok(lag)
}

/// The source's position that the target has applied, as it knows it itself: it moves with each transaction.
/// A worker that always has something to apply tells the source only every half `wal_sender_timeout`.
async fn applied(ctx: &Ctx, subscription: &str) -> Result<Option<String>, StepError> {
    let row = ctx
        .target
        .opt(
            "asking what has been applied",
            "SELECT o.remote_lsn::text FROM pg_replication_origin_status o
             JOIN pg_subscription s ON o.external_id = 'pg_' || s.oid WHERE s.subname = $1",
            &[&subscription],
        )
        .await?;
    Ok(row.and_then(|r| r.get(0)))
}

/// All tables of the subscription that feeds the target are in step: only then is a marker proof.
pub async fn is_in_step(ctx: &Ctx) -> Result<bool, StepError> {
    let row = ctx
        .target
        .one(
            "looking at the subscription",
            "SELECT count(*), count(*) FILTER (WHERE srsubstate = 'r')
             FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
             WHERE subname = $1 AND subenabled",
            &[&ctx.plan.feed()],
        )
        .await?;
    let (all, ready): (i64, i64) = (row.get(0), row.get(1));
    // The leaves and the marker table.
    Ok(all == ready && all == ctx.plan.tables.len() as i64 + 1)
}

/// Whether the slot of the way back holds back more WAL on the serving node than allowed.
pub async fn reverse_is_too_far_behind(ctx: &Ctx) -> Result<bool, StepError> {
    let row = ctx
        .target
        .opt(
            "looking at the reverse slot",
            "SELECT coalesce(wal_status = 'lost', false),
                    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&ctx.plan.reverse()],
        )
        .await?;
    Ok(row.is_none_or(|r| {
        r.get::<_, bool>(0) || r.get::<_, i64>(1).max(0) as u64 > ctx.config.max_retained_wal
    }))
}
