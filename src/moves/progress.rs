//! What SHOW MOVES shows, and what a waiting psql is told.

use std::time::Duration;

use super::machine::{HoldStep, State};
use crate::catalog::moves::{MoveRow, Record};
use crate::topology::{MoveId, NodeId, ShardId};

/// A move as an operator sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub move_id: MoveId,
    pub shard: ShardId,
    pub source: NodeId,
    pub target: NodeId,
    /// Set if this is a ROLLBACK MOVE.
    pub rollback_of: Option<MoveId>,
    pub state: State,
    pub step: Option<&'static str>,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub rows: u64,
    /// WAL the target has not applied yet, in bytes.
    pub lag_bytes: Option<u64>,
    pub eta: Option<Duration>,
    /// How long this move has held the shard's traffic, all its holds together: attempts that led to
    /// nothing, and moments in which writers were slowed, too.
    pub held: Option<Duration>,
    /// The longest of these holds.
    pub longest_hold: Option<Duration>,
    /// Cutovers begun.
    pub attempts: u32,
    pub blocker: Option<String>,
    pub error: Option<String>,
    /// Told once by the preflight.
    pub notices: Vec<String>,
    /// The held phase, step by step.
    pub hold: HoldTimes,
}

impl Progress {
    /// What the catalog knows of a move.
    pub fn from_row(row: &MoveRow) -> Self {
        Self {
            move_id: row.id,
            shard: row.shard,
            source: row.source,
            target: row.target,
            rollback_of: row.rollback_of,
            state: State::from_name(&row.state).unwrap_or(State::Planned),
            step: None,
            bytes_done: if row.state == State::Done.name() { row.bytes_total } else { 0 },
            bytes_total: row.bytes_total,
            rows: row.rows_total,
            lag_bytes: None,
            eta: None,
            held: row.held,
            longest_hold: row.longest_hold,
            attempts: row.attempts,
            blocker: row.blocker.clone(),
            error: row.error.clone(),
            notices: Vec::new(),
            hold: HoldTimes::default(),
        }
    }
}

impl Progress {
    /// Traffic was held for this long once more.
    pub fn add_hold(&mut self, hold: Duration) {
        self.held = Some(self.held.unwrap_or_default() + hold);
        self.longest_hold = self.longest_hold.max(Some(hold));
    }

    /// What the catalog is told of it.
    pub fn to_record(&self) -> Record<'_> {
        Record {
            state: self.state.name(),
            step: self.step,
            attempts: self.attempts,
            held: self.held,
            longest_hold: self.longest_hold,
            bytes_total: self.bytes_total,
            rows_total: self.rows,
            error: self.error.as_deref(),
            blocker: self.blocker.as_deref(),
        }
    }
}

/// How long each step of the last held phase took. Detach and catalog run side by side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoldTimes(Vec<(HoldStep, Duration)>);

impl HoldTimes {
    pub fn push(&mut self, step: HoldStep, took: Duration) {
        self.0.push((step, took));
    }

    pub fn of(&self, step: HoldStep) -> Option<Duration> {
        self.0.iter().find(|(s, _)| *s == step).map(|(_, d)| *d)
    }

    pub fn iter(&self) -> impl Iterator<Item = (HoldStep, Duration)> + '_ {
        self.0.iter().copied()
    }
}

/// From the bytes copied so far to the time the rest will take.
pub fn eta(done: u64, total: u64, since: Duration) -> Option<Duration> {
    if done == 0 || total <= done {
        return None;
    }
    let rest = (total - done) as f64 / done as f64;
    Duration::try_from_secs_f64(since.as_secs_f64() * rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_in_proportion() {
        let s = Duration::from_secs;
        assert_eq!(eta(25, 100, s(10)), Some(s(30)));
        assert_eq!(eta(0, 100, s(10)), None);
        assert_eq!(eta(100, 100, s(10)), None);
        assert_eq!(eta(120, 100, s(10)), None, "the target may be larger than the source");
    }
}
