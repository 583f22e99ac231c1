//! Local PostgreSQL nodes: real servers, started on this machine for the demo and the tests.
//!
//! A node is a data directory copied from a template that `initdb` made once, and a `postgres`
//! process on a loopback port the kernel chose. Copy and start take a fraction of a second, so
//! every test can have nodes of its own and nothing is shared between tests.
//!
//! Two things are easy to get wrong and are settled here:
//!
//! - PostgreSQL refuses to run as root. When we are root, servers run as `postgres` or `nobody`,
//!   and their directories belong to that user ([`account`]).
//! - A test that aborts runs no destructors. Each node has a [`watchdog`], a tiny shell that
//!   outlives us just long enough to stop the server and remove its directory.
//!
//! The functions block. A node is started from a test's first lines or before the demo's runtime
//! has anything else to do.

mod account;
mod binaries;
mod cluster;
mod node;
mod template;
mod watchdog;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use account::Account;
pub use binaries::Binaries;
pub use cluster::{ClusterOptions, DATABASE, LocalCluster};
pub use node::{LocalNode, NodeOptions, StopMode};

/// The superuser of every local node, and its password: a server on loopback that lives as long as
/// a test or a demo has no secret worth more.
pub const SUPERUSER: &str = "postgres";
pub const PASSWORD: &str = "pgshunt";

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(
        "no PostgreSQL server binaries found in PG_BIN, PATH, `pg_config --bindir` or \
         /usr/lib/postgresql/*/bin: install PostgreSQL 14 or later, or run `make setup`"
    )]
    NoBinaries,
    #[error(
        "PostgreSQL does not run as root and this machine has neither a user `postgres` nor a \
         user `nobody` to run it as"
    )]
    NoAccount,
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} belongs to another user: remove it, or set TMPDIR", path.display())]
    NotOurs { path: PathBuf },
    #[error("{program} failed: {output}")]
    Program { program: &'static str, output: String },
    #[error("the server did not start: {reason}\n{log}")]
    Start { reason: String, log: String },
    #[error("the server did not stop within {after:?}")]
    Stop { after: Duration },
}

/// Gives an `io::Error` the path and the deed it lacks.
fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LocalError + 'a {
    move |source| LocalError::Io { what, path: path.to_owned(), source }
}
