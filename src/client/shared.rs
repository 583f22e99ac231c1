//! What all workers share.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::analysis::Analyses;
pub use super::cancel::Registration;
use super::deadlocks::Deadlocks;
use super::listeners::Listeners;
use super::reported::Reported;
use super::roles::{Kept, Roles};
use super::threshold::Threshold;
use super::{Cancels, Successor};
use crate::catalog::Store;
use crate::config::Live;
use crate::moves::Mover;
use crate::net::Stream;
use crate::net::pump::Pumps;
use crate::net::tls::ServerTls;
use crate::pool::Pools;
use crate::session::Moments;
use crate::telemetry::{NewClient, Registry};

/// Somebody who has logged in to the console.
pub struct Visitor {
    /// The line in SHOW CLIENTS.
    pub entry: NewClient,
    pub cancel: Registration,
    pub draining: tokio::sync::watch::Receiver<bool>,
    /// Whether the session is wanted by a successor while we drain.
    pub goes_on: Box<dyn Fn() -> bool>,
    /// What the session was with our predecessor.
    pub session: Option<String>,
}

/// Serves the console to an authenticated user. Gives the connection and the session, if a successor
/// is to go on with them.
pub type Console = Box<
    dyn Fn(Stream, Visitor) -> Pin<Box<dyn Future<Output = Option<(Stream, String)>>>>
        + Send
        + Sync,
>;

pub struct Shared {
    pub config: Live,
    pub store: Arc<Store>,
    /// DDL waits for the moves of its tables, or ends their soaking.
    pub mover: Arc<Mover>,
    pub pools: Arc<Pools>,
    pub cancels: Arc<Cancels>,
    pub deadlocks: Arc<Deadlocks>,
    pub registry: Arc<Registry>,
    /// TLS to clients, when it is offered.
    pub tls: ArcSwapOption<ServerTls>,
    /// The runtime of catalog, DDL and moves.
    pub control: tokio::runtime::Handle,
    pub console: Console,
    pub reported: Arc<Reported>,
    pub roles: Roles,
    pub listeners: Listeners,
    pub moments: Moments,
    /// Long texts under analysis.
    pub analyses: Analyses,
    /// Connections that have not logged in yet.
    pub(super) threshold: Threshold,
    /// Connections under TLS whose clients a successor serves.
    pub pumps: Pumps,
    /// All that have come, and those of them that have logged in.
    clients: AtomicUsize,
    let_in: AtomicUsize,
    /// No new clients: the process ends when the last one has left.
    closing: AtomicBool,
    left: Notify,
    /// Set when the process drains: idle clients are sent away, open transactions may end.
    pub draining: tokio::sync::watch::Receiver<bool>,
    /// Who takes our clients over while we drain.
    successor: Mutex<Option<Successor>>,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "each is named where it is made, once")]
    pub fn new(
        config: Live,
        store: Arc<Store>,
        mover: Arc<Mover>,
        pools: Arc<Pools>,
        registry: Arc<Registry>,
        tls: Option<Arc<ServerTls>>,
        control: tokio::runtime::Handle,
        console: Console,
        draining: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        let analyses = Analyses::new(config.load().limits.analysis_memory);
        let reported = Arc::<Reported>::default();
        let kept =
            Kept { pools: pools.clone(), reported: reported.clone(), registry: registry.clone() };
        let roles = Roles::new(&control, store.clone(), kept);
        let listeners = Listeners::new(control.clone(), store.connector().clone());
        // Nobody prepares a statement each microsecond: what a process before this one has prepared
        // is older.
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            config,
            store,
            mover,
            pools,
            cancels: Arc::default(),
            deadlocks: Arc::default(),
            registry,
            tls: ArcSwapOption::new(tls),
            control,
            console,
            reported,
            roles,
            listeners,
            moments: Moments::later(since_epoch.as_micros() as u64),
            analyses,
            threshold: Threshold::default(),
            pumps: Pumps::default(),
            clients: AtomicUsize::new(0),
            let_in: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            left: Notify::new(),
            draining,
            successor: Mutex::default(),
        }
    }

    pub fn turn_away_new(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether no new clients are served.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire) || *self.draining.borrow()
    }

    /// Until no client is there; the console's do not count.
    pub async fn last_client_left(&self) {
        while self.clients.load(Ordering::Acquire) > 0 {
            self.left.notified().await;
        }
    }

    /// How long a drain waits for open transactions.
    pub fn patience(&self) -> Duration {
        let server = &self.config.load().server;
        match self.successor() {
            Some(_) => server.takeover_timeout,
            None => server.shutdown_timeout,
        }
    }

    /// Clients that come to rest go there from now on, until it is closed again.
    pub fn set_successor(&self, successor: Option<Successor>) {
        *lock(&self.successor) = successor;
    }

    pub fn successor(&self) -> Option<Successor> {
        lock(&self.successor).clone()
    }

    /// Counts a client in that was let in by our predecessor.
    pub fn admit_known(self: &Arc<Self>) -> Admission {
        let mut admission = self.admit();
        admission.let_in();
        admission
    }

    /// Counts a client in that has come: the process does not end under it.
    pub fn admit(self: &Arc<Self>) -> Admission {
        self.clients.fetch_add(1, Ordering::AcqRel);
        Admission { shared: self.clone(), let_in: false }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

/// A client that has been counted.
pub struct Admission {
    shared: Arc<Shared>,
    /// It has proven who it is, and counts for `limits.max_clients`.
    let_in: bool,
}

impl Admission {
    /// Whether there is room for one more that has proven who it is.
    pub fn let_in(&mut self) -> bool {
        self.let_in = true;
        let before = self.shared.let_in.fetch_add(1, Ordering::AcqRel);
        before < self.shared.config.load().limits.max_clients
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.let_in {
            self.shared.let_in.fetch_sub(1, Ordering::AcqRel);
        }
        if self.shared.clients.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.left.notify_one();
        }
    }
}
