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
//! **A client's code must not run as the service role.** At home it runs as the client, in a context that
//! PostgreSQL itself lets nobody climb out of (`acting`). Elsewhere only what came of it is made, and what
//! a role that is no superuser makes may call nothing that another such role has written (`trust`).
//!
//! While a move of the group runs or soaks, its tables cannot be changed: the copy would lag behind.

mod access;
mod access_change;
mod acting;
mod alter;
pub mod announce;
mod change;
mod convert;
mod create;
mod declaration;
mod error;
mod everywhere;
mod naming;
mod objects;
mod partition;
mod reference;
mod role_change;
mod roles;
mod sequence;
mod shape;
mod slots;
mod statement;
mod stay;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::DbError;

pub use access::Access;
pub(super) use access::bring as bring_access;
pub use acting::DdlRequest;
pub(super) use create::{parent as make_parent, stride as sequence_stride};
pub use error::DdlError;
pub(super) use everywhere::recover_node;
pub use everywhere::{Everywhere, Peer, Recovered, recover};
pub(super) use objects::{
    Which, bring_built_in, bring_database, bring_enums, bring_parameters, give_enums,
};
pub(super) use reference::bring as bring_reference;
pub(super) use roles::bring_all as bring_roles;
pub use shape::Shape;
pub use slots::Sequence;
pub(super) use stay::readiness;
pub use stay::{Stay, forget_lost};

use super::Store;
use crate::router::Conversion;
use crate::topology::GroupId;
use acting::Who;
use statement::Statement;

/// What the client is told besides success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The command tag.
    pub tag: &'static str,
    /// The function that the statement calls, whose result is void.
    pub function: Option<&'static str>,
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
    let statement = request.statement()?;
    let _permit = store.permit().await?;
    if matches!(statement, Statement::Convert { .. }) {
        stay::ready(store).await?;
    }
    let all = Everywhere::begin(store).await?;
    let sessions = all.sessions();
    let done = carry_out(all, request, statement).await;
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(e) => {
            everywhere::roll_back(sessions).await;
            return Err(e);
        }
    };
    if let Err(error) = store.reload().await {
        // The statement is done; the catalog's listener will read what it changed.
        tracing::warn!(%error, "the routing table could not be read after DDL");
    }
    Ok(outcome)
}

async fn carry_out(
    all: Everywhere,
    request: &DdlRequest,
    statement: Statement,
) -> Result<Outcome, DdlError> {
    let tag = statement.tag();
    let function = match &statement {
        Statement::Convert { to, .. } => Some(to.function()),
        _ => None,
    };
    let (all, who) = all.meet(request, tag).await?;
    let by = Client { request, who: &who };
    let mut all = match statement {
        Statement::CreateTable { table } => create::table(all, by, &table).await?,
        Statement::CreateLocal => create::local(all, by).await?,
        Statement::Convert { table, to } => match &to {
            Conversion::Reference => reference::adopt(all, by, &table).await?,
            Conversion::Distributed { key } => convert::distribute(all, by, &table, key).await?,
            Conversion::Local => convert::undistribute(all, by, &table).await?,
        },
        Statement::Partition(partition) => partition::declare(all, by, &partition).await?,
        Statement::Attach(partition) => partition::attach(all, by, &partition).await?,
        Statement::RestartSequence { sequence } => sequence::restart(all, by, &sequence).await?,
        Statement::DropTable { tables, cascade, .. } => {
            change::drop_tables(all, by, &tables, cascade).await?
        }
        Statement::Truncate { tables, restart_sequences, cascade } => {
            change::truncate(all, by, &tables, restart_sequences, cascade).await?
        }
        Statement::CreateIndex { table, at } => change::create_index(all, by, &table, at).await?,
        Statement::DropIndex { indexes, cascade, concurrently } => {
            change::drop_indexes(all, by, &indexes, cascade, concurrently).await?
        }
        Statement::AlterTable { table, alteration } => {
            alter::table(all, by, &table, alteration).await?
        }
        Statement::Roles(change) => role_change::run(all, by, &change).await?,
        Statement::Access(change) => access_change::run(all, by, &change).await?,
    };
    let mut notices = all.home.notices();
    notices.append(&mut all.warnings);
    for node in all.commit().await? {
        notices.push(Notice {
            severity: "WARNING".into(),
            sqlstate: "01000".into(),
            message: format!("node \"{node}\" could not be told that the statement is committed"),
            detail: Some("It is told as soon as it can be reached.".into()),
            hint: None,
        });
    }
    Ok(Outcome { tag, function, notices })
}

/// Whose statement it is: what was sent, and what the home node knows of the sender.
#[derive(Clone, Copy)]
struct Client<'a> {
    request: &'a DdlRequest,
    who: &'a Who,
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

/// Refuses while the group's shards are being moved, and keeps a move from starting until the end of
/// this transaction. `lock`: `UPDATE`, or `SHARE` for one that others may hold too.
async fn no_move(home: &Peer, group: GroupId, lock: &str) -> Result<(), DdlError> {
    let row = "SELECT FROM pgshunt.colocation_groups WHERE group_id = $1 FOR";
    home.client.execute(&format!("{row} {lock}"), &[&group.0]).await?;
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
    let mut error = DdlError::new("55006", "the table's shards are being moved")
        .detail(format!("Move {id} of shard {shard} is {state}."));
    error.moving = Some(group);
    Err(if state == "soaking" {
        error.hint(format!("FINISH MOVE {id} gives up the way back and ends it."))
    } else {
        error.hint(format!("Wait for its end, or CANCEL MOVE {id}."))
    })
}
