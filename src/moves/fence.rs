//! The fence: after its commit nobody writes to the leaves on the node, until it is lifted.
//!
//! A trigger on every leaf that raises for each row and for TRUNCATE, and USAGE on the shard's
//! schema taken from the application's roles. Making the trigger takes a lock that waits every writer
//! out, prepared transactions and direct connections included: that is the proof that none is left.
//! It fires for replicated rows never, so the reverse replication passes it.
//!
//! Where the source serves again the triggers are disabled and not dropped: that takes the lock
//! they were made with, which no reader minds, while dropping would wait for every reader, a dump
//! among them, with all writes refused. The cleaning drops them (`cleanup::Kind::Fence`).

use std::time::{Duration, SystemTime};

use super::error::StepError;
use super::harmless::Proof;
use super::link::Link;
use super::plan::Plan;
use super::sql::literal;

/// Everything the fence needs, made ready before traffic is held.
#[derive(Debug, Clone)]
pub struct Fence {
    /// Up to the row in `pgshunt.fences`, whose last value is the stamp.
    sql: String,
}

/// Tells the fence of one attempt from those of all others: microseconds since 1970, kept as
/// `fences.fenced_at`. Who has lost sight of the move meanwhile lifts no other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(i64);

impl Stamp {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(since.as_micros() as i64)
    }
}

/// Of a stamp, as SQL.
const STAMPED: &str = "'epoch'::timestamptz + interval '1 microsecond' *";

const TRIGGERS: [&str; 2] = ["pgshunt_fence", "pgshunt_fence_truncate"];

/// Roles with USAGE on the schema, save superusers, whom no REVOKE stops.
const GRANTS: &str = "FROM pg_namespace n,
        aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
    WHERE n.nspname = $1 AND g.privilege_type = 'USAGE'
      AND NOT EXISTS (SELECT FROM pg_roles WHERE oid = g.grantee AND rolsuper)";

impl Fence {
    /// Reads who may use the schema and writes the transaction.
    pub async fn prepare(source: &Link, plan: &Plan) -> Result<Self, StepError> {
        let rows = source
            .query(
                "reading the schema's grants",
                &format!(
                    "SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
                            CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END {GRANTS}"
                ),
                &[&plan.schema()],
            )
            .await?;
        let schema = plan.quoted_schema();
        let mut grants = Vec::new();
        let mut revokes = String::new();
        for row in &rows {
            let (role, option): (String, String) = (row.get(0), row.get(1));
            grants.push(literal(&format!("GRANT USAGE ON SCHEMA {schema} TO {role}{option}")));
            revokes += &format!("REVOKE USAGE ON SCHEMA {schema} FROM {role} CASCADE; ");
        }
        // DETACH folds the leaf's CHECKs on some versions.
        let proof = Proof::of(source, &plan.leaf_names()).await?;
        let mut sql = format!(
            "LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE; {}; ",
            plan.leaves(),
            proof.guard()
        );
        for t in &plan.tables {
            let (rows, whole) = (("INSERT OR UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT"));
            for (name, (events, each)) in TRIGGERS.into_iter().zip([rows, whole]) {
                // An earlier attempt may have left its own, disabled: this enables them.
                sql += &format!(
                    "CREATE OR REPLACE TRIGGER {name} BEFORE {events} ON {} FOR EACH {each} \
                     EXECUTE FUNCTION pgshunt.fence({}); ",
                    t.leaf, plan.shard
                );
            }
        }
        sql += &revokes;
        sql += &format!(
            "INSERT INTO pgshunt.fences (shard_id, move_id, grants, fenced_at) \
             VALUES ({}, {}, ARRAY[{}]::text[], {STAMPED} ",
            plan.shard,
            plan.id,
            grants.join(", ")
        );
        Ok(Self { sql })
    }

    /// Does the like to the marker table and rolls back: fills the session's caches.
    pub async fn rehearse(&self, source: &Link, plan: &Plan) -> Result<(), StepError> {
        let sql = format!(
            "BEGIN; LOCK TABLE {t} IN SHARE ROW EXCLUSIVE MODE; \
             CREATE TRIGGER pgshunt_fence BEFORE INSERT OR UPDATE OR DELETE ON {t} FOR EACH ROW \
             EXECUTE FUNCTION pgshunt.fence(0); \
             INSERT INTO pgshunt.fences (shard_id, move_id, grants) VALUES (-1, -1, ARRAY[]::text[]); \
             ROLLBACK",
            t = plan.marker()
        );
        let done = source.batch("rehearsing the fence", &sql).await;
        if done.is_err() && !source.is_closed() {
            source.batch("rehearsing the fence", "ROLLBACK").await?;
        }
        done
    }

    /// Puts the fence up together with a marker, in one transaction and one round trip.
    pub async fn raise(
        &self,
        source: &Link,
        stamp: Stamp,
        marker: &str,
        lock_timeout: Duration,
    ) -> Result<(), StepError> {
        let sql = format!(
            "SET LOCAL lock_timeout = {}; {}{}); {marker}",
            lock_timeout.as_millis().max(1),
            self.sql,
            stamp.0
        );
        source.transaction("fencing the source", &sql).await
    }
}

/// What lifts the fence on a node where the leaves are about to be attached, in that transaction;
/// empty if there is none.
pub async fn lifting(link: &Link, plan: &Plan) -> Result<String, StepError> {
    let row = link
        .opt(
            "reading the fence",
            "SELECT grants FROM pgshunt.fences WHERE shard_id = $1",
            &[&plan.shard.0],
        )
        .await?;
    // ATTACH locks the leaves more than dropping does.
    Ok(row.map_or_else(String::new, |r| {
        without_fence(plan, &r.get::<_, Vec<String>>(0), Triggers::Drop)
    }))
}

