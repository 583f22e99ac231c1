//! How the last step of what is collected is planned: without nested loops, wherever another join can do.
//!
//! PostgreSQL knows how many rows `unnest` gives and nothing of what is in them, so it expects about none behind
//! a condition or two, and would join what it takes for one row with another by a loop over all pairs. A hash
//! join is never much worse than the best one, as there is no index on those rows.
//!
//! The setting is the transaction's. Where that is the statement's own it ends with it; within a block it is put
//! back before Sync. If the statement fails it goes back with the savepoint, or ends with the block.

use super::Io;
use super::link::Link;
use super::opening::PORTAL;

const WITHOUT_LOOPS: &str = "\
SELECT pg_catalog.set_config('pgshunt.nestloop', pg_catalog.current_setting('enable_nestloop'), true), \
pg_catalog.set_config('enable_nestloop', 'off', true)";

const AS_BEFORE: &str = "SELECT pg_catalog.set_config('enable_nestloop', \
pg_catalog.current_setting('pgshunt.nestloop'), true)";

impl Link {
    /// It is about to be sent what joins collected rows.
    pub(super) fn joins_without_loops(&mut self, io: &mut Io<'_>) {
        self.put_own(b"", WITHOUT_LOOPS.as_bytes(), false, io);
    }

    /// It has been sent that, in a block, but for Sync.
    pub(super) fn joins_as_before(&mut self, io: &mut Io<'_>) {
        self.put_own(PORTAL, AS_BEFORE.as_bytes(), true, io);
    }
}
