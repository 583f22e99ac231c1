//! SHOW CONFIG: every key of the configuration file, and the settings of the cluster.

use std::time::Duration;

use crate::config::{
    Auth, ClientTls, Config, Limits, Log, LogFormat, Moves, NodeTls, Pool, Server, Tls,
};

/// Key, value, default. Sorted by key. Secrets are left out.
pub fn rows(c: &Config) -> Vec<(String, String, Option<String>)> {
    let (server, tls, pool, limits, moves, log) = (
        Server::default(),
        Tls::default(),
        Pool::default(),
        Limits::default(),
        Moves::default(),
        Log::default(),
    );
    let mut rows: Vec<(String, String, Option<String>)> = Vec::new();
    let mut row = |key: &str, value: String, default: Option<String>| {
        rows.push((key.to_owned(), value, default));
    };
    let path = |p: &Option<std::path::PathBuf>| {
        p.as_ref().map(|p| p.display().to_string()).unwrap_or_default()
    };
    row("auth.admins", c.auth.admins.join(", "), Some(String::new()));
    row("auth.method", c.auth.method.name().into(), Some(Auth::default().method.name().into()));
    let rules: Vec<_> = c.auth.rules.iter().map(ToString::to_string).collect();
    row("auth.rules", rules.join("; "), Some(String::new()));
    row("auth.user_file", path(&c.auth.user_file), Some(String::new()));
    row("cluster.database", c.cluster.database.clone(), None);
    let nodes = c.cluster.nodes.iter().map(|n| format!("{}={}:{}", n.name, n.host, n.port));
    row("cluster.nodes", nodes.collect::<Vec<_>>().join(", "), None);
    row("cluster.service_user", c.cluster.service_user.clone(), None);
    row("limits.login_timeout", time(c.limits.login_timeout), Some(time(limits.login_timeout)));
    row(
        "limits.max_clients",
        c.limits.max_clients.to_string(),
        Some(limits.max_clients.to_string()),
    );
    row(
        "limits.max_message",
        c.limits.max_message.to_string(),
        Some(limits.max_message.to_string()),
    );
    row("log.filter", c.log.filter.clone(), Some(log.filter));
    row("log.format", format_of(c.log.format).into(), Some(format_of(log.format).into()));
    for (key, value, default) in [
        ("move.cutover_drain_timeout", c.moves.cutover_drain_timeout, moves.cutover_drain_timeout),
        ("move.max_pause", c.moves.max_pause, moves.max_pause),
        ("move.oldest_transaction", c.moves.oldest_transaction, moves.oldest_transaction),
        ("move.ready_round_trip", c.moves.ready_round_trip, moves.ready_round_trip),
        ("move.soak_time", c.moves.soak_time, moves.soak_time),
        ("pool.connect_timeout", c.pool.connect_timeout, pool.connect_timeout),
        ("pool.idle_timeout", c.pool.idle_timeout, pool.idle_timeout),
        ("pool.queue_timeout", c.pool.queue_timeout, pool.queue_timeout),
        ("pool.server_lifetime", c.pool.server_lifetime, pool.server_lifetime),
        ("server.shutdown_timeout", c.server.shutdown_timeout, server.shutdown_timeout),
        ("server.takeover_timeout", c.server.takeover_timeout, server.takeover_timeout),
    ] {
        row(key, time(value), Some(time(default)));
    }
    let retained = (c.moves.max_retained_wal, moves.max_retained_wal);
    row("move.max_retained_wal", retained.0.to_string(), Some(retained.1.to_string()));
    row("move.ready_lag", c.moves.ready_lag.to_string(), Some(moves.ready_lag.to_string()));
    row("pool.max_prepared", c.pool.max_prepared.to_string(), Some(pool.max_prepared.to_string()));
    row("pool.size", c.pool.size.to_string(), Some(pool.size.to_string()));
    row("server.listen", c.server.listen.to_string(), Some(server.listen.to_string()));
    let metrics = c.server.metrics_listen.map(|a| a.to_string()).unwrap_or_default();
    row("server.metrics_listen", metrics, Some(String::new()));
    row("server.unix_socket_dir", path(&c.server.unix_socket_dir), Some(String::new()));
    let mode = |m: u32| format!("{m:04o}");
    row(
        "server.unix_socket_mode",
        mode(c.server.unix_socket_mode),
        Some(mode(server.unix_socket_mode)),
    );
    let takeover = c.server.takeover_socket.as_deref().map(|p| p.display().to_string());
    row("server.takeover_socket", takeover.unwrap_or_default(), Some(String::new()));
    row("server.workers", c.server.workers.to_string(), Some(server.workers.to_string()));
    row("tls.cert", path(&c.tls.cert), Some(String::new()));
    row("tls.client_ca", path(&c.tls.client_ca), Some(String::new()));
    row("tls.clients", client_tls(c.tls.clients).into(), Some(client_tls(tls.clients).into()));
    row("tls.key", path(&c.tls.key), Some(String::new()));
    row("tls.node_roots", path(&c.tls.node_roots), Some(String::new()));
    row("tls.nodes", node_tls(c.tls.nodes).into(), Some(node_tls(tls.nodes).into()));
    // PgBouncer's names for what its exporter computes with.
    row("max_client_conn", c.limits.max_clients.to_string(), Some(limits.max_clients.to_string()));
    row("max_user_connections", "0".into(), Some("0".into()));
    row("default_pool_size", c.pool.size.to_string(), Some(pool.size.to_string()));
    row("pool_mode", "transaction".into(), Some("transaction".into()));
    rows.sort();
    rows
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
    use super::time;
    use std::time::Duration;

    #[test]
    fn durations_are_written_as_the_file_takes_them() {
        let ms = |n| time(Duration::from_millis(n));
        assert_eq!(
            [ms(200), ms(5_000), ms(90_000), ms(120_000), ms(7_200_000), ms(0)],
            ["200ms", "5s", "90s", "2min", "2h", "0s"]
        );
    }
}
