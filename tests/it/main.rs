//! Tests against real PostgreSQL servers: one binary, one module per subject.

mod demo;
mod hash;
mod local;
mod support;
