//! From the file's text to a [`Config`], or to an error that says where to look.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{AuthMethod, ClientTls, Config, NodeTls, Users};

/// Set, it wins over what the file says.
pub const PASSWORD_VARIABLE: &str = "PGSHUNT_SERVICE_PASSWORD";

/// Database names a client reaches the console by, so no cluster can have them.
const CONSOLE_NAMES: [&str; 2] = ["pgshunt", "pgbouncer"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A key nobody reads.
    #[error("{}:{line}: unknown key `{key}`{}", path.display(), suggestion(nearest, known))]
    UnknownKey {
        path: PathBuf,
        line: usize,
        key: String,
        nearest: Option<String>,
        known: Vec<String>,
    },
    /// Not TOML, a missing key, or a value that cannot be.
    #[error("{}:{line}: {message}", path.display())]
    Value { path: PathBuf, line: usize, message: String },
}

fn suggestion(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(key) => format!(", did you mean `{key}`?"),
        None => format!(", known here are {}", known.join(", ")),
    }
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path, std::env::var(PASSWORD_VARIABLE).ok())
    }

    /// What [`Config::load`] does once it has the text and the environment's password.
    pub fn parse(text: &str, path: &Path, password: Option<String>) -> Result<Self, ConfigError> {
        let source = Source { text, path };
        let mut config: Self = toml::from_str(text).map_err(|e| source.explain(&e))?;
        source.check(&config)?;
        if let Some(file) = &config.auth.user_file {
            config.auth.users = source.users(file)?;
        }
        if let Some(password) = password {
            config.cluster.service_password = Some(password);
        } else if let Some(file) = &config.cluster.service_password_file {
            config.cluster.service_password = Some(source.password(file)?);
        }
        Ok(config)
    }
}

struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Source<'_> {
    fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let line = self.line(error.span().unwrap_or_default());
        let path = self.path.to_owned();
        // serde has no structured form of this one: "unknown field `a`, expected one of `b`, `c`".
        let mut quoted = error.message().split('`').skip(1).step_by(2).map(str::to_owned);
        match error.message().strip_prefix("unknown field ").and_then(|_| quoted.next()) {
            Some(key) => {
                let known: Vec<String> = quoted.collect();
                let nearest = nearest(&key, &known);
                ConfigError::UnknownKey { path, line, key, nearest, known }
            }
            None => ConfigError::Value { path, line, message: error.message().to_owned() },
        }
    }

    /// What each value may be only in view of the others.
    fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let cluster = &config.cluster;
        let refuse = |key: &[&str], message: String| Err(self.wrong(key, message));
        if CONSOLE_NAMES.contains(&cluster.database.as_str()) {
            let name = &cluster.database;
            return refuse(
                &["cluster", "database"],
                format!(
                    "{name:?} is how clients reach the console: the database needs another name"
                ),
            );
        }
        if cluster.nodes.is_empty() {
            return refuse(&["cluster", "nodes"], "a cluster has at least a home node".into());
        }
        for (i, node) in cluster.nodes.iter().enumerate() {
            if node.name.is_empty() {
                return refuse(&["cluster", "nodes"], "a node needs a name".into());
            }
            let earlier = cluster.nodes.get(..i).unwrap_or_default();
            if earlier.iter().any(|e| e.name == node.name) {
                let what =
                    format!("two nodes are named {:?}: each needs a name of its own", node.name);
                return refuse(&["cluster", "nodes"], what);
            }
            let place = (&node.host, node.port);
            if let Some(twin) = earlier.iter().find(|e| (&e.host, e.port) == place) {
                let what = format!(
                    "nodes {:?} and {:?} are both at {}:{}: name each server once",
                    twin.name, node.name, node.host, node.port
                );
                return refuse(&["cluster", "nodes"], what);
            }
        }
        if cluster.service_password.is_some() && cluster.service_password_file.is_some() {
            return refuse(
                &["cluster", "service_password_file"],
                "service_password and service_password_file are both given: keep one".into(),
            );
        }
        let tls = &config.tls;
        if tls.clients != ClientTls::Disable && (tls.cert.is_none() || tls.key.is_none()) {
            return refuse(&["tls", "clients"], "TLS to clients needs tls.cert and tls.key".into());
        }
        if tls.nodes == NodeTls::VerifyFull && tls.node_roots.is_none() {
            return refuse(&["tls", "nodes"], "\"verify-full\" needs tls.node_roots".into());
        }
        self.check_auth(config)?;
        if let Some(dir) = &config.server.unix_socket_dir {
            if !dir.is_absolute() {
                return refuse(
                    &["server", "unix_socket_dir"],
                    format!("{}: the directory's whole path is needed", dir.display()),
                );
            }
            // What sockaddr_un has room for, with the name of the socket.
            if dir.as_os_str().len() > 107 - "/.s.PGSQL.65535".len() {
                return refuse(
                    &["server", "unix_socket_dir"],
                    format!("{}: the path is too long for a socket", dir.display()),
                );
            }
        }
        for (section, key, value) in [
            ("pool", "size", config.pool.size),
            ("pool", "max_prepared", config.pool.max_prepared),
            ("limits", "max_clients", config.limits.max_clients),
            ("limits", "max_logins", config.limits.max_logins),
            ("limits", "max_logins_per_address", config.limits.max_logins_per_address),
        ] {
            if value == 0 {
                return refuse(&[section, key], format!("{key} must be at least 1"));
            }
        }
        // A statement that fits nowhere would make every client fail.
        if config.limits.max_message < 64 << 10 {
            return refuse(&["limits", "max_message"], "max_message must be at least 64kB".into());
        }
        if config.limits.analysis_memory < 4 << 20 {
            return refuse(
                &["limits", "analysis_memory"],
                "analysis_memory must be at least 4MB".into(),
            );
        }
        if config.limits.max_session < 64 << 10 {
            return refuse(&["limits", "max_session"], "max_session must be at least 64kB".into());
        }
        if !(64 << 10..=256 << 20).contains(&config.read.collect_limit) {
            return refuse(
                &["read", "collect_limit"],
                "collect_limit must be between 64kB and 256MB".into(),
            );
        }
        if config.server.stats_period.is_zero() {
            return refuse(&["server", "stats_period"], "stats_period cannot be 0".into());
        }
        if config.moves.max_pause <= config.moves.cutover_drain_timeout {
            return refuse(
                &["move", "max_pause"],
                "max_pause must be longer than cutover_drain_timeout, which is part of it".into(),
            );
        }
        Ok(())
    }

    fn check_auth(&self, config: &Config) -> Result<(), ConfigError> {
        let auth = &config.auth;
        let refuse = |key: &str, message: String| Err(self.wrong(&["auth", key], message));
        for (i, rule) in auth.rules.iter().enumerate() {
            if let Some(problem) = rule.problem() {
                return refuse("rules", format!("rule {} ({rule}): {problem}", i + 1));
            }
        }
        if auth.method == AuthMethod::Reject {
            return refuse("method", "nobody could ever connect".into());
        }
        let mut methods = auth.rules.iter().map(|r| r.method).chain([auth.method]);
        if methods.any(|m| m == AuthMethod::Cert) && config.tls.client_ca.is_none() {
            let key = if auth.method == AuthMethod::Cert { "method" } else { "rules" };
            return refuse(key, "method \"cert\" needs tls.client_ca".into());
        }
        if config.tls.client_ca.is_some() && config.tls.clients == ClientTls::Disable {
            let message = "certificates of clients come by TLS: set tls.clients";
            return Err(self.wrong(&["tls", "client_ca"], message.into()));
        }
        Ok(())
    }

    fn users(&self, file: &Path) -> Result<Users, ConfigError> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(file);
        let text = fs::read_to_string(&path).map_err(|e| {
            let message = format!("cannot read the users from {}: {e}", path.display());
            self.wrong(&["auth", "user_file"], message)
        })?;
        Users::parse(&text).map_err(|(line, message)| ConfigError::Value {
            path,
            line,
            message: message.into(),
        })
    }

    fn password(&self, file: &Path) -> Result<String, ConfigError> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(file);
        let text = fs::read_to_string(&path).map_err(|e| {
            self.wrong(
                &["cluster", "service_password_file"],
                format!("cannot read the password from {}: {e}", path.display()),
            )
        })?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn wrong(&self, key: &[&str], message: String) -> ConfigError {
        let line = self.line_of(key);
        ConfigError::Value { path: self.path.to_owned(), line, message }
    }

    /// The line of the key, or of the innermost table around it when it is left at its default.
    fn line_of(&self, key: &[&str]) -> usize {
        let Ok(root) = DeTable::parse(self.text) else { return 1 };
        let mut span = 0..0;
        let mut table = root.get_ref();
        for name in key {
            let Some((found, value)) = table.get_key_value(*name) else { break };
            span = found.span();
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        self.line(span)
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|b| **b == b'\n').count()
    }
}

/// The known key a typo most likely stands for, if one is near enough.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(key, k), k))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k.clone())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
