//! Tests against real PostgreSQL servers: one binary, one module per subject.

mod local;
mod support;
