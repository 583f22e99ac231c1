//! What the console is told of its clients' cancel keys, and the metrics of the moves.

use std::sync::Arc;
use std::task::Waker;

use crate::admin::CancelSignal;
use crate::client::shared::Registration;
use crate::moves::Mover;
use crate::telemetry::{MoveFigures, Registry};

/// A console client's cancel key.
pub struct Key(pub Registration);

impl CancelSignal for Key {
    fn poll_cancelled(&mut self, waker: &Waker) -> bool {
        self.0.poll_cancelled(waker)
    }

    fn idle(&mut self) {
        self.0.idle();
    }
}

/// Has the running moves appear in the metrics.
pub fn offer_moves(registry: &Registry, mover: &Arc<Mover>) {
    let mover = Arc::downgrade(mover);
    registry.offer_moves(move || {
        let figures = |p: crate::moves::Progress| MoveFigures {
            id: p.move_id.0,
            shard: p.shard,
            source: p.source,
            target: p.target,
            state: p.state.name().to_owned(),
            bytes_total: p.bytes_total,
            bytes_copied: p.bytes_done,
            lag_bytes: p.lag_bytes.unwrap_or(0),
            attempts: p.attempts.into(),
        };
        let running = mover.upgrade().map(|m| m.running()).unwrap_or_default();
        running.into_iter().map(figures).collect()
    });
}
