//! Long texts are analysed on threads of their own, as many at a time as there is memory for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::aside::cancelled;
use super::ending::End;
use super::relay::Client;
use crate::router::analysis::{Analysed, Order};
use crate::wire::backend::Report;

/// The unit in which memory is given out, in bytes.
const UNIT: usize = 64 << 10;
/// So many texts at a time, however little each needs: they take the processors from the workers.
const MOST: usize = 8;

/// The memory for texts under analysis. Who comes first is served first.
#[derive(Clone)]
pub struct Analyses {
    free: Arc<Semaphore>,
    all: usize,
}

impl Analyses {
    /// `bytes` for all texts together.
    pub fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(MOST, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { free: Arc::new(Semaphore::new(units)), all: units }
    }

    /// Has a text analysed; `None`: its thread has failed.
    async fn carry_out(self, order: Order) -> Option<Analysed> {
        let (order, size) = spawn_blocking(move || {
            let size = order.size();
            (order, size)
        })
        .await
        .ok()?;
        let units = size.memory().div_ceil(UNIT).max(self.all / MOST);
        if units > self.all {
            return Some(order.is_too_large(self.all * UNIT));
        }
        let permit: OwnedSemaphorePermit =
            self.free.acquire_many_owned(u32::try_from(units).ok()?).await.ok()?;
        // It goes on to its end when the client no longer waits, and holds its place that long.
        let made = spawn_blocking(move || {
            let made = order.carry_out();
            drop(permit);
            made
        });
        made.await.ok()
    }
}

impl Client {
    /// Has the text of the message in front analysed.
    pub(super) async fn analyse(&mut self, order: Order) -> Result<(), End> {
        let analyses = self.worker.shared.analyses.clone();
        let mut made = std::pin::pin!(analyses.carry_out(order));
        let aside = self.wait_aside(|cx| made.as_mut().poll(cx)).await?;
        match aside.unless_cancelled() {
            Some(Some(analysed)) => self.parts.session.analysed(analysed),
            Some(None) => self.refuse_front(
                Report::error("54000", "the statement could not be analysed")
                    .hint("Split it, or simplify it."),
            ),
            None => self.refuse_front(cancelled()),
        }
        Ok(())
    }
}
