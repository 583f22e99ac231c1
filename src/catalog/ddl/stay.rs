//! Shards that stay where they are while a client's transaction changes their tables.
//!
//! The transaction runs on the client's own connections. What it needs besides is held for it by a
//! transaction of pgshunt's on the home node: other DDL of pgshunt's, a node that is to be added, and moves
//! of these groups wait for its end. With that the routing table is read anew, whatever became of
//! the client. Several clients may hold one group.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::everywhere::lock_shared;
use super::objects::align_schemas;
use super::{DdlError, Peer, no_move, trust};
use crate::catalog::reserved::must_be_ours;
use crate::catalog::{Store, raise_epoch};
use crate::topology::{GroupId, NewTable, Node, TableId};

/// What is held for one transaction; dropped, it ends.
#[derive(Debug, Clone)]
pub struct Stay {
    ask: mpsc::Sender<Asked>,
    noted: Arc<Mutex<Noted>>,
}

/// What must be looked at behind the transaction's end.
#[derive(Debug, Default)]
struct Noted {
    /// They may be gone then, or have come to nothing.
    tables: Vec<TableId>,
    groups: Vec<GroupId>,
    /// Schema and name of what the nodes have been told of.
    announced: Vec<(String, String)>,
}

#[derive(Debug)]
enum Asked {
    Hold(Vec<GroupId>, oneshot::Sender<Result<(), DdlError>>),
    /// It is told when the routing table is the newest.
    End(oneshot::Sender<()>),
}

