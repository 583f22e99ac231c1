//! What all workers share.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::Cancels;
pub use super::cancel::Registration;
use super::reported::Reported;
use crate::auth::MockSecret;
use crate::catalog::{Role, Store};
use crate::config::Config;
use crate::net::Stream;
use crate::net::tls::ServerTls;
use crate::pool::Pools;
use crate::telemetry::Registry;

/// Somebody who has logged in to the console.
pub struct Visitor {
    pub user: String,
    pub addr: SocketAddr,
    pub tls: bool,
    pub cancel: Registration,
    pub draining: tokio::sync::watch::Receiver<bool>,
}

/// Serves the console to an authenticated user.
pub type Console = Box<dyn Fn(Stream, Visitor) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

pub struct Shared {
    pub config: Config,
    pub store: Arc<Store>,
    pub pools: Arc<Pools>,
    pub cancels: Arc<Cancels>,
    pub registry: Arc<Registry>,
    pub tls: Option<Arc<ServerTls>>,
    /// The runtime of catalog, DDL and moves.
    pub control: tokio::runtime::Handle,
    pub console: Console,
    pub mock: MockSecret,
    pub reported: Reported,
    roles: Mutex<HashMap<String, (Instant, Role)>>,
    clients: AtomicUsize,
    /// Set when the process drains: idle clients are sent away, open transactions may end.
    pub draining: tokio::sync::watch::Receiver<bool>,
}

/// How long a role's verifier is believed without asking again.
const ROLE_AGE: Duration = Duration::from_secs(30);

impl Shared {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        config: Config,
        store: Arc<Store>,
        pools: Arc<Pools>,
        registry: Arc<Registry>,
        tls: Option<Arc<ServerTls>>,
        control: tokio::runtime::Handle,
        console: Console,
        draining: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        Self {
            config,
            store,
            pools,
            cancels: Arc::default(),
            registry,
            tls,
            control,
            console,
            mock: MockSecret::random(4096),
            reported: Reported::default(),
            roles: Mutex::default(),
            clients: AtomicUsize::new(0),
            draining,
        }
    }

    /// The role from the cache, or from the home node. `fresh` asks the home node in any case: a
    /// login that failed may be one with a new password.
    pub async fn role(self: &Arc<Self>, name: &str, fresh: bool) -> Result<Option<Role>, String> {
        if !fresh {
            let roles = self.roles.lock().unwrap_or_else(|e| e.into_inner());
            if let Some((at, role)) = roles.get(name)
                && at.elapsed() < ROLE_AGE
            {
                return Ok(Some(role.clone()));
            }
        }
        let (store, owned) = (self.store.clone(), name.to_owned());
        // The catalog's connection belongs to the control runtime.
        let asked = self.control.spawn(async move { store.role(&owned).await }).await;
        let role = asked.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let mut roles = self.roles.lock().unwrap_or_else(|e| e.into_inner());
        match &role {
            Some(role) => {
                roles.insert(name.to_owned(), (Instant::now(), role.clone()));
            }
            None => {
                roles.remove(name);
            }
        }
        Ok(role)
    }

    /// Counts a client in; `None` when the limit is reached.
    pub fn admit(self: &Arc<Self>) -> Option<Admission> {
        let before = self.clients.fetch_add(1, Ordering::AcqRel);
        let admission = Admission(self.clone());
        (before < self.config.limits.max_clients).then_some(admission)
    }
}

/// A client that has been counted.
pub struct Admission(Arc<Shared>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::AcqRel);
    }
}
