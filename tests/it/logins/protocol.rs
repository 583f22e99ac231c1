//! Which protocol is spoken, and the cancel keys that come with it, towards clients and nodes.

use std::sync::Arc;

use pgshunt::config::AuthMethod;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn trusting() -> Proxy {
    Proxy::start_with(1, 1, |c| c.auth.method = AuthMethod::Trust).await
}

/// Logs in with this version and these extensions; gives what was negotiated, if anything was.
async fn log_in(
    wire: &mut Wire,
    database: &str,
    version: u32,
    extensions: &[&str],
) -> Vec<Vec<u8>> {
    let mut body = format!("user\0{SUPERUSER}\0database\0{database}\0");
    for name in extensions {
        body += &format!("{name}\01\0");
    }
    body += "\0";
    wire.send(&first(version, body.as_bytes())).await;
    let mut negotiated = Vec::new();
    loop {
        match wire.next().await.expect("ReadyForQuery") {
            (b'v', body) => negotiated.push(body),
            (b'Z', _) => return negotiated,
            (b'E', body) => panic!("{}", field(&body, b'M')),
            _ => {}
        }
    }
}

const V3_0: u32 = 3 << 16;
const V3_2: u32 = V3_0 + 2;

fn negotiate(version: u32, unknown: &[&str]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    body.extend_from_slice(&(unknown.len() as u32).to_be_bytes());
    for name in unknown {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
    }
    body
}

/// Until the statement of a client is seen to run on the node.
async fn runs(p: &Proxy) {
    let home = connect(p.nodes.nodes[0].port()).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
               AND query LIKE 'SELECT pg_sleep(1000)%'";
    wait_for("the statement to run", async || (value::<i64>(&home, sql).await == 1).then_some(()))
        .await;
}

async fn can_be_cancelled(p: &Proxy, wire: &mut Wire) {
    wire.send(&query("SELECT pg_sleep(1000)")).await;
    runs(p).await;
    wire.cancel(p.port()).await;
    assert_eq!(wire.ready().await, "TE57014Z");
    assert_eq!(wire.ask("SELECT 1").await, "TDCZ");
}

#[tokio::test]
async fn trap_5_the_newest_version_both_know_is_spoken_and_unknown_options_are_named() {
    let p = trusting().await;
    // What the libpq of PostgreSQL 19 greases its first try with.
    let grease = ["_pq_.test_protocol_negotiation"];
    for (version, extensions, negotiated, key) in [
        (V3_0, &[][..], None, 4),
        // Reserved; PostgreSQL 18 says nothing to it.
        (V3_0 + 1, &[], None, 4),
        (V3_2, &[], None, 32),
        (V3_0 + 3, &[], Some(negotiate(V3_2, &[])), 32),
        (V3_0 + 9999, &grease, Some(negotiate(V3_2, &grease)), 32),
        (V3_0, &["_pq_.a", "_pq_.b"], Some(negotiate(V3_0, &["_pq_.a", "_pq_.b"])), 4),
        (V3_2, &["_pq_.a"], Some(negotiate(V3_2, &["_pq_.a"])), 32),
    ] {
        for database in [DATABASE, "pgshunt"] {
            let mut wire = Wire::dial(p.port()).await;
            let told = log_in(&mut wire, database, version, extensions).await;
            assert_eq!(told, Vec::from_iter(negotiated.clone()), "{version:x} {database}");
            assert_eq!(wire.secret.len(), key, "{version:x} {database}");
        }
    }
    for version in [2 << 16, 4 << 16] {
        let mut wire = Wire::dial(p.port()).await;
        wire.send(&first(version, b"user\0x\0\0")).await;
        let (code, message) = wire.last_words().await;
        assert_eq!(code, "0A000");
        assert!(message.ends_with("server supports 3.0 to 3.2"), "{message}");
    }
}

#[tokio::test]
async fn trap_42_a_long_cancel_key_counts_to_its_last_byte() {
    let p = trusting().await;
    let mut wire = Wire::dial(p.port()).await;
    log_in(&mut wire, DATABASE, V3_2, &[]).await;
    can_be_cancelled(&p, &mut wire).await;
    let genuine = wire.secret.clone();
    let mut last = genuine.clone();
    last[31] ^= 1;
    wire.send(&query("SELECT pg_sleep(0.3)")).await;
    for wrong in [genuine[..4].to_vec(), genuine[..31].to_vec(), last] {
        wire.secret = wrong;
        wire.cancel(p.port()).await;
    }
    assert_eq!(wire.ready().await, "TDCZ");
}

/// Stands before a node that has keys of four bytes, and gives it longer ones.
async fn with_long_keys(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap().port();
    let tail: Arc<Vec<u8>> = Arc::new((0..124).collect());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(lengthen(client, port, tail.clone()));
        }
    });
    front
}

