//! Reader and writer of `pgshunt.moves` and `pgshunt.cleanup_records`.
//!
//! The functions take the connection to the home node on which the move's advisory lock is held, so
//! that whoever lost the lock cannot write either. States and steps are text here; their meaning is
//! `moves::machine`'s.

use std::time::Duration;

use tokio_postgres::{Client, Error, GenericClient, Row, Statement, Transaction};

use super::raise_epoch;
use crate::topology::{Epoch, GroupId, MoveId, NodeId, ShardId, TableId};

/// A row of `pgshunt.moves`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRow {
    pub id: MoveId,
    pub shard: ShardId,
    pub group: GroupId,
    pub source: NodeId,
    pub target: NodeId,
    pub tables: Vec<TableId>,
    pub state: String,
    pub step: Option<String>,
    pub attempts: u32,
    /// All holds of traffic together, and the longest.
    pub held: Option<Duration>,
    pub longest_hold: Option<Duration>,
    pub bytes_total: u64,
    pub rows_total: u64,
    pub error: Option<String>,
    pub blocker: Option<String>,
    pub rollback_of: Option<MoveId>,
    /// CANCEL MOVE has been accepted; of a move that soaks, FINISH MOVE.
    pub end_asked: bool,
    /// Since the state last changed.
    pub in_state: Duration,
}

/// What is known when a move is asked for.
#[derive(Debug, Clone)]
pub struct NewMove {
    pub shard: ShardId,
    pub group: GroupId,
    pub source: NodeId,
    pub target: NodeId,
    pub tables: Vec<TableId>,
    pub rollback_of: Option<MoveId>,
}

/// What is written before each step.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub state: &'a str,
    pub step: Option<&'a str>,
    pub attempts: u32,
    pub held: Option<Duration>,
    pub longest_hold: Option<Duration>,
    pub bytes_total: u64,
    pub rows_total: u64,
    pub error: Option<&'a str>,
    pub blocker: Option<&'a str>,
}

/// A row of `pgshunt.cleanup_records`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupRecord {
    pub id: i64,
    pub node: NodeId,
    pub kind: String,
    pub name: String,
}

const COLUMNS: &str = "move_id, shard_id, group_id, source_id, target_id, table_ids, state, step, \
     attempts, held_us, bytes_total, rows_total, error, blocker, rollback_of, cancel_requested, \
     (extract(epoch FROM clock_timestamp() - changed_at) * 1000)::bigint, longest_us";

fn row(r: &Row) -> MoveRow {
    let hold = |i| r.get::<_, Option<i64>>(i).map(|us| Duration::from_micros(us.max(0) as u64));
    MoveRow {
        id: MoveId(r.get(0)),
        shard: ShardId(r.get(1)),
        group: GroupId(r.get(2)),
        source: NodeId(r.get(3)),
        target: NodeId(r.get(4)),
        tables: r.get::<_, Vec<i32>>(5).into_iter().map(TableId).collect(),
        state: r.get(6),
        step: r.get(7),
        attempts: u32::try_from(r.get::<_, i32>(8)).unwrap_or(0),
        held: hold(9),
        longest_hold: hold(17),
        bytes_total: r.get::<_, i64>(10).max(0) as u64,
        rows_total: r.get::<_, i64>(11).max(0) as u64,
        error: r.get(12),
        blocker: r.get(13),
        rollback_of: r.get::<_, Option<i64>>(14).map(MoveId),
        end_asked: r.get(15),
        in_state: Duration::from_millis(r.get::<_, i64>(16).max(0) as u64),
    }
}

/// The moves that are not over and the last `over` of the others, oldest first.
pub async fn recent(client: &Client, over: u32) -> Result<Vec<MoveRow>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM pgshunt.moves WHERE state NOT IN ('done', 'failed') OR move_id IN \
         (SELECT move_id FROM pgshunt.moves WHERE state IN ('done', 'failed') \
          ORDER BY move_id DESC LIMIT $1) ORDER BY move_id"
    );
    Ok(client.query(&sql, &[&i64::from(over)]).await?.iter().map(row).collect())
}

/// Moves that are not over, oldest first.
pub async fn unfinished<C: GenericClient + Sync>(client: &C) -> Result<Vec<MoveRow>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM pgshunt.moves WHERE state NOT IN ('done', 'failed') ORDER BY move_id"
    );
    Ok(client.query(&sql, &[]).await?.iter().map(row).collect())
}

pub async fn one(client: &Client, id: MoveId) -> Result<Option<MoveRow>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM pgshunt.moves WHERE move_id = $1");
    Ok(client.query_opt(&sql, &[&id.0]).await?.as_ref().map(row))
}

