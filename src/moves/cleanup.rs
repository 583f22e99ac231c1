//! Removes what the cleanup records promise to remove, and only that.
//!
//! A record is committed before its object exists and deleted after it is gone, so every kind must
//! bear that the object is not there. Whatever may serve is checked once more before it is dropped.

use std::time::{Duration, Instant};

use super::ctx::Ctx;
use super::error::StepError;
use super::fence;
use super::leaves::CHECK;
use super::link::Link;
use super::replica_role;
use super::sql::ident;
use crate::catalog::moves::{self, CleanupRecord};

/// What can be promised, in the order in which it is removed: a subscription holds its slot, and
/// both name the leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Subscription,
    Slot,
    /// Slots of the initial copies; the name is their prefix.
    SyncSlots,
    Publication,
    /// That a subscription logs in as.
    Role,
    Schema,
    /// The disabled triggers of a leaf's fence.
    Fence,
    /// REPLICA IDENTITY of a leaf that had the default.
    Identity,
    /// The CHECK of a leaf.
    Check,
    Marker,
    Journal,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Subscription,
        Self::Slot,
        Self::SyncSlots,
        Self::Publication,
        Self::Role,
        Self::Schema,
        Self::Fence,
        Self::Identity,
        Self::Check,
        Self::Marker,
        Self::Journal,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Slot => "slot",
            Self::SyncSlots => "sync_slots",
            Self::Publication => "publication",
            Self::Role => "role",
            Self::Schema => "schema",
            Self::Fence => "fence",
            Self::Identity => "replica_identity",
            Self::Check => "check",
            Self::Marker => "marker",
            Self::Journal => "journal",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// What a cleaning step removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// Subscription, slots, publication and role of this name.
    Replication(&'a str),
    Schema,
    All,
}

impl Which<'_> {
    fn takes(self, kind: Kind, name: &str) -> bool {
        let replication = matches!(
            kind,
            Kind::Subscription | Kind::Slot | Kind::SyncSlots | Kind::Publication | Kind::Role
        );
        match self {
            // Those of the copy bear the subscription's number, and only forward ones copy.
            Self::Replication(of) => {
                replication && (name == of || (kind == Kind::SyncSlots && of.ends_with("_fwd")))
            }
            Self::Schema => kind == Kind::Schema,
            Self::All => true,
        }
    }
}

/// Removes what was promised under the move's own number and, until a rollback has taken them
/// over, under that of the move it takes back.
pub async fn remove(ctx: &Ctx, which: Which<'_>) -> Result<(), StepError> {
    let records = ctx.home.told(
        "reading the cleanup records",
        moves::promised(&ctx.home.client, ctx.plan.id).await,
    )?;
    let mut chosen = Vec::new();
    for r in records {
        let kind = Kind::from_name(&r.kind).ok_or_else(|| {
            StepError::Refused(format!("cleanup record of unknown kind {:?}", r.kind))
        })?;
        if which.takes(kind, &r.name) {
            chosen.push((kind, r));
        }
    }
    chosen.sort_by_key(|(kind, r)| (*kind, r.id));
    for (kind, r) in chosen {
        let link = ctx.link_to(r.node).ok_or_else(|| {
            StepError::Refused(format!("cleanup record {} names node {}", r.id, r.node))
        })?;
        drop_one(ctx, link, kind, &r).await?;
        ctx.home.told("keeping a promise", moves::kept(&ctx.home.client, r.id).await)?;
    }
    Ok(())
}

