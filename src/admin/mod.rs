//! The console: databases `pgshunt` and `pgbouncer`, for people and for the tools they have.
//!
//! An operator opens psql on it, looks (SHOW), acts (MOVE SHARD, ADD NODE, PAUSE, SET) and is told
//! how it goes. Exporters and agents made for PgBouncer find what they expect: the columns of SHOW
//! CLIENTS, POOLS, STATS and others come first, in its order and with its types, and ours behind.
//!
//! - [`command`] parses the few words of its language, and names the nearest command when it cannot.
//! - [`show`] has the tables, [`act`] the deeds; both give [`reply::Item`]s and know no socket.
//! - [`protocol`] speaks the wire protocol with one client, simple and extended.
//!
//! A session lives on the worker that accepted it. Everything that asks the catalog, a node or a
//! move crosses over to the control runtime, so a slow node never stalls a worker's clients.

mod act;
mod columns;
mod command;
mod config;
mod protocol;
mod reply;
mod show;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

pub use command::{Command, ParseError, parse};
pub use config::rows as settings;
pub use protocol::{CancelSignal, Login, serve};
pub use reply::{Column, Item, Type, Value};

use crate::catalog::Store;
use crate::config::Live;
use crate::gate::{Closed, Gates};
use crate::moves::Mover;
use crate::telemetry::Registry;
use command::Target;

/// The database names that lead to the console instead of a node.
pub const DATABASES: [&str; 2] = ["pgshunt", "pgbouncer"];

/// What tools take for PgBouncer's version: they choose columns by it.
const COMPATIBLE: &str = "1.25.2";

/// What re-reads the configuration file: says what it has changed, or what is wrong with it.
pub type Reload = Arc<dyn Fn() -> Result<Vec<String>, String> + Send + Sync>;

/// Everything the console shows and acts upon. Cheap to clone.
#[derive(Clone)]
pub struct ConsoleContext {
    pub registry: Arc<Registry>,
    pub store: Arc<Store>,
    pub gates: Gates,
    pub mover: Arc<Mover>,
    pub config: Live,
    /// Runs what waits for nodes.
    pub control: Handle,
    pub reload: Option<Reload>,
    paused: Paused,
}

/// What is paused, and the gates held closed for it. `None` while they are still draining.
type Paused = Arc<Mutex<BTreeMap<Target, Option<Closed>>>>;

impl ConsoleContext {
    pub fn new(
        registry: Arc<Registry>,
        store: Arc<Store>,
        gates: Gates,
        mover: Arc<Mover>,
        config: Live,
        control: Handle,
    ) -> Self {
        let paused = Paused::default();
        Self { registry, store, gates, mover, config, control, reload: None, paused }
    }

    /// Whether a role may use the console.
    pub fn admits(&self, user: &str) -> bool {
        let config = self.config.load();
        user == config.cluster.service_user || config.auth.admins.iter().any(|a| a == user)
    }
}
