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
mod halt;
mod protocol;
mod reply;
mod show;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tokio::runtime::Handle;

pub use command::{Command, Show, Stop, parse};
pub use config::rows as settings;
pub use protocol::{CancelSignal, Login, serve};
pub use reply::{Column, Item, Type, Value};
pub use words::ParseError;

use crate::catalog::Store;
use crate::config::{Config, ConsoleRights, Live};
use crate::gate::{Closed, Gates};
use crate::moves::Mover;
use crate::pool::Pools;
use crate::telemetry::Registry;
use crate::wire::backend::Report;
use command::Target;

/// The database names that lead to the console instead of a node.
pub const DATABASES: [&str; 2] = ["pgshunt", "pgbouncer"];

/// What tools take for PgBouncer's version: they choose columns by it.
const COMPATIBLE: &str = "1.25.2";

/// As whom the console is in its own tables: tools know that name and leave it out.
const ADMIN: &str = "pgbouncer";

/// What the process does for its console.
pub trait Process: Send + Sync {
    /// Reads the configuration file again: says what it has changed, or what is wrong with it.
    fn reload(&self) -> Result<Vec<String>, String>;
    /// Puts the configuration in force with this change, until the next start or reload.
    fn change(&self, change: &dyn Fn(&mut Config)) -> Result<(), String>;
    fn stop(&self, how: Stop);
}

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
    pub pools: Arc<Pools>,
    /// Given once the process is there; it has the console, so the console only borrows it.
    pub process: Arc<OnceLock<Weak<dyn Process>>>,
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
        pools: Arc<Pools>,
        control: Handle,
    ) -> Self {
        let paused = Paused::default();
        let process = Arc::default();
        Self { registry, store, gates, mover, config, control, pools, process, paused }
    }

    fn process(&self) -> Result<Arc<dyn Process>, Report> {
        let process = self.process.get().and_then(Weak::upgrade);
        process.ok_or_else(|| Report::error("57P03", "pgshunt is starting or stopping"))
    }

    /// Whether the role may run the command. Asked for each one: who has lost a right has lost it in open
    /// sessions, too.
    ///
    /// # Errors
    /// The command is beyond it.
    fn allow(&self, user: &str, command: &Command) -> Result<(), Report> {
        match self.config.load().console_rights(user) {
            ConsoleRights::All => Ok(()),
            ConsoleRights::Look if command.only_looks() => Ok(()),
            ConsoleRights::Look => Err(Report::error("42501", "admin access needed")
                .hint("This role is one of auth.stats_users, which may only SHOW.")),
            ConsoleRights::None => Err(Report::error("42501", "this role may not use the console")
                .hint("It was taken out of auth.admins and auth.stats_users.")),
        }
    }
}
