//! pgshunt: a PostgreSQL proxy that pools connections, routes statements by hash partition and
//! moves shards between nodes under live traffic. `ARCHITECTURE.md` is the map.

pub mod admin;
pub mod app;
pub mod auth;
pub mod backend;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod client;
pub mod commit;
pub mod config;
pub mod copy;
pub mod demo;
pub mod failpoint;
pub mod gate;
pub mod hash;
pub mod import;
pub mod local;
pub mod merge;
pub mod moves;
pub mod net;
pub mod pool;
pub mod router;
pub mod session;
pub mod sight;
pub mod sql;
pub mod telemetry;
pub mod topology;
pub mod wire;
