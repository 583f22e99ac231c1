//! The columns of every SHOW. Where PgBouncer has the table, its columns come first, in its order;
//! tools pick them by place as well as by name. Ours follow.

use super::command::{Command, Show};
use super::reply::{Column, int4, int8, numeric, text};

/// The columns of a command's answer; none if it gives no rows.
pub fn of_command(command: &Command) -> Vec<Column> {
    match command {
        Command::Show(show) => of(*show).to_vec(),
        Command::ShowParameter(name, _) => vec![text(name)],
        Command::SelectOne => vec![int4("?column?")],
        Command::SelectVersion => vec![text("version")],
        Command::Set { .. } | Command::SetIgnored | Command::Nothing(_) => Vec::new(),
        Command::AddNode { .. } | Command::MoveShard { .. } | Command::Reload => Vec::new(),
        Command::RollbackMove { .. } | Command::CancelMove(_) | Command::FinishMove(_) => {
            Vec::new()
        }
        Command::Pause(_) | Command::Resume(_) => Vec::new(),
        Command::Disable(_) | Command::Enable(_) => Vec::new(),
        Command::Reconnect(_) | Command::WaitClose(_) => Vec::new(),
        Command::Kill(_) | Command::KillClient(_) | Command::Shutdown(_) => Vec::new(),
    }
}

pub fn of(show: Show) -> &'static [Column] {
    match show {
        Show::Nodes => NODES,
        Show::Tables => TABLES,
        Show::Shards => SHARDS,
        Show::Placements => PLACEMENTS,
        Show::Moves => MOVES,
        Show::Clients | Show::Servers => CONNECTIONS,
        Show::Sockets | Show::ActiveSockets => SOCKETS,
        Show::Users => USERS,
        Show::Pools => POOLS,
        Show::Stats => STATS,
        Show::StatsTotals => STATS_TOTALS,
        Show::StatsAverages => STATS_AVERAGES,
        Show::Totals => TOTALS,
        Show::Databases => DATABASES,
        Show::Lists => LISTS,
        Show::State => STATE,
        Show::Config => CONFIG,
        Show::Mem => MEM,
        Show::DnsHosts => DNS_HOSTS,
        Show::DnsZones => DNS_ZONES,
        Show::Peers => PEERS,
        Show::PeerPools => PEER_POOLS,
        Show::Version => VERSION,
        Show::Help => HELP,
    }
}

const NODES: &[Column] = &[
    int4("node_id"),
    text("name"),
    text("host"),
    int4("port"),
    text("home"),
    int4("shards"),
    int4("server_connections"),
    text("paused"),
];

const TABLES: &[Column] = &[
    int4("table_id"),
    text("schema"),
    text("name"),
    text("key"),
    text("key_types"),
    int4("group_id"),
    int4("shards"),
    text("columns"),
];

const SHARDS: &[Column] = &[
    int4("shard_id"),
    int4("group_id"),
    int4("modulus"),
    int4("remainder"),
    text("node"),
    text("tables"),
    int8("since_epoch"),
    text("paused"),
];

const PLACEMENTS: &[Column] =
    &[int4("shard_id"), text("node"), text("role"), text("state"), int8("since_epoch")];

const MOVES: &[Column] = &[
    int8("move_id"),
    int4("shard_id"),
    text("source"),
    text("target"),
    text("state"),
    text("step"),
    int8("rollback_of"),
    int8("bytes_done"),
    int8("bytes_total"),
    int8("rows"),
    int8("lag_bytes"),
    int8("eta_s"),
    text("held_ms"),
    text("longest_hold_ms"),
    int4("attempts"),
    text("blocker"),
    text("error"),
    text("hold_steps_ms"),
];

/// With what PgBouncer tells of its buffers in between.
const SOCKETS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int4("port"),
    text("local_addr"),
    int4("local_port"),
    text("connect_time"),
    text("request_time"),
    int4("wait"),
    int4("wait_us"),
    int4("close_needed"),
    text("ptr"),
    text("link"),
    int4("remote_pid"),
    text("tls"),
    text("application_name"),
    int4("recv_pos"),
    int4("pkt_pos"),
    int4("pkt_remain"),
    int4("send_pos"),
    int4("send_remain"),
    int4("pkt_avail"),
    int4("send_avail"),
    int4("prepared_statements"),
    int4("id"),
    // Ours.
    int4("worker"),
    text("node"),
    int4("shard_id"),
    text("activity"),
    text("pinned_by"),
];

const CONNECTIONS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int4("port"),
    text("local_addr"),
    int4("local_port"),
    text("connect_time"),
    text("request_time"),
    int4("wait"),
    int4("wait_us"),
    int4("close_needed"),
    text("ptr"),
    text("link"),
    int4("remote_pid"),
    text("tls"),
    text("application_name"),
    int4("prepared_statements"),
    int4("id"),
    // Ours.
    int4("worker"),
    text("node"),
    int4("shard_id"),
    text("activity"),
    text("pinned_by"),
];

const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int4("cl_active"),
    int4("cl_waiting"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active"),
    int4("sv_active_cancel"),
    int4("sv_being_canceled"),
    int4("sv_idle"),
    int4("sv_used"),
    int4("sv_tested"),
    int4("sv_login"),
    int4("maxwait"),
    int4("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
    // Ours: one line of PgBouncer's stands for the pools of all nodes.
    int4("nodes"),
    int4("size_per_node"),
    text("sv_by_node"),
];

const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
    // Ours.
    numeric("single_shard"),
    numeric("single_node"),
    numeric("every_node"),
    numeric("session"),
    numeric("refused"),
    numeric("errors_client"),
    numeric("errors_node"),
    numeric("errors_proxy"),
    numeric("retries"),
    numeric("holds"),
    numeric("hold_p50_us"),
    numeric("hold_p99_us"),
    numeric("wait_p99_us"),
    numeric("route_p99_us"),
    numeric("query_p50_us"),
    numeric("query_p99_us"),
    // As it was called before PgBouncer 1.8: Debian's exporter asks for it.
    numeric("total_requests"),
];

const STATS_TOTALS: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

const STATS_AVERAGES: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

const TOTALS: &[Column] = &[text("name"), numeric("value")];

const USERS: &[Column] = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int4("max_user_connections"),
    int4("current_connections"),
    int4("max_user_client_connections"),
    int4("current_client_connections"),
];

const MEM: &[Column] = &[text("name"), int4("size"), int4("used"), int4("free"), int4("memtotal")];
const DNS_HOSTS: &[Column] = &[text("hostname"), int8("ttl"), text("addrs")];
const DNS_ZONES: &[Column] = &[text("zonename"), int8("serial"), int4("count")];
const PEERS: &[Column] = &[int4("peer_id"), text("host"), int4("port"), int4("pool_size")];
const PEER_POOLS: &[Column] = &[
    int4("peer_id"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active_cancel"),
    int4("sv_login"),
];

const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int4("port"),
    text("database"),
    text("force_user"),
    int4("pool_size"),
    int4("min_pool_size"),
    int4("reserve_pool_size"),
    int4("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int4("max_connections"),
    int4("current_connections"),
    int4("max_client_connections"),
    int4("current_client_connections"),
    int4("paused"),
    int4("disabled"),
    // As it was called before PgBouncer 1.24: exporters know either.
    int4("reserve_pool"),
];

const LISTS: &[Column] = &[text("list"), int4("items")];
const STATE: &[Column] = &[text("key"), text("value")];
const CONFIG: &[Column] = &[text("key"), text("value"), text("default"), text("changeable")];
const VERSION: &[Column] = &[text("version")];
const HELP: &[Column] = &[];
