//! `pgshunt check`: will this configuration work, and if not, what has to be done?
//!
//! Looks at the configuration first, then at every node it names, all at once. Changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use futures_util::future::join_all;

use crate::backend::control::Connector;
use crate::catalog::addresses::{self, Differs};
use crate::catalog::nodes::{Examined, Finding, examine};
use crate::catalog::read_there;
use crate::config::{AuthMethod, ClientTls, ClusterNode, Config, NodeTls, RuleType};
use crate::topology::{Node, NodeId, Rows};

/// What was found about one subject: the configuration, or a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `configuration`, or `node node1 (host:port)`.
    pub subject: String,
    /// Shown when nothing is wrong.
    pub fine: String,
    pub findings: Vec<Finding>,
}

/// Everything `pgshunt check` has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub sections: Vec<Section>,
}

impl Report {
    /// Nothing lacks; advice may still be there.
    pub fn is_ok(&self) -> bool {
        self.sections.iter().all(|s| s.findings.iter().all(|f| !f.is_lack))
    }

    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_ok())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for s in &self.sections {
            let lacks = s.findings.iter().filter(|f| f.is_lack).count();
            let verdict = if lacks == 0 { "ok" } else { "NOT OK" };
            writeln!(
                f,
                "{}: {verdict}{}{}",
                s.subject,
                if s.fine.is_empty() { "" } else { ", " },
                s.fine
            )?;
            for finding in &s.findings {
                let kind = if finding.is_lack { "lacks" } else { "advice" };
                writeln!(f, "  {kind}: {}", finding.what)?;
                writeln!(f, "          {}", finding.hint)?;
            }
        }
        write!(f, "{}", if self.is_ok() { "All is ready." } else { "Not ready yet." })
    }
}

pub async fn run(config: &Config) -> Report {
    let mut sections = vec![Section {
        subject: "configuration".into(),
        fine: format!("{} node(s)", config.cluster.nodes.len()),
        findings: of_config(config),
    }];
    let connector = Connector::new(config);
    let nodes = config.cluster.nodes.iter().enumerate();
    let looked = join_all(nodes.map(|(i, n)| look(&connector, i, n))).await;
    let versions: Vec<i32> =
        looked.iter().filter_map(|(_, seen)| seen.as_ref().map(|e| e.version_num)).collect();
    let newest = versions.iter().max().copied().unwrap_or(0);
    let rows = catalog(&connector, config).await;
    for ((mut section, seen), said) in looked.into_iter().zip(&config.cluster.nodes) {
        if let (Some(rows), Some(_)) = (&rows, &seen) {
            section.findings.extend(of_cluster(&connector, rows, said).await);
        }
        if let Some(e) = seen
            && e.version_num / 10_000 < newest / 10_000
        {
            section.findings.push(Finding::advice(
                format!(
                    "PostgreSQL {} is older than another node's {}",
                    e.version,
                    newest / 10_000
                ),
                "Shards move between versions, but features of the newer one are not everywhere.",
            ));
        }
        sections.push(section);
    }
    Report { sections }
}

fn node_of(i: usize, n: &ClusterNode) -> Node {
    Node {
        id: NodeId(i as i32 + 1),
        name: n.name.clone(),
        host: n.host.clone(),
        port: n.port,
        is_home: i == 0,
    }
}

/// The catalog that the home node holds, if it does: then the cluster is there already.
async fn catalog(connector: &Connector, config: &Config) -> Option<Rows> {
    let home = node_of(0, config.cluster.nodes.first()?);
    let mut client = connector.connect(&home).await.ok()?;
    read_there(&mut client).await.ok().flatten()
}

/// What the cluster that is there says of a node the configuration names.
async fn of_cluster(connector: &Connector, rows: &Rows, said: &ClusterNode) -> Option<Finding> {
    let differs = addresses::differs(rows, said);
    if differs == Some(Differs::Unknown) {
        return Some(Finding::advice(
            "it is no node of the cluster that is there",
            format!(
                "ADD NODE {} '{}:{}' in the console makes it one.",
                said.name, said.host, said.port
            ),
        ));
    }
    let server = connector.connect(&node_of(0, said)).await.ok()?;
    if let Ok(Some(schema)) = addresses::lacks(&server, rows, &said.name).await {
        return Some(Finding::lack(
            format!("it is not the cluster's node of this name: it has no schema {schema}"),
            "Name the address of the server that holds the node's shards.",
        ));
    }
    match differs {
        Some(Differs::Elsewhere(was)) => Some(Finding::advice(
            format!("the cluster has it at {was}"),
            "At its next start, or takeover, pgshunt goes by the configuration.",
        )),
        Some(Differs::Unknown) | None => None,
    }
}

