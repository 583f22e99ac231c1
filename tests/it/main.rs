//! Tests against real PostgreSQL servers: one binary, one module per subject.

mod cli;
mod demo;
mod hash;
mod ddl;
mod local;
mod moves;
mod support;
