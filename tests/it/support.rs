//! What the tests share: local nodes, pgshunt over them, connections, and waiting for a condition.
//!
//! A test starts its own nodes and owns them; nothing is shared between tests.

#![allow(dead_code, unused_imports, reason = "each test takes what it needs")]

use std::future::{Future, poll_fn};
use std::time::{Duration, Instant};

use pgshunt::app::Server;
use pgshunt::config::Config;
use tokio::sync::mpsc;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

pub use pgshunt::local::{
    ClusterOptions, DATABASE, LocalCluster, LocalNode, NodeOptions, PASSWORD, SUPERUSER, StopMode,
};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the cluster's database at a port, as the superuser: to a node or to pgshunt.
pub async fn connect(port: u16) -> Client {
    connect_as(port, DATABASE, SUPERUSER, PASSWORD)
        .await
        .unwrap_or_else(|e| panic!("connecting to port {port}: {e}"))
}

pub async fn connect_as(
    port: u16,
    database: &str,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).dbname(database).user(user).password(password);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // How it ends shows in the client's next call.
        let _ = connection.await;
    });
    Ok(client)
}

/// Waits until `look` finds something, and fails with `what` when it does not in time.
pub async fn wait_for<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The single value of a query's single row.
pub async fn value<T>(client: &Client, sql: &str) -> T
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let row = client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    row.try_get(0).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// The first column of all rows, asked by the simple protocol.
pub async fn texts(client: &Client, sql: &str) -> Vec<String> {
    let answer = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let text = |m: &SimpleQueryMessage| match m {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    answer.iter().filter_map(text).collect()
}

/// The rows of a simple query as text, in their order, their columns apart by bars.
pub async fn answer(client: &Client, sql: &str) -> Result<Vec<String>, DbError> {
    let messages = client
        .simple_query(sql)
        .await
        .map_err(|e| e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}")).clone())?;
    let row = |m: SimpleQueryMessage| match m {
        SimpleQueryMessage::Row(row) => {
            let columns = (0..row.len()).map(|n| row.get(n).unwrap_or("NULL"));
            Some(columns.collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// What psql says of who it is logged in as, with these settings of its connection; or why it is not.
pub async fn psql(port: u16, user: &str, settings: &str) -> String {
    // The server programs of another version come without psql.
    let ours = pgshunt::local::Binaries::find().unwrap().program("psql");
    let program = if ours.exists() { ours } else { "psql".into() };
    let conninfo = format!("host=127.0.0.1 port={port} user={user} dbname=app {settings}");
    let output = tokio::process::Command::new(program)
        .args(["-XAtc", "SELECT session_user", &conninfo])
        .env("PGPASSWORD", "p")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
}

/// pgshunt in this process, over nodes of its own.
pub struct Proxy {
    pub nodes: LocalCluster,
    pub server: Server,
}

impl Proxy {
    /// `nodes` servers are started, `in_use` of them are in the cluster.
    pub async fn start(nodes: usize, in_use: usize) -> Self {
        Self::start_with(nodes, in_use, |_| {}).await
    }

    pub async fn start_with(nodes: usize, in_use: usize, change: impl FnOnce(&mut Config)) -> Self {
        let options = ClusterOptions { in_use, ..ClusterOptions::new(nodes) };
        let mut nodes = LocalCluster::start_with(&options).unwrap();
        change(&mut nodes.config);
        let server = Server::start(nodes.config.clone()).await.unwrap();
        Self { nodes, server }
    }

    pub fn port(&self) -> u16 {
        self.server.addr.port()
    }

    pub async fn console(&self) -> Console {
        Console::open(self.port(), "pgshunt").await
    }

    /// A client of the database.
    pub async fn client(&self) -> Client {
        connect(self.port()).await
    }
}

/// A session with the console, and the notices it was told.
pub struct Console {
    pub client: Client,
    pub notices: mpsc::UnboundedReceiver<DbError>,
}

pub type Lines = Vec<Vec<(String, Option<String>)>>;

impl Console {
    pub async fn open(port: u16, database: &str) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).dbname(database).user(SUPERUSER).password(PASSWORD);
        let (client, mut connection) = config.connect(NoTls).await.unwrap();
        let (told, notices) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(n) = message {
                    let _ = told.send(n);
                }
            }
        });
        Self { client, notices }
    }

    /// The rows of a command's answer: names and values.
    pub async fn lines(&self, sql: &str) -> Lines {
        let answer = self.client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        answer
            .iter()
            .filter_map(|m| match m {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .map(|row| {
                let names = row.columns().iter().enumerate();
                names.map(|(i, c)| (c.name().into(), row.get(i).map(Into::into))).collect()
            })
            .collect()
    }

    /// One column of all rows.
    pub async fn column(&self, sql: &str, name: &str) -> Vec<String> {
        let pick = |line: &Vec<(String, Option<String>)>| {
            let found = line.iter().find(|(n, _)| n == name);
            found.unwrap_or_else(|| panic!("{sql} has no {name}")).1.clone().unwrap_or_default()
        };
        self.lines(sql).await.iter().map(pick).collect()
    }

    pub async fn does(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    pub async fn refused(&self, sql: &str) -> DbError {
        let e = self.client.batch_execute(sql).await.expect_err(sql);
        e.as_db_error().unwrap_or_else(|| panic!("{sql}: {e:?}")).clone()
    }

    pub fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.notices.try_recv().ok()).map(|n| n.message().into()).collect()
    }
}
