//! Replication connections, passed through: with the clients that come with PostgreSQL.

use std::fs;
use std::path::Path;
use std::process::Output;

use pgshunt::local::Account;
use tokio::process::Command;

use super::*;

async fn tool(proxy: &Proxy, name: &str, args: &[&str]) -> Output {
    Command::new(program(name))
        .args(["-h", "127.0.0.1", "-p", &proxy.port().to_string(), "-U", SUPERUSER])
        .args(args)
        .env("PGPASSWORD", PASSWORD)
        .output()
        .await
        .unwrap()
}

fn program(name: &str) -> std::path::PathBuf {
    pgshunt::local::Binaries::find().unwrap().program(name)
}

fn worked(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn logical_changes_come_through() {
    let proxy = shared(1).await;
    let a = proxy.client().await;
    does(&a, "CREATE TABLE t (n int)").await;
    let database = ["-d", DATABASE, "--slot", "through"];
    let recv =
        async |more: &[&str]| tool(&proxy, "pg_recvlogical", &[&database[..], more].concat()).await;
    worked(&recv(&["--create-slot", "--plugin", "test_decoding"]).await);
    does(&a, "INSERT INTO t VALUES (7)").await;
    let end: String = value(&a, "SELECT pg_current_wal_flush_lsn()::text").await;
    let changes = worked(&recv(&["--start", "--endpos", &end, "-f", "-"]).await);
    assert!(changes.contains("table public.t: INSERT: n[integer]:7"), "{changes}");
    worked(&recv(&["--drop-slot"]).await);
}

#[tokio::test]
async fn the_node_is_asked_who_it_is_and_copied() {
    let proxy = shared(1).await;
    let a = proxy.client().await;
    let said = tool(
        &proxy,
        "psql",
        &["-d", "replication=database dbname=app", "-AtXc", "IDENTIFY_SYSTEM"],
    )
    .await;
    let system: String = value(&a, "SELECT system_identifier::text FROM pg_control_system()").await;
    assert!(worked(&said).starts_with(&format!("{system}|1|")), "{said:?}");
    // A role that may not replicate is told so by the node.
    does(&a, "CREATE ROLE weak LOGIN PASSWORD 'x'").await;
    let refused = Command::new(program("psql"))
        .args(["-AtXc", "IDENTIFY_SYSTEM"])
        .arg(format!(
            "host=127.0.0.1 port={} user=weak password=x dbname=app replication=database",
            proxy.port()
        ))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("must be superuser or replication role"), "{said}");
}

/// As the user whose files the nodes are, since a server starts from them.
async fn as_a_node(proxy: &Proxy, name: &str, args: &[&str]) -> Output {
    let mut command = std::process::Command::new(program(name));
    Account::choose().unwrap().run(&mut command);
    command
        .args(["-h", "127.0.0.1", "-p", &proxy.port().to_string(), "-U", SUPERUSER])
        .args(args)
        .env("PGPASSWORD", PASSWORD);
    Command::from(command).output().await.unwrap()
}

/// Two connections at once, one for the files and one for what is written meanwhile, and a temporary
/// replication slot.
#[tokio::test]
async fn a_base_backup_is_taken_and_a_server_starts_from_it() {
    let proxy = shared(1).await;
    let a = proxy.client().await;
    does(&a, "CREATE TABLE t AS SELECT g AS n, repeat('x', 500) FROM generate_series(1, 20000) g")
        .await;
    // Another node whose files give way to the copy.
    let mut copy = LocalNode::start(NodeOptions::new("copy")).unwrap();
    copy.stop(StopMode::Immediate).unwrap();
    let files = copy.data_dir();
    fs::remove_dir_all(&files).unwrap();
    let directory = files.to_str().unwrap();
    let options = ["-D", directory, "-X", "stream", "--checkpoint", "fast", "--no-sync", "-P"];
    worked(&as_a_node(&proxy, "pg_basebackup", &options).await);
    let verify = Command::new(program("pg_verifybackup")).arg(directory).output().await.unwrap();
    worked(&verify);
    does(&a, "DROP TABLE t").await;
    copy.restart().unwrap();
    let there = connect(copy.port()).await;
    assert_eq!(value::<i64>(&there, "SELECT sum(n) FROM t").await, 20_000 * 20_001 / 2);
    // Nothing of it has stayed on the node.
    let left: i64 = value(&a, "SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(left, 0);
    wait_for("the replication connections to be gone", async || {
        (pinned_by(&proxy).await == [""]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn segments_of_the_log_are_received() {
    let proxy = shared(1).await;
    let a = proxy.client().await;
    // Beside the node's own files, in a directory of its user.
    let directory = proxy.nodes.nodes[0].data_dir().with_file_name("received");
    Account::choose().unwrap().make_dir(&directory).unwrap();
    let options = ["-D", directory.to_str().unwrap(), "--slot", "segments", "--no-sync"];
    let receive = async |more: &[&str]| {
        worked(&as_a_node(&proxy, "pg_receivewal", &[&options[..], more].concat()).await)
    };
    // With this position, which pg_receivewal's own --create-slot does not keep.
    does(&a, "SELECT pg_create_physical_replication_slot('segments', true)").await;
    receive(&["--create-slot", "--if-not-exists"]).await;
    does(&a, "CREATE TABLE t AS SELECT g AS n FROM generate_series(1, 1000) g").await;
    let segment: String = value(&a, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await;
    let written: String = value(&a, "SELECT pg_switch_wal()::text").await;
    does(&a, "INSERT INTO t VALUES (1)").await;
    let end: String = value(&a, "SELECT pg_current_wal_flush_lsn()::text").await;
    // It ends with the first that comes behind the end.
    does(&a, "INSERT INTO t VALUES (2)").await;
    receive(&["--endpos", &end, "--no-loop"]).await;
    let own = proxy.nodes.nodes[0].data_dir().join("pg_wal").join(&segment);
    let read = |p: &Path| fs::read(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    assert_eq!(read(&directory.join(&segment)), read(&own), "up to {written}");
    receive(&["--drop-slot"]).await;
}
