//! The configuration as a file that people read.

use std::fmt::Write;
use std::path::Path;

use super::Finding;
use super::plan::Plan;
use crate::config::{Address, Rule};

/// TOML with comments; what has no counterpart is listed at its end. Writing to a `String` cannot
/// fail, so results are dropped.
pub fn config(p: &Plan, from: &Path, findings: &[Finding]) -> String {
    let mut out = String::new();
    let w = &mut out;
    let _ = writeln!(w, "# pgshunt, as `pgshunt import {}` made it.", from.display());
    let _ = writeln!(
        w,
        "# config/pgshunt.toml documents every key; `pgshunt check` looks at the nodes."
    );
    let _ = writeln!(w, "\n[server]\n# listen_addr and listen_port");
    let _ = writeln!(w, "listen = {}", text(&p.listen));
    if let Some(dir) = &p.unix_socket_dir {
        let _ = writeln!(w, "unix_socket_dir = {}", text(dir));
    }
    if let Some(mode) = p.unix_socket_mode {
        let _ = writeln!(w, "unix_socket_mode = \"{mode:04o}\"");
    }
    let _ = writeln!(w, "stats_period = {}", seconds(p.stats_period));

    let _ = writeln!(w, "\n[tls]\n# client_tls_sslmode, and what is shown to clients");
    let _ = writeln!(w, "clients = {}", text(p.client_tls.mode));
    let tls = &p.client_tls;
    for (key, file) in [("cert", &tls.cert), ("key", &tls.key), ("client_ca", &tls.authority)] {
        if let Some(file) = file {
            let _ = writeln!(w, "{key} = {}", text(file));
        }
    }
    let _ = writeln!(w, "# server_tls_sslmode and server_tls_ca_file");
    let _ = writeln!(w, "nodes = {}", text(p.node_tls));
    if let Some(roots) = &p.node_roots {
        let _ = writeln!(w, "node_roots = {}", text(roots));
    }
    let _ = writeln!(w, "# A server that asks by md5 is told nothing unless it is allowed to:");
    let _ = writeln!(w, "# node_auth = \"md5\"");

    let _ = writeln!(
        w,
        "\n[auth]\n# Roles are PostgreSQL's own; passwords too, but for those in a user_file."
    );
    let _ = writeln!(w, "# auth_type\nmethod = {}", text(p.auth.method));
    if let Some(file) = &p.auth.user_file {
        let _ = writeln!(w, "# auth_file\nuser_file = {}", text(&file.to_string_lossy()));
    }
    if !p.auth.rules.is_empty() {
        let _ = writeln!(w, "# auth_hba_file: the first that fits decides, not the method above.");
        let _ = writeln!(w, "rules = [");
        for r in &p.auth.rules {
            let _ = writeln!(w, "  {},", rule(r));
        }
        let _ = writeln!(w, "]");
    }
    let _ = writeln!(w, "admins = {}", list(&p.admins));
    let _ = writeln!(w, "stats_users = {}", list(&p.stats_users));

    let _ = writeln!(
        w,
        "\n[cluster]\n# The database whose tables may be distributed. The home node's other databases are"
    );
    let _ = writeln!(w, "# served too, each under its own name.");
    let _ = writeln!(w, "database = {}", text(&p.database));
    let _ = writeln!(w, "# A superuser for pgshunt's own work. To be made on every node:");
    let _ = writeln!(w, "#   CREATE ROLE pgshunt SUPERUSER LOGIN PASSWORD '...'");
    let _ = writeln!(w, "service_user = \"pgshunt\"");
    let _ = writeln!(
        w,
        "# Its password: PGSHUNT_SERVICE_PASSWORD in the environment, or the first line of a file."
    );
    let _ = writeln!(w, "# service_password_file = \"pgshunt.password\"");
    let _ = writeln!(w, "\n# The home node. More nodes are added in the console: ADD NODE.");
    let _ = writeln!(w, "[[cluster.nodes]]\nname = \"node1\"");
    let _ = writeln!(w, "host = {}\nport = {}", text(&p.host), p.port);

    let _ = writeln!(
        w,
        "\n[pool]\n# default_pool_size or the database's pool_size: per node, database and role."
    );
    let _ = writeln!(w, "size = {}", p.pool_size);
    let _ = writeln!(w, "# min_pool_size\nmin_size = {}", p.min_pool_size);
    let _ = writeln!(w, "server_round_robin = {}", p.server_round_robin);
    for (key, from, value) in [
        ("queue_timeout", "query_wait_timeout", p.queue_timeout),
        ("idle_timeout", "server_idle_timeout", p.idle_timeout),
        ("server_lifetime", "server_lifetime", p.server_lifetime),
        ("connect_timeout", "server_connect_timeout", p.connect_timeout),
    ] {
        let _ = writeln!(w, "# {from}\n{key} = {}", seconds(value));
    }
    let _ = writeln!(w, "# max_prepared_statements\nmax_prepared = {}", p.max_prepared);

    let _ = writeln!(w, "\n[limits]\n# max_client_conn\nmax_clients = {}", p.max_clients);
    let _ = writeln!(w, "# client_login_timeout\nlogin_timeout = {}", seconds(p.login_timeout));
    let _ = writeln!(w, "\n[log]\nfilter = {}", text(p.log_filter));

    let lacks: Vec<&Finding> = findings.iter().filter(|f| f.is_lack).collect();
    if !lacks.is_empty() {
        let _ = writeln!(w, "\n# Without a counterpart, to be looked at:");
    }
    for f in lacks {
        let _ = writeln!(w, "# {}: {}\n#     {}", f.place, one_line(&f.what), one_line(&f.advice));
    }
    out
}

/// What is said of all is left out.
fn rule(r: &Rule) -> String {
    let mut out = format!("{{ type = {}", text(r.kind.name()));
    for (key, names) in [("database", &r.database.0), ("user", &r.user.0)] {
        let _ = match names.as_slice() {
            [name] if name == "all" => Ok(()),
            [name] => write!(out, ", {key} = {}", text(name)),
            names => write!(out, ", {key} = {}", list(names)),
        };
    }
    if let Some(address @ Address::Net { .. }) = r.address {
        let _ = write!(out, ", address = {}", text(&address.to_string()));
    }
    let _ = write!(out, ", method = {} }}", text(r.method.name()));
    out
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).collect::<Vec<_>>().join(" ")
}

fn text(value: &str) -> String {
    toml::Value::from(value).to_string()
}

fn list(values: &[String]) -> String {
    toml::Value::from(values.to_vec()).to_string()
}

fn seconds(n: u64) -> String {
    match n {
        n if n % 3_600 == 0 => format!("\"{}h\"", n / 3_600),
        n if n % 60 == 0 => format!("\"{}min\"", n / 60),
        n => format!("\"{n}s\""),
    }
}
