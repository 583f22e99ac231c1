//! The catalog: schema `pgshunt` in the cluster's database on the home node (`schema.sql`).
//!
//! All writes go through this module, in transactions that raise the epoch and NOTIFY
//! `pgshunt_epoch`. After its own writes a process calls [`Store::reload`], which reads all rows in
//! one snapshot, builds a routing table and publishes it.

pub mod addresses;
mod around;
mod asking;
pub mod ddl;
mod hidden;
pub mod moves;
pub mod nodes;
pub mod owner;
mod repair;
pub mod reserved;
mod roles;
mod steward;
mod store;
pub mod transactions;

pub use roles::{Role, RoleReader};
pub use steward::{GivenUp, Permit, Steward};
pub use store::{CatalogError, Store, raise_epoch, read_there};
