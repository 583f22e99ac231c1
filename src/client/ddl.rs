//! DDL of distributed tables and roles: handed to the control runtime, which carries it out on all nodes.

use std::time::Instant;

use super::ending::End;
use super::relay::Client;
use crate::catalog::ddl::{DdlError, DdlRequest, Notice};
use crate::moves;
use crate::router::tables_changed;
use crate::session::Ddl;
use crate::telemetry::ClientState;
use crate::wire::backend::{self, Report, Severity, Status};

impl Client {
    /// Carries out DDL and writes its answer. The message in front is taken off.
    pub(super) async fn ddl(&mut self, ddl: Ddl) -> Result<(), End> {
        self.parts.info.set_state(ClientState::Active);
        let Ddl { sql, before, behind } = ddl;
        let settings = self.parts.session.settings();
        let settings = settings.iter().map(|s| (s.name.clone(), s.sql.clone())).collect();
        let request = DdlRequest::new(&*self.parts.user, settings, sql);
        let begun = Instant::now();
        let mover = self.worker.shared.mover.clone();
        let work = self
            .worker
            .shared
            .control
            .spawn(async move { moves::execute_ddl(&mover, &request).await });
        // It is carried out whether the client waits for it or not: all nodes or none.
        let outcome = work.await.unwrap_or_else(|e| Err(DdlError::new("XX000", e.to_string())));
        // A transaction of its own, of one statement.
        let (stats, took) = (&self.parts.stats, begun.elapsed());
        stats.query.record(took);
        stats.transaction.record(took);
        stats.transactions.inc();
        match outcome {
            Ok(outcome) => {
                tables_changed();
                self.worker.shared.moments.tables_may_have_changed();
                if matches!(outcome.tag, "ALTER ROLE" | "DROP ROLE" | "ALTER DATABASE") {
                    self.worker.shared.roles.changed();
                }
                for notice in outcome.notices {
                    report_of_notice(notice).put(self.out.buf());
                }
                let out = self.out.buf();
                out.extend_from_slice(&before);
                backend::put_command_complete(out, outcome.tag);
                out.extend_from_slice(&behind);
                backend::put_ready(out, Status::Idle);
                self.consume_front();
                self.parts.session.ddl_done();
            }
            Err(e) => self.refuse_front(e.into()),
        }
        Ok(())
    }
}

fn report_of_notice(n: Notice) -> Report {
    let severity = match n.severity.as_str() {
        "WARNING" => Severity::Warning,
        _ => Severity::Notice,
    };
    Report { severity, detail: n.detail, hint: n.hint, ..Report::error(n.sqlstate, n.message) }
}
