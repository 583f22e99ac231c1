//! Whose the open transaction block is, and what is told in one that has failed.

use crate::wire::backend::Report;

/// Whether the block that is open on the nodes is one that the client does not know of
/// ([`super::own_block`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum OwnBlock {
    /// It is the client's, or there is none.
    #[default]
    No,
    /// pgshunt's own: it ends with the request.
    Open,
    /// The request has ended. As soon as nothing is under way the block does.
    Over,
}

/// What is told whatever comes in a transaction that has failed, as PostgreSQL words it.
pub(super) fn aborted() -> Report {
    Report::error(
        "25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}
