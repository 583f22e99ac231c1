//! SHOW CONFIG and SET: every key of the configuration file, and PgBouncer's names for the same.
//!
//! Under its own name a time is written as the file takes it ("30s"), under PgBouncer's in seconds,
//! as its tools read it. What can be changed while serving can be SET, under either name.

use std::time::Duration;

use crate::config::units;
use crate::config::{
    Auth, ClientTls, Cluster, Config, Limits, Log, LogFormat, Moves, NodeTls, Pool, Read, Server,
    Tls,
};

/// Where a key's value is, and how it is written.
enum Field {
    /// With its unit.
    Time(fn(&mut Config) -> &mut Duration),
    Seconds(fn(&mut Config) -> &mut Duration),
    /// At least 1.
    Count(fn(&mut Config) -> &mut usize),
    /// Or none.
    Number(fn(&mut Config) -> &mut usize),
    Flag(fn(&mut Config) -> &mut bool),
    /// A flag as PgBouncer shows it: 0 or 1.
    Bit(fn(&mut Config) -> &mut bool),
    /// A size in bytes, at least this.
    Size(fn(&mut Config) -> &mut usize, usize),
    Names(fn(&mut Config) -> &mut Vec<String>),
    Text(fn(&mut Config) -> &mut String),
    /// Only to be looked at.
    Shown(fn(&Config) -> String),
    /// The same, without a default.
    Given(fn(&Config) -> String),
}

use Field::{Bit, Count, Flag, Given, Names, Number, Seconds, Shown, Size, Text, Time};

struct Key {
    name: &'static str,
    field: Field,
    /// Takes effect while serving.
    changeable: bool,
}

const fn live(name: &'static str, field: Field) -> Key {
    Key { name, field, changeable: true }
}

const fn fixed(name: &'static str, field: Field) -> Key {
    Key { name, field, changeable: false }
}

const MIN_MESSAGE: usize = 64 << 10;
const MIN_SESSION: usize = 64 << 10;

