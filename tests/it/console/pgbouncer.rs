//! What tools made for PgBouncer read: the names, the types and the order of PgBouncer's columns.
//! The lists below were taken from a live PgBouncer 1.25.

use std::collections::BTreeSet;

use tokio_postgres::SimpleQueryMessage;

use crate::support::*;

const CONNECTIONS: &str = "type user database replication state addr port:i local_addr local_port:i \
    connect_time request_time wait:i wait_us:i close_needed:i ptr link remote_pid:i tls \
    application_name prepared_statements:i id:i";

/// Columns, text unless they say otherwise: i = int4, q = int8, n = numeric.
const TABLES: &[(&str, &str)] = &[
    ("VERSION", "version"),
    ("STATE", "key value"),
    (
        "DATABASES",
        "name host port:i database force_user pool_size:i min_pool_size:i reserve_pool_size:i \
         server_lifetime:i pool_mode load_balance_hosts max_connections:i current_connections:i \
         max_client_connections:i current_client_connections:i paused:i disabled:i",
    ),
    (
        "POOLS",
        "database user cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i \
         sv_active:i sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i \
         sv_login:i maxwait:i maxwait_us:i pool_mode load_balance_hosts",
    ),
    ("CLIENTS", CONNECTIONS),
    ("SERVERS", CONNECTIONS),
    (
        "SOCKETS",
        "type user database replication state addr port:i local_addr local_port:i connect_time \
         request_time wait:i wait_us:i close_needed:i ptr link remote_pid:i tls application_name \
         recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i send_avail:i",
    ),
    (
        "USERS",
        "name pool_size reserve_pool_size pool_mode max_user_connections:i current_connections:i \
         max_user_client_connections:i current_client_connections:i",
    ),
    ("LISTS", "list items:i"),
    ("CONFIG", "key value default changeable"),
    (
        "STATS",
        "database total_server_assignment_count:n total_xact_count:n total_query_count:n \
         total_received:n total_sent:n total_xact_time:n total_query_time:n total_wait_time:n \
         total_client_parse_count:n total_server_parse_count:n total_bind_count:n \
         total_client_login_count:n avg_server_assignment_count:n avg_xact_count:n \
         avg_query_count:n avg_recv:n avg_sent:n avg_xact_time:n avg_query_time:n avg_wait_time:n \
         avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n \
         avg_client_login_count:n",
    ),
    (
        "STATS_TOTALS",
        "database server_assignment_count:n xact_count:n query_count:n bytes_received:n \
         bytes_sent:n xact_time:n query_time:n wait_time:n client_parse_count:n \
         server_parse_count:n bind_count:n client_login_count:n",
    ),
    (
        "STATS_AVERAGES",
        "database server_assignment_count:n xact_count:n query_count:n bytes_received:n \
         bytes_sent:n xact_time:n query_time:n wait_time:n avg_client_parse_count:n \
         avg_server_parse_count:n avg_bind_count:n avg_client_login_count:n",
    ),
    ("TOTALS", "name value:n"),
    ("MEM", "name size:i used:i free:i memtotal:i"),
    ("DNS_HOSTS", "hostname ttl:q addrs"),
    ("DNS_ZONES", "zonename serial:q count:i"),
    ("PEERS", "peer_id:i host port:i pool_size:i"),
    (
        "PEER_POOLS",
        "peer_id:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i sv_login:i",
    ),
];

