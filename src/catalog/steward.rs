//! Whether this process may change the catalog.
//!
//! While one pgshunt takes over from another, both route statements: the old one its open
//! transactions, the new one everything else. Neither holds back the other's clients, so neither may
//! change where a shard is. The old one gives the right up before it lets go of its sockets; the new
//! one has it when the old one is gone.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The predecessor still has the right.
    Coming,
    Ours,
    /// The successor will have it.
    Gone,
}

/// The right to change the catalog. While a [`Permit`] lives, it is not given up.
#[derive(Debug)]
pub struct Steward {
    stage: watch::Sender<Stage>,
    permits: Arc<RwLock<()>>,
}

/// One change of the catalog is under way.
#[derive(Debug)]
pub struct Permit {
    _held: OwnedRwLockReadGuard<()>,
}

/// The successor has the right, or will have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another pgshunt takes over from this one")]
pub struct GivenUp;

impl Default for Steward {
    /// Nobody else is there.
    fn default() -> Self {
        Self { stage: watch::Sender::new(Stage::Ours), permits: Arc::default() }
    }
}

impl Steward {
    /// The right belongs to a predecessor until [`Steward::take`].
    pub fn wait_for_predecessor(&self) {
        self.stage.send_replace(Stage::Coming);
    }

    /// The predecessor is gone; or the successor, to whom the right was given up.
    pub fn take(&self) {
        self.stage.send_replace(Stage::Ours);
    }

    /// Waits for the changes under way and refuses new ones.
    pub async fn give_up(&self) {
        self.stage.send_replace(Stage::Gone);
        drop(self.permits.write().await);
    }

    /// Until the right is not a predecessor's any more.
    pub async fn predecessor_gone(&self) {
        // The sender is `self`: it does not go while this waits.
        let _ = self.stage.subscribe().wait_for(|s| *s != Stage::Coming).await;
    }

    /// For one change; waits for the predecessor to end.
    ///
    /// # Errors
    /// The right has been given up.
    pub async fn permit(&self) -> Result<Permit, GivenUp> {
        let mut stage = self.stage.subscribe();
        loop {
            // The sender is `self`: it does not go while this waits.
            let _ = stage.wait_for(|s| *s != Stage::Coming).await;
            let held = self.permits.clone().read_owned().await;
            // It may have been given up while this waited for the lock.
            match *self.stage.borrow() {
                Stage::Ours => return Ok(Permit { _held: held }),
                Stage::Gone => return Err(GivenUp),
                Stage::Coming => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(f: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        f.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn the_right_is_given_up_between_two_changes() {
        let steward = Steward::default();
        let permit = steward.permit().await.unwrap();
        {
            let mut leaving = pin!(steward.give_up());
            assert!(poll(leaving.as_mut()).is_pending(), "a change is under way");
            let mut late = pin!(steward.permit());
            assert!(!matches!(poll(late.as_mut()), Poll::Ready(Ok(_))), "no new one begins");
            drop(permit);
            leaving.await;
            assert_eq!(late.await.err(), Some(GivenUp));
        }
        steward.take();
        assert!(steward.permit().await.is_ok(), "the successor did not come");
    }

    #[tokio::test]
    async fn a_successor_waits() {
        let steward = Steward::default();
        steward.wait_for_predecessor();
        let mut change = pin!(steward.permit());
        assert!(poll(change.as_mut()).is_pending());
        steward.take();
        assert!(change.await.is_ok());
    }
}
