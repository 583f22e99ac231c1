//! One pgshunt at a time serves a catalog.
//!
//! A second one would not hold its clients while the first moves a shard, and would send them where
//! the shard was: their writes would be refused by the fence, but their reads and updates would find
//! no row and say so. Until several acknowledge a closed gate, the second does not start. What tells
//! them apart is an advisory lock, held by a session of its own on the home node for as long as the
//! process lives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::CatalogError;
use crate::backend::control::Connector;
use crate::topology::Node;

/// Any key, but not that of a move's lock: those use this class with the move's number, from 1 on.
const LOCK: (i32, i32) = (0x7067_7368, 0);

/// The session of a predecessor that died a moment ago may still be ending.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often the session is asked whether it is there, and how long an answer may take. That its
/// socket was closed is seen sooner.
const PULSE: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(3);

/// Whose it is instead.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(
        "another pgshunt serves this cluster: process {pid} on {home}, from {from}, since {since} \
         (if that machine is gone for good: SELECT pg_terminate_backend({pid}) on {home})"
    )]
    Taken { home: String, pid: i32, from: String, since: String },
}

/// The catalog is this process's, while the session lives.
pub struct Owner {
    connector: Arc<Connector>,
    home: Arc<Node>,
    session: Session,
}

/// A session on home that has the lock, and what tells it from all others.
struct Session {
    client: Client,
    pid: i32,
    since: String,
}

impl Owner {
    /// Claims the catalog; waits a little for a predecessor that is just ending.
    pub async fn claim(connector: Arc<Connector>, home: Arc<Node>) -> Result<Self, ClaimError> {
        let since = Instant::now();
        loop {
            match claim_once(&connector, &home).await {
                Ok(session) => return Ok(Self { connector, home, session }),
                Err(ClaimError::Taken { .. }) if since.elapsed() < PATIENCE => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Returns when the session is lost, and with it the claim.
    pub async fn lost(&self) {
        loop {
            let since = Instant::now();
            while since.elapsed() < PULSE {
                if self.session.client.is_closed() {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let alive = tokio::time::timeout(ANSWER, self.session.client.batch_execute("")).await;
            if !matches!(alive, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// One try to have it again. `Ok(false)`: our own lost session still has it, as after a hang.
    pub async fn claim_again(&mut self) -> Result<bool, ClaimError> {
        match claim_once(&self.connector, &self.home).await {
            Ok(session) => {
                self.session = session;
                Ok(true)
            }
            Err(ClaimError::Taken { pid, since, .. })
                if pid == self.session.pid && since == self.session.since =>
            {
                self.give_up().await;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Ends the old session: it may be of no use, but it is there.
    async fn give_up(&self) {
        let ended = async {
            let client = self.connector.connect(&self.home).await?;
            client.execute("SELECT pg_terminate_backend($1)", &[&self.session.pid]).await?;
            Ok::<(), CatalogError>(())
        };
        if let Err(error) = ended.await {
            tracing::debug!(%error, "ending the old session");
        }
    }

    /// Between two tries.
    pub async fn pause(&self) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn claim_once(connector: &Connector, home: &Node) -> Result<Session, ClaimError> {
    let client = connector.connect(home).await.map_err(CatalogError::from)?;
    let asked = async {
        let sql = "SELECT pg_try_advisory_lock($1, $2)";
        let got: bool = client.query_one(sql, &[&LOCK.0, &LOCK.1]).await?.get(0);
        if got {
            client.batch_execute("SET application_name = 'pgshunt owner'").await?;
        }
        let holder = client
            .query_opt(
                "SELECT a.pid, coalesce(host(a.client_addr), 'its own machine'), a.backend_start::text
                 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $1::int::oid
                   AND l.objid = $2::int::oid AND l.objsubid = 2
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                &[&LOCK.0, &LOCK.1],
            )
            .await?;
        Ok((got, holder))
    };
    let answer: Result<_, tokio_postgres::Error> = asked.await;
    let (got, holder) = answer.map_err(CatalogError::from)?;
    let (pid, from, since) = match holder {
        Some(r) => (r.get(0), r.get(1), r.get(2)),
        // It has just let go.
        None => (0, "?".to_owned(), "?".to_owned()),
    };
    if got {
        return Ok(Session { client, pid, since });
    }
    Err(ClaimError::Taken { home: home.name.clone(), pid, from, since })
}
