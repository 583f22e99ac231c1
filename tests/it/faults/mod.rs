//! What goes wrong around a whole pgshunt: clients that leave or misbehave, nodes that die, lines
//! that are full, cancels that come late.

pub mod binary;
mod bounds;
mod cancels;
mod chaos;
mod garbage;
mod gather;
mod leaving;
mod line;
mod logins;
mod nested;
mod nodes;
mod reload;
mod tls;
pub mod wire;

use pgshunt::config::{AuthMethod, Config};
use tokio_postgres::Client;

use crate::support::*;

/// One node, one server connection per role, clients trusted.
async fn narrow() -> Proxy {
    Proxy::start_with(1, 1, |c| {
        trusting(c);
        c.pool.size = 1;
    })
    .await
}

fn trusting(config: &mut Config) {
    config.auth.method = AuthMethod::Trust;
}

/// How many rows of `t` there are, as the home node says.
async fn rows(p: &Proxy) -> i64 {
    value(&node(p).await, "SELECT count(*) FROM t").await
}

/// A session with the home node itself.
async fn node(p: &Proxy) -> Client {
    connect(p.nodes.nodes[0].port()).await
}

/// pgshunt's connections on the home node that serve clients: pid and state.
async fn served(p: &Proxy) -> Vec<(i32, String)> {
    let sql = "SELECT pid, state FROM pg_stat_activity WHERE backend_type = 'client backend' \
               AND datname = 'app' AND application_name NOT LIKE 'pgshunt %' \
               AND pid <> pg_backend_pid() ORDER BY pid";
    let rows = node(p).await.query(sql, &[]).await.unwrap();
    rows.iter().map(|r| (r.get(0), r.get::<_, Option<String>>(1).unwrap_or_default())).collect()
}

/// Waits until this many clients stand in a pool's line.
async fn wait_for_line(p: &Proxy, length: usize) {
    wait_for(&format!("{length} clients in line"), async || {
        let pools = p.server.shared.pools.figures();
        (pools.iter().map(|f| f.clients_waiting).sum::<usize>() == length).then_some(())
    })
    .await;
}
