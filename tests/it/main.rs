//! Tests against real PostgreSQL servers: one binary, one module per subject.

mod check;
mod cli;
mod console;
mod ddl;
mod demo;
mod differential;
mod hash;
mod local;
mod login;
mod moves;
mod support;
