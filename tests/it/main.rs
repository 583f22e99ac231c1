//! Tests against real PostgreSQL servers: one binary, one module per subject.

mod hash;
mod ddl;
mod local;
mod moves;
mod support;
