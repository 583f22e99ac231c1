//! Logins: what they are told, and what they cost those who are in already.

use super::wire::{Wire, query};
use super::*;

#[tokio::test]
async fn a_login_is_told_the_parameters_that_will_be_in_force() {
    let p = narrow().await;
    let default: String = value(&node(&p).await, "SHOW TimeZone").await;
    let mut one = Wire::login(p.port()).await;
    assert_eq!(one.told["TimeZone"], default);
    // The connection has the zone in force already when the next client wants the same.
    assert_eq!(one.ask("SET TimeZone = 'Asia/Tokyo'").await, "CSZ");
    let two = Wire::login_with(p.port(), &[("TimeZone", "Asia/Tokyo")]).await;
    assert_eq!(two.told["TimeZone"], "Asia/Tokyo");
    let three = Wire::login_with(p.port(), &[("application_name", "three")]).await;
    assert_eq!(three.told["TimeZone"], default);
    assert_eq!(three.told["application_name"], "three");
    let four = Wire::login_with(p.port(), &[("application_name", "four")]).await;
    assert_eq!(four.told["application_name"], "four");
    let strange = Wire::login_with(p.port(), &[("application_name", "f\u{fc}nf")]).await;
    assert_eq!(strange.told["application_name"], "f??nf");
}

#[tokio::test]
async fn a_full_pool_does_not_delay_logins() {
    let p = narrow().await;
    let mut holder = Wire::login(p.port()).await;
    assert_eq!(holder.ask("BEGIN; SELECT 1").await, "CTDCZ");
    let mut line = Vec::new();
    for n in 0..10 {
        let mut wire = Wire::login(p.port()).await;
        wire.send(&query("SELECT 1")).await;
        line.push(wire);
        wait_for_line(&p, n + 1).await;
    }
    // One that nothing is known of has to ask the server.
    let mut unknown = Wire::dial(p.port()).await;
    unknown.send(&super::wire::startup_with(DATABASE, &[("work_mem", "1MB")])).await;
    wait_for_line(&p, 11).await;
    assert_eq!(holder.ask("COMMIT").await, "CZ");
    for mut wire in line {
        assert_eq!(wire.ready().await, "TDCZ");
    }
    assert!(unknown.ready().await.ends_with('Z'));
    assert_eq!(unknown.ask("SHOW work_mem").await, "TDCZ");
}

async fn code_of(login: impl Future<Output = Result<Client, tokio_postgres::Error>>) -> String {
    match login.await {
        Ok(_) => "logged in".into(),
        Err(e) => e.code().unwrap_or_else(|| panic!("{e:?}")).code().into(),
    }
}

#[tokio::test]
async fn a_storm_of_failed_logins_costs_neither_the_home_node_nor_others() {
    const STORM: usize = 150;
    let p = Proxy::start(1, 1).await;
    let port = p.port();
    let home = node(&p).await;
    home.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'right'; CREATE ROLE mute LOGIN")
        .await
        .unwrap();
    home.batch_execute("ALTER SYSTEM SET log_statement = 'all'").await.unwrap();
    home.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let worker = p.client().await;
    let asked = || p.nodes.nodes[0].log().matches("JOIN pg_catalog.pg_authid").count();
    wait_for("statements to be logged", async || {
        connect_as(port, DATABASE, "ann", "wrong").await.unwrap_err();
        (asked() > 0).then_some(())
    })
    .await;
    let before = asked();
    let storm: Vec<_> = (0..STORM)
        .map(|n| {
            tokio::spawn(async move {
                let nobody = format!("nobody{n}");
                let user = ["ann", "mute", nobody.as_str()][n % 3];
                code_of(connect_as(port, DATABASE, user, "wrong")).await
            })
        })
        .collect();
    for n in 0..50 {
        let sql = format!("SELECT {n}");
        assert_eq!(value::<i32>(&worker, &sql).await, n);
    }
    assert_eq!(code_of(connect_as(port, DATABASE, "ann", "right")).await, "logged in");
    for login in storm {
        assert_eq!(login.await.unwrap(), "28P01");
    }
    let cost = asked() - before;
    assert!(cost < STORM / 2, "{cost} queries for {STORM} logins");
    // What has just changed counts at once.
    home.batch_execute("ALTER ROLE ann PASSWORD 'new'; CREATE ROLE bob LOGIN PASSWORD 'b'")
        .await
        .unwrap();
    assert_eq!(code_of(connect_as(port, DATABASE, "ann", "right")).await, "28P01");
    assert_eq!(code_of(connect_as(port, DATABASE, "ann", "new")).await, "logged in");
    assert_eq!(code_of(connect_as(port, DATABASE, "bob", "b")).await, "logged in");
    assert_eq!(code_of(connect_as(port, "nowhere", "bob", "b")).await, "3D000");
}

