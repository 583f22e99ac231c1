//! What a session counts for the figures of its database.

use super::{Io, Session};
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
}

impl Session {
    /// Answers with an error of ours.
    pub(super) fn tell(&mut self, report: &Report, io: &mut Io<'_>) {
        self.counters.errors.count(Blame::of_ours(&report.sqlstate));
        report.put(io.client);
    }
}
