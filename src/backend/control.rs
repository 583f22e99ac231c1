//! Control connections: pgshunt's own sessions on the nodes, as the service role.
//!
//! What decides how their statements are understood is [`settings`]; what a node may tell and ask is
//! [`guard`](super::guard).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config as PgConfig, Connection, Notification};

use super::guard::{Guarded, Handed, Objection};
use super::settings;
use crate::config::{Config, NodeTls, Tls};
use crate::net::Socket;
use crate::net::tls::{ClientTls, TlsError};
use crate::topology::Node;

/// Why there is no control connection to a node.
#[derive(Debug, thiserror::Error)]
#[error("node {node} ({host}:{port}): {why}")]
pub struct ConnectError {
    node: String,
    host: String,
    port: u16,
    #[source]
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{}", words(.0))]
    Postgres(tokio_postgres::Error),
    /// The node asks or tells what it must not.
    #[error("{objection}{}", hint(objection))]
    Objection { objection: Objection },
    #[error("{0}")]
    Socket(std::io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Tls(#[from] TlsError),
}

impl ConnectError {
    /// What the node answered, if it did.
    pub fn sqlstate(&self) -> Option<&str> {
        match &self.why {
            Why::Postgres(e) => e.code().map(|c| c.code()),
            Why::Objection { .. } | Why::Socket(_) | Why::Timeout(_) | Why::Tls(_) => None,
        }
    }
}

impl From<tokio_postgres::Error> for Why {
    fn from(e: tokio_postgres::Error) -> Self {
        match objection(&e) {
            Some(objection) => Self::Objection { objection },
            None => Self::Postgres(e),
        }
    }
}

/// What the stream did not let through, if that is why.
fn objection(e: &tokio_postgres::Error) -> Option<Objection> {
    let io = std::error::Error::source(e)?.downcast_ref::<std::io::Error>()?;
    io.get_ref()?.downcast_ref::<Objection>().copied()
}

fn hint(objection: &Objection) -> String {
    match objection {
        Objection::Password(asked) => format!(". {}", asked.hint()),
        Objection::Length | Objection::Answer => String::new(),
    }
}

/// The server's own words, or the driver's, whose "db error" says nothing, with what is behind them.
pub fn words(e: &tokio_postgres::Error) -> String {
    let Some(db) = e.as_db_error() else {
        return match std::error::Error::source(e) {
            Some(source) => format!("{e}: {source}"),
            None => e.to_string(),
        };
    };
    let more = [Some(db.code().code()), db.detail(), db.hint()];
    format!("{} ({})", db.message(), more.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// The notices of one session, as many as are kept.
#[derive(Debug)]
pub struct Notices {
    received: mpsc::Receiver<DbError>,
    left_out: Arc<AtomicUsize>,
}

impl Notices {
    /// Notices of a session that are kept. A function may raise one for each row of a table.
    const MOST: usize = 1000;
    /// Bytes of their texts that are kept.
    const MOST_BYTES: usize = 1 << 20;

    /// What was said since the last call, and how many more of the session were not kept.
    pub fn take(&mut self) -> (Vec<DbError>, usize) {
        let notices = std::iter::from_fn(|| self.received.try_recv().ok()).collect();
        (notices, self.left_out.load(Ordering::Relaxed))
    }
}

/// Opens control connections to nodes.
#[derive(Debug)]
pub struct Connector {
    with: ArcSwap<With>,
}

#[derive(Debug)]
struct With {
    database: String,
    user: String,
    password: Option<String>,
    timeout: Duration,
    tls: Tls,
}

impl With {
    fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            database: config.cluster.database.clone(),
            user: config.cluster.service_user.clone(),
            password: config.cluster.service_password.clone(),
            timeout: config.pool.connect_timeout,
            tls: config.tls.clone(),
        })
    }
}

impl With {
    async fn open(
        &self,
        node: &Node,
        database: Option<&str>,
    ) -> Result<(Client, Connection<Guarded, Guarded>), Why> {
        // Read anew each time: there are few such connections, and roots change while they live.
        let tls = ClientTls::load(&self.tls)?;
        let socket = Socket::connect(&node.host, node.port).await.map_err(Why::Socket)?;
        let (stream, trust) = tls.wrap(socket, &node.host).await?;
        let mut pg = PgConfig::new();
        pg.user(&self.user)
            .dbname(database.unwrap_or(&self.database))
            .application_name("pgshunt control")
            .options(settings::options())
            // There is TLS already, or none is wanted: nothing is to be asked for.
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct);
        if let Some(p) = &self.password {
            pg.password(p);
        }
        #[expect(clippy::disallowed_methods, reason = "this is where the settings are made")]
        let (client, mut connection) = pg.connect_raw(Guarded::new(stream, trust), Handed).await?;
        set_where_possible(&client, &mut connection).await?;
        Ok((client, connection))
    }
}