/// The move's row, locked until the transaction ends: what is decided by it stays true until then.
pub async fn locked(tx: &Transaction<'_>, id: MoveId) -> Result<Option<MoveRow>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM pgshunt.moves WHERE move_id = $1 FOR UPDATE");
    Ok(tx.query_opt(&sql, &[&id.0]).await?.as_ref().map(row))
}

/// The rollback of this move that is under way, if there is one.
pub async fn rollback_of(tx: &Transaction<'_>, id: MoveId) -> Result<Option<MoveId>, Error> {
    let sql = "SELECT move_id FROM pgshunt.moves WHERE rollback_of = $1 \
               AND state NOT IN ('done', 'failed')";
    Ok(tx.query_opt(sql, &[&id.0]).await?.map(|r| MoveId(r.get(0))))
}

/// The move that is changing this group's shards now, if there is one. DDL on the group waits for
/// it or is refused.
pub async fn active_in_group<C: GenericClient + Sync>(
    client: &C,
    group: GroupId,
) -> Result<Option<MoveId>, Error> {
    let sql = "SELECT move_id FROM pgshunt.moves WHERE group_id = $1 \
               AND state NOT IN ('soaking', 'done', 'failed')";
    Ok(client.query_opt(sql, &[&group.0]).await?.map(|r| MoveId(r.get(0))))
}

/// The move of this shard that soaks, if there is one.
pub async fn soaking_of(tx: &Transaction<'_>, shard: ShardId) -> Result<Option<MoveId>, Error> {
    let sql = "SELECT move_id FROM pgshunt.moves WHERE shard_id = $1 AND state = 'soaking'";
    Ok(tx.query_opt(sql, &[&shard.0]).await?.map(|r| MoveId(r.get(0))))
}

/// Whether a role owns a table of the group or may truncate one: only such a role's DDL ends a soaking.
pub async fn may_change(client: &Client, group: GroupId, role: &str) -> Result<bool, Error> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pgshunt.tables t
               JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
               JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
               JOIN pg_catalog.pg_roles r ON r.rolname = $2
             WHERE t.group_id = $1 AND (pg_catalog.pg_has_role(r.oid, c.relowner, 'MEMBER')
               OR pg_catalog.has_table_privilege(r.oid, c.oid, 'TRUNCATE')))",
            &[&group.0, &role],
        )
        .await?;
    Ok(row.get(0))
}

/// How long a new move waits for DDL of its tables, in milliseconds.
const PATIENCE_MS: u32 = 2000;

/// Plans a move, within a transaction. A forward move also announces the placement that it will
/// fill; a rollback takes the row of the move that soaks from the task that carries that one out.
///
/// # Errors
/// A unique violation (23505) if another move is active in the group, 55P03 if its tables are being
/// changed.
pub async fn insert(tx: &Transaction<'_>, new: &NewMove) -> Result<MoveId, Error> {
    let tables: Vec<i32> = new.tables.iter().map(|t| t.0).collect();
    // DDL on the group holds this row until its commit: what it made or dropped is seen below. A
    // client's transaction may hold it for long.
    tx.batch_execute(&format!("SET LOCAL lock_timeout = {PATIENCE_MS}")).await?;
    tx.execute(
        "SELECT FROM pgshunt.colocation_groups WHERE group_id = $1 FOR UPDATE",
        &[&new.group.0],
    )
    .await?;
    tx.batch_execute("SET LOCAL lock_timeout = 0").await?;
    let id: i64 = tx
        .query_one(
            "INSERT INTO pgshunt.moves (shard_id, group_id, source_id, target_id, table_ids, state, \
             rollback_of) SELECT $1, $2, $3, $4, CASE WHEN $6::bigint IS NULL THEN \
               ARRAY(SELECT table_id FROM pgshunt.tables WHERE group_id = $2 ORDER BY table_id) \
             ELSE $5 END, 'planned', $6 RETURNING move_id",
            &[
                &new.shard.0,
                &new.group.0,
                &new.source.0,
                &new.target.0,
                &tables,
                &new.rollback_of.map(|m| m.0),
            ],
        )
        .await?
        .get(0);
    if let Some(old) = new.rollback_of {
        tx.execute(
            "UPDATE pgshunt.moves SET step = $2 WHERE move_id = $1",
            &[&old.0, &HANDED_OVER],
        )
        .await?;
    } else {
        let epoch = raise_epoch(tx).await?;
        // One that an earlier move has lost sight of serves nobody: then this move fills it.
        tx.execute(
            "INSERT INTO pgshunt.placements (shard_id, node_id, state, since) \
             VALUES ($1, $2, 'copying', $3) ON CONFLICT (shard_id, node_id) \
             DO UPDATE SET state = 'copying', since = EXCLUDED.since \
             WHERE placements.state IN ('copying', 'retired')",
            &[&new.shard.0, &new.target.0, &epoch.0],
        )
        .await?;
    }
    Ok(MoveId(id))
}

