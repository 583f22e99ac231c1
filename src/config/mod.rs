//! The configuration file: one TOML file, every key documented in `config/pgshunt.toml`.
//!
//! Durations are written as `"200ms"`, `"5s"`, `"2min"`, sizes as bytes or `"16GB"`. A key that
//! does not exist, a value that cannot be and two values that contradict each other are errors
//! with the line they stand in: a proxy that ignores half its configuration is worse than one
//! that does not start ([`load`]).

mod auth;
mod load;
pub mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Deserialize;

pub use auth::{Address, Auth, AuthMethod, Names, Rule, RuleType, Users};
pub use load::{ConfigError, PASSWORD_VARIABLE};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub server: Server,
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub auth: Auth,
    pub cluster: Cluster,
    #[serde(default)]
    pub pool: Pool,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub read: Read,
    #[serde(default, rename = "move")]
    pub moves: Moves,
    #[serde(default)]
    pub log: Log,
}

impl Config {
    /// Whether a role may do all that the console can.
    pub fn console_rights(&self, user: &str) -> ConsoleRights {
        let has = |names: &[String]| names.iter().any(|n| n == user);
        if user == self.cluster.service_user || has(&self.auth.admins) {
            ConsoleRights::All
        } else if has(&self.auth.stats_users) {
            ConsoleRights::Look
        } else {
            ConsoleRights::None
        }
    }
}

/// What a role may do in the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleRights {
    None,
    /// SHOW, and nothing else.
    Look,
    All,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where clients connect on this machine: the directory of a socket `.s.PGSQL.<port>`.
    pub unix_socket_dir: Option<PathBuf>,
    /// Who may connect there.
    #[serde(deserialize_with = "units::mode")]
    pub unix_socket_mode: u32,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Where Prometheus scrapes `/metrics`; absent: no HTTP server.
    pub metrics_listen: Option<SocketAddr>,
    /// What the averages of SHOW STATS are taken over.
    #[serde(deserialize_with = "units::duration")]
    pub stats_period: Duration,
    /// How long SIGTERM waits for open transactions.
    #[serde(deserialize_with = "units::duration")]
    pub shutdown_timeout: Duration,
    /// Where a successor asks for the listening sockets and the clients; absent: it cannot.
    pub takeover_socket: Option<PathBuf>,
    /// How long statements may take when a successor has come.
    #[serde(deserialize_with = "units::duration")]
    pub takeover_timeout: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 6432).into(),
            unix_socket_dir: None,
            unix_socket_mode: 0o777,
            workers: 0,
            metrics_listen: None,
            stats_period: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(30),
            takeover_socket: None,
            takeover_timeout: Duration::from_secs(600),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientTls {
    Disable,
    Allow,
    Require,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeTls {
    Disable,
    Prefer,
    Require,
    VerifyFull,
}

/// How a password is asked for, the safest way first. The names are those of pg_hba.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum PasswordMethod {
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "md5")]
    Md5,
    #[serde(rename = "password")]
    Password,
}

impl PasswordMethod {
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub clients: ClientTls,
    /// PEM certificate chain and key shown to clients.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// PEM authorities that clients' certificates are checked against; absent: none is asked for.
    pub client_ca: Option<PathBuf>,
    pub nodes: NodeTls,
    /// PEM roots the nodes' certificates are checked against.
    pub node_roots: Option<PathBuf>,
    /// The least safe way in which a node may ask for a password when its certificate is not checked.
    pub node_auth: PasswordMethod,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            clients: ClientTls::Disable,
            cert: None,
            key: None,
            client_ca: None,
            nodes: NodeTls::Prefer,
            node_roots: None,
            node_auth: PasswordMethod::ScramSha256,
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The sharded database; has this name on every node.
    pub database: String,
    /// The role pgshunt itself uses on every node: a superuser.
    pub service_user: String,
    /// Its password. After loading it is here, wherever it came from: this key, the file below or
    /// the environment.
    #[serde(default)]
    pub service_password: Option<String>,
    /// A file whose first line is the password; a relative path starts at the configuration file.
    #[serde(default)]
    pub service_password_file: Option<PathBuf>,
    /// The home node first; the others are added when the catalog is created.
    pub nodes: Vec<ClusterNode>,
}

/// The configuration in force. A reload swaps it whole, so each look sees one file's values.
pub type Live = Arc<ArcSwap<Config>>;