/// Whoever gets the connection drives it; until then this does.
async fn set_where_possible(
    client: &Client,
    connection: &mut Connection<Guarded, Guarded>,
) -> Result<(), tokio_postgres::Error> {
    let sql = settings::where_possible();
    let mut asking = std::pin::pin!(client.batch_execute(&sql));
    poll_fn(|cx| {
        if let Poll::Ready(Err(e)) = Pin::new(&mut *connection).poll(cx) {
            return Poll::Ready(Err(e));
        }
        asking.as_mut().poll(cx)
    })
    .await
}

impl Connector {
    pub fn new(config: &Config) -> Self {
        Self { with: ArcSwap::new(With::new(config)) }
    }

    /// How connections are opened from now on.
    pub fn reconfigure(&self, config: &Config) {
        self.with.store(With::new(config));
    }

    /// A connection to the cluster's database on `node`, driven by a task of the current runtime.
    pub async fn connect(&self, node: &Node) -> Result<Client, ConnectError> {
        let (client, connection) = self.open(node, None).await?;
        let name = node.name.clone();
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(node = %name, error = %e, "control connection ended");
            }
        });
        Ok(client)
    }

    /// Like [`Connector::connect`], with the session's notices. A notice is there before the statement
    /// that caused it returns.
    pub async fn connect_noticing(&self, node: &Node) -> Result<(Client, Notices), ConnectError> {
        let (client, mut connection) = self.open(node, None).await?;
        let (notices, received) = mpsc::channel(Notices::MOST);
        let left_out = Arc::new(AtomicUsize::new(0));
        let kept = Notices { received, left_out: left_out.clone() };
        let mut room = Notices::MOST_BYTES;
        let name = node.name.clone();
        tokio::spawn(async move {
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) => {
                        let long = [notice.detail(), notice.hint(), notice.where_()];
                        let bytes = notice.message().len()
                            + long.into_iter().flatten().map(str::len).sum::<usize>();
                        room = room.saturating_sub(bytes);
                        if room == 0 || notices.try_send(notice).is_err() {
                            left_out.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(e)) => {
                        tracing::debug!(node = %name, error = %e, "control connection ended");
                        return;
                    }
                    None => return,
                }
            }
        });
        Ok((client, kept))
    }

    /// A connection to a database of `node` for LISTEN. What it hears goes to the receiver, which
    /// ends with the connection; a notification is there before the statement returns behind which
    /// it was sent.
    pub async fn connect_listening(
        &self,
        node: &Node,
        database: &str,
    ) -> Result<(Client, mpsc::UnboundedReceiver<Notification>), ConnectError> {
        let (client, mut connection) = self.open(node, Some(database)).await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "only what comes while a LISTEN is answered waits"
        )]
        let (heard, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(n) = message
                    && heard.send(n).is_err()
                {
                    return;
                }
            }
        });
        Ok((client, received))
    }

    /// `database`: the cluster's own if none is named.
    async fn open(
        &self,
        node: &Node,
        database: Option<&str>,
    ) -> Result<(Client, Connection<Guarded, Guarded>), ConnectError> {
        let with = self.with.load_full();
        let opened = tokio::time::timeout(with.timeout, with.open(node, database)).await;
        opened.unwrap_or(Err(Why::Timeout(with.timeout))).map_err(|why| ConnectError {
            node: node.name.clone(),
            host: node.host.clone(),
            port: node.port,
            why,
        })
    }

    /// A libpq connection string to `node`, for `CREATE SUBSCRIPTION`. Values are quoted by libpq's
    /// rules; the caller still quotes the whole as an SQL literal.
    pub fn conninfo(&self, node: &Node, user: &str, password: &str) -> String {
        let with = self.with.load_full();
        let quote = |s: &str| format!("'{}'", s.replace('\\', "\\\\").replace('\'', "\\'"));
        let mut text = format!(
            "host={} port={} user={} password={} dbname={} connect_timeout={}",
            quote(&node.host),
            node.port,
            quote(user),
            quote(password),
            quote(&with.database),
            with.timeout.as_secs().max(2)
        );
        match with.tls.nodes {
            // Which authorities the other node trusts is for its own files to say.
            NodeTls::Require | NodeTls::VerifyFull => text += " sslmode=require",
            NodeTls::Prefer | NodeTls::Disable => {}
        }
        text
    }
}
