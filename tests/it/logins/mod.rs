//! Logging in, in every way PostgreSQL has: what is negotiated, how one proves who one is, and what
//! the nodes see of it.

mod everywhere;
mod protocol;
mod rights;
mod rules;
mod standing;
pub mod unix;
mod users;

use crate::faults::wire::{Wire, field, first, query};
use crate::support::*;