/// The step of a move that soaks while its rollback is under way: its row is the rollback's then.
const HANDED_OVER: &str = "handed_over";

/// Gives the rows of soaking moves to whom they belong, by the rollbacks that are under way.
pub async fn settle_hand_overs(client: &Client) -> Result<(), Error> {
    client
        .execute(
            "UPDATE pgshunt.moves m SET step = CASE WHEN EXISTS (SELECT FROM pgshunt.moves r
                 WHERE r.rollback_of = m.move_id AND r.state NOT IN ('done', 'failed'))
                 THEN $1 ELSE 'soak' END WHERE m.state = 'soaking'",
            &[&HANDED_OVER],
        )
        .await?;
    Ok(())
}

/// Writes a move's row. False: the row is not the caller's to write any more, since the move is over
/// or has been handed over to its rollback; then nothing is written. A rollback that fails gives the
/// row of the move that it would have taken back to that move's task again.
pub async fn record(client: &Client, id: MoveId, r: &Record<'_>) -> Result<bool, Error> {
    let row = client
        .query_one(
            "WITH this AS (
                 UPDATE pgshunt.moves SET
                     changed_at = CASE WHEN state = $2 THEN changed_at ELSE clock_timestamp() END,
                     state = $2, step = $3, attempts = $4, held_us = coalesce($5, held_us),
                     bytes_total = $6, rows_total = $7, error = $8, blocker = $9,
                     longest_us = coalesce($11, longest_us)
                 WHERE move_id = $1 AND state NOT IN ('done', 'failed')
                   AND step IS DISTINCT FROM $10
                 RETURNING rollback_of
             ), given_back AS (
                 UPDATE pgshunt.moves m SET step = 'soak' FROM this
                 WHERE $2 = 'failed' AND m.move_id = this.rollback_of AND m.state = 'soaking'
             )
             SELECT count(*) FROM this",
            &[
                &id.0,
                &r.state,
                &r.step,
                &(r.attempts as i32),
                &r.held.map(|d| d.as_micros() as i64),
                &(r.bytes_total as i64),
                &(r.rows_total as i64),
                &r.error,
                &r.blocker,
                &HANDED_OVER,
                &r.longest_hold.map(|d| d.as_micros() as i64),
            ],
        )
        .await?;
    Ok(row.get::<_, i64>(0) > 0)
}

/// Keeps that CANCEL MOVE, or of a move that soaks FINISH MOVE, was accepted.
pub async fn ask_for_end(tx: &Transaction<'_>, id: MoveId) -> Result<(), Error> {
    tx.execute("UPDATE pgshunt.moves SET cancel_requested = true WHERE move_id = $1", &[&id.0])
        .await?;
    Ok(())
}

/// Prepares [`flip`] ahead of the held phase, and runs it for a move that does not exist: that
/// changes nothing, and fills the session's caches.
pub async fn prepare_flip(client: &Client) -> Result<Statement, Error> {
    let statement = client
        .prepare(
            // One statement, so one round trip while traffic waits. Everything hangs on `e`, which
            // is empty unless the placements are as they were before the move.
            "WITH e AS (
                 UPDATE pgshunt.meta SET epoch = epoch + 1
                 WHERE EXISTS (SELECT FROM pgshunt.placements WHERE shard_id = $2
                               AND node_id = $3 AND role = 'primary' AND state = 'active')
                   AND EXISTS (SELECT FROM pgshunt.placements WHERE shard_id = $2
                               AND node_id = $4 AND state IN ('copying', 'retired'))
                 RETURNING epoch
             ), serves AS (
                 UPDATE pgshunt.placements p SET state = 'active', role = 'primary', since = e.epoch
                 FROM e WHERE p.shard_id = $2 AND p.node_id = $4
             ), retires AS (
                 UPDATE pgshunt.placements p SET state = 'retired'
                 FROM e WHERE p.shard_id = $2 AND p.node_id = $3
             ), this AS (
                 UPDATE pgshunt.moves m SET state = 'switched', step = 'settle', error = NULL,
                        blocker = NULL, cancel_requested = false, changed_at = clock_timestamp()
                 FROM e WHERE m.move_id = $1
             ), rolled_back AS (
                 UPDATE pgshunt.moves m SET state = 'done', step = NULL,
                        error = 'rolled back by move ' || $1::bigint, changed_at = clock_timestamp()
                 FROM e WHERE m.move_id = $5
             ), records AS (
                 UPDATE pgshunt.cleanup_records c SET move_id = $1,
                        node_id = CASE WHEN kind = 'schema' THEN $3 ELSE node_id END
                 FROM e WHERE c.move_id IN ($1, $5)
             )
             SELECT e.epoch, pg_notify('pgshunt_epoch', e.epoch::text) FROM e",
        )
        .await?;
    flip(client, &statement, MoveId(-1), ShardId(-1), NodeId(-1), NodeId(-1), None).await?;
    Ok(statement)
}

