//! Who may only look at the console: no command of it that changes something is theirs, however it is written,
//! and nothing they are shown is a secret.

use std::collections::BTreeSet;
use std::path::Path;

use pgshunt::admin::Show;
use pgshunt::app::Server;
use pgshunt::config::Users;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::*;
use crate::moves::scene::until_state;

const SERVICE: &str = "keeper";
const SERVICE_PASSWORD: &str = "the-keepers-own-Secret-1";
const FILE_PASSWORD: &str = "a-Secret-of-the-file-2";

/// What anybody may say who may look: it changes nothing.
const HARMLESS: [&str; 10] = [
    "SHOW",
    "SELECT",
    "BEGIN",
    "START",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "DISCARD",
    "DEALLOCATE",
];

/// The words each command of the source begins with: verb and keyword, as the parser matches them.
fn heads() -> BTreeSet<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/command.rs");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, parser) = text.split_once("fn try_command(").expect("the parser");
    let (parser, _) = parser.split_once("_ => return Ok(None)").expect("its end");
    let mut heads = BTreeSet::new();
    for line in parser.lines().filter(|l| l.trim_start().starts_with('"') && l.contains("=>")) {
        let pattern = line.split("=>").next().unwrap();
        let (verbs, guard) = pattern.split_once(" if ").unwrap_or((pattern, ""));
        let keyword = guard.split('"').nth(1).unwrap_or_default();
        for verb in verbs.split('"').skip(1).step_by(2) {
            heads.insert((verb.to_owned(), keyword.to_owned()));
        }
    }
    assert!(heads.len() > 20 && heads.contains(&("MOVE".into(), "SHARD".into())), "{heads:?}");
    heads
}

/// All forms of a line of SHOW HELP, with something in each place that is there.
fn forms(syntax: &str, client: &str) -> Vec<String> {
    if let Some((before, rest)) = syntax.split_once('[') {
        let (choice, after) = rest.split_once(']').unwrap();
        let whole = |choice: &str| format!("{before}{choice}{after}");
        let choices = choice.split(" | ").map(whole).chain([whole("")]);
        return choices.flat_map(|c| forms(&c, client)).collect();
    }
    let mut all = vec![String::new()];
    for word in syntax.split_whitespace() {
        let values: &[&str] = match word {
            "name" => &["node1", "pool.size"],
            "'host:port'" => &["'127.0.0.1:1'"],
            "id" => &["1", client],
            "node" => &["node1", "node2"],
            "database" => &[DATABASE, "postgres"],
            "value" => &["3"],
            word => &[word],
        };
        all = all.iter().flat_map(|a| values.iter().map(move |v| format!("{a} {v}"))).collect();
    }
    all.iter().map(|a| a.trim().to_owned()).collect()
}

/// A cluster with everything that a command could change: a move that soaks, a database that is paused and
/// one that is disabled, a client in a transaction.
struct Scene {
    nodes: LocalCluster,
    server: Server,
    admin: Console,
    watcher: Client,
    bystander: Client,
}

impl Scene {
    async fn new() -> Self {
        let mut nodes = LocalCluster::start(2).unwrap();
        for node in &nodes.nodes {
            let sql =
                format!("CREATE ROLE {SERVICE} SUPERUSER LOGIN PASSWORD '{SERVICE_PASSWORD}'");
            connect(node.port()).await.batch_execute(&sql).await.unwrap();
        }
        nodes.config.cluster.service_user = SERVICE.into();
        nodes.config.cluster.service_password = Some(SERVICE_PASSWORD.into());
        nodes.config.auth.admins = vec![SUPERUSER.into()];
        nodes.config.auth.stats_users = vec!["watcher".into()];
        nodes.config.auth.users =
            Users::parse(&format!("\"filed\" \"{FILE_PASSWORD}\"\n")).unwrap();
        let server = Server::start(nodes.config.clone()).await.unwrap();
        let port = server.addr.port();
        let admin = Console::open(port, "pgshunt").await;
        admin.does("SET shard_count = 4").await;
        let root = connect(port).await;
        for sql in [
            "CREATE ROLE watcher LOGIN PASSWORD 'watchers-Secret-3'",
            "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY HASH (id)",
            "INSERT INTO t VALUES (1, 1)",
        ] {
            root.batch_execute(sql).await.unwrap();
        }
        admin.does("MOVE SHARD 1 TO node2 NOWAIT").await;
        until_state(&admin, pgshunt::moves::State::Soaking).await;
        admin.does("PAUSE template1").await;
        admin.does("DISABLE postgres").await;
        let bystander = connect(port).await;
        bystander.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let watcher = connect_as(port, "pgshunt", "watcher", "watchers-Secret-3").await.unwrap();
        Self { nodes, server, admin, watcher, bystander }
    }