impl Stay {
    /// Begins to hold something. Waits for DDL that is under way; every node must be reachable.
    pub async fn begin(store: &Arc<Store>) -> Result<Self, DdlError> {
        let _permit = store.permit().await?;
        let home = Peer::begin(store, store.routes().load().home().clone()).await?;
        lock_shared(&home).await?;
        store.reload().await?;
        ready(store).await?;
        let (ask, asked) = mpsc::channel(1);
        let noted = Arc::<Mutex<Noted>>::default();
        tokio::spawn(hold(store.clone(), home, asked, noted.clone()));
        Ok(Self { ask, noted })
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transaction may drop these tables, or they have their entry in the catalog before it has made them.
    pub fn note(&self, tables: &[TableId]) {
        self.noted().tables.extend(tables);
    }

    pub(super) fn has_noted(&self, table: TableId) -> bool {
        self.noted().tables.contains(&table)
    }

    /// The nodes have been told of this table.
    pub(super) fn announced(&self, new: &NewTable) {
        self.noted().announced.push((new.schema.clone(), new.name.clone()));
    }

    /// Holds the shards of these groups where they are, too.
    pub async fn hold(&self, groups: Vec<GroupId>) -> Result<(), DdlError> {
        let (answer, answered) = oneshot::channel();
        self.noted().groups.extend(&groups);
        let sent = self.ask.send(Asked::Hold(groups, answer)).await;
        let gone = || DdlError::new("08006", "the home node broke off");
        sent.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The client's transaction has ended: returns when everybody goes by what it has changed.
    pub async fn end(self) {
        let (told, ended) = oneshot::channel();
        if self.ask.send(Asked::End(told)).await.is_ok() {
            drop(self);
            let _ = ended.await;
        }
    }
}

async fn hold(
    store: Arc<Store>,
    home: Peer,
    mut asked: mpsc::Receiver<Asked>,
    noted: Arc<Mutex<Noted>>,
) {
    let mut told = None;
    while let Some(next) = asked.recv().await {
        match next {
            Asked::Hold(groups, answer) => {
                let _ = answer.send(hold_groups(&home, &groups).await);
            }
            Asked::End(ended) => {
                told = Some(ended);
                break;
            }
        }
    }
    let noted = std::mem::take(&mut *noted.lock().unwrap_or_else(PoisonError::into_inner));
    if told.is_none() && !noted.tables.is_empty() {
        // Its connections have broken off: the home node may still be at its end.
        tokio::time::sleep(LOST).await;
    }
    let published = async {
        let gone = forget(&home, &noted).await?;
        raise_epoch(&*home.client).await?;
        home.run("COMMIT").await?;
        store.reload().await?;
        Ok::<_, DdlError>(gone)
    };
    match published.await {
        Ok(gone) if gone.is_empty() && noted.announced.is_empty() => {}
        Ok(gone) => {
            tokio::spawn(tidy(store, noted.announced, gone));
        }
        Err(error) => {
            tracing::warn!(%error, "the routing table could not be read after a transaction with DDL");
        }
    }
    if let Some(told) = told {
        let _ = told.send(());
    }
}

/// How long the home node may take to notice that a connection has broken off.
const LOST: Duration = Duration::from_secs(1);

/// Takes the entries of tables out that are not there, and those of groups that have no other: the shards
/// that are no more. Not while a transaction stands prepared, which may have made one.
async fn forget(home: &Peer, noted: &Noted) -> Result<Vec<i32>, DdlError> {
    let ids: Vec<i32> = noted.tables.iter().map(|t| t.0).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    home.client.execute(GONE, &[&ids, &crate::commit::PREFIX]).await?;
    let groups: Vec<i32> = noted.groups.iter().map(|g| g.0).collect();
    let rows = home.client.query(EMPTY, &[&groups]).await?;
    let groups: Vec<i32> = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    let shards = "SELECT shard_id FROM pgshunt.shards WHERE group_id = ANY($1)";
    let rows = home.client.query(shards, &[&groups]).await?;
    let shards = rows.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    let empty = "DELETE FROM pgshunt.colocation_groups WHERE group_id = ANY($1)";
    home.client.execute(empty, &[&groups]).await?;
    Ok(shards)
}

/// Takes out the entries of tables that are not there: of transactions whose process has died before it could.
/// False: there may be one that is not over, and it is to be asked again.
pub async fn forget_lost(store: &Store) -> Result<bool, DdlError> {
    let home = Peer::begin(store, store.routes().load().home().clone()).await?;
    let alone = "SELECT pg_try_advisory_xact_lock(hashtextextended('pgshunt.ddl', 0))";
    if !home.client.query_one(alone, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    let rows = home.client.query("SELECT table_id, group_id FROM pgshunt.tables", &[]).await?;
    let mut noted = Noted::default();
    for row in rows {
        noted.tables.push(TableId(row.try_get(0)?));
        noted.groups.push(GroupId(row.try_get(1)?));
    }
    forget(&home, &noted).await?;
    home.run("COMMIT").await?;
    Ok(true)
}

const GONE: &str = "\
DELETE FROM pgshunt.tables t WHERE t.table_id = ANY($1)
  AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = t.schema_name AND c.relname = t.table_name AND c.relkind = CASE (
      SELECT shard_count FROM pgshunt.colocation_groups g WHERE g.group_id = t.group_id)
      WHEN 0 THEN 'r' ELSE 'p' END)
  AND NOT EXISTS (SELECT FROM pg_prepared_xacts
    WHERE database = current_database() AND starts_with(gid, $2))";

/// One that somebody else holds is left.
const EMPTY: &str = "\
SELECT group_id FROM pgshunt.colocation_groups g WHERE group_id = ANY($1)
  AND NOT EXISTS (SELECT FROM pgshunt.tables t WHERE t.group_id = g.group_id)
FOR UPDATE SKIP LOCKED";

/// What is left on the nodes of tables that are none. Whatever stays does no harm.
async fn tidy(store: Arc<Store>, announced: Vec<(String, String)>, shards: Vec<i32>) {
    for node in store.routes().load().nodes() {
        let Ok(client) = store.connector().connect(node).await else { continue };
        for (schema, name) in &announced {
            let told = "DELETE FROM pgshunt.announced WHERE schema_name = $1 AND table_name = $2";
            let _ = client.execute(told, &[schema, name]).await;
        }
        for shard in &shards {
            let _ = client.batch_execute(&format!("DROP SCHEMA IF EXISTS shard_{shard}")).await;
        }
    }
}

async fn hold_groups(home: &Peer, groups: &[GroupId]) -> Result<(), DdlError> {
    home.run("SAVEPOINT held").await?;
    for group in groups {
        if let Err(e) = no_move(home, *group, "SHARE").await {
            home.run("ROLLBACK TO SAVEPOINT held; RELEASE SAVEPOINT held").await?;
            return Err(e);
        }
    }
    home.run("RELEASE SAVEPOINT held").await
}

/// Makes on all nodes what a client's DDL, and changes of reference tables, need there.
pub(super) async fn ready(store: &Store) -> Result<(), DdlError> {
    let routes = store.routes().load();
    try_join_all(routes.nodes().map(|n| make_ready(store, routes.home(), n))).await?;
    Ok(())
}

/// The same on one node, as this version has it.
async fn make_ready(store: &Store, home: &Arc<Node>, node: &Arc<Node>) -> Result<(), DdlError> {
    const SAYS: &str =
        "SELECT obj_description(to_regprocedure('pgshunt.settle(regclass)'), 'pg_proc') = $1";
    let (version, sql) = readiness();
    let client = store.connector().connect(node).await?;
    if !node.is_home {
        let home = store.connector().connect(home).await?;
        align_schemas(&home, &client).await.map_err(|e| e.on_node(&node.name))?;
    }
    let known: Option<bool> = client.query_one(SAYS, &[&version]).await?.try_get(0)?;
    if known == Some(true) {
        return Ok(());
    }
    client.batch_execute(&sql).await.map_err(|e| DdlError::from(e).on_node(&node.name))
}

/// What tells this version of it from others, and the statements that make it.
pub fn readiness() -> (String, String) {
    let functions = include_str!("settle.sql")
        .replace("{parts}", trust::PARTS.trim_start_matches("WITH "))
        .replace("{trusted}", &format!("({} OR {})", trust::TRUSTED, trust::NAMES_ONLY))
        .replace("$1", "parent")
        + include_str!("make_shards.sql")
        + include_str!("hold.sql");
    let version: String = Sha256::digest(&functions).iter().map(|b| format!("{b:02x}")).collect();
    let ours = must_be_ours(&["pgshunt".into()]);
    let sql = format!(
        "SELECT pg_advisory_xact_lock(hashtextextended('pgshunt.node', 0)); \
         CREATE SCHEMA IF NOT EXISTS pgshunt; {ours}; GRANT USAGE ON SCHEMA pgshunt TO PUBLIC; {functions}; \
         COMMENT ON FUNCTION pgshunt.settle(regclass) IS '{version}'"
    );
    (version, sql)
}
