//! The marker: a row that follows every earlier change from one node to the other.
//!
//! It is written to a published table with synchronous_commit = on, so its place in the WAL is
//! behind all that committed before it. Where it shows, they have been applied.

use std::time::{Duration, Instant};

use tokio_postgres::Statement;

use super::error::StepError;
use super::link::Link;
use super::plan::Plan;

/// Writes numbered markers on the source and waits for them on the target.
#[derive(Debug)]
pub struct Marker {
    table: String,
    side: &'static str,
    next: i64,
    wait: Statement,
}

impl Marker {
    pub async fn prepare(source: &Link, target: &Link, plan: &Plan) -> Result<Self, StepError> {
        let (table, side) = (plan.marker(), plan.side());
        let next: i64 = source
            .one(
                "reading the last marker",
                &format!("SELECT coalesce(max(seq), 0) + 1 FROM {table} WHERE side = $1"),
                &[&side],
            )
            .await?
            .get(0);
        let wait = target.told(
            "preparing to wait for a marker",
            target
                .client
                .prepare(&format!("SELECT FROM {table} WHERE side = $1 AND seq = $2"))
                .await,
        )?;
        Ok(Self { table, side, next, wait })
    }

    /// The statement that writes the next marker, and its number.
    pub fn write(&mut self) -> (String, i64) {
        let seq = self.next;
        self.next += 1;
        let sql = format!("INSERT INTO {} (side, seq) VALUES ('{}', {seq})", self.table, self.side);
        (sql, seq)
    }

    /// Whether the marker came to the target before `deadline`.
    pub async fn arrived(
        &self,
        target: &Link,
        seq: i64,
        deadline: Instant,
    ) -> Result<bool, StepError> {
        let since = Instant::now();
        loop {
            let row = target.client.query_opt(&self.wait, &[&self.side, &seq]).await;
            if target.told("waiting for a marker", row)?.is_some() {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            // Mostly it takes a millisecond or two, which is less than a timer can tell apart.
            if now - since > Duration::from_millis(5) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// A marker's round trip, if it is shorter than `limit`.
    pub async fn round_trip(
        &mut self,
        source: &Link,
        target: &Link,
        limit: Duration,
    ) -> Result<Option<Duration>, StepError> {
        let since = Instant::now();
        let (sql, seq) = self.write();
        source.batch("writing a marker", &sql).await?;
        let arrived = self.arrived(target, seq, since + limit).await?;
        Ok(arrived.then(|| since.elapsed()))
    }
}