#[derive(Debug, Clone, Copy)]
enum Triggers {
    Drop,
    Disable,
}

/// Statements that take the fence away.
fn without_fence(plan: &Plan, grants: &[String], triggers: Triggers) -> String {
    let mut sql = String::new();
    for (t, name) in plan.tables.iter().flat_map(|t| TRIGGERS.map(|name| (t, name))) {
        sql += &match triggers {
            Triggers::Drop => format!("DROP TRIGGER IF EXISTS {name} ON {}; ", t.leaf),
            Triggers::Disable => format!("ALTER TABLE {} DISABLE TRIGGER {name}; ", t.leaf),
        };
    }
    for grant in grants {
        sql += grant;
        sql += "; ";
    }
    sql + &format!("DELETE FROM pgshunt.fences WHERE shard_id = {}; ", plan.shard)
}

/// Whether the fence on this node is this move's own.
pub async fn is_of(link: &Link, plan: &Plan) -> Result<bool, StepError> {
    link.exists(
        "reading the fence",
        "SELECT FROM pgshunt.fences WHERE shard_id = $1 AND move_id = $2",
        &[&plan.shard.0, &plan.id.0],
    )
    .await
}

/// Lifts the fence if there is one (`only`: if it is the one of that attempt), and tries until it works
/// or the node is lost. Nothing but this node is needed.
pub async fn lift(link: &Link, plan: &Plan, only: Option<Stamp>) -> Result<(), StepError> {
    let row = link
        .opt(
            "reading the fence",
            &format!(
                "SELECT grants FROM pgshunt.fences WHERE shard_id = $1
                 AND ($2::bigint IS NULL OR (move_id = $3 AND fenced_at = {STAMPED} $2))"
            ),
            &[&plan.shard.0, &only.map(|s| s.0), &plan.id.0],
        )
        .await?;
    let Some(row) = row else { return Ok(()) };
    let sql = without_fence(plan, &row.get::<_, Vec<String>>(0), Triggers::Disable);
    step_aside(link, plan).await?;
    link.gently("lifting the fence", sql.trim_end_matches("; ")).await
}

/// Ends what autovacuum does to the leaves, save what it must do: it would be waited for.
pub async fn step_aside(link: &Link, plan: &Plan) -> Result<(), StepError> {
    link.query(
        "asking autovacuum to step aside",
        "SELECT pg_cancel_backend(a.pid) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
         WHERE a.backend_type = 'autovacuum worker' AND a.query NOT LIKE '%wraparound%'
           AND l.relation = ANY (SELECT to_regclass(unnest($1::text[]))::oid)",
        &[&plan.tables.iter().map(|t| t.leaf.as_str()).collect::<Vec<_>>()],
    )
    .await
    .map(drop)
}

/// Drops the triggers that a lifted fence has left on a leaf.
pub async fn drop_triggers(link: &Link, leaf: &str) -> Result<(), StepError> {
    let doing = "dropping the fence's triggers";
    // Asked first: dropping what is not there takes the lock all the same.
    let there = link
        .query(
            doing,
            "SELECT tgname::text FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = ANY ($2)
             AND tgenabled = 'D'",
            &[&leaf, &TRIGGERS.as_slice()],
        )
        .await?;
    if there.is_empty() {
        return Ok(());
    }
    let drops = there.iter().map(|r| format!("DROP TRIGGER {} ON {leaf}", r.get::<_, &str>(0)));
    link.gently(doing, &drops.collect::<Vec<_>>().join("; ")).await
}

/// Whose locks on the leaves the fence has to wait for, save those of transactions younger than
/// `older_than`.
///
/// A prepared transaction has no process; its locks are known by the one it has on itself, since
/// `pg_locks.virtualtransaction` shows the session it came from on some versions and its number on
/// others.
pub async fn blockers(
    link: &Link,
    plan: &Plan,
    older_than: Duration,
) -> Result<Option<String>, StepError> {
    let leaves: Vec<&str> = plan.tables.iter().map(|t| t.leaf.as_str()).collect();
    let rows = link
        .query(
            "looking for blockers",
            "SELECT DISTINCT CASE WHEN x.gid IS NOT NULL THEN
                 format('prepared transaction %L of %s, open for %ss', x.gid, x.owner,
                        extract(epoch FROM clock_timestamp() - x.prepared)::int)
                 ELSE format('pid %s of %s%s, %s for %ss', a.pid, coalesce(a.usename, a.backend_type),
                        coalesce(' at ' || host(a.client_addr) || ':' || a.client_port, ''), a.state,
                        extract(epoch FROM clock_timestamp() - a.xact_start)::int) END
             FROM pg_locks l
             LEFT JOIN pg_stat_activity a ON a.pid = l.pid
             LEFT JOIN (pg_prepared_xacts x JOIN pg_locks own
                        ON own.locktype = 'transactionid' AND own.transactionid = x.transaction)
                  ON l.pid IS NULL AND own.pid IS NULL AND own.virtualtransaction = l.virtualtransaction
             WHERE l.locktype = 'relation' AND l.granted
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.relation = ANY (SELECT to_regclass(unnest($1::text[]))::oid)
               AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
               AND a.application_name IS DISTINCT FROM $2
               AND coalesce(a.xact_start, x.prepared)
                   <= clock_timestamp() - $3::float8 * interval '1 millisecond'",
            &[&leaves, &format!("pgshunt move {}", plan.id), &(older_than.as_millis() as f64)],
        )
        .await?;
    let names: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
    Ok((!names.is_empty()).then(|| format!("{}: {}", link.node.name, names.join("; "))))
}
