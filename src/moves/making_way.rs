//! DDL and moves of the same tables: who waits for whom.
//!
//! A table must not change while its shards move. An application that truncates or alters its table knows
//! nothing of moves, so its statement waits for a move that is under way, and ends the soaking of
//! one that has arrived: with it goes the way back by ROLLBACK MOVE, which is told.

use std::time::{Duration, Instant};

use super::machine::State;
use super::mover::{MoveError, Mover};
use crate::catalog::ddl::{self, DdlError, DdlRequest, Notice, Outcome, Stay};
use crate::catalog::moves;
use crate::gate::{Closed, Scope};
use crate::router::Conversion;
use crate::topology::{GroupId, MoveId, NewTable, TableId};

/// How long open transactions are waited for before a table changes its kind.
const HOLD_PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Carries out DDL, for as long as `move.ddl_patience` behind the moves that are in its way.
pub async fn execute(mover: &Mover, request: &DdlRequest) -> Result<Outcome, DdlError> {
    let _held = match request.conversion() {
        Some(to) => Some(hold(mover, &to).await?),
        None => None,
    };
    let mut way = Way::new(mover, request.login());
    loop {
        match ddl::execute(&mover.store, request).await {
            Ok(mut outcome) => {
                outcome.notices.extend(way.told());
                return Ok(outcome);
            }
            Err(error) => way.is_made(error).await?,
        }
    }
}

/// Holds everybody who could use a table while it becomes one of another kind: a statement that was planned for
/// the table as it was must not meet it as it is then.
async fn hold(mover: &Mover, to: &Conversion) -> Result<Closed, DdlError> {
    let scope = match to {
        // A local table is used on the home node only.
        Conversion::Reference | Conversion::Distributed { .. } => {
            Scope::Node(mover.store.routes().load().home().id)
        }
        Conversion::Local => Scope::All,
    };
    mover.gates.close(scope, HOLD_PATIENCE, None).await.map_err(|blocked| {
        DdlError::new("55P03", "a table cannot change its kind while transactions are open")
            .detail(format!(
                "{} open transaction(s) did not end within {} s.",
                blocked.blockers.len(),
                HOLD_PATIENCE.as_secs()
            ))
            .hint("Try again when they have ended; SHOW CLIENTS tells whose they are.")
    })
}

/// Keeps the shards of these groups where they are, for a transaction of the client's that may drop these
/// tables, with what it holds already. Gives what it is to be told besides.
pub async fn stay(
    mover: &Mover,
    held: Option<Stay>,
    groups: &[GroupId],
    drops: &[TableId],
    login: &str,
) -> Result<(Stay, Vec<Notice>), DdlError> {
    let held = match held {
        Some(held) => held,
        None => Stay::begin(&mover.store).await?,
    };
    held.note(drops);
    let mut way = Way::new(mover, login);
    loop {
        match held.hold(groups.to_vec()).await {
            Ok(()) => return Ok((held, way.told())),
            Err(error) => way.is_made(error).await?,
        }
    }
}

/// Gives a table that a client's transaction has made its entry in the catalog, keeps its shards where they
/// are, and lets every node know which of them it has; `None`: the table is distributed already.
pub async fn announce(
    mover: &Mover,
    held: Stay,
    table: &NewTable,
    login: &str,
) -> Result<(Option<(TableId, GroupId)>, Vec<Notice>), DdlError> {
    let Some(entry) = ddl::announce::enter(&mover.store, &held, table, login).await? else {
        return Ok((None, Vec::new()));
    };
    let (held, mut notices) = stay(mover, Some(held), &[entry.group], &[], login).await?;
    ddl::announce::tell(&mover.store, &held, table, entry.group).await?;
    notices.extend(entry.warning);
    Ok((Some((entry.table, entry.group)), notices))
}

/// The way that moves make for one statement.
struct Way<'a> {
    mover: &'a Mover,
    login: &'a str,
    until: Instant,
    /// Moves that cannot be rolled back any more.
    ended: Vec<MoveId>,
}

impl<'a> Way<'a> {
    fn new(mover: &'a Mover, login: &'a str) -> Self {
        Self { mover, login, until: Instant::now() + mover.config.ddl_patience, ended: Vec::new() }
    }

    /// Returns when it may be tried again.
    async fn is_made(&mut self, error: DdlError) -> Result<(), DdlError> {
        let Some(group) = error.moving else { return Err(error) };
        match make_way(self.mover, group, self.login, &mut self.ended).await {
            Ok(true) if Instant::now() < self.until => {
                tokio::time::sleep(TRY_AGAIN).await;
                Ok(())
            }
            Ok(_) => Err(error),
            Err(e) => {
                tracing::warn!(group = group.0, error = %e, "DDL cannot end a soaking");
                Err(error)
            }
        }
    }

    fn told(self) -> Vec<Notice> {
        self.ended.into_iter().map(gone).collect()
    }
}

/// Ends the soaking of the group's moves. False: this role has nothing to say about its tables, or
/// the soaking is not to be ended by DDL.
async fn make_way(
    mover: &Mover,
    group: GroupId,
    role: &str,
    ended: &mut Vec<MoveId>,
) -> Result<bool, MoveError> {
    let open = {
        let client = mover.store.home_client().await?;
        let client = client.lock().await;
        if !moves::may_change(&client, group, role).await? {
            return Ok(false);
        }
        moves::unfinished(&*client).await?
    };
    for soaking in open.iter().filter(|m| m.group == group && m.state == State::Soaking.name()) {
        if !mover.config.ddl_ends_soaking {
            return Ok(false);
        }
        match mover.finish(Some(soaking.id)).await {
            Ok(id) if !ended.contains(&id) => ended.push(id),
            // It has ended meanwhile, or is being rolled back, which has an end too.
            Ok(_) | Err(MoveError::WrongState { .. } | MoveError::BeingRolledBack { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

fn gone(id: MoveId) -> Notice {
    Notice {
        severity: "NOTICE".into(),
        sqlstate: "00000".into(),
        message: format!("move {id} of this table's shards can no longer be rolled back"),
        detail: None,
        hint: None,
    }
}
