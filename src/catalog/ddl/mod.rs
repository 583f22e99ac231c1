//! DDL on distributed tables, on roles and their rights: one statement of a client, carried out on all nodes or on none.
//!
//! ```text
//!   client's text ─► statement (what is asked; refused if not known to be safe)
//!                      │
//!   home node:  the text itself, as the client's role ─► PostgreSQL judges, and says what came of it
//!                      │ shape (its catalogs)
//!   other nodes: the same shape, as the service role;  all nodes: leaves of the shards they serve
//!                      │
//!   home node:  rows of schema pgshunt, the epoch ─► everywhere: prepare, decide, commit
//! ```
//!
//! **The home node judges, the others follow.** Permissions, names, types and constraint rules are
//! checked once, by the PostgreSQL the client believes it talks to, and its errors are passed on as
//! they are. The other nodes need not know the grants and search path that led to the decision.
//!
//! **A client's code must not run as the service role.** The home session took on the client's
//! role and could lay it down again, so a statement that makes a node evaluate a user's function
//! outside of PostgreSQL's security-restricted contexts (a default while adding a column, a
//! TRUNCATE trigger) is refused unless the client's role is a superuser.
//!
//! While a move of the group runs or soaks, its tables cannot be changed: the copy would lag behind.

mod access;
mod access_change;
mod change;
mod create;
mod error;
mod everywhere;
mod objects;
mod role_change;
mod roles;
mod shape;
mod statement;

use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::escape::escape_identifier as ident;
use tokio_postgres::error::DbError;

pub use access::Access;
pub(super) use access::bring as bring_access;
pub(super) use create::{parent as make_parent, stride as sequence_stride};
pub use error::DdlError;
pub(super) use everywhere::recover_node;
pub use everywhere::{Everywhere, Peer, Recovered, recover};
pub(super) use objects::{Which, bring_built_in, bring_database, bring_parameters};
pub(super) use roles::bring_all as bring_roles;
pub use shape::{Sequence, Shape};

use super::Store;
use crate::topology::GroupId;
use statement::Statement;

/// One statement of a client.
#[derive(Debug, Clone)]
pub struct DdlRequest {
    /// The role the client logged in as. A SET ROLE of its is among the settings.
    pub role: String,
    /// The session's parameters in order, `search_path` among them: the name, and the SQL that put
    /// it in force on the session's own connection.
    pub settings: Vec<(String, String)>,
    pub sql: String,
}

/// The client as the home node sees it, with all its settings in force.
#[derive(Debug, Clone)]
struct Who {
    role: String,
    /// What SESSION_USER means.
    login: String,
    superuser: bool,
    /// `pgshunt.shard_count`, if the session has set it.
    shard_count: Option<String>,
}

/// What the client is told besides success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The command tag.
    pub tag: &'static str,
    pub notices: Vec<Notice>,
}

/// A NOTICE or WARNING.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl From<DbError> for Notice {
    fn from(e: DbError) -> Self {
        Self {
            severity: e.severity().into(),
            sqlstate: e.code().code().into(),
            message: e.message().into(),
            detail: e.detail().map(Into::into),
            hint: e.hint().map(Into::into),
        }
    }
}

/// Carries out one statement that creates, changes or drops a distributed table or a role, on all
/// nodes or on none, and puts the new routing table in force.
///
/// # Errors
/// Nothing is changed on any node. The one exception is SQLSTATE 08007, when the home node broke off
/// during its commit: then [`recover`] finds out and makes it one or the other.
pub async fn execute(store: &Store, request: &DdlRequest) -> Result<Outcome, DdlError> {
    let statement = statement::parse(&request.sql)?;
    let _permit = store.permit().await?;
    let mut all = Everywhere::begin(store).await?;
    match statement {
        Statement::Roles(_) | Statement::Access(_) => as_login(&all.home, request).await?,
        _ => as_client(&all.home, request).await?,
    }
    let tag = statement.tag();
    let who = who(&all.home, tag).await?;
    match statement {
        Statement::CreateTable { table } => create::table(&mut all, request, &who, &table).await?,
        Statement::DropTable { tables, cascade, .. } => {
            change::drop_tables(&mut all, request, &tables, cascade).await?
        }
        Statement::Truncate { tables, restart_sequences, cascade } => {
            change::truncate(&mut all, request, &who, &tables, restart_sequences, cascade).await?
        }
        Statement::CreateIndex { table } => {
            change::create_index(&mut all, request, &who, &table).await?
        }
        Statement::DropIndex { indexes, cascade, .. } => {
            change::drop_indexes(&mut all, request, &indexes, cascade).await?
        }
        Statement::AlterTable { table, evaluates, .. } => {
            change::alter_table(&mut all, request, &who, &table, &evaluates).await?
        }
        Statement::Roles(change) => role_change::run(&all, request, &who, &change).await?,
        Statement::Access(change) => access_change::run(&mut all, request, &change, &who).await?,
    };
    as_service(&all.home).await?;
    let mut notices: Vec<Notice> = all.home.notices().into_iter().map(Notice::from).collect();
    for node in all.commit().await? {
        notices.push(Notice {
            severity: "WARNING".into(),
            sqlstate: "01000".into(),
            message: format!("node \"{node}\" could not be told that the statement is committed"),
            detail: Some("It is told as soon as it can be reached.".into()),
            hint: None,
        });
    }
    if let Err(error) = store.reload().await {
        // The statement is done; the catalog's listener will read what it changed.
        tracing::warn!(%error, "the routing table could not be read after DDL");
    }
    Ok(Outcome { tag, notices })
}

