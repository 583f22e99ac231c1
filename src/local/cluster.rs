//! Several local nodes and the configuration that makes a cluster of them.

use std::path::PathBuf;

use super::{LocalError, LocalNode, NodeOptions, PASSWORD, SUPERUSER};
use crate::config::{
    Auth, Cluster, ClusterNode, Config, Limits, Log, Moves, Pool, Read, Server, Tls,
};

/// The cluster's database: there from the start on every node.
pub const DATABASE: &str = "app";

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Servers to start: `node1`, `node2`, ...
    pub nodes: usize,
    /// How many of them the configuration names; the rest wait for an ADD NODE.
    pub in_use: usize,
    /// Applied to each node's options before it starts.
    pub settings: Vec<(String, String)>,
    pub durable: bool,
    /// See [`NodeOptions::programs`].
    pub programs: Option<PathBuf>,
}

impl ClusterOptions {
    pub fn new(nodes: usize) -> Self {
        Self { nodes, in_use: nodes, settings: Vec::new(), durable: false, programs: None }
    }
}

/// Local nodes, stopped and removed when dropped.
#[derive(Debug)]
pub struct LocalCluster {
    pub nodes: Vec<LocalNode>,
    /// A configuration for pgshunt over the nodes in use: listens on a port the kernel chooses.
    pub config: Config,
}

impl LocalCluster {
    /// `n` nodes, all in use.
    pub fn start(n: usize) -> Result<Self, LocalError> {
        Self::start_with(&ClusterOptions::new(n))
    }

    /// Starts all nodes at once: each is mostly waiting for its own server.
    pub fn start_with(options: &ClusterOptions) -> Result<Self, LocalError> {
        let all = (1..=options.nodes).map(|i| NodeOptions {
            name: format!("node{i}"),
            durable: options.durable,
            settings: options.settings.clone(),
            programs: options.programs.clone(),
        });
        let nodes = std::thread::scope(|scope| {
            let starting: Vec<_> =
                all.map(|node| scope.spawn(move || LocalNode::start(node))).collect();
            starting
                .into_iter()
                .map(|thread| match thread.join() {
                    Ok(node) => node,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect::<Result<Vec<_>, _>>()
        })?;
        let config = config(nodes.iter().take(options.in_use).map(LocalNode::config_node));
        Ok(Self { nodes, config })
    }
}

fn config(nodes: impl Iterator<Item = ClusterNode>) -> Config {
    Config {
        server: Server { listen: ([127, 0, 0, 1], 0).into(), workers: 2, ..Server::default() },
        tls: Tls::default(),
        auth: Auth::default(),
        cluster: Cluster {
            database: DATABASE.into(),
            service_user: SUPERUSER.into(),
            service_password: Some(PASSWORD.into()),
            service_password_file: None,
            nodes: nodes.collect(),
        },
        pool: Pool::default(),
        limits: Limits::default(),
        read: Read::default(),
        moves: Moves::default(),
        log: Log::default(),
    }
}