    /// All that a command could have changed.
    async fn state(&self) -> Vec<String> {
        let mut all = Vec::new();
        for line in self.admin.lines("SHOW CONFIG").await {
            all.push(format!("{line:?}"));
        }
        for (show, column) in [
            ("DATABASES", "name"),
            ("DATABASES", "paused"),
            ("DATABASES", "disabled"),
            ("NODES", "name"),
            ("MOVES", "state"),
            ("STATE", "value"),
            ("CLIENTS", "user"),
        ] {
            all.push(format!("{:?}", self.admin.column(&format!("SHOW {show}"), column).await));
        }
        let home = connect(self.nodes.nodes[0].port()).await;
        for table in ["nodes", "shards", "placements", "moves", "settings"] {
            let sql =
                format!("SELECT string_agg(t::text, ';' ORDER BY t::text) FROM pgshunt.{table} t");
            all.push(format!("{:?}", value::<Option<String>>(&home, &sql).await));
        }
        all
    }
}

#[tokio::test]
async fn who_may_look_changes_nothing_however_it_is_written() {
    let mut scene = Scene::new().await;
    let before = scene.state().await;
    scene.admin.does("SHOW HELP").await;
    let help = std::iter::from_fn(|| scene.admin.notices.try_recv().ok())
        .find(|n| n.message() == "Console usage")
        .expect("the usage");
    let help = help.detail().unwrap();
    let lines: Vec<_> = help.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let clients = scene.admin.lines("SHOW CLIENTS").await;
    let cell = |line: &[(String, Option<String>)], column: &str| {
        line.iter().find(|(name, _)| name == column).and_then(|c| c.1.clone()).unwrap_or_default()
    };
    let bystander = clients.iter().find(|l| cell(l, "database") == DATABASE).expect("a client");
    let id = cell(bystander, "id");

    let mut commands: Vec<_> =
        lines.iter().filter(|l| !l.starts_with("SHOW")).flat_map(|l| forms(l, &id)).collect();
    for key in scene.admin.column("SHOW CONFIG", "key").await {
        commands.push(format!("SET {key} = '7'"));
    }
    // Every verb that the source knows and that is not harmless is among what is tried.
    for (verb, keyword) in heads() {
        let head = format!("{verb} {keyword}");
        let is_tried = commands.iter().any(|c| c.starts_with(head.trim()));
        let is_known = HARMLESS.contains(&verb.as_str()) && keyword.is_empty();
        // SUSPEND is told to nobody; RESET and SET of a driver's parameters do nothing.
        let is_nothing = ["SUSPEND", "RESET"].contains(&verb.as_str());
        assert!(is_tried || is_known || is_nothing, "SHOW HELP does not tell of {head}");
    }
    assert!(commands.len() > 100, "{commands:#?}");

    let refused = SqlState::INSUFFICIENT_PRIVILEGE;
    for command in &commands {
        let spaced = command.replace(' ', " \t/* SHOW STATS */\n");
        for text in [
            command.clone(),
            command.to_lowercase(),
            format!("{spaced} -- SHOW STATS"),
            format!("SHOW VERSION; {command}; SHOW VERSION"),
            format!("BEGIN; SET application_name = 'x'; ;{command};;"),
            format!("/* SHOW VERSION */;{command}"),
        ] {
            let e = scene.watcher.simple_query(&text).await.expect_err(&text);
            assert_eq!(e.code(), Some(&refused), "{text}: {e:?}");
        }
        let e = scene.watcher.query(command, &[]).await.expect_err(command);
        assert_eq!(e.code(), Some(&refused), "{command}: {e:?}");
        let prepared = scene.watcher.prepare(command).await.unwrap();
        let e = scene.watcher.execute(&prepared, &[]).await.expect_err(command);
        assert_eq!(e.code(), Some(&refused), "{command}: {e:?}");
        let e =
            scene.watcher.prepare(&format!("SHOW VERSION; {command}")).await.expect_err(command);
        assert_eq!(e.code(), Some(&SqlState::SYNTAX_ERROR), "{command}: {e:?}");
    }
    assert_eq!(scene.state().await, before);
    scene.bystander.batch_execute("SELECT 1; COMMIT").await.unwrap();
    drop(scene.server);
}

