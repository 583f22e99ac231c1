//! Connections to the nodes.
//!
//! [`control`] is for pgshunt's own work (catalog, DDL, moves) and speaks through tokio-postgres.
//! The clients' statements travel on the pool's connections, which decode nothing.

pub mod control;
mod guard;
pub mod login;
pub mod server;
pub mod settings;
