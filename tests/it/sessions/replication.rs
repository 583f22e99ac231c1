//! Replication connections, passed through: with the clients that come with PostgreSQL.

use std::process::Output;

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