const KEYS: &[Key] = &[
    live("auth.admins", Names(|c| &mut c.auth.admins)),
    fixed("auth.method", Shown(|c| c.auth.method.name().into())),
    fixed("auth.rules", Shown(rules)),
    live("auth.stats_users", Names(|c| &mut c.auth.stats_users)),
    fixed("auth.user_file", Shown(|c| path(&c.auth.user_file))),
    fixed("cluster.database", Given(|c| c.cluster.database.clone())),
    fixed("cluster.nodes", Given(nodes)),
    fixed("cluster.service_user", Given(|c| c.cluster.service_user.clone())),
    fixed("limits.analysis_memory", Shown(|c| c.limits.analysis_memory.to_string())),
    live("limits.login_timeout", Time(|c| &mut c.limits.login_timeout)),
    live("limits.max_clients", Count(|c| &mut c.limits.max_clients)),
    live("limits.max_logins", Count(|c| &mut c.limits.max_logins)),
    live("limits.max_logins_per_address", Count(|c| &mut c.limits.max_logins_per_address)),
    live("limits.max_message", Size(|c| &mut c.limits.max_message, MIN_MESSAGE)),
    live("limits.max_session", Size(|c| &mut c.limits.max_session, MIN_SESSION)),
    live("log.filter", Text(|c| &mut c.log.filter)),
    fixed("log.format", Shown(|c| format_of(c.log.format).into())),
    fixed("move.cutover_drain_timeout", Time(|c| &mut c.moves.cutover_drain_timeout)),
    fixed("move.ddl_ends_soaking", Flag(|c| &mut c.moves.ddl_ends_soaking)),
    fixed("move.ddl_patience", Time(|c| &mut c.moves.ddl_patience)),
    fixed("move.max_pause", Time(|c| &mut c.moves.max_pause)),
    fixed("move.max_retained_wal", Shown(|c| c.moves.max_retained_wal.to_string())),
    fixed("move.oldest_transaction", Time(|c| &mut c.moves.oldest_transaction)),
    fixed("move.ready_lag", Shown(|c| c.moves.ready_lag.to_string())),
    fixed("move.ready_round_trip", Time(|c| &mut c.moves.ready_round_trip)),
    fixed("move.soak_time", Time(|c| &mut c.moves.soak_time)),
    live("pool.connect_timeout", Time(|c| &mut c.pool.connect_timeout)),
    live("pool.idle_timeout", Time(|c| &mut c.pool.idle_timeout)),
    live("pool.max_prepared", Count(|c| &mut c.pool.max_prepared)),
    live("pool.min_size", Number(|c| &mut c.pool.min_size)),
    live("pool.queue_timeout", Time(|c| &mut c.pool.queue_timeout)),
    live("pool.server_lifetime", Time(|c| &mut c.pool.server_lifetime)),
    live("pool.server_round_robin", Flag(|c| &mut c.pool.server_round_robin)),
    live("pool.size", Count(|c| &mut c.pool.size)),
    live("read.collect_limit", Size(|c| &mut c.read.collect_limit, MIN_SESSION)),
    live("read.one_instant", Flag(|c| &mut c.read.one_instant)),
    fixed("server.listen", Shown(|c| c.server.listen.to_string())),
    fixed("server.metrics_listen", Shown(metrics)),
    live("server.shutdown_timeout", Time(|c| &mut c.server.shutdown_timeout)),
    live("server.stats_period", Time(|c| &mut c.server.stats_period)),
    fixed("server.takeover_socket", Shown(|c| path(&c.server.takeover_socket))),
    fixed("server.takeover_timeout", Time(|c| &mut c.server.takeover_timeout)),
    fixed("server.unix_socket_dir", Shown(|c| path(&c.server.unix_socket_dir))),
    fixed("server.unix_socket_mode", Shown(|c| format!("{:04o}", c.server.unix_socket_mode))),
    fixed("server.workers", Shown(|c| c.server.workers.to_string())),
    fixed("tls.cert", Shown(|c| path(&c.tls.cert))),
    fixed("tls.client_ca", Shown(|c| path(&c.tls.client_ca))),
    fixed("tls.clients", Shown(|c| client_tls(c.tls.clients).into())),
    fixed("tls.key", Shown(|c| path(&c.tls.key))),
    fixed("tls.node_auth", Shown(|c| c.tls.node_auth.name().into())),
    fixed("tls.node_roots", Shown(|c| path(&c.tls.node_roots))),
    fixed("tls.nodes", Shown(|c| node_tls(c.tls.nodes).into())),
    // PgBouncer's names.
    live("admin_users", Names(|c| &mut c.auth.admins)),
    fixed("auth_file", Shown(|c| path(&c.auth.user_file))),
    fixed("auth_type", Shown(|c| c.auth.method.name().into())),
    live("client_login_timeout", Seconds(|c| &mut c.limits.login_timeout)),
    live("default_pool_size", Count(|c| &mut c.pool.size)),
    fixed("listen_addr", Shown(|c| c.server.listen.ip().to_string())),
    fixed("listen_port", Shown(|c| c.server.listen.port().to_string())),
    live("max_client_conn", Count(|c| &mut c.limits.max_clients)),
    // There are no such limits: pool.size and limits.max_clients are the only ones.
    fixed("max_db_client_connections", Shown(|_| "0".into())),
    fixed("max_db_connections", Shown(|_| "0".into())),
    live("max_prepared_statements", Count(|c| &mut c.pool.max_prepared)),
    fixed("max_user_client_connections", Shown(|_| "0".into())),
    fixed("max_user_connections", Shown(|_| "0".into())),
    live("min_pool_size", Number(|c| &mut c.pool.min_size)),
    fixed("pool_mode", Shown(|_| "transaction".into())),
    live("query_wait_timeout", Seconds(|c| &mut c.pool.queue_timeout)),
    fixed("reserve_pool_size", Shown(|_| "0".into())),
    live("server_connect_timeout", Seconds(|c| &mut c.pool.connect_timeout)),
    live("server_idle_timeout", Seconds(|c| &mut c.pool.idle_timeout)),
    live("server_lifetime", Seconds(|c| &mut c.pool.server_lifetime)),
    live("server_round_robin", Bit(|c| &mut c.pool.server_round_robin)),
    live("stats_period", Seconds(|c| &mut c.server.stats_period)),
    live("stats_users", Names(|c| &mut c.auth.stats_users)),
    fixed("unix_socket_dir", Shown(|c| path(&c.server.unix_socket_dir))),
    fixed("unix_socket_mode", Shown(|c| format!("{:04o}", c.server.unix_socket_mode))),
];

