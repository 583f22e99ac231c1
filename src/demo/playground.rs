//! `pgshunt local`: local nodes and pgshunt over them, empty, until Ctrl-C or SIGTERM.
//!
//! For trying things out, and for the tests of clients and drivers (`tests/drivers/run`), which
//! compare pgshunt with a node that is not in use: a plain PostgreSQL of the same version and
//! settings. What it prints is for people and scripts alike: a name and an address on each line,
//! then a line that says it is ready.

use std::io::Write;

use tokio::runtime::Builder;

use super::proxy::Proxy;
use super::{CONSOLE, DemoError, url};
use crate::app;
use crate::local::{ClusterOptions, DATABASE, LocalCluster, PASSWORD};

#[derive(Debug, Clone, Copy)]
pub struct Playground {
    /// Servers to start.
    pub nodes: usize,
    /// How many of them the cluster begins with.
    pub in_use: usize,
    /// Where pgshunt listens; 0 lets the kernel choose.
    pub port: u16,
}

/// Starts everything, says where it is, and ends it when told to.
pub fn run(options: Playground) -> Result<(), DemoError> {
    // The handlers first: a signal that comes during the start ends it in order too.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let told = runtime.block_on(async { app::Signals::new() })?;
    let mut cluster = LocalCluster::start_with(&ClusterOptions {
        in_use: options.in_use,
        ..ClusterOptions::new(options.nodes)
    })?;
    cluster.config.server.listen.set_port(options.port);
    let mut proxy = Proxy::start(cluster.config.clone())?;
    let said = say(&cluster, proxy.addr.port(), options.in_use);
    if said.is_ok() {
        runtime.block_on(async {
            tokio::select! {
                () = told.wait() => {}
                () = proxy.ended() => {}
            }
        });
    }
    proxy.stop();
    Ok(said?)
}

fn say(cluster: &LocalCluster, port: u16, in_use: usize) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "pgshunt  {}", url(port, DATABASE))?;
    writeln!(out, "console  {}", url(port, CONSOLE))?;
    for (i, node) in cluster.nodes.iter().enumerate() {
        let note = if i < in_use { "" } else { "  not in use" };
        writeln!(out, "{}    {}{note}", node.name(), url(node.port(), DATABASE))?;
    }
    writeln!(out, "Ready. The password is {PASSWORD:?}; Ctrl-C ends it and removes the nodes.")?;
    out.flush()
}