async fn packet(from: &mut TcpStream) -> Option<Vec<u8>> {
    let len = from.read_u32().await.ok()?;
    let mut packet = len.to_be_bytes().to_vec();
    packet.resize(len as usize, 0);
    from.read_exact(&mut packet[4..]).await.ok()?;
    Some(packet)
}

async fn lengthen(mut client: TcpStream, port: u16, tail: Arc<Vec<u8>>) -> Option<()> {
    let mut node = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut opening = packet(&mut client).await?;
    if opening == crate::faults::wire::SSL_REQUEST {
        client.write_all(b"N").await.ok()?;
        opening = packet(&mut client).await?;
    }
    if opening[4..8] == 80_877_102_u32.to_be_bytes() {
        assert_eq!(opening.len(), 16 + tail.len());
        if opening[16..] == tail[..] {
            node.write_all(&first(80_877_102, &opening[8..16])).await.ok()?;
            while node.read(&mut [0; 1]).await.ok()? > 0 {}
        }
        return None;
    }
    node.write_all(&opening).await.ok()?;
    // tokio-postgres knows short keys only; and whom it cancels.
    let control = String::from_utf8_lossy(&opening).contains("pgshunt control");
    let (mut node_out, mut node_in) = node.into_split();
    let (mut client_out, mut client_in) = client.into_split();
    tokio::spawn(async move { copy(&mut client_out, &mut node_in).await });
    loop {
        let tag = node_out.read_u8().await.ok()?;
        let len = node_out.read_u32().await.ok()?;
        let mut body = vec![0; len as usize - 4];
        node_out.read_exact(&mut body).await.ok()?;
        if tag == b'K' && !control {
            body.extend_from_slice(&tail);
        }
        client_in.write_all(&crate::faults::wire::message(tag, &body)).await.ok()?;
        if tag == b'Z' {
            break;
        }
    }
    copy(&mut node_out, &mut client_in).await.ok().map(drop)
}

#[tokio::test]
async fn a_nodes_cancel_key_may_have_any_length() {
    let nodes = LocalCluster::start(1).unwrap();
    let mut config = nodes.config.clone();
    config.auth.method = AuthMethod::Trust;
    config.cluster.nodes[0].port = with_long_keys(nodes.nodes[0].port()).await;
    let server = pgshunt::app::Server::start(config).await.unwrap();
    let p = Proxy { nodes, server };
    let mut wire = Wire::login(p.port()).await;
    can_be_cancelled(&p, &mut wire).await;
}

/// The values of these messages at login, with these parameters.
async fn told_at_login(p: &Proxy, tag: u8, more: &[(&str, &str)]) -> (Wire, Vec<Vec<u8>>) {
    let mut body = format!("user\0{SUPERUSER}\0database\0{DATABASE}\0");
    for (name, value) in more {
        body += &format!("{name}\0{value}\0");
    }
    body += "\0";
    let mut wire = Wire::dial(p.port()).await;
    wire.send(&first(V3_0, body.as_bytes())).await;
    let mut told = Vec::new();
    loop {
        match wire.next().await.expect("ReadyForQuery") {
            (b'Z', _) => return (wire, told),
            (t, body) if t == tag => told.push(body),
            (b'E', body) => panic!("{}", field(&body, b'M')),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_a_startup_packet_names_twice_is_assigned_twice() {
    let p = trusting().await;
    for (options, given, wanted) in [
        ("-c datestyle=iso,dmy", "ISO", "ISO, DMY"),
        ("-c datestyle=german", "mdy", "German, MDY"),
        ("-c datestyle=sql,dmy -c DateStyle=ISO", "ymd", "ISO, YMD"),
    ] {
        // The packet's own come behind `options`, wherever that stands.
        let more = [("DateStyle", given), ("options", options)];
        let (_wire, told) = told_at_login(&p, b'S', &more).await;
        let wanted = format!("DateStyle\0{wanted}\0").into_bytes();
        assert!(told.contains(&wanted), "{options} {given}");
    }
}

#[tokio::test]
async fn a_pid_that_is_told_is_no_other_servers() {
    let p = trusting().await;
    let pid = |told: &[Vec<u8>]| i32::from_be_bytes(told[0][..4].try_into().unwrap());
    let (_wire, told) = told_at_login(&p, b'K', &[]).await;
    assert!(pid(&told) > 4_194_304, "the largest of a Linux system");
    // Who has a server process to itself is told its pid.
    let (_wire, told) = told_at_login(&p, b'K', &[("replication", "database")]).await;
    let home = connect(p.nodes.nodes[0].port()).await;
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND pid = {}",
        pid(&told)
    );
    assert_eq!(value::<i64>(&home, &sql).await, 1);
}
