//! Telemetry: what the process counts, and who is connected to it right now.
//!
//! Each worker writes figures of its own ([`WorkerStats`]) and nobody else does, so counting is a
//! plain load and store: no lock, no shared cache line. A reader (the console, a Prometheus
//! scrape) adds up all workers; it may see one counter a moment ahead of another, never a wrong one.
//!
//! The [`Registry`] holds the workers' figures and one entry for each client and server connection
//! that lives. Registering gives a guard; dropping it removes the entry, so no path out of a session
//! can leave a ghost in SHOW CLIENTS. What lives elsewhere (pools, moves) is asked for through
//! closures its owner offers.
//!
//! A leaf: it knows the model (`topology`) and nothing else, so every other module may use it.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod connection;
mod exposition;
mod http;
mod period;
mod registry;
mod stats;

pub use crate::wire::blame::Blame;
pub use connection::{
    ClientAddr, ClientInfo, ClientState, NewClient, NewServer, ServerInfo, ServerState,
};
pub use exposition::{CONTENT_TYPE, render};
pub use http::serve;
use period::Period;
pub use registry::{Live, LoggingIn, MoveFigures, PoolFigures, Registry};
pub use stats::{Counter, Histogram, HistogramSum, PlanKind, WorkerStats, WorkerSums};

/// A panic elsewhere leaves these maps whole: every change is a single insert or remove.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