async fn drop_one(
    ctx: &Ctx,
    link: &Link,
    kind: Kind,
    record: &CleanupRecord,
) -> Result<(), StepError> {
    let name = &record.name;
    match kind {
        Kind::Subscription => drop_subscription(link, name).await,
        Kind::Slot => drop_slots(link, "slot_name = $1", name).await,
        Kind::SyncSlots => drop_slots(link, "starts_with(slot_name::text, $1)", name).await,
        Kind::Publication => {
            let sql = format!("DROP PUBLICATION IF EXISTS {}", ident(name));
            link.batch("dropping the publication", &sql).await
        }
        Kind::Role => replica_role::drop_if_there(link, name).await,
        Kind::Schema => drop_schema(ctx, link, name).await,
        Kind::Fence => fence::drop_triggers(link, name).await,
        Kind::Identity => {
            if_leaf_exists(link, name, &format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT"))
                .await
        }
        Kind::Check => {
            let sql = format!("ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {CHECK}");
            if_leaf_exists(link, name, &sql).await
        }
        Kind::Marker => {
            link.batch("dropping the marker table", &format!("DROP TABLE IF EXISTS {name}")).await
        }
        Kind::Journal => {
            let sql =
                "DELETE FROM pgshunt.move_journal WHERE move_id = $1::text::bigint RETURNING 1";
            link.query("clearing the journal", sql, &[name]).await.map(drop)
        }
    }
}

async fn if_leaf_exists(link: &Link, leaf: &str, sql: &str) -> Result<(), StepError> {
    let doing = "cleaning a leaf";
    if link.exists(doing, "SELECT WHERE to_regclass($1) IS NOT NULL", &[&leaf]).await? {
        link.gently(doing, sql).await?;
    }
    Ok(())
}

async fn drop_subscription(link: &Link, name: &str) -> Result<(), StepError> {
    let doing = "dropping the subscription";
    let there = link
        .exists(
            doing,
            "SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
             WHERE subname = $1 AND datname = current_database()",
            &[&name],
        )
        .await?;
    if there {
        // Its slot is ours to drop: the other node may be away, and this one must not wait for it.
        let n = ident(name);
        link.batch(doing, &format!("ALTER SUBSCRIPTION {n} DISABLE")).await?;
        link.batch(doing, &format!("ALTER SUBSCRIPTION {n} SET (slot_name = NONE)")).await?;
        link.batch(doing, &format!("DROP SUBSCRIPTION {n}")).await?;
    }
    Ok(())
}

/// A slot is free only when its walsender has noticed that the subscriber is gone.
async fn drop_slots(link: &Link, which: &str, name: &str) -> Result<(), StepError> {
    let doing = "dropping the replication slot";
    let since = Instant::now();
    loop {
        let rows = link
            .query(
                doing,
                &format!(
                    "SELECT slot_name::text, active_pid FROM pg_replication_slots WHERE {which}"
                ),
                &[&name],
            )
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            let (slot, pid): (String, Option<i32>) = (row.get(0), row.get(1));
            if let Some(pid) = pid
                && since.elapsed() > Duration::from_millis(200)
            {
                link.query(doing, "SELECT pg_terminate_backend($1)", &[&pid]).await?;
            }
            match link
                .query(doing, "SELECT pg_drop_replication_slot($1::text::name)", &[&slot])
                .await
            {
                Ok(_) => {}
                // In use, or gone since we looked.
                Err(e) if matches!(e.sqlstate(), Some("55006" | "42704")) => {}
                Err(e) => return Err(e),
            }
        }
        if since.elapsed() > Duration::from_secs(30) {
            return Err(StepError::Blocked(format!(
                "{}: slot {name} stays in use",
                link.node.name
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Drops a slot at once, whoever uses it; its record is kept by the cleaning.
pub async fn drop_slot_now(link: &Link, name: &str) -> Result<(), StepError> {
    drop_slots(link, "slot_name = $1", name).await
}

/// Drops the shard's schema where the shard does not serve. Attached leaves are proof that the
/// record is wrong, and stop everything.
async fn drop_schema(ctx: &Ctx, link: &Link, schema: &str) -> Result<(), StepError> {
    let doing = "dropping the retired shard";
    let attached = link
        .exists(
            doing,
            "SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class p ON p.oid = i.inhparent
             WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND p.relkind = 'p'",
            &[&schema],
        )
        .await?;
    if attached {
        return Err(StepError::Refused(format!(
            "{}: a leaf in {schema} is attached; it will not be dropped",
            link.node.name
        )));
    }
    let sql = format!(
        "DROP SCHEMA IF EXISTS {} CASCADE; DELETE FROM pgshunt.fences WHERE shard_id = {}",
        ident(schema),
        ctx.plan.shard
    );
    link.gently(doing, &sql).await
}

/// What a shard's move would leave on a node if it were forgotten, for tests and CHECK CLUSTER.
pub const LEFTOVERS: &str = "
    SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE starts_with(slot_name::text, 'pgshunt_move_')
        OR (slot_name ~ '^pg_[0-9]+_sync_' AND database = current_database())
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE starts_with(pubname::text, 'pgshunt_move_')
    UNION ALL SELECT 'subscription ' || subname FROM pg_subscription WHERE starts_with(subname::text, 'pgshunt_move_')
        AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE starts_with(rolname::text, 'pgshunt_move_')
    UNION ALL SELECT 'replication origin ' || roname FROM pg_replication_origin o WHERE roname ~ '^pg_[0-9]+(_[0-9]+)?$'
        AND NOT EXISTS (SELECT FROM pg_subscription s WHERE s.oid::text = split_part(o.roname, '_', 2))
    UNION ALL SELECT 'marker table ' || relname FROM pg_class
        WHERE relnamespace = to_regnamespace('pgshunt') AND relkind = 'r' AND relname ~ '^marker_[0-9]+$'
    UNION ALL SELECT 'fence trigger on ' || tgrelid::regclass FROM pg_trigger WHERE starts_with(tgname::text, 'pgshunt_fence')
    UNION ALL SELECT 'check on ' || conrelid::regclass FROM pg_constraint WHERE conname = 'pgshunt_move_check'
    UNION ALL SELECT 'journal of move ' || move_id FROM pgshunt.move_journal
    UNION ALL SELECT 'fence of shard ' || shard_id FROM pgshunt.fences
    UNION ALL SELECT 'unattached leaf ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname ~ '^shard_[0-9]+$' AND c.relkind = 'r'
          AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid AND NOT inhdetachpending)
    UNION ALL SELECT 'empty schema ' || n.nspname FROM pg_namespace n WHERE n.nspname ~ '^shard_[0-9]+$'
          AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relkind = 'r')";

/// All leftovers on the node behind `client`, one line each.
pub async fn leftovers(
    client: &tokio_postgres::Client,
) -> Result<Vec<String>, tokio_postgres::Error> {
    Ok(client.query(LEFTOVERS, &[]).await?.iter().map(|r| r.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_feeds_goes_before_what_is_fed() {
        let mut kinds = Kind::ALL;
        kinds.sort();
        assert_eq!(kinds, Kind::ALL);
        for k in Kind::ALL {
            assert_eq!(Kind::from_name(k.name()), Some(k));
        }
        assert!(Which::Replication("m_fwd").takes(Kind::SyncSlots, "pg_1_sync_"));
        assert!(!Which::Replication("m_rev").takes(Kind::SyncSlots, "pg_1_sync_"));
        assert!(!Which::Replication("m_rev").takes(Kind::Slot, "m_fwd"));
    }
}
