//! Ties the console to what the workers know of its clients, and the moves to the metrics.

use std::sync::Arc;
use std::task::Waker;

use tokio::sync::watch;

use crate::admin::{self, CancelSignal, ConsoleContext, Login};
use crate::client::Registration;
use crate::client::shared::Console;
use crate::moves::Mover;
use crate::telemetry::{MoveFigures, Registry};

struct Key(Registration);

impl CancelSignal for Key {
    fn poll_cancelled(&mut self, waker: &Waker) -> bool {
        self.0.poll_cancelled(waker)
    }

    fn idle(&mut self) {
        self.0.idle();
    }
}

/// Serves the console on the worker that accepted its client.
pub fn new(ctx: ConsoleContext, draining: watch::Receiver<bool>) -> Console {
    Box::new(move |stream, user, key| {
        let (ctx, draining) = (ctx.clone(), draining.clone());
        Box::pin(async move {
            let addr = match stream.tcp().peer_addr() {
                Ok(addr) => addr,
                Err(error) => return tracing::debug!(%error, "console client"),
            };
            let login = Login {
                user,
                addr,
                tls: stream.is_tls(),
                pid: key.pid(),
                secret: key.secret(),
                cancel: Box::new(Key(key)),
                draining,
            };
            if let Err(error) = admin::serve(stream, ctx, login).await {
                tracing::debug!(%addr, %error, "console client");
            }
        })
    })
}

/// Has the running moves appear in the metrics.
pub fn offer_moves(registry: &Registry, mover: &Arc<Mover>) {
    let mover = mover.clone();
    registry.offer_moves(move || {
        mover
            .running()
            .into_iter()
            .map(|p| MoveFigures {
                id: p.move_id.0,
                shard: p.shard,
                source: p.source,
                target: p.target,
                state: p.state.name().to_owned(),
                bytes_total: p.bytes_total,
                bytes_copied: p.bytes_done,
                lag_bytes: p.lag_bytes.unwrap_or(0),
                attempts: p.attempts.into(),
            })
            .collect()
    });
}
