//! DDL of distributed tables and roles: handed to the control runtime, which carries it out on all nodes.

use std::pin::Pin;
use std::time::Instant;

use super::aside::cancelled;
use super::ending::End;
use super::relay::Client;
use crate::catalog::ddl::{DdlError, DdlRequest, Notice};
use crate::moves;
use crate::router::{functions_changed, tables_changed};
use crate::session::{Ddl, Io};
use crate::telemetry::ClientState;
use crate::topology::{GroupId, NewTable, TableId};
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
                if let Some(function) = outcome.function.filter(|_| before.is_empty()) {
                    backend::put_void(out, function);
                }
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

impl Client {
    /// Keeps the shards of these groups where they are until the client's transaction has ended.
    pub(super) async fn stay(
        &mut self,
        groups: Vec<GroupId>,
        drops: Vec<TableId>,
    ) -> Result<(), End> {
        self.parts.info.set_state(ClientState::Active);
        let (mover, held) = (self.worker.shared.mover.clone(), self.stay.clone());
        let (wanted, login) = ((groups.clone(), drops.clone()), self.parts.user.clone());
        let work = async move { moves::stay(&mover, held, &wanted.0, &wanted.1, &login).await };
        let mut work = self.worker.shared.control.spawn(work);
        let aside = self.wait_aside(|cx| Pin::new(&mut work).poll(cx)).await?;
        let Some(outcome) = aside.unless_cancelled() else {
            self.parts.session.cannot_stay(cancelled());
            return Ok(());
        };
        let outcome = outcome.unwrap_or_else(|e| Err(DdlError::new("XX000", e.to_string())));
        match outcome {
            Ok((held, notices)) => {
                self.stay = Some(held);
                for notice in notices {
                    report_of_notice(notice).put(self.out.buf());
                }
                self.parts.session.stays(groups, drops);
            }
            Err(e) => self.parts.session.cannot_stay(e.into()),
        }
        Ok(())
    }

    /// Gives a table that the client's transaction has made on the home node its entry in the catalog, and lets
    /// all nodes know which shards it has there.
    pub(super) async fn announce(&mut self, table: NewTable) -> Result<(), End> {
        let (mover, login) = (self.worker.shared.mover.clone(), self.parts.user.clone());
        let Some(held) = self.stay.clone() else { return Ok(()) };
        let work = async move { moves::announce(&mover, held, &table, &login).await };
        let mut work = self.worker.shared.control.spawn(work);
        let aside = self.wait_aside(|cx| Pin::new(&mut work).poll(cx)).await?;
        let outcome = match aside.unless_cancelled() {
            None => Err(cancelled()),
            Some(Ok(outcome)) => outcome.map_err(Report::from),
            Some(Err(e)) => Err(DdlError::new("XX000", e.to_string()).into()),
        };
        let outcome = outcome.map(|(table, notices)| {
            notices.into_iter().for_each(|n| report_of_notice(n).put(self.out.buf()));
            table
        });
        let mut none = Vec::new();
        let to_server = match &mut self.server {
            Some(conn) => conn.output.buf(),
            None => &mut none,
        };
        let mut io = Io { client: self.out.buf(), server: to_server };
        self.parts.session.announced(outcome, &mut io);
        Ok(())
    }

    /// A transaction with DDL has ended: waits until everybody goes by what it has changed.
    pub(super) async fn publish(&mut self) -> Result<(), End> {
        if let Some(held) = self.stay.take() {
            let mut end = Box::pin(held.end());
            // What has been committed is to be known, whether the client waits for it or not.
            while self.wait_aside(|cx| end.as_mut().poll(cx)).await?.arrived.is_none() {}
        }
        tables_changed();
        // Those of an extension, perhaps.
        functions_changed();
        self.worker.shared.moments.tables_may_have_changed();
        let mut none = Vec::new();
        let to_server = match &mut self.server {
            Some(conn) => conn.output.buf(),
            None => &mut none,
        };
        let mut io = Io { client: self.out.buf(), server: to_server };
        self.parts.session.published(&mut io);
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
