//! `pgshunt demo`: the whole promise in under a minute, on PostgreSQL servers started for it.
//!
//! Three local nodes, two of them in use; a hash-partitioned table created through the proxy; clients
//! that write, read and count without pause and write down every acknowledgement ([`ledger`]). A
//! third node is added, a shard moves there and back under that traffic, and at the end all rows of
//! all nodes are compared with what the clients were promised. The exit code is 1 when anything was
//! lost, doubled or refused.

pub mod latency;
pub mod ledger;
pub mod report;
pub mod scene;
pub mod traffic;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Local(#[from] crate::local::LocalError),
    #[error("{0}: {1}")]
    Sql(String, String),
}
