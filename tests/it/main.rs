//! Tests against real PostgreSQL servers: one binary, one module per subject.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::string_slice,
    reason = "a test ends by panicking"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test tells its seed and what it has found"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "tests are clients, and bound what they receive by what they send"
)]
#![expect(clippy::mem_forget, reason = "a guard whose end is not to be seen is tested")]
#![expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "processes are signalled, and descriptors passed by number"
)]

mod attacks;
mod carried;
mod check;
mod cli;
mod clients;
mod collect;
mod console;
mod convert;
mod copy;
mod cursors;
mod databases;
mod ddl;
mod demo;
mod differential;
mod dump;
mod faults;
mod hash;
mod import;
mod keys;
mod local;
mod login;
mod logins;
mod moves;
mod pgbench;
mod program;
mod protocol;
mod reference;
mod routing;
mod sessions;
mod support;
mod takeover;
mod transactions;
mod writes;
