//! What all workers share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

use super::Cancels;
pub use super::cancel::Registration;
use super::reported::Reported;
use super::roles::Roles;
use crate::catalog::Store;
use crate::config::Live;
use crate::net::Stream;
use crate::net::tls::ServerTls;
use crate::pool::Pools;
use crate::telemetry::{ClientAddr, Registry};

/// Somebody who has logged in to the console.
pub struct Visitor {
    pub user: String,
    pub addr: ClientAddr,
    pub tls: bool,
    pub cancel: Registration,
    pub draining: tokio::sync::watch::Receiver<bool>,
}

/// Serves the console to an authenticated user.
pub type Console = Box<dyn Fn(Stream, Visitor) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

pub struct Shared {
    pub config: Live,
    pub store: Arc<Store>,
    pub pools: Arc<Pools>,
    pub cancels: Arc<Cancels>,
    pub registry: Arc<Registry>,
    /// TLS to clients, when it is offered.
    pub tls: ArcSwapOption<ServerTls>,
    /// The runtime of catalog, DDL and moves.
    pub control: tokio::runtime::Handle,
    pub console: Console,
    pub reported: Reported,
    pub roles: Roles,
    clients: AtomicUsize,
    /// Set when the process drains: idle clients are sent away, open transactions may end.
    pub draining: tokio::sync::watch::Receiver<bool>,
}

impl Shared {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        config: Live,
        store: Arc<Store>,
        pools: Arc<Pools>,
        registry: Arc<Registry>,
        tls: Option<Arc<ServerTls>>,
        control: tokio::runtime::Handle,
        console: Console,
        draining: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        let roles = Roles::new(&control, store.clone());
        Self {
            config,
            store,
            pools,
            cancels: Arc::default(),
            registry,
            tls: ArcSwapOption::new(tls),
            control,
            console,
            reported: Reported::default(),
            roles,
            clients: AtomicUsize::new(0),
            draining,
        }
    }

    /// Counts a client in; `None` when the limit is reached.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let before = self.clients.fetch_add(1, Ordering::AcqRel);
        let admission = Admission(self.clone());
        (before < self.config.load().limits.max_clients).then_some(admission)
    }
}

/// A client that has been counted.
pub struct Admission(Arc<Shared>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::AcqRel);
    }
}
