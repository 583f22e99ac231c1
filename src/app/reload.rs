//! Re-reading the configuration file while serving: the console's RELOAD, and SIGHUP.
//!
//! All of it is read and checked before any of it is put in force, so a file that is wrong changes
//! nothing. What is fixed when the process starts (sockets, threads, who the cluster is) is kept as
//! it is and named, so that nobody takes it for changed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::admin::{self, Process, Stop};
use crate::catalog::Store;
use crate::client::shared::Shared;
use crate::config::{Config, Live};
use crate::net::tls::{ClientTls, ServerTls};

/// Puts another log filter in force. False: it is a filter, but RUST_LOG overrules it; an error says
/// why it is none.
pub type SetFilter = Box<dyn Fn(&str) -> Result<bool, String> + Send + Sync>;

/// Where the configuration came from.
pub struct Source {
    pub file: PathBuf,
    pub set_filter: SetFilter,
}

pub struct Reloader {
    source: Option<Source>,
    live: Live,
    store: Arc<Store>,
    shared: Arc<Shared>,
    stop: watch::Sender<Option<Stop>>,
    /// One at a time.
    turn: Mutex<()>,
}

impl Reloader {
    pub fn new(
        source: Option<Source>,
        store: Arc<Store>,
        shared: Arc<Shared>,
        stop: watch::Sender<Option<Stop>>,
    ) -> Self {
        let live = shared.config.clone();
        Self { source, live, store, shared, stop, turn: Mutex::default() }
    }

    /// Says what has changed, a line each.
    ///
    /// # Errors
    /// What is wrong with the file; then nothing has changed.
    pub fn reload(&self) -> Result<Vec<String>, String> {
        let _turn = self.turn();
        match &self.source {
            Some(source) => self.apply(&Config::load(&source.file).map_err(|e| e.to_string())?),
            None => Ok(Vec::new()),
        }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, wanted: &Config) -> Result<Vec<String>, String> {
        let old = self.live.load_full();
        let clients = ServerTls::load(&wanted.tls).map_err(|e| format!("TLS: {e}"))?;
        let nodes = ClientTls::load(&wanted.tls).map_err(|e| format!("TLS: {e}"))?;
        let mut overruled = false;
        if let Some(source) = &self.source
            && wanted.log.filter != old.log.filter
        {
            let refused = |e| format!("log.filter {:?}: {e}", wanted.log.filter);
            overruled = !(source.set_filter)(&wanted.log.filter).map_err(refused)?;
        }
        let new = Arc::new(with_fixed_of(&old, wanted));

        let mut lines = changes(&old, &new);
        if old.cluster.service_password != new.cluster.service_password {
            lines.push("cluster.service_password has changed".into());
        }
        if old.auth.users != new.auth.users {
            lines.push(format!("auth.user_file has changed: {:?}", new.auth.users));
        }
        if clients.is_some() {
            lines.push("the certificate for clients has been read again".into());
        }
        if overruled {
            lines.push("log.filter is overruled by RUST_LOG".into());
        }
        let later = changes(&new, wanted);
        lines.extend(later.iter().map(|l| format!("needs a restart: {l}")));

        self.live.store(new.clone());
        self.shared.tls.store(clients.map(Arc::new));
        self.shared.pools.reconfigure(&new.pool, nodes);
        self.shared.reported.clear();
        self.store.connector().reconfigure(&new);
        for line in &lines {
            tracing::info!("reload: {line}");
        }
        Ok(lines)
    }
}

impl Process for Reloader {
    fn reload(&self) -> Result<Vec<String>, String> {
        Self::reload(self)
    }

    fn change(&self, change: &dyn Fn(&mut Config)) -> Result<(), String> {
        let _turn = self.turn();
        let mut wanted = Config::clone(&self.live.load());
        change(&mut wanted);
        self.apply(&wanted).map(drop)
    }

    fn stop(&self, how: Stop) {
        self.stop.send_replace(Some(how));
    }
}

/// What is wanted, but for what was decided when the process started.
fn with_fixed_of(old: &Config, wanted: &Config) -> Config {
    let mut new = wanted.clone();
    let crate::config::Server { shutdown_timeout, stats_period, .. } = wanted.server;
    new.server = crate::config::Server { shutdown_timeout, stats_period, ..old.server.clone() };
    new.cluster = crate::config::Cluster {
        service_password: wanted.cluster.service_password.clone(),
        ..old.cluster.clone()
    };
    new.moves = old.moves.clone();
    new.log.format = old.log.format;
    new
}

/// `key: one value -> another`, as SHOW CONFIG has them.
fn changes(from: &Config, to: &Config) -> Vec<String> {
    let (from, to) = (admin::settings(from), admin::settings(to));
    let shown = |v: &str| if v.is_empty() { "nothing".to_owned() } else { v.to_owned() };
    from.iter()
        .zip(&to)
        // PgBouncer's names for the same have no section.
        .filter(|((key, a, ..), (_, b, ..))| key.contains('.') && a != b)
        .map(|((key, a, ..), (_, b, ..))| format!("{key}: {} -> {}", shown(a), shown(b)))
        .collect()
}