/// The catalog's part of a cutover, atomically: the target's placement serves, the source's is
/// retired, the move is switched, a rolled back move is done, and what is to be dropped one day is
/// no longer the target's schema but the source's. `None` if that had been done before.
pub async fn flip(
    client: &Client,
    statement: &Statement,
    id: MoveId,
    shard: ShardId,
    source: NodeId,
    target: NodeId,
    rollback_of: Option<MoveId>,
) -> Result<Option<Epoch>, Error> {
    let row = client
        .query_opt(statement, &[&id.0, &shard.0, &source.0, &target.0, &rollback_of.map(|m| m.0)])
        .await?;
    Ok(row.map(|r| Epoch(r.get(0))))
}

/// The node that the catalog says serves the shard.
pub async fn served_by(client: &Client, shard: ShardId) -> Result<Option<NodeId>, Error> {
    let row = client
        .query_opt(
            "SELECT node_id FROM pgshunt.placements \
             WHERE shard_id = $1 AND role = 'primary' AND state = 'active'",
            &[&shard.0],
        )
        .await?;
    Ok(row.map(|r| NodeId(r.get(0))))
}

/// Forgets the placement that this move has made (`copying`) or left behind (`retired`), unless another
/// move that is not over uses it. Doing it twice is no error.
pub async fn forget_placement(
    client: &mut Client,
    id: MoveId,
    shard: ShardId,
    node: NodeId,
    state: &str,
) -> Result<(), Error> {
    let tx = client.transaction().await?;
    let gone = tx
        .execute(
            "DELETE FROM pgshunt.placements p \
             WHERE p.shard_id = $2 AND p.node_id = $3 AND p.state = $4 AND NOT EXISTS \
               (SELECT FROM pgshunt.moves m WHERE m.shard_id = $2 AND m.move_id <> $1 \
                AND $3 IN (m.source_id, m.target_id) AND m.state NOT IN ('done', 'failed'))",
            &[&id.0, &shard.0, &node.0, &state],
        )
        .await?;
    if gone > 0 {
        raise_epoch(&tx).await?;
    }
    tx.commit().await
}

/// Makes the placements of a shard what they are before a move switches, whatever they have become, so
/// that [`flip`] can tell what the journal says.
pub async fn mend_placements(
    client: &mut Client,
    shard: ShardId,
    source: NodeId,
    target: NodeId,
) -> Result<(), Error> {
    let tx = client.transaction().await?;
    let epoch = raise_epoch(&tx).await?;
    tx.execute(
        "DELETE FROM pgshunt.placements WHERE shard_id = $1 AND role = 'primary' \
         AND node_id NOT IN ($2, $3)",
        &[&shard.0, &source.0, &target.0],
    )
    .await?;
    for (node, state) in [(source, "active"), (target, "copying")] {
        tx.execute(
            "INSERT INTO pgshunt.placements (shard_id, node_id, state, since) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (shard_id, node_id) \
             DO UPDATE SET role = 'primary', state = EXCLUDED.state, since = EXCLUDED.since",
            &[&shard.0, &node.0, &state, &epoch.0],
        )
        .await?;
    }
    tx.commit().await
}

/// Promises that something which is about to be made will be removed one day.
pub async fn promise(
    client: &Client,
    id: MoveId,
    node: NodeId,
    kind: &str,
    name: &str,
) -> Result<(), Error> {
    client
        .execute(
            "INSERT INTO pgshunt.cleanup_records (move_id, node_id, kind, name) \
             VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            &[&id.0, &node.0, &kind, &name],
        )
        .await?;
    Ok(())
}

/// What this move still has to remove.
pub async fn promised(client: &Client, id: MoveId) -> Result<Vec<CleanupRecord>, Error> {
    let rows = client
        .query(
            "SELECT record_id, node_id, kind, name FROM pgshunt.cleanup_records \
             WHERE move_id = $1 ORDER BY record_id",
            &[&id.0],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|r| CleanupRecord {
            id: r.get(0),
            node: NodeId(r.get(1)),
            kind: r.get(2),
            name: r.get(3),
        })
        .collect())
}

/// The promised removal was done.
pub async fn kept(client: &Client, record: i64) -> Result<(), Error> {
    client.execute("DELETE FROM pgshunt.cleanup_records WHERE record_id = $1", &[&record]).await?;
    Ok(())
}