async fn look(connector: &Connector, i: usize, n: &ClusterNode) -> (Section, Option<Examined>) {
    let node = node_of(i, n);
    let home = if node.is_home { ", home" } else { "" };
    let mut section = Section {
        subject: format!("node {} ({}:{}{home})", n.name, n.host, n.port),
        fine: String::new(),
        findings: Vec::new(),
    };
    let client = match connector.connect(&node).await {
        Ok(client) => client,
        Err(e) => {
            section.findings.push(Finding::lack(
                format!("cannot be reached: {e}"),
                "Is the server running, and do host, port, database, service_user and its password fit?",
            ));
            return (section, None);
        }
    };
    match examine(&client).await {
        Ok(seen) => {
            section.fine = format!("PostgreSQL {}", seen.version);
            section.findings = seen.findings.clone();
            (section, Some(seen))
        }
        Err(e) => {
            section.findings.push(Finding::lack(format!("cannot be asked: {e}"), "See its log."));
            (section, None)
        }
    }
}

fn of_config(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut lack = |what: String, hint: &str| found.push(Finding::lack(what, hint));
    let nodes = &config.cluster.nodes;
    if nodes.is_empty() {
        lack("cluster.nodes is empty".into(), "Name the home node first, then the others.");
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut places: BTreeMap<(&str, u16), usize> = BTreeMap::new();
    for n in nodes {
        *names.entry(&n.name).or_default() += 1;
        *places.entry((&n.host, n.port)).or_default() += 1;
        if n.name.is_empty() || n.host.is_empty() || n.port == 0 {
            lack(
                "a node lacks its name, host or port".into(),
                "Each of cluster.nodes needs all three.",
            );
        }
    }
    for (name, _) in names.into_iter().filter(|(_, n)| *n > 1) {
        lack(format!("two nodes are named \"{name}\""), "Give each node a name of its own.");
    }
    for ((host, port), _) in places.into_iter().filter(|(_, n)| *n > 1) {
        lack(format!("two nodes are at {host}:{port}"), "Name each server once.");
    }
    if config.pool.size == 0 {
        lack("pool.size is 0".into(), "No statement could ever reach a node.");
    }
    if config.limits.max_clients == 0 {
        lack("limits.max_clients is 0".into(), "Nobody could ever connect.");
    }
    let reserved = ["pgshunt", "pgbouncer"];
    if reserved.contains(&config.cluster.database.as_str()) {
        lack(
            format!("cluster.database \"{}\" is the console's name", config.cluster.database),
            "Name the database otherwise.",
        );
    }
    let tls = &config.tls;
    if tls.clients != ClientTls::Disable && (tls.cert.is_none() || tls.key.is_none()) {
        lack(
            "tls.clients needs tls.cert and tls.key".into(),
            "Set both, or tls.clients = \"disable\".",
        );
    }
    if tls.nodes == NodeTls::VerifyFull && tls.node_roots.is_none() {
        lack(
            "tls.nodes = \"verify-full\" needs tls.node_roots".into(),
            "Name the file of PEM roots.",
        );
    }
    let files = [
        ("tls.cert", &tls.cert),
        ("tls.key", &tls.key),
        ("tls.client_ca", &tls.client_ca),
        ("tls.node_roots", &tls.node_roots),
    ];
    for (key, file) in files {
        if let Some(path) = file
            && let Err(e) = readable(path)
        {
            lack(
                format!("{key}: {}: {e}", path.display()),
                "Is the path right, and may we read it?",
            );
        }
    }
    if let Some(dir) = &config.server.unix_socket_dir
        && !dir.is_dir()
    {
        lack(
            format!("server.unix_socket_dir: {} is no directory", dir.display()),
            "Make it, and let pgshunt write in it.",
        );
    }
    let local = nodes.iter().filter(|n| crate::net::socket::is_directory(&n.host)).count();
    if local > 0 && local < nodes.len() {
        lack(
            "some nodes are reached by a Unix socket and others by the network".into(),
            "Nodes connect to each other in a move: all are on one machine, or none is named so.",
        );
    }
    let ssl_only = config.auth.rules.iter().any(|r| r.kind == RuleType::HostSsl);
    if ssl_only && tls.clients == ClientTls::Disable {
        found.push(Finding::advice(
            "auth.rules has a rule of type \"hostssl\", and tls.clients is \"disable\"",
            "It will never fit.",
        ));
    }
    let without = |m| matches!(m, AuthMethod::Trust | AuthMethod::Cert | AuthMethod::Peer);
    let mut methods = config.auth.rules.iter().map(|r| r.method).chain([config.auth.method]);
    if config.auth.users.is_empty() && methods.any(without) {
        found.push(Finding::advice(
            "clients are let in without a password, and auth.user_file names none for the nodes",
            "The nodes' pg_hba.conf must let these roles in without one, too.",
        ));
    }
    if config.moves.cutover_drain_timeout > config.moves.max_pause {
        found.push(Finding::advice(
            "move.cutover_drain_timeout is longer than move.max_pause",
            "Draining alone may then use up the whole pause.",
        ));
    }
    found
}

fn readable(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path).map(drop)
}