/// By hand, so that the password is in no log.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("database", &self.database)
            .field("service_user", &self.service_user)
            .field("service_password", &self.service_password.as_ref().map(|_| "..."))
            .field("service_password_file", &self.service_password_file)
            .field("nodes", &self.nodes)
            .finish()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNode {
    pub name: String,
    pub host: String,
    #[serde(default = "default_port")]
    pub port: u16,
}

fn default_port() -> u16 {
    5432
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Server connections per node, database and role.
    pub size: usize,
    /// What a pool in use is brought up to, whoever needs it.
    pub min_size: usize,
    /// Lend the connection that has been idle the longest, not the one that was used last.
    pub server_round_robin: bool,
    /// How long a client waits for a server connection before 53300.
    #[serde(deserialize_with = "units::duration")]
    pub queue_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub server_lifetime: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// Prepared statements kept per server connection.
    pub max_prepared: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            size: 20,
            min_size: 0,
            server_round_robin: false,
            queue_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            server_lifetime: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(5),
            max_prepared: 500,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_clients: usize,
    /// Connections that have not proven who they are yet.
    pub max_logins: usize,
    /// Those of them that may come from one address.
    pub max_logins_per_address: usize,
    /// Largest statement or Bind message held to be routed, in bytes. COPY data and results are
    /// streamed and not bounded by this.
    #[serde(deserialize_with = "units::size")]
    pub max_message: usize,
    /// What the trees of long statements that are analysed at one time may take, in bytes.
    #[serde(deserialize_with = "units::size")]
    pub analysis_memory: usize,
    /// What one session may keep of what its client has set and named (prepared statements, portals,
    /// parameters, channels), in bytes.
    #[serde(deserialize_with = "units::size")]
    pub max_session: usize,
    #[serde(deserialize_with = "units::duration")]
    pub login_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            max_logins: 2000,
            max_logins_per_address: 1000,
            max_message: 64 << 20,
            analysis_memory: 512 << 20,
            max_session: 32 << 20,
            login_timeout: Duration::from_secs(30),
        }
    }
}

/// Reads over several nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Read {
    /// They see all nodes at one instant, for which commits wait. Otherwise each node has its own.
    pub one_instant: bool,
    /// The most that the nodes' rows may take of which one node makes the answer, for one statement, in bytes. A
    /// session may lower it (`pgshunt.collect_limit`).
    #[serde(deserialize_with = "units::size")]
    pub collect_limit: usize,
}

impl Default for Read {
    fn default() -> Self {
        Self { one_instant: true, collect_limit: 16 << 20 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Moves {
    /// How long a cutover waits for open transactions on the shard before it lets go and retries.
    #[serde(deserialize_with = "units::duration")]
    pub cutover_drain_timeout: Duration,
    /// Longest hold; an attempt that would exceed it is aborted on the source's side.
    #[serde(deserialize_with = "units::duration")]
    pub max_pause: Duration,
    /// The lag below which a move is ready, in bytes of WAL.
    #[serde(deserialize_with = "units::size")]
    pub ready_lag: u64,
    /// The marker round trip below which a move is ready.
    #[serde(deserialize_with = "units::duration")]
    pub ready_round_trip: Duration,
    /// How long the retired shard stays current for ROLLBACK MOVE before it is cleaned.
    #[serde(deserialize_with = "units::duration")]
    pub soak_time: Duration,
    /// DDL of a table whose shards soak ends the soaking; otherwise it is refused until then.
    pub ddl_ends_soaking: bool,
    /// How long DDL of a table waits for its shards to have moved before it is refused.
    #[serde(deserialize_with = "units::duration")]
    pub ddl_patience: Duration,
    /// Refuse or wait when a transaction on either side is older than this.
    #[serde(deserialize_with = "units::duration")]
    pub oldest_transaction: Duration,
    /// Abort a move whose slot retains more WAL than this, in bytes.
    #[serde(deserialize_with = "units::size")]
    pub max_retained_wal: u64,
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            cutover_drain_timeout: Duration::from_millis(200),
            max_pause: Duration::from_secs(2),
            ready_lag: 32 << 10,
            ready_round_trip: Duration::from_millis(20),
            soak_time: Duration::from_secs(600),
            ddl_ends_soaking: true,
            ddl_patience: Duration::from_secs(30),
            oldest_transaction: Duration::from_secs(60),
            max_retained_wal: 16 << 30,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A `tracing` filter: `info`, `pgshunt=debug`, ...
    pub filter: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}
