//! The figures as Prometheus reads them: text format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use super::{
    Blame, ClientState, HistogramSum, MoveFigures, PlanKind, PoolFigures, Registry, ServerState,
    WorkerSums,
};
use crate::topology::{NodeId, RoutingTable};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the process at this moment.
pub fn render(registry: &Registry, routes: &RoutingTable) -> String {
    let mut out = Page(String::with_capacity(16 << 10));
    process(&mut out, registry, routes);
    traffic(&mut out, registry);
    databases(&mut out, registry);
    connections(&mut out, registry, routes);
    cluster(&mut out, routes);
    moves(&mut out, registry, routes);
    out.0
}

fn process(out: &mut Page, registry: &Registry, routes: &RoutingTable) {
    out.family("pgshunt_info", "gauge", "Version of the running pgshunt.");
    out.sample("pgshunt_info", &[("version", &env!("CARGO_PKG_VERSION"))], 1);
    out.family("pgshunt_uptime_seconds", "gauge", "Time since the process started.");
    out.sample("pgshunt_uptime_seconds", &[], registry.uptime().as_secs_f64());
    let ready =
        "1 while new clients are served and the home node answers, so that they can log in.";
    out.family("pgshunt_ready", "gauge", ready);
    out.sample("pgshunt_ready", &[], u8::from(registry.can_log_in()));
    out.family("pgshunt_routing_epoch", "gauge", "Epoch of the routing table in force.");
    out.sample("pgshunt_routing_epoch", &[], routes.epoch);
}

