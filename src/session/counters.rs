//! What a session counts for the figures of its database.

use super::{Io, Session};
use crate::router::plan::{Control, Kind, Plan};
use crate::wire::backend::Report;
use crate::wire::blame::{Blame, Errors};

/// What happened, to be read and reset by the shell.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    pub statements: u64,
    pub shard: u64,
    pub every: u64,
    pub home: u64,
    pub refused: u64,
    /// What the client was told.
    pub errors: Errors,
    pub transactions: u64,
    pub retries: u64,
    /// Parse and Bind of the client, and Parse sent to a node.
    pub parses: u64,
    pub binds: u64,
    pub server_parses: u64,
    /// Statements of which one node made the answer, and what the others' rows took for that.
    pub gathered: u64,
    pub gathered_bytes: u64,
}

impl Session {
    /// Answers with an error of ours.
    pub(super) fn tell(&mut self, report: &Report, io: &mut Io<'_>) {
        self.note_error(Blame::of_ours(&report.sqlstate));
        if !self.snapshot_fails(|| report.clone()) {
            report.put(io.client);
        }
    }

    /// A statement has begun.
    pub(super) fn count(&mut self, plan: &Plan) {
        if let Some(Control::Vacate(database)) = plan.single() {
            self.vacate = Some(database.clone());
        }
        self.counters.statements += 1;
        match &plan.kind {
            Kind::Keys { .. } | Kind::Leaf(_) => self.counters.shard += 1,
            Kind::Every { .. } => self.counters.every += 1,
            Kind::Home | Kind::Any | Kind::Apart | Kind::Ddl(_) => self.counters.home += 1,
            Kind::Refused(_) => {}
        }
    }
}