#[tokio::test]
async fn the_columns_are_pgbouncers_and_ours_stand_behind() {
    let p = Proxy::start(1, 1).await;
    let client = p.client().await;
    client.batch_execute("SELECT 1").await.unwrap();
    let console = Console::open(p.port(), "pgbouncer").await;
    for (table, columns) in TABLES {
        let statement = console.client.prepare(&format!("SHOW {table}")).await.unwrap();
        let given: Vec<(&str, &str)> =
            statement.columns().iter().map(|c| (c.name(), c.type_().name())).collect();
        let wanted: Vec<(&str, &str)> = columns
            .split_whitespace()
            .map(|c| match c.split_once(':') {
                Some((name, "i")) => (name, "int4"),
                Some((name, "q")) => (name, "int8"),
                Some((name, "n")) => (name, "numeric"),
                Some(other) => panic!("{other:?}"),
                None => (c, "text"),
            })
            .collect();
        assert!(given.starts_with(&wanted), "SHOW {table}: {given:?}");
        // SELECT is another word for SHOW.
        let rows = console.client.simple_query(&format!("select {table};")).await.unwrap();
        assert!(matches!(rows.last(), Some(SimpleQueryMessage::CommandComplete(_))));
    }
    let lists = console.column("SHOW LISTS", "list").await;
    let wanted = "databases users peers pools peer_pools free_clients used_clients login_clients \
                  free_servers used_servers dns_names dns_zones dns_queries dns_pending";
    assert_eq!(lists, wanted.split_whitespace().collect::<Vec<_>>());
    assert_eq!(console.column("SHOW TOTALS", "name").await.len(), 24);
    // What exporters compute with.
    let config = console.lines("SHOW CONFIG").await;
    for key in ["max_client_conn", "max_user_connections", "default_pool_size", "listen_port"] {
        let line = config.iter().find(|l| l[0].1.as_deref() == Some(key)).expect(key);
        assert!(line[1].1.as_ref().unwrap().parse::<u64>().is_ok(), "{key}: {line:?}");
    }
    // The console is in its tables under PgBouncer's name.
    for table in ["DATABASES", "STATS", "POOLS"] {
        let column = if table == "DATABASES" { "name" } else { "database" };
        let names: BTreeSet<_> =
            console.column(&format!("SHOW {table}"), column).await.into_iter().collect();
        assert_eq!(names, BTreeSet::from([DATABASE.to_owned(), "pgbouncer".to_owned()]), "{table}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_the_reason() {
    let p = Proxy::start(1, 1).await;
    let console = p.console().await;
    for (sql, hint) in [
        ("SHOW FDS", "It hands out passwords"),
        ("SUSPEND", "PAUSE lets transactions end"),
        // \d of psql.
        (
            "SELECT n.nspname as \"Schema\", c.relname FROM pg_catalog.pg_class c LEFT JOIN \
             pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r','p','') \
             AND n.nspname !~ '^pg_toast' ORDER BY 1,2;",
            "Connect to your database for SQL.",
        ),
    ] {
        let e = console.refused(sql).await;
        assert_eq!(e.code().code(), "0A000", "{sql}");
        assert!(e.hint().unwrap_or_default().starts_with(hint), "{sql}: {e:?}");
    }
}

/// Each figure is that of its database, and an average is one of the last period.
#[tokio::test]
async fn figures_are_counted_by_database_and_averaged_over_the_period() {
    let p = Proxy::start_with(2, 2, |c| {
        c.server.stats_period = std::time::Duration::from_millis(100);
    })
    .await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    client.batch_execute("CREATE DATABASE other").await.unwrap();
    let other = connect_as(p.port(), "other", SUPERUSER, PASSWORD).await.unwrap();
    let console = p.console().await;
    let total = async |database: &str, column: &str| -> u64 {
        let lines = console.lines("SHOW STATS").await;
        let line = lines.iter().find(|l| l[0].1.as_deref() == Some(database)).expect(database);
        line.iter().find(|(n, _)| n == column).expect(column).1.as_ref().unwrap().parse().unwrap()
    };
    let before =
        (total("other", "total_query_count").await, total("app", "total_query_count").await);
    for _ in 0..3 {
        other.batch_execute("SELECT 1").await.unwrap();
    }
    assert_eq!(total("other", "total_query_count").await, before.0 + 3);
    assert_eq!(total("app", "total_query_count").await, before.1);
    assert_eq!(total("other", "total_client_login_count").await, 1);
    assert_eq!(total("pgbouncer", "total_client_login_count").await, 1);
    let xacts = total("app", "total_xact_count").await;
    client.batch_execute("SELECT count(*) FROM t").await.unwrap();
    // It is over when the nodes have been asked what the table has behind it.
    wait_for("the transaction to be counted", async || {
        (total("app", "total_xact_count").await > xacts).then_some(())
    })
    .await;
    assert_eq!(total("app", "total_xact_count").await, xacts + 1, "one over all nodes is one");

    wait_for("an average of busy clients", async || {
        for _ in 0..5 {
            other.batch_execute("SELECT 1").await.unwrap();
        }
        (total("other", "avg_query_count").await > 0).then_some(())
    })
    .await;
    wait_for("an average of idle ones", async || {
        (total("other", "avg_query_count").await == 0).then_some(())
    })
    .await;
    assert_eq!(p.server.shared.registry.sums_by_database().len(), 3);
}

#[tokio::test]
async fn a_line_tells_what_its_client_does_now() {
    let p = Proxy::start_with(1, 1, |c| c.pool.size = 1).await;
    let console = p.console().await;
    let client = p.client().await;
    let line = async |table: &str, database: &str| {
        let lines = console.lines(&format!("SHOW {table}")).await;
        let of = |l: &Vec<(String, Option<String>)>, name: &str| {
            let found = l.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}"));
            found.1.clone().unwrap_or_default()
        };
        let lines: Vec<_> = lines.into_iter().filter(|l| of(l, "database") == database).collect();
        assert_eq!(lines.len(), 1, "{table}");
        move |name: &str| of(&lines[0], name)
    };
    // Who has been answered is in the table; who was only let in will be, a moment later.
    client.batch_execute("SELECT 1").await.unwrap();
    let first = line("CLIENTS", DATABASE).await;
    assert_eq!((first("state"), first("link")), ("idle".into(), String::new()));
    assert_eq!(first("local_port"), p.port().to_string());
    client.batch_execute("SET application_name = 'now this'; SELECT 1").await.unwrap();
    assert_eq!(line("CLIENTS", DATABASE).await("application_name"), "now this");
    client.batch_execute("RESET application_name").await.unwrap();
    assert_eq!(line("CLIENTS", DATABASE).await("application_name"), "");

    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let (c, s) = (line("CLIENTS", DATABASE).await, line("SERVERS", DATABASE).await);
    assert_eq!(c("state"), "active", "linked, though it is silent");
    assert_eq!((c("link"), s("link")), (s("ptr"), c("ptr")));
    assert_eq!(s("port"), p.nodes.nodes[0].port().to_string());
    assert_eq!(s("request_time"), c("request_time"));
    let waits = p.client().await;
    let waiting =
        tokio::spawn(async move { waits.batch_execute("SELECT 1").await.map(|()| waits) });
    wait_for("the second client to wait", async || {
        let lines = console.lines("SHOW POOLS").await;
        let app = lines.iter().find(|l| l[0].1.as_deref() == Some(DATABASE))?;
        (app[2].1.as_deref() == Some("1") && app[3].1.as_deref() == Some("1")).then_some(())
    })
    .await;
    client.batch_execute("COMMIT").await.unwrap();
    let waited = waiting.await.unwrap().unwrap();
    assert_eq!(console.column("SHOW ACTIVE_SOCKETS", "state").await, ["cl_active"], "the console");
    drop(waited);
}
