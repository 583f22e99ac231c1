//! Tests against real PostgreSQL servers: one binary, one module per subject.

mod attacks;
mod check;
mod cli;
mod clients;
mod console;
mod databases;
mod ddl;
mod demo;
mod differential;
mod faults;
mod hash;
mod import;
mod local;
mod login;
mod logins;
mod moves;
mod program;
mod protocol;
mod routing;
mod sessions;
mod support;
mod takeover;
