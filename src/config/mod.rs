//! The configuration file: one TOML file, every key documented in `config/pgshunt.toml`.
//!
//! Durations are written as `"200ms"`, `"5s"`, `"2min"`. An unknown key is an error.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

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
    #[serde(default, rename = "move")]
    pub moves: Moves,
    #[serde(default)]
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Worker threads; 0 means one per core.
    pub workers: usize,
    /// Where Prometheus scrapes `/metrics`; absent: no HTTP server.
    pub metrics_listen: Option<SocketAddr>,
    /// How long SIGTERM waits for open transactions.
    #[serde(with = "duration")]
    pub shutdown_timeout: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 6432).into(),
            workers: 0,
            metrics_listen: None,
            shutdown_timeout: Duration::from_secs(30),
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub clients: ClientTls,
    /// PEM certificate chain and key shown to clients.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub nodes: NodeTls,
    /// PEM roots the nodes' certificates are checked against.
    pub node_roots: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            clients: ClientTls::Disable,
            cert: None,
            key: None,
            nodes: NodeTls::Prefer,
            node_roots: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AuthMethod {
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "trust")]
    Trust,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    pub method: AuthMethod,
    /// Roles that may use the console besides the service role.
    pub admins: Vec<String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { method: AuthMethod::ScramSha256, admins: Vec::new() }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The sharded database; has this name on every node.
    pub database: String,
    /// The role pgshunt itself uses on every node: a superuser.
    pub service_user: String,
    #[serde(default)]
    pub service_password: Option<String>,
    /// The home node first; the others are added when the catalog is created.
    pub nodes: Vec<ClusterNode>,
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
    /// How long a client waits for a server connection before 53300.
    #[serde(with = "duration")]
    pub queue_timeout: Duration,
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    #[serde(with = "duration")]
    pub server_lifetime: Duration,
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Prepared statements kept per server connection.
    pub max_prepared: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            size: 20,
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
    /// Largest statement or Bind message held to be routed, in bytes. COPY data and results are
    /// streamed and not bounded by this.
    pub max_message: usize,
    #[serde(with = "duration")]
    pub login_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_clients: 10_000, max_message: 64 << 20, login_timeout: Duration::from_secs(30) }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Moves {
    /// How long a cutover waits for open transactions on the shard before it lets go and retries.
    #[serde(with = "duration")]
    pub cutover_drain_timeout: Duration,
    /// Longest hold; an attempt that would exceed it is aborted on the source's side.
    #[serde(with = "duration")]
    pub max_pause: Duration,
    /// The lag below which a move is ready, in bytes of WAL.
    pub ready_lag: u64,
    /// The marker round trip below which a move is ready.
    #[serde(with = "duration")]
    pub ready_round_trip: Duration,
    /// How long the retired shard stays current for ROLLBACK MOVE before it is cleaned.
    #[serde(with = "duration")]
    pub soak_time: Duration,
    /// Refuse or wait when a transaction on either side is older than this.
    #[serde(with = "duration")]
    pub oldest_transaction: Duration,
    /// Abort a move whose slot retains more WAL than this, in bytes.
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

/// `"200ms"`, `"5s"`, `"2min"`, `"1h"`.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        parse(&text).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a duration like \"200ms\", \"5s\", \"2min\""))
        })
    }

    fn parse(text: &str) -> Option<Duration> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let n: u64 = text[..digits].parse().ok()?;
        let ms = match text[digits..].trim() {
            "ms" => 1,
            "s" => 1_000,
            "min" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        Some(Duration::from_millis(n.checked_mul(ms)?))
    }
}
