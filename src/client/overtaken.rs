//! A cancel comes on a connection of its own and may overtake the statement it means, which is still in
//! its client's socket. So before it is decided that there is nothing to cancel, the client's task takes
//! what was sent before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// How long a cancel waits for the client's task; then it goes by what is known.
const PATIENCE: Duration = Duration::from_millis(200);

/// Between who cancels and the client's task.
#[derive(Debug, Default)]
pub struct Overtaken {
    /// Cancels that have asked so far.
    asked: AtomicU64,
    /// Those of them for which the socket has been emptied.
    taken: AtomicU64,
    client: AtomicWaker,
    answered: Notify,
}

impl Overtaken {
    /// Until the client's task has taken what was in its socket when this was called.
    pub async fn caught_up(&self) {
        let mine = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.client.wake();
        let answered = async {
            loop {
                let mut answer = std::pin::pin!(self.answered.notified());
                // From here on no answer is missed.
                answer.as_mut().enable();
                if self.taken.load(Ordering::Acquire) >= mine {
                    return;
                }
                answer.await;
            }
        };
        // A task that does something else for longer is past what a cancel could mean.
        let _ = tokio::time::timeout(PATIENCE, answered).await;
    }

    /// The client's task has nothing to do until it is woken; `is_empty`: nor is there anything in the
    /// client's socket that it will read.
    pub fn rests(&self, waker: &Waker, is_empty: impl FnOnce() -> bool) {
        self.client.register(waker);
        let asked = self.asked.load(Ordering::Acquire);
        if asked != self.taken.load(Ordering::Acquire) && is_empty() {
            self.taken.store(asked, Ordering::Release);
            self.answered.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_cancel_waits_for_what_was_sent_before_it() {
        let look = Arc::new(Overtaken::default());
        look.rests(Waker::noop(), || panic!("nobody has asked"));
        let asks = tokio::spawn({
            let look = look.clone();
            async move { look.caught_up().await }
        });
        while look.asked.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        look.rests(Waker::noop(), || false);
        tokio::task::yield_now().await;
        assert!(!asks.is_finished(), "something is in the socket yet");
        look.rests(Waker::noop(), || true);
        asks.await.unwrap();
        look.rests(Waker::noop(), || panic!("all have their answer"));
    }
}