/// Who is known cannot be told from what is asked for at login.
#[tokio::test]
async fn unknown_names_look_like_known_ones() {
    let p = Proxy::start(1, 1).await;
    node(&p).await.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'a'").await.unwrap();
    let first_answer = async |user: &str| {
        let mut wire = Wire::dial(p.port()).await;
        let body = format!("user\0{user}\0database\0{DATABASE}\0\0");
        wire.send(&super::wire::first(3 << 16, body.as_bytes())).await;
        let offer = wire.next().await.expect("an offer");
        let mut initial = b"SCRAM-SHA-256\0".to_vec();
        initial.extend_from_slice(&21u32.to_be_bytes());
        initial.extend_from_slice(b"n,,n=,r=abcdefghijkl1");
        wire.send(&super::wire::message(b'p', &initial)).await;
        let (tag, body) = wire.next().await.expect("a challenge");
        let challenge = String::from_utf8(body[4..].to_vec()).unwrap();
        let (_, salt) = challenge.split_once(",s=").expect("a salt");
        let (salt, iterations) = salt.split_once(",i=").expect("a count");
        (offer, tag, salt.to_owned(), iterations.to_owned())
    };
    let (known, unknown) = (first_answer("ann").await, first_answer("nobody").await);
    assert_eq!((&known.0, known.1, &known.3), (&unknown.0, unknown.1, &unknown.3));
    assert_eq!(known.2.len(), unknown.2.len());
    assert_eq!(known, first_answer("ann").await);
    assert_eq!(unknown, first_answer("nobody").await, "its salt does not change");
}

#[tokio::test]
async fn who_is_known_can_log_in_while_the_home_node_is_away() {
    let mut p = Proxy::start(2, 2).await;
    p.console().await.does("SET shard_count = 2").await;
    let client = p.client().await;
    client.batch_execute("CREATE TABLE t (id int) PARTITION BY HASH (id)").await.unwrap();
    p.nodes.nodes[0].kill().unwrap();
    let mut there = 0;
    for id in 0..20 {
        // Each its own: who meets a connection to the killed node that nobody has noticed yet loses
        // its session, as with PostgreSQL.
        let late = p.client().await;
        let done = late.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await;
        there += usize::from(done.is_ok());
    }
    assert!(there > 0, "the other node's shard is served");
    assert_eq!(code_of(connect_as(p.port(), DATABASE, "nobody", "x")).await, "57P03");
    p.nodes.nodes[0].restart().unwrap();
    wait_for("passwords to be checked again", async || {
        (code_of(connect_as(p.port(), DATABASE, "nobody", "x")).await == "28P01").then_some(())
    })
    .await;
}

/// What the server says about the startup parameters.
async fn notices_of_a_login(port: u16, application_name: &str) -> Vec<String> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).dbname(DATABASE).user(SUPERUSER).password(PASSWORD);
    let connected = config.application_name(application_name).connect(tokio_postgres::NoTls).await;
    let (client, mut connection) = connected.unwrap();
    drop(client);
    let mut said = Vec::new();
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        if let tokio_postgres::AsyncMessage::Notice(n) = message.unwrap() {
            said.push(format!("{} {} {:?}", n.code().code(), n.message(), n.routine()));
        }
    }
    said
}

/// Trap 10. Each login is told, also where another one's parameters are in force already.
#[tokio::test]
async fn what_the_server_says_about_startup_parameters_is_passed_on() {
    let p = narrow().await;
    let long = "x".repeat(70);
    let direct = notices_of_a_login(p.nodes.nodes[0].port(), &long).await;
    assert!(direct.len() == 1 && direct[0].contains("will be truncated"), "{direct:?}");
    for _ in 0..3 {
        assert_eq!(notices_of_a_login(p.port(), &long).await, direct);
        assert_eq!(notices_of_a_login(p.port(), "short").await, [""; 0]);
    }
}
