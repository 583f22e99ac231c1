//! The journal: one row on the target, committed together with the ATTACH. That commit is the move.
//! There: go forward. Not there: go back.

use super::error::StepError;
use super::link::Link;
use super::plan::Plan;

/// The transaction's statements: what attaches the leaves (`leaves::attach_all`), and the row. Its LSN is read last: all that was replicated from the source lies before it in the
/// target's WAL, and all that the application will write there lies behind.
pub fn attach_and_commit(plan: &Plan, attach: &str) -> String {
    format!(
        "{attach}; INSERT INTO pgshunt.move_journal (move_id, shard_id, lsn) \
         VALUES ({}, {}, pg_current_wal_insert_lsn())",
        plan.id, plan.shard
    )
}

/// Whether the move is committed on its target. Ask only when no session of the move is left there.
pub async fn is_committed(target: &Link, plan: &Plan) -> Result<bool, StepError> {
    target
        .exists(
            "reading the journal",
            "SELECT FROM pgshunt.move_journal WHERE move_id = $1",
            &[&plan.id.0],
        )
        .await
}

/// Where the application's own writes on the target begin.
pub async fn lsn(target: &Link, plan: &Plan) -> Result<String, StepError> {
    let row = target
        .opt(
            "reading the journal",
            "SELECT lsn::text FROM pgshunt.move_journal WHERE move_id = $1",
            &[&plan.id.0],
        )
        .await?;
    row.map(|r| r.get(0)).ok_or_else(|| {
        StepError::Refused(format!("the journal of {} has lost this move", target.node.name))
    })
}
