//! Every setting of PgBouncer 1.25, and what becomes of it.

/// What becomes of a setting that is not at its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has a key of ours: carried over.
    Taken,
    /// Needs nothing, for this reason.
    Note(&'static str),
    /// Has no counterpart: what to do about it.
    Lack(&'static str),
}

use Fate::{Lack, Note, Taken};

const TLS: &str =
    "TLS 1.2 and 1.3 are spoken, with rustls's choice of ciphers: nothing else can be chosen.";
const LOG: &str = "Logs go to the error output: let systemd's journal or a redirection keep them. \
                   [log] filter chooses what is logged.";
const DNS: &str = "Names are resolved by the system whenever a server connection is opened.";
const CHECKED: &str = "A server connection is looked at before it is lent, without a query.";
const TRACKED: &str = "What a session sets is tracked and follows it from one server connection to the \
                       next; nothing has to be reset by a query.";
const SOCKETS: &str = "Sockets are set up with keepalive after 60 s and without Nagle's delay; use the \
                       kernel's settings (sysctl) for more.";
const PER_NODE: &str = "The one limit is [pool] size, per node, database and role. Bound connections on the \
                        nodes: ALTER ROLE or ALTER DATABASE ... CONNECTION LIMIT n.";
const CLIENT_LIMIT: &str = "The one limit on clients is [limits] max_clients.";

/// Name, default, fate. Sorted by name.
pub const SETTINGS: &[(&str, &str, Fate)] = &[
    ("admin_users", "", Taken),
    ("application_name_add_host", "0", Lack("application_name is passed on as the client set it.")),
    ("auth_dbname", "", Note("Roles are read from the home node's pg_authid by the service role.")),
    ("auth_file", "", Taken),
    ("auth_hba_file", "", Taken),
    (
        "auth_ident_file",
        "",
        Lack("There are no user name maps: each client logs in as its own role."),
    ),
    ("auth_ldap_options", "", Lack("LDAP is not spoken: give the roles passwords.")),
    ("auth_query", "", Note("Roles are read from the home node's pg_authid by the service role.")),
    ("auth_type", "md5", Taken),
    ("auth_user", "", Note("Roles are read from the home node's pg_authid by the service role.")),
    ("autodb_idle_timeout", "3600", Note("A pool without connections costs nothing.")),
    ("cancel_wait_timeout", "10", Note("A cancel is delivered at once, within 5 s or not at all.")),
    (
        "client_idle_timeout",
        "0",
        Lack("Idle clients are never closed; KILL_CLIENT in the console closes one."),
    ),
    ("client_login_timeout", "60", Taken),
    ("client_tls13_ciphers", "", Lack(TLS)),
    ("client_tls_ca_file", "", Taken),
    ("client_tls_cert_file", "", Taken),
    ("client_tls_ciphers", "default", Lack(TLS)),
    ("client_tls_dheparams", "auto", Lack(TLS)),
    ("client_tls_ecdhcurve", "auto", Lack(TLS)),
    ("client_tls_key_file", "", Taken),
    ("client_tls_protocols", "secure", Lack(TLS)),
    ("client_tls_sslmode", "disable", Taken),
    ("conffile", "", Note("The file is named on the command line, and read again by RELOAD.")),
    ("default_pool_size", "20", Taken),
    ("disable_pqexec", "0", Lack("Several statements in one query are always taken.")),
    ("dns_max_ttl", "15", Note(DNS)),
    ("dns_nxdomain_ttl", "15", Note(DNS)),
    ("dns_zone_check_period", "0", Lack(DNS)),
    (
        "idle_transaction_timeout",
        "0",
        Lack(
            "Let PostgreSQL do it: ALTER ROLE or ALTER DATABASE ... SET idle_in_transaction_session_timeout.",
        ),
    ),
    (
        "ignore_startup_parameters",
        "",
        Note("Every parameter that PostgreSQL knows is taken, and is in force for that client."),
    ),
    ("job_name", "pgbouncer", Note(LOG)),
    ("listen_addr", "", Taken),
    ("listen_backlog", "128", Note("It is 1024.")),
    ("listen_port", "6432", Taken),
    ("log_connections", "1", Note(LOG)),
    ("log_disconnections", "1", Note(LOG)),
    ("log_pooler_errors", "1", Note(LOG)),
    (
        "log_stats",
        "1",
        Note("SHOW STATS and /metrics ([server] metrics_listen) tell figures; the log does not."),
    ),
    ("logfile", "", Note(LOG)),
    ("max_client_conn", "100", Taken),
    ("max_db_client_connections", "0", Lack(CLIENT_LIMIT)),
    ("max_db_connections", "0", Lack(PER_NODE)),
    (
        "max_packet_size",
        "2147483647",
        Note("[limits] max_message bounds what must be held to be routed; the rest is streamed."),
    ),
    ("max_prepared_statements", "200", Taken),
    ("max_user_client_connections", "0", Lack(CLIENT_LIMIT)),
    ("max_user_connections", "0", Lack(PER_NODE)),
    ("min_pool_size", "0", Taken),
    (
        "peer_id",
        "0",
        Lack("Only one process serves a cluster; a cancel request must reach that one."),
    ),
    (
        "pidfile",
        "",
        Note(
            "systemd knows the process (config/pgshunt.service); --takeover replaces a running one.",
        ),
    ),
    ("pkt_buf", "4096", Note("Buffers are sized by use.")),
    ("pool_mode", "session", Taken),
    (
        "query_timeout",
        "0",
        Lack("Let PostgreSQL do it: ALTER ROLE or ALTER DATABASE ... SET statement_timeout."),
    ),
    ("query_wait_timeout", "120", Taken),
    ("reserve_pool_size", "0", Lack("Add it to [pool] size.")),
    ("reserve_pool_timeout", "5", Lack("There is no reserve pool: see reserve_pool_size.")),
    ("resolv_conf", "", Lack(DNS)),
    ("sbuf_loopcnt", "5", Note("Clients take turns by themselves.")),
    ("scram_iterations", "4096", Note("Verifiers are those of the roles on the home node.")),
    ("server_check_delay", "30", Note(CHECKED)),
    ("server_check_query", "", Note(CHECKED)),
    ("server_connect_timeout", "15", Taken),
    ("server_fast_close", "0", Note("RECONNECT closes connections as their transactions end.")),
    ("server_idle_timeout", "600", Taken),
    ("server_lifetime", "3600", Taken),
    (
        "server_login_retry",
        "15",
        Note("A login that fails is told to the client; the next one tries anew."),
    ),
    ("server_reset_query", "DISCARD ALL", Note(TRACKED)),
    ("server_reset_query_always", "0", Note(TRACKED)),
    ("server_round_robin", "0", Taken),
    ("server_tls13_ciphers", "", Lack(TLS)),
    ("server_tls_ca_file", "", Taken),
    (
        "server_tls_cert_file",
        "",
        Lack("pgshunt shows the nodes no certificate: let its roles log in by SCRAM."),
    ),
    ("server_tls_ciphers", "default", Lack(TLS)),
    (
        "server_tls_key_file",
        "",
        Lack("pgshunt shows the nodes no certificate: let its roles log in by SCRAM."),
    ),
    ("server_tls_protocols", "secure", Lack(TLS)),
    ("server_tls_sslmode", "prefer", Taken),
    ("service_name", "pgbouncer", Note(LOG)),
    (
        "so_reuseport",
        "0",
        Note("One process has a thread per core, each with a listening socket of its own."),
    ),
    ("stats_period", "60", Taken),
    ("stats_users", "", Taken),
    (
        "suspend_timeout",
        "10",
        Note("There is no SUSPEND; `pgshunt serve --takeover` restarts without losing clients."),
    ),
    ("syslog", "0", Note(LOG)),
    ("syslog_facility", "daemon", Note(LOG)),
    ("syslog_ident", "pgbouncer", Note(LOG)),
    ("tcp_defer_accept", "", Note(SOCKETS)),
    ("tcp_keepalive", "1", Note(SOCKETS)),
    ("tcp_keepcnt", "0", Note(SOCKETS)),
    ("tcp_keepidle", "0", Note(SOCKETS)),
    ("tcp_keepintvl", "0", Note(SOCKETS)),
    ("tcp_socket_buffer", "0", Note(SOCKETS)),
    ("tcp_user_timeout", "0", Lack(SOCKETS)),
    ("track_extra_parameters", "IntervalStyle", Note("Every parameter a session sets is tracked.")),
    (
        "transaction_timeout",
        "0",
        Lack(
            "Let PostgreSQL do it (17 and later): ALTER ROLE or ALTER DATABASE ... SET transaction_timeout.",
        ),
    ),
    ("unix_socket_dir", "/tmp", Taken),
    (
        "unix_socket_group",
        "",
        Lack(
            "The socket belongs to the group pgshunt runs as; [server] unix_socket_mode says who may connect.",
        ),
    ),
    ("unix_socket_mode", "0777", Taken),
    ("user", "", Note("Start pgshunt as the user it shall be: User= in its systemd unit.")),
    ("verbose", "0", Taken),
];

/// Parameters of a database's connection string but for where it is, and what to do about them.
pub const OF_DATABASE: &[(&str, Fate)] = &[
    ("application_name", Lack("application_name is passed on as the client set it.")),
    ("auth_dbname", Note("Roles are read from the home node's pg_authid by the service role.")),
    ("auth_query", Note("Roles are read from the home node's pg_authid by the service role.")),
    ("auth_user", Note("Roles are read from the home node's pg_authid by the service role.")),
    ("client_encoding", Lack("Set it where it belongs: ALTER DATABASE ... SET client_encoding.")),
    (
        "connect_query",
        Lack(
            "No query is run on new server connections: ALTER DATABASE or ALTER ROLE ... SET does for parameters.",
        ),
    ),
    ("datestyle", Lack("Set it where it belongs: ALTER DATABASE ... SET datestyle.")),
    ("load_balance_hosts", Lack("A node has one host.")),
    ("max_db_client_connections", Lack(CLIENT_LIMIT)),
    ("max_db_connections", Lack(PER_NODE)),
    ("min_pool_size", Lack("[pool] min_size holds for all databases.")),
    (
        "pool_mode",
        Note("A session keeps its server connection only for as long as it has state there."),
    ),
    ("reserve_pool", Lack("Add it to [pool] size.")),
    ("reserve_pool_size", Lack("Add it to [pool] size.")),
    ("server_lifetime", Lack("[pool] server_lifetime holds for all databases.")),
    ("timezone", Lack("Set it where it belongs: ALTER DATABASE ... SET timezone.")),
];

pub fn default_of(name: &str) -> &'static str {
    SETTINGS.iter().find(|s| s.0 == name).map_or("", |s| s.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_named_once_and_in_order() {
        assert!(SETTINGS.is_sorted_by(|a, b| a.0 < b.0));
        assert!(OF_DATABASE.is_sorted_by(|a, b| a.0 < b.0));
    }
}
