//! Tests against real PostgreSQL servers: one binary, one module per subject.

mod hash;
mod local;
mod login;
mod support;
