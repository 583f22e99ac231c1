//! A move's connections. Each bears the move's name, so that a successor can end what its dead
//! predecessor left running on a node.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::error::StepError;
use super::sql::literal;
use crate::backend::control::Connector;
use crate::topology::{MoveId, Node};

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection to one node that says what it was doing when something fails.
#[derive(Debug)]
pub struct Link {
    pub node: Arc<Node>,
    pub client: Client,
}

fn application_name(id: MoveId) -> String {
    format!("pgshunt move {id}")
}

impl Link {
    pub async fn open(
        connector: &Connector,
        node: &Arc<Node>,
        id: MoveId,
    ) -> Result<Self, StepError> {
        let client = connector.connect(node).await?;
        let link = Self { node: node.clone(), client };
        let name = format!("SET application_name = {}", literal(&application_name(id)));
        link.batch("opening a session", &name).await?;
        Ok(link)
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Reconnects if the connection was lost.
    pub async fn ensure(&mut self, connector: &Connector, id: MoveId) -> Result<(), StepError> {
        if self.is_closed() {
            *self = Self::open(connector, &self.node.clone(), id).await?;
        }
        Ok(())
    }

    /// Adds to an error where it happened and what was being done.
    pub fn told<T>(
        &self,
        doing: &str,
        result: Result<T, tokio_postgres::Error>,
    ) -> Result<T, StepError> {
        result.map_err(|source| StepError::Sql {
            node: self.node.name.clone(),
            doing: doing.into(),
            source,
        })
    }

    pub async fn batch(&self, doing: &str, sql: &str) -> Result<(), StepError> {
        self.told(doing, self.client.batch_execute(sql).await)
    }

    /// Statements in one transaction, sent at once. After an error nothing of it is left open.
    pub async fn transaction(&self, doing: &str, sql: &str) -> Result<(), StepError> {
        let done = self.batch(doing, &format!("BEGIN; {sql}; COMMIT")).await;
        if done.is_err() && !self.is_closed() {
            // Its own failure only says that the connection is gone, and so is the transaction.
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        done
    }

    /// A transaction on a leaf that others use: asks for its locks very briefly, and again, because
    /// whoever arrives behind a waiting lock waits too.
    pub async fn gently(&self, doing: &str, sql: &str) -> Result<(), StepError> {
        const TRIES: u32 = 40;
        let mut tried = 0;
        loop {
            let sql = format!("SET LOCAL lock_timeout = '10ms'; {sql}");
            match self.transaction(doing, &sql).await {
                Err(e) if e.is_lock_conflict() && tried < TRIES => {
                    tried += 1;
                    // Soon at first: traffic may be held. Seldom later: a long reader is there.
                    tokio::time::sleep(Duration::from_millis(u64::from(tried * tried).min(500)))
                        .await;
                }
                other => return other,
            }
        }
    }

    pub async fn query(
        &self,
        doing: &str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StepError> {
        self.told(doing, self.client.query(sql, params).await)
    }

    pub async fn one(&self, doing: &str, sql: &str, params: Params<'_>) -> Result<Row, StepError> {
        self.told(doing, self.client.query_one(sql, params).await)
    }

    pub async fn opt(
        &self,
        doing: &str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Option<Row>, StepError> {
        self.told(doing, self.client.query_opt(sql, params).await)
    }

    pub async fn exists(
        &self,
        doing: &str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<bool, StepError> {
        Ok(self.opt(doing, sql, params).await?.is_some())
    }

    /// Ends every other session of this move on the node, save `spared`, and waits until they are
    /// gone: after this, what the node shows is what it will stay.
    pub async fn end_others(&self, id: MoveId, spared: &Link) -> Result<(), StepError> {
        let doing = "ending what an earlier attempt left running";
        let spared: Option<i32> = if spared.node.id == self.node.id && !spared.is_closed() {
            Some(spared.one(doing, "SELECT pg_backend_pid()", &[]).await?.get(0))
        } else {
            None
        };
        let name = application_name(id);
        loop {
            let left = self
                .query(
                    doing,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name = $1 AND pid <> pg_backend_pid() \
                     AND pid IS DISTINCT FROM $2",
                    &[&name, &spared],
                )
                .await?;
            if left.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
