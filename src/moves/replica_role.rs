//! The role that a subscription logs in as: one per subscription, with a password nobody else has.
//!
//! The subscriber keeps the password in `pg_subscription` and needs it in the text of CREATE
//! SUBSCRIPTION, where `pg_stat_activity` and the log would show it to whoever may read those. So it is
//! not the service role's, is made up for this one subscription and goes with it; the publisher is given
//! only its SCRAM verifier; and the statement that bears it is neither shown nor logged.
//!
//! The role has REPLICATION and may read every table: with REPLICATION alone it could take a base
//! backup, so grants on single leaves would only make work. It can write nothing.
//!
//! The publisher's sessions for it begin with what the database's owner has set for all, unless the role
//! itself has a setting: so it has one for each parameter that could end them.

use rand::Rng;

use super::cleanup::Kind;
use super::ctx::Ctx;
use super::error::StepError;
use super::link::Link;
use super::sql::{ident, literal};

/// A password as long as no dictionary needs to be feared.
fn new_password() -> String {
    format!("{:032x}{:032x}", rand::rng().random::<u128>(), rand::rng().random::<u128>())
}

/// Makes the role of this name on the publisher anew and returns its password. One that is there is
/// of an earlier attempt, or somebody else's who knew the name: either way nobody gets to keep it.
pub async fn make(ctx: &Ctx, publisher: &Link, name: &str) -> Result<String, StepError> {
    let doing = "creating the role for replication";
    ctx.promise(publisher.node.id, Kind::Role.name(), name).await?;
    drop_if_there(publisher, name).await?;
    let password = new_password();
    let role = ident(name);
    let sql = format!(
        "CREATE ROLE {role} LOGIN REPLICATION BYPASSRLS PASSWORD {}; \
         GRANT pg_read_all_data TO {role}",
        literal(&postgres_protocol::password::scram_sha_256(password.as_bytes())),
    );
    publisher.transaction(doing, &sql).await?;
    let settings = publisher.query(doing, SETTINGS, &[&name]).await?;
    let settings: Vec<String> = settings.iter().map(|row| row.get(0)).collect();
    publisher.batch(doing, &settings.join("; ")).await?;
    let may_connect = publisher
        .exists(
            doing,
            "SELECT WHERE has_database_privilege($1::text::name, current_database(), 'CONNECT')",
            &[&name],
        )
        .await?;
    if !may_connect {
        let sql = format!("GRANT CONNECT ON DATABASE {} TO {role}", database(publisher).await?);
        publisher.batch(doing, &sql).await?;
    }
    Ok(password)
}

/// Statements that keep the role's sessions from what others have set: no limit of time, and of how long a
/// subscriber may be silent what the server's own configuration says.
const SETTINGS: &str = "\
SELECT format('ALTER ROLE %I SET %I TO %L', $1::text, s.name, CASE WHEN s.name <> 'wal_sender_timeout'
    THEN s.boot_val ELSE coalesce((SELECT f.setting FROM pg_file_settings f
      WHERE lower(f.name) = s.name AND f.error IS NULL ORDER BY f.seqno DESC LIMIT 1), s.boot_val) END)
FROM pg_settings s WHERE s.name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
  'idle_in_transaction_session_timeout', 'idle_session_timeout', 'exit_on_error', 'wal_sender_timeout')";

/// Drops the role and what it was granted.
pub async fn drop_if_there(publisher: &Link, name: &str) -> Result<(), StepError> {
    let doing = "dropping the role for replication";
    if publisher.exists(doing, "SELECT FROM pg_roles WHERE rolname = $1", &[&name]).await? {
        let role = ident(name);
        // Fails if it owns something: then it was never ours.
        let database = database(publisher).await?;
        let sql = format!("REVOKE ALL ON DATABASE {database} FROM {role}; DROP ROLE {role}");
        publisher.transaction(doing, &sql).await?;
    }
    Ok(())
}

async fn database(link: &Link) -> Result<String, StepError> {
    let row = link.one("asking for the database", "SELECT current_database()::text", &[]).await?;
    Ok(ident(&row.get::<_, String>(0)))
}

/// Settings under which a statement's text is seen by nobody: not by `pg_stat_activity`, the log or
/// what extensions record.
const UNSEEN: &str = "SET LOCAL track_activities = off; SET LOCAL log_statement = 'none'; \
     SET LOCAL log_duration = off; SET LOCAL log_min_duration_statement = -1; \
     SET LOCAL log_min_duration_sample = -1; SET LOCAL log_transaction_sample_rate = 0; \
     SET LOCAL log_min_error_statement = 'panic'; SET LOCAL debug_print_parse = off; \
     SET LOCAL debug_print_rewritten = off; SET LOCAL debug_print_plan = off; \
     SET LOCAL pg_stat_statements.track_utility = off; SET LOCAL pgaudit.log = 'none'";

/// Runs one statement with a password in it.
pub async fn run_unseen(link: &Link, doing: &str, sql: &str) -> Result<(), StepError> {
    // In messages of their own: each is shown as a whole, as long as it runs.
    link.batch(doing, "BEGIN").await?;
    let done = async {
        link.batch(doing, UNSEEN).await?;
        link.batch(doing, sql).await?;
        link.batch(doing, "COMMIT").await
    };
    let done = done.await;
    if done.is_err() && !link.is_closed() {
        link.batch(doing, "ROLLBACK").await?;
    }
    done
}

/// A subscriber that was not let in as the role would be refused each time: that is for the operator.
pub fn explained(e: StepError, subscriber: &str, publisher: &str, role: &str) -> StepError {
    match &e {
        // libpq's words name the role when the login was refused, in any language.
        StepError::Sql { source, .. }
            if source.as_db_error().is_some_and(|db| db.message().contains(role)) =>
        {
            StepError::Refused(format!(
                "{subscriber} may not log in to {publisher} for replication: {e}; pg_hba.conf of {publisher} \
                 must let roles named pgshunt_move_* in from {subscriber} to the cluster's database with \
                 scram-sha-256"
            ))
        }
        _ => e,
    }
}
