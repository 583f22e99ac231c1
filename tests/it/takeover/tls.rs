//! Clients under TLS: the process that has their keys passes their bytes on, and is otherwise gone.

use std::collections::HashSet;

use super::*;

/// The TCP sockets of a process: their state and the port at the other end.
fn sockets_of(pid: u32) -> Vec<(u8, u16)> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let inodes: HashSet<String> = links
        .filter_map(|l| std::fs::read_link(l.unwrap().path()).ok())
        .filter_map(|l| Some(l.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| inodes.contains(fields[9]))
        .map(|fields| {
            let port = fields[2].rsplit(':').next().unwrap();
            (u8::from_str_radix(fields[3], 16).unwrap(), u16::from_str_radix(port, 16).unwrap())
        })
        .collect()
}

const LISTENS: u8 = 0x0a;

async fn tls_of_clients(console: &Console) -> Vec<String> {
    let mut rows = Vec::new();
    let tls = console.column("SHOW CLIENTS", "tls").await;
    for (database, tls) in console.column("SHOW CLIENTS", "database").await.into_iter().zip(tls) {
        if database == DATABASE {
            rows.push(tls);
        }
    }
    rows
}

#[tokio::test]
async fn it_goes_on_through_the_process_that_has_its_keys() {
    let mut place = Place::new("takeover-tls");
    let guest = Guest::open(place.port, true).await;
    guest.does("SET application_name = 'behind a pump'").await;
    let shown = guest.client.prepare("SELECT current_setting('application_name'), $1::int").await;
    let shown = shown.unwrap();
    let console = Console::open(place.port, "pgshunt").await;
    let connected = async || console.column("SHOW CLIENTS", "connect_time").await;
    let before = connected().await;
    let mut first = place.take_over();
    let large = guest.client.query_one("SELECT repeat('x', 10 << 20)", &[]).await.unwrap();
    assert_eq!(large.get::<_, String>(0).len(), 10 << 20, "what is large comes through");
    let sent = "y".repeat(10 << 20);
    let length = guest.client.query_one("SELECT length($1::text)", &[&sent]).await.unwrap();
    assert_eq!(length.get::<_, i32>(0), 10 << 20);

    wait_for("the console to be with the new process", async || {
        (tls_of_clients(&console).await.len() == 1).then_some(())
    })
    .await;
    let sorted = |mut times: Vec<String>| {
        times.sort();
        times
    };
    assert_eq!(sorted(connected().await), sorted(before), "they have not connected anew");
    let tls = tls_of_clients(&console).await;
    assert!(tls[0].starts_with("TLS"), "{tls:?}");
    // It has no server connection any more, listens nowhere, and has left the catalog.
    wait_for("the old process to have let go", async || {
        let clients = |(state, to): &(u8, u16)| {
            *state != LISTENS && !place.cluster.nodes.iter().any(|n| n.port() == *to)
        };
        let left = sockets_of(first.child.id());
        (left.len() == 1 && left.iter().all(clients)).then_some(())
    })
    .await;
    guest.does("CREATE TABLE t (id int) PARTITION BY HASH (id)").await;

    // In a chain: the third process has the other end of the first one's pair.
    let mut second = place.take_over();
    let row = guest.client.query_one(&shown, &[&3]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("behind a pump", 3));
    assert!(second.end().await.success(), "it has no keys and is not needed");
    assert!(first.child.try_wait().unwrap().is_none());

    // A cancel finds its statement.
    let sleeps = guest.client.cancel_token();
    let (slept, ()) = tokio::join!(guest.client.batch_execute(SLEEP), async {
        place.until_one_sleeps().await;
        let socket = tokio::net::TcpStream::connect(("127.0.0.1", place.port)).await.unwrap();
        sleeps.cancel_query_raw(socket, NoTls).await.unwrap();
    });
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));

    // With its last client the process goes.
    drop(guest);
    assert!(first.end().await.success());
    wait_for("the client to be gone from the present one", async || {
        tls_of_clients(&console).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_ends_of_the_three_the_others_notice() {
    let mut place = Place::new("takeover-tls-ends");
    let (a, b) = (Guest::open(place.port, true).await, Guest::open(place.port, true).await);
    let mut first = place.take_over();
    let (ends, remains) = (a.client, b.client);
    assert_eq!(value::<i32>(&ends, "SELECT 1").await, 1);
    assert_eq!(value::<i32>(&remains, "SELECT 1").await, 1);
    // The serving process is told to end: its clients read why, and the pump goes with them.
    place.serve.signal(libc::SIGTERM);
    assert!(place.serve.end().await.success());
    for client in [&ends, &remains] {
        let e = client.batch_execute("SELECT 1").await.unwrap_err();
        assert!(e.is_closed() || e.code() == Some(&SqlState::ADMIN_SHUTDOWN), "{e:?}");
    }
    assert!(first.end().await.success());
}

#[tokio::test]
async fn a_process_that_only_passes_on_can_be_ended() {
    let mut place = Place::new("takeover-tls-term");
    let under_tls = Guest::open(place.port, true).await;
    let plain = Guest::open(place.port, false).await;
    let mut first = place.take_over();
    assert_eq!(value::<i32>(&under_tls.client, "SELECT 1").await, 1);
    assert_eq!(value::<i32>(&plain.client, "SELECT 1").await, 1);
    first.signal(libc::SIGTERM);
    assert!(first.end().await.success());
    assert!(under_tls.client.batch_execute("SELECT 1").await.is_err());
    assert_eq!(value::<i32>(&plain.client, "SELECT 1").await, 1);
    let console = Console::open(place.port, "pgshunt").await;
    wait_for("the client to be gone", async || {
        tls_of_clients(&console).await.iter().all(String::is_empty).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_deadline_is_for_who_does_not_come_to_rest() {
    let mut place = Place::with("takeover-deadline", |text| {
        let short = text.replace("takeover_timeout = \"10min\"", "takeover_timeout = \"1s\"");
        assert_ne!(short, text);
        short
    });
    let guest = Guest::open(place.port, true).await;
    guest.does("BEGIN; CREATE TEMP TABLE own (n int)").await;
    let sleeps = place.sleeps(&Arc::new(connect(place.port).await)).await;
    let mut old = place.take_over();
    let ended = tokio::time::timeout(PATIENCE, sleeps).await.expect("its time is up").unwrap();
    assert!(ended.is_err());
    // The catalog is the new process's once the old one has nobody left but whom it passes on.
    let ddl = connect(place.port).await;
    ddl.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    guest.does("INSERT INTO own VALUES (1); COMMIT").await;
    assert_eq!(value::<i64>(&guest.client, "SELECT count(*) FROM own").await, 1);
    assert!(old.child.try_wait().unwrap().is_none());
    drop(guest);
    assert!(old.end().await.success());
}