fn traffic(out: &mut Page, registry: &Registry) {
    let s = registry.sums();
    let counters: [(&str, &str, u64); 16] = [
        ("pgshunt_clients_accepted_total", "Client connections accepted.", s.clients_accepted),
        ("pgshunt_clients_refused_total", "Clients turned away by a limit.", s.clients_refused),
        ("pgshunt_logins_total", "Clients that logged in.", s.logins),
        ("pgshunt_logins_failed_total", "Logins that failed.", s.logins_failed),
        ("pgshunt_transactions_total", "Transactions ended.", s.transactions),
        (
            "pgshunt_server_connections_opened_total",
            "Connections to nodes opened.",
            s.servers_opened,
        ),
        (
            "pgshunt_server_connections_closed_total",
            "Connections to nodes closed.",
            s.servers_opened.saturating_sub(registry.servers().len() as u64),
        ),
        (
            "pgshunt_server_assignments_total",
            "Server connections given to clients.",
            s.server_assignments,
        ),
        ("pgshunt_retries_total", "Statements re-planned and sent again, unseen.", s.retries),
        ("pgshunt_client_parses_total", "Parse messages from clients.", s.client_parses),
        ("pgshunt_server_parses_total", "Parse messages sent to nodes.", s.server_parses),
        ("pgshunt_binds_total", "Bind messages from clients.", s.binds),
        (
            "pgshunt_gathered_statements_total",
            "Statements of which one node made the answer, of rows that all nodes have sent.",
            s.gathered,
        ),
        (
            "pgshunt_gathered_bytes_total",
            "What the rows of such statements took on their way.",
            s.gathered_bytes,
        ),
        ("pgshunt_plan_cache_hits_total", "Statements planned from the cache.", s.plan_cache_hits),
        (
            "pgshunt_plan_cache_misses_total",
            "Statements planned by the parser.",
            s.plan_cache_misses,
        ),
    ];
    for (name, help, value) in counters {
        out.family(name, "counter", help);
        out.sample(name, &[], value);
    }

    out.family("pgshunt_statements_total", "counter", "Statements by what they were planned as.");
    for kind in PlanKind::ALL {
        out.sample("pgshunt_statements_total", &[("plan", &kind.name())], s.statements(kind));
    }
    out.family("pgshunt_errors_total", "counter", "Errors clients saw, by who caused them.");
    for blame in Blame::ALL {
        out.sample("pgshunt_errors_total", &[("blame", &blame.name())], s.errors(blame));
    }
    out.family("pgshunt_bytes_total", "counter", "Bytes read from and written to either side.");
    for (side, direction, bytes) in [
        ("client", "received", s.bytes_from_clients),
        ("client", "sent", s.bytes_to_clients),
        ("node", "received", s.bytes_from_nodes),
        ("node", "sent", s.bytes_to_nodes),
    ] {
        let labels: &[Label<'_>] = &[("side", &side), ("direction", &direction)];
        out.sample("pgshunt_bytes_total", labels, bytes);
    }

    out.histogram("pgshunt_hold_seconds", "Time statements were held by a gate.", &s.hold);
    let waited = "Time that commits and reads over several nodes waited for one another.";
    out.histogram("pgshunt_sight_wait_seconds", waited, &s.sight);
    out.histogram("pgshunt_wait_seconds", "Time spent waiting for a server connection.", &s.wait);
    out.histogram("pgshunt_route_seconds", "Time from statement to plan and shard.", &s.route);
    out.histogram("pgshunt_query_seconds", "Time a node took to answer.", &s.query);
    out.histogram("pgshunt_transaction_seconds", "Duration of transactions.", &s.transaction);
}

/// What SHOW STATS tells by database.
fn databases(out: &mut Page, registry: &Registry) {
    let databases = registry.sums_by_database();
    let seconds = |us: u64| us as f64 / 1e6;
    type Read = fn(&WorkerSums) -> u64;
    let counts: [(&str, &str, Read); 5] = [
        ("pgshunt_database_logins_total", "Clients that logged in.", |s| s.logins),
        ("pgshunt_database_transactions_total", "Transactions ended.", |s| s.transactions),
        ("pgshunt_database_queries_total", "Statements.", WorkerSums::all_statements),
        ("pgshunt_database_received_bytes_total", "Bytes from clients.", |s| s.bytes_from_clients),
        ("pgshunt_database_sent_bytes_total", "Bytes to clients.", |s| s.bytes_to_clients),
    ];
    let times: [(&str, &str, Read); 3] = [
        ("pgshunt_database_transaction_seconds_total", "Time in transactions.", |s| {
            s.transaction.sum_us
        }),
        ("pgshunt_database_query_seconds_total", "Time nodes took to answer.", |s| s.query.sum_us),
        ("pgshunt_database_wait_seconds_total", "Time clients waited for a connection.", |s| {
            s.wait.sum_us
        }),
    ];
    for (name, help, read) in counts {
        out.family(name, "counter", help);
        for (database, sums) in &databases {
            out.sample(name, &[("database", database)], read(sums));
        }
    }
    for (name, help, read) in times {
        out.family(name, "counter", help);
        for (database, sums) in &databases {
            out.sample(name, &[("database", database)], seconds(read(sums)));
        }
    }
}

fn connections(out: &mut Page, registry: &Registry, routes: &RoutingTable) {
    let clients = registry.clients();
    out.family("pgshunt_clients", "gauge", "Clients connected, by state.");
    for &state in ClientState::ALL {
        let n = clients.iter().filter(|c| c.state() == state).count();
        out.sample("pgshunt_clients", &[("state", &state.name())], n);
    }
    out.family("pgshunt_clients_pinned", "gauge", "Clients that keep their server connection.");
    out.sample("pgshunt_clients_pinned", &[], clients.iter().filter(|c| c.pin().is_some()).count());

    let mut servers: BTreeMap<(NodeId, &str), usize> = BTreeMap::new();
    for node in routes.nodes() {
        servers.extend(ServerState::ALL.iter().map(|s| ((node.id, s.name()), 0)));
    }
    for server in registry.servers() {
        *servers.entry((server.node, server.state().name())).or_default() += 1;
    }
    out.family("pgshunt_server_connections", "gauge", "Connections to nodes, by node and state.");
    for ((node, state), n) in servers {
        let node = node_name(routes, node);
        out.sample("pgshunt_server_connections", &[("node", &node), ("state", &state)], n);
    }

    let pools = registry.pools();
    let gauges: [Gauge<PoolFigures, f64>; 5] = [
        ("pgshunt_pool_clients_active", "Clients with a server connection.", |p| {
            p.clients_active as f64
        }),
        ("pgshunt_pool_clients_waiting", "Clients in the queue.", |p| p.clients_waiting as f64),
        ("pgshunt_pool_servers", "Server connections of the pool.", |p| {
            (p.servers_active + p.servers_idle + p.servers_opening) as f64
        }),
        ("pgshunt_pool_size", "Most server connections the pool may have.", |p| p.size as f64),
        ("pgshunt_pool_longest_wait_seconds", "Wait of the first in the queue.", |p| {
            p.longest_wait.as_secs_f64()
        }),
    ];
    for (name, help, value) in gauges {
        out.family(name, "gauge", help);
        for p in &pools {
            let node = node_name(routes, p.node);
            let labels: &[Label<'_>] =
                &[("node", &node), ("database", &p.database), ("user", &p.user)];
            out.sample(name, labels, value(p));
        }
    }
}

fn cluster(out: &mut Page, routes: &RoutingTable) {
    out.family("pgshunt_nodes", "gauge", "Nodes of the cluster.");
    out.sample("pgshunt_nodes", &[], routes.nodes().count());
    out.family("pgshunt_tables", "gauge", "Distributed tables.");
    out.sample("pgshunt_tables", &[], routes.tables().count());
    let mut shards: BTreeMap<NodeId, usize> = routes.nodes().map(|n| (n.id, 0)).collect();
    for shard in routes.groups().flat_map(|g| &g.shards) {
        *shards.entry(shard.node).or_default() += 1;
    }
    out.family("pgshunt_shards", "gauge", "Shards a node serves.");
    for (node, n) in shards {
        out.sample("pgshunt_shards", &[("node", &node_name(routes, node))], n);
    }
}

fn moves(out: &mut Page, registry: &Registry, routes: &RoutingTable) {
    let moves = registry.moves();
    let gauges: [Gauge<MoveFigures, u64>; 4] = [
        ("pgshunt_move_bytes", "Bytes of the shard being moved.", |m| m.bytes_total),
        ("pgshunt_move_bytes_copied", "Bytes copied so far.", |m| m.bytes_copied),
        ("pgshunt_move_lag_bytes", "WAL the target has yet to apply.", |m| m.lag_bytes),
        ("pgshunt_move_cutover_attempts", "Cutovers tried.", |m| m.attempts),
    ];
    for (name, help, value) in gauges {
        out.family(name, "gauge", help);
        for m in &moves {
            let (source, target) = (node_name(routes, m.source), node_name(routes, m.target));
            let labels: &[Label<'_>] = &[
                ("move", &m.id),
                ("shard", &m.shard),
                ("source", &source),
                ("target", &target),
                ("state", &m.state),
            ];
            out.sample(name, labels, value(m));
        }
    }
}

fn node_name(routes: &RoutingTable, id: NodeId) -> String {
    routes.node(id).map_or_else(|| id.to_string(), |n| n.name.clone())
}

/// A metric's name, its help, and how it is read off a `T`.
type Gauge<T, V> = (&'static str, &'static str, fn(&T) -> V);

type Label<'a> = (&'a str, &'a dyn Display);

/// The page being written. Writing to a `String` cannot fail, so results are dropped.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(self.0, "{label}=\"{}\"", text.replace('\n', "\\n"));
        }
        self.0.push_str(if labels.is_empty() { "" } else { "}" });
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, help: &str, h: &HistogramSum) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (upper_us, below) in h.cumulative() {
            self.sample(&bucket, &[("le", &(upper_us as f64 / 1e6))], below);
        }
        self.sample(&bucket, &[("le", &"+Inf")], h.count());
        self.sample(&format!("{name}_sum"), &[], h.sum_us as f64 / 1e6);
        self.sample(&format!("{name}_count"), &[], h.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::NewClient;
    use crate::topology::{Node, Rows};

    fn routes() -> RoutingTable {
        let node =
            Node { id: NodeId(1), name: "no\"de".into(), host: "h".into(), port: 1, is_home: true };
        RoutingTable::build(&Rows { epoch: 9, nodes: vec![node], ..Rows::default() }).unwrap()
    }

    #[test]
    fn every_sample_belongs_to_the_family_announced_before_it() {
        let r = Registry::new(1);
        r.worker(0).query.record_us(300);
        let page = render(&r, &routes());
        let mut family = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let name = line.split([' ', '{']).next().unwrap();
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|s| name.strip_suffix(s).filter(|b| *b == family))
                    .unwrap_or(name);
                assert_eq!(base, family, "{line}");
                let value = line.rsplit(' ').next().unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    /// Prometheus' own linter: a counter's name ends in `_total`, and nothing else's does.
    #[test]
    fn names_tell_counters_from_the_rest() {
        let r = Registry::new(1);
        r.database(0, "d").logins.inc();
        r.offer_moves(|| {
            vec![MoveFigures {
                id: 1,
                shard: crate::topology::ShardId(1),
                source: NodeId(1),
                target: NodeId(2),
                state: "copying".into(),
                bytes_total: 2,
                bytes_copied: 1,
                lag_bytes: 0,
                attempts: 0,
            }]
        });
        let page = render(&r, &routes());
        assert!(page.contains("pgshunt_move_bytes{"), "{page}");
        for line in page.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let told = |l: &str| {
                l.strip_prefix("# HELP ").is_some_and(|l| l.starts_with(&format!("{name} ")))
            };
            assert!(page.lines().any(told), "{name} has no help");
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            assert!(name.starts_with("pgshunt_") && name.bytes().all(plain), "{name}");
        }
    }

    #[test]
    fn figures_are_on_the_page() {
        let r = Registry::new(2);
        r.worker(0).statements(PlanKind::SingleShard).add(2);
        r.worker(1).statements(PlanKind::SingleShard).add(3);
        r.worker(1).hold.record_us(6_000);
        r.database(1, "d").statements(PlanKind::SingleNode).add(4);
        r.database(0, "d").query.record_us(500_000);
        let client = r.add_client(NewClient {
            user: "u".into(),
            database: "d".into(),
            application_name: String::new(),
            addr: crate::telemetry::ClientAddr::Unix,
            local: None,
            remote_pid: 0,
            tls: false,
            worker: 0,
            since: None,
        });
        client.set_state(ClientState::Held);
        let page = render(&r, &routes());
        for line in [
            "pgshunt_statements_total{plan=\"single_shard\"} 5",
            "pgshunt_hold_seconds_bucket{le=\"0.004096\"} 0",
            "pgshunt_hold_seconds_bucket{le=\"0.008192\"} 1",
            "pgshunt_hold_seconds_bucket{le=\"+Inf\"} 1",
            "pgshunt_hold_seconds_sum 0.006",
            "pgshunt_statements_total{plan=\"single_node\"} 4",
            "pgshunt_database_queries_total{database=\"d\"} 4",
            "pgshunt_database_query_seconds_total{database=\"d\"} 0.5",
            "pgshunt_clients{state=\"held\"} 1",
            "pgshunt_routing_epoch 9",
            "pgshunt_shards{node=\"no\\\"de\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}
