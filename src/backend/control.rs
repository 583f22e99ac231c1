//! Control connections: pgshunt's own sessions on the nodes, as the service role.

use std::time::Duration;

use tokio_postgres::{Client, Config as PgConfig, NoTls};

use crate::config::Config;
use crate::topology::Node;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("node {node} ({host}:{port}): {source}")]
    Postgres { node: String, host: String, port: u16, source: tokio_postgres::Error },
    #[error("node {node} ({host}:{port}): no answer within {after:?}")]
    Timeout { node: String, host: String, port: u16, after: Duration },
}

/// Opens control connections to nodes.
#[derive(Debug, Clone)]
pub struct Connector {
    database: String,
    user: String,
    password: Option<String>,
    timeout: Duration,
}

impl Connector {
    pub fn new(config: &Config) -> Self {
        Self {
            database: config.cluster.database.clone(),
            user: config.cluster.service_user.clone(),
            password: config.cluster.service_password.clone(),
            timeout: config.pool.connect_timeout,
        }
    }

    /// A connection to the cluster's database on `node`, driven by a task of the current runtime.
    pub async fn connect(&self, node: &Node) -> Result<Client, ConnectError> {
        let mut pg = PgConfig::new();
        pg.host(&node.host)
            .port(node.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name("pgshunt control");
        if let Some(p) = &self.password {
            pg.password(p);
        }
        let failed = |source| ConnectError::Postgres {
            node: node.name.clone(),
            host: node.host.clone(),
            port: node.port,
            source,
        };
        let (client, connection) = tokio::time::timeout(self.timeout, pg.connect(NoTls))
            .await
            .map_err(|_| ConnectError::Timeout {
                node: node.name.clone(),
                host: node.host.clone(),
                port: node.port,
                after: self.timeout,
            })?
            .map_err(failed)?;
        let name = node.name.clone();
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(node = %name, error = %e, "control connection ended");
            }
        });
        Ok(client)
    }

    /// A libpq connection string to `node`, for `CREATE SUBSCRIPTION`. Values are quoted by libpq's
    /// rules; the caller still quotes the whole as an SQL literal.
    pub fn conninfo(&self, node: &Node) -> String {
        let quote = |s: &str| format!("'{}'", s.replace('\\', "\\\\").replace('\'', "\\'"));
        let mut text = format!(
            "host={} port={} user={} dbname={}",
            quote(&node.host),
            node.port,
            quote(&self.user),
            quote(&self.database)
        );
        if let Some(p) = &self.password {
            text += &format!(" password={}", quote(p));
        }
        text
    }
}