/// Recovers at once and then every so often, until dropped.
pub async fn keep_recovering(store: Arc<Store>, every: Duration) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // A successor that does not come gives the right back.
        let Ok(_permit) = store.permit().await else { continue };
        match recover(&store).await {
            Ok(done) if done.committed + done.rolled_back > 0 => {
                tracing::info!(?done, "recovered DDL");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "DDL could not be recovered yet"),
        }
    }
}

/// Makes the home session act as the client until [`as_service`].
async fn as_client(home: &Peer, request: &DdlRequest) -> Result<(), DdlError> {
    take_on(home, request, "role").await
}

/// Makes the home session the client's own until [`as_service`], which is more: a role may do with
/// itself what others may not, and must not drop itself. Only for statements that run no code.
async fn as_login(home: &Peer, request: &DdlRequest) -> Result<(), DdlError> {
    take_on(home, request, "session_authorization").await
}

async fn take_on(home: &Peer, request: &DdlRequest, identity: &str) -> Result<(), DdlError> {
    home.set("client_min_messages", "notice").await?;
    home.run("SET LOCAL search_path TO DEFAULT").await?;
    home.set(identity, &request.role).await?;
    for (name, sql) in &request.settings {
        match name.to_ascii_lowercase().as_str() {
            // It would change who may return to the service role.
            "session_authorization" if identity == "role" => {
                return Err(DdlError::unsupported(
                    "DDL on distributed tables is not possible under SET SESSION AUTHORIZATION",
                )
                .hint("Use SET ROLE."));
            }
            "session_replication_role" => {}
            _ => home.client.batch_execute(sql).await?,
        }
    }
    Ok(())
}

/// Who the client is, if the home session acts as it; then it is the service role's. `tag` is what the
/// statement is called.
async fn who(home: &Peer, tag: &str) -> Result<Who, DdlError> {
    let row = home
        .client
        .query_one(
            "SELECT current_user::pg_catalog.text, \
               pg_catalog.current_setting('pgshunt.shard_count', true), \
               pg_catalog.current_setting('default_transaction_read_only'), \
               pg_catalog.current_setting('standard_conforming_strings'), \
               session_user::pg_catalog.text",
            &[],
        )
        .await?;
    as_service(home).await?;
    let (read_only, standard): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    if read_only == "on" {
        let message = format!("cannot execute {tag} in a read-only transaction");
        return Err(DdlError::new("25006", message));
    }
    if standard == "off" {
        return Err(DdlError::unsupported("DDL needs standard_conforming_strings = on"));
    }
    let role: String = row.try_get(0)?;
    let superuser = home
        .client
        .query_one("SELECT rolsuper FROM pg_roles WHERE rolname::text = $1", &[&role])
        .await?
        .try_get(0)?;
    let shard_count: Option<String> = row.try_get(1)?;
    Ok(Who {
        role,
        login: row.try_get(4)?,
        superuser,
        shard_count: shard_count.filter(|s| !s.is_empty()),
    })
}

/// The client's own text, at home. As an extended query, so that it can only be one statement.
async fn run_as_client(home: &Peer, request: &DdlRequest) -> Result<(), DdlError> {
    match home.client.execute(request.sql.as_str(), &[]).await {
        Ok(_) => Ok(()),
        Err(e) => Err(e.as_db_error().map(DdlError::from).unwrap_or_else(|| e.into())),
    }
}

/// The home session is the service role's again, and prints names and constants in full.
async fn as_service(home: &Peer) -> Result<(), DdlError> {
    home.run(everywhere::OWN_SETTINGS).await
}

/// Refuses while the group's shards are being moved, and keeps a move from starting until the end of
/// this transaction.
async fn no_move(home: &Peer, group: GroupId) -> Result<(), DdlError> {
    home.client
        .execute(
            "SELECT FROM pgshunt.colocation_groups WHERE group_id = $1 FOR UPDATE",
            &[&group.0],
        )
        .await?;
    let busy = home
        .client
        .query_opt(
            "SELECT move_id, shard_id, state FROM pgshunt.moves \
             WHERE group_id = $1 AND state NOT IN ('done', 'failed') ORDER BY move_id LIMIT 1",
            &[&group.0],
        )
        .await?;
    let Some(busy) = busy else { return Ok(()) };
    let (id, shard, state): (i64, i32, String) =
        (busy.try_get(0)?, busy.try_get(1)?, busy.try_get(2)?);
    let error = DdlError::new("55006", "the table's shards are being moved")
        .detail(format!("Move {id} of shard {shard} is {state}."));
    Err(if state == "soaking" {
        error.hint(format!("FINISH MOVE {id} gives up the way back and ends it."))
    } else {
        error.hint(format!("Wait for its end, or CANCEL MOVE {id}."))
    })
}

/// A search path as SET takes it.
fn path_of<'a>(schemas: impl IntoIterator<Item = &'a str>) -> String {
    schemas.into_iter().map(ident).collect::<Vec<_>>().join(", ")
}