/// Key, value, default, and whether it can be SET. Sorted by key. Secrets are left out.
pub fn rows(config: &Config) -> Vec<(String, String, Option<String>, bool)> {
    let (mut config, mut default) = (config.clone(), defaults());
    let mut rows: Vec<_> = KEYS
        .iter()
        .map(|k| {
            let default = (!matches!(k.field, Given(_))).then(|| k.field.read(&mut default));
            (k.name.to_owned(), k.field.read(&mut config), default, k.changeable)
        })
        .collect();
    rows.sort();
    rows
}

/// What can be SET.
pub fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(|k| k.changeable).map(|k| k.name)
}

/// Why a key is not set.
#[derive(Debug, PartialEq, Eq)]
pub enum SetError {
    Unknown,
    /// It is decided when the process starts.
    Fixed,
    /// What it may be.
    Value(&'static str),
}

pub fn set(config: &mut Config, name: &str, value: &str) -> Result<(), SetError> {
    let key = KEYS.iter().find(|k| k.name == name).ok_or(SetError::Unknown)?;
    if !key.changeable {
        return Err(SetError::Fixed);
    }
    key.field.write(config, value.trim())
}

impl Field {
    fn read(&self, c: &mut Config) -> String {
        match self {
            Time(of) => time(*of(c)),
            Seconds(of) => of(c).as_secs().to_string(),
            Count(of) | Number(of) | Size(of, _) => of(c).to_string(),
            Flag(of) => of(c).to_string(),
            Bit(of) => u8::from(*of(c)).to_string(),
            Names(of) => of(c).join(", "),
            Text(of) => of(c).clone(),
            Shown(of) | Given(of) => of(c),
        }
    }