#[tokio::test]
async fn nothing_that_is_shown_is_a_secret() {
    let scene = Scene::new().await;
    let mut secrets = vec![
        SERVICE_PASSWORD.to_owned(),
        FILE_PASSWORD.to_owned(),
        "watchers-Secret-3".to_owned(),
        PASSWORD.to_owned() + "'",
        "SCRAM-SHA-256$".to_owned(),
        "password=".to_owned(),
    ];
    for node in &scene.nodes.nodes {
        let root = connect(node.port()).await;
        for conninfo in texts(&root, "SELECT subconninfo FROM pg_subscription").await {
            let (_, password) = conninfo.split_once("password='").unwrap();
            secrets.push(password.split_once('\'').unwrap().0.to_owned());
        }
        let verifiers = "SELECT substr(rolpassword, 40) FROM pg_authid WHERE rolpassword <> ''";
        secrets.extend(texts(&root, verifiers).await);
    }
    assert!(secrets.len() > 10, "{secrets:?}");
    let mut shown = String::new();
    for show in Show::ALL {
        let sql = format!("SHOW {}", show.word());
        for message in scene.watcher.simple_query(&sql).await.unwrap() {
            if let SimpleQueryMessage::Row(row) = message {
                for n in 0..row.len() {
                    shown += row.get(n).unwrap_or_default();
                    shown.push('\n');
                }
            }
        }
        for row in scene.watcher.query(&sql, &[]).await.unwrap() {
            for (n, column) in row.columns().iter().enumerate() {
                if column.type_().name() == "text" {
                    shown += row.get::<_, Option<&str>>(n).unwrap_or_default();
                    shown.push('\n');
                }
            }
        }
    }
    assert!(shown.contains("limits.max_logins") && shown.contains("soaking"), "{shown}");
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret}");
    }
}

#[tokio::test]
async fn a_right_to_the_console_that_is_taken_away_is_gone_at_once() {
    let p = Proxy::start_with(1, 1, |c| {
        c.auth.admins = vec!["ann".into()];
        c.auth.stats_users = vec!["bob".into()];
    })
    .await;
    let root = p.client().await;
    root.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'a'").await.unwrap();
    root.batch_execute("CREATE ROLE bob LOGIN PASSWORD 'b'").await.unwrap();
    let ann = connect_as(p.port(), "pgshunt", "ann", "a").await.unwrap();
    let bob = connect_as(p.port(), "pgshunt", "bob", "b").await.unwrap();
    let code = async |client: &Client, sql: &str| match client.simple_query(sql).await {
        Ok(_) => String::new(),
        Err(e) => e.code().unwrap_or_else(|| panic!("{sql}: {e:?}")).code().to_owned(),
    };
    let change = |admins: &[&str], stats_users: &[&str]| {
        let mut config = (**p.server.shared.config.load()).clone();
        let names = |n: &[&str]| n.iter().map(|n| (*n).to_owned()).collect();
        (config.auth.admins, config.auth.stats_users) = (names(admins), names(stats_users));
        p.server.shared.config.store(config.into());
    };
    let what = ["SHOW VERSION", "SET pool.size = 9"];
    let both = async |client: &Client| [code(client, what[0]).await, code(client, what[1]).await];
    assert_eq!(
        (both(&ann).await, both(&bob).await),
        (["", ""].map(Into::into), ["", "42501"].map(Into::into))
    );
    change(&["bob"], &["ann"]);
    assert_eq!(
        (both(&ann).await, both(&bob).await),
        (["", "42501"].map(Into::into), ["", ""].map(Into::into))
    );
    change(&[], &[]);
    let none = ["42501", "42501"].map(String::from);
    assert_eq!((both(&ann).await, both(&bob).await), (none.clone(), none));
}