    fn write(&self, c: &mut Config, value: &str) -> Result<(), SetError> {
        match self {
            Time(of) => {
                *of(c) = units::parse_duration(value)
                    .filter(|d| !d.is_zero())
                    .ok_or(SetError::Value("It is a time like 200ms, 5s, 2min or 1h."))?;
            }
            Seconds(of) => {
                let seconds = value.parse().ok().filter(|&s: &u64| s > 0);
                *of(c) = seconds
                    .map(Duration::from_secs)
                    .ok_or(SetError::Value("It is a number of seconds, at least 1."))?;
            }
            Count(of) => {
                let n = value.parse().ok().filter(|&n: &usize| n > 0);
                *of(c) = n.ok_or(SetError::Value("It is a number, at least 1."))?;
            }
            Number(of) => {
                *of(c) = value.parse().map_err(|_| SetError::Value("It is a number, or 0."))?;
            }
            Flag(of) | Bit(of) => {
                *of(c) = match value.to_ascii_lowercase().as_str() {
                    "1" | "true" | "on" | "yes" => true,
                    "0" | "false" | "off" | "no" => false,
                    _ => return Err(SetError::Value("It is on (true, 1) or off (false, 0).")),
                };
            }
            Size(of, least) => {
                let size = units::parse_size(value).and_then(|n| usize::try_from(n).ok());
                *of(c) = size
                    .filter(|n| n >= least)
                    .ok_or(SetError::Value("It is a size like 64MB, at least 64kB."))?;
            }
            Names(of) => {
                let names = value.split(',').map(|n| n.trim().to_owned());
                *of(c) = names.filter(|n| !n.is_empty()).collect();
            }
            Text(of) => *of(c) = value.to_owned(),
            Shown(_) | Given(_) => return Err(SetError::Fixed),
        }
        Ok(())
    }
}

/// What holds when nothing is said.
fn defaults() -> Config {
    Config {
        server: Server::default(),
        tls: Tls::default(),
        auth: Auth::default(),
        cluster: Cluster {
            database: String::new(),
            service_user: String::new(),
            service_password: None,
            service_password_file: None,
            nodes: Vec::new(),
        },
        pool: Pool::default(),
        limits: Limits::default(),
        read: Read::default(),
        moves: Moves::default(),
        log: Log::default(),
    }
}

fn time(d: Duration) -> String {
    match d.as_millis() {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

fn nodes(c: &Config) -> String {
    let nodes = c.cluster.nodes.iter().map(|n| format!("{}={}:{}", n.name, n.host, n.port));
    nodes.collect::<Vec<_>>().join(", ")
}

fn rules(c: &Config) -> String {
    let rules: Vec<_> = c.auth.rules.iter().map(ToString::to_string).collect();
    rules.join("; ")
}

fn metrics(c: &Config) -> String {
    c.server.metrics_listen.map(|a| a.to_string()).unwrap_or_default()
}

fn path(p: &Option<std::path::PathBuf>) -> String {
    p.as_ref().map(|p| p.display().to_string()).unwrap_or_default()
}

fn client_tls(t: ClientTls) -> &'static str {
    match t {
        ClientTls::Disable => "disable",
        ClientTls::Allow => "allow",
        ClientTls::Require => "require",
    }
}

fn node_tls(t: NodeTls) -> &'static str {
    match t {
        NodeTls::Disable => "disable",
        NodeTls::Prefer => "prefer",
        NodeTls::Require => "require",
        NodeTls::VerifyFull => "verify-full",
    }
}

fn format_of(f: LogFormat) -> &'static str {
    match f {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_file_takes_them() {
        let ms = |n| time(Duration::from_millis(n));
        assert_eq!(
            [ms(200), ms(5_000), ms(90_000), ms(120_000), ms(7_200_000), ms(0)],
            ["200ms", "5s", "90s", "2min", "2h", "0s"]
        );
    }

    #[test]
    fn a_key_is_set_by_either_name() {
        let mut c = defaults();
        set(&mut c, "pool.queue_timeout", "90s").unwrap();
        assert_eq!(c.pool.queue_timeout.as_secs(), 90);
        set(&mut c, "query_wait_timeout", "5").unwrap();
        assert_eq!(c.pool.queue_timeout.as_secs(), 5);
        set(&mut c, "limits.max_message", "1MB").unwrap();
        assert_eq!(c.limits.max_message, 1 << 20);
        set(&mut c, "stats_users", "a, b").unwrap();
        assert_eq!(c.auth.stats_users, ["a", "b"]);
        set(&mut c, "server_round_robin", "1").unwrap();
        assert!(c.pool.server_round_robin);
        set(&mut c, "pool.server_round_robin", "off").unwrap();
        assert!(!c.pool.server_round_robin);
        assert_eq!(set(&mut c, "server.workers", "3"), Err(SetError::Fixed));
        assert_eq!(set(&mut c, "work_mem", "3"), Err(SetError::Unknown));
        for (key, value) in [
            ("pool.size", "0"),
            ("pool.min_size", "-1"),
            ("server_round_robin", "2"),
            ("stats_period", "1min"),
            ("pool.idle_timeout", "5"),
        ] {
            assert!(matches!(set(&mut c, key, value), Err(SetError::Value(_))), "{key}");
        }
        let shown = rows(&c);
        let of = |key| shown.iter().find(|r| r.0 == key).unwrap().1.as_str();
        assert_eq!((of("pool.queue_timeout"), of("query_wait_timeout")), ("5s", "5"));
    }

    #[test]
    fn every_key_can_be_read_back_as_it_is_shown() {
        let mut c = defaults();
        for (key, value, _, changeable) in rows(&defaults()) {
            if changeable {
                set(&mut c, &key, &value).unwrap_or_else(|e| panic!("{key} = {value}: {e:?}"));
            }
        }
        assert_eq!(rows(&c), rows(&defaults()));
    }
}
