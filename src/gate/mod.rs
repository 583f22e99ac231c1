//! The gate: what holds transactions for a shard during a cutover.
//!
//! Each worker thread has a gate of its own ([`machine::Gate`], without locks and without IO), and
//! every transaction holds a ticket of its worker's gate from its first statement to its end.
//! [`Gates`] is the other end: a cutover, or the console's PAUSE, closes the gates of all workers
//! and waits until each has seen the last matching transaction leave. A closed set of gates is a
//! value, [`Closed`]; dropping it opens them, so no path out of a cutover can leave traffic held.
//! Only where opening could give a wrong answer, because it is not known who serves, is it
//! [sealed](Closed::seal): then it stays closed until somebody who knows opens it.
//!
//! What a hold stops is told by its [`Scope`]: a shard's hold stops the statements of that shard
//! and those that go to every node of its group, since a leaf attached on two nodes would be
//! counted twice. Nothing else is stopped.

pub mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

pub use machine::{Blocker, HoldId, Scope, Touch};

/// What [`Gates`] tells a worker.
#[derive(Debug)]
pub enum Command {
    Close {
        hold: HoldId,
        scope: Scope,
        /// The worker opens by itself then: a dead coordinator freezes nothing. `None`: PAUSE.
        until: Option<Instant>,
        /// Sent once, when no matching transaction is left on this worker.
        drained: mpsc::UnboundedSender<HoldId>,
    },
    /// The worker no longer opens by itself.
    Seal {
        hold: HoldId,
        /// Whether the hold was still in force.
        answer: mpsc::UnboundedSender<bool>,
    },
    Open {
        hold: HoldId,
    },
    Blockers {
        scope: Scope,
        answer: oneshot::Sender<Vec<Blocker>>,
    },
}

/// The transactions that kept a gate from draining in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} open transaction(s) did not end within {waited:?}", blockers.len())]
pub struct Blocked {
    pub waited: Duration,
    pub blockers: Vec<Blocker>,
}

/// The gates of all workers.
#[derive(Debug, Clone)]
pub struct Gates {
    workers: Arc<[mpsc::UnboundedSender<Command>]>,
    next: Arc<AtomicU64>,
}

impl Gates {
    pub fn new(workers: Vec<mpsc::UnboundedSender<Command>>) -> Self {
        Self { workers: workers.into(), next: Arc::new(AtomicU64::new(1)) }
    }

    /// Closes the gates for `scope` and waits until nothing that matches is in flight.
    ///
    /// # Errors
    /// After `drain_timeout` the gates are open again and the blockers are named.
    pub async fn close(
        &self,
        scope: Scope,
        drain_timeout: Duration,
        max_pause: Option<Duration>,
    ) -> Result<Closed, Blocked> {
        let hold = HoldId(self.next.fetch_add(1, Ordering::Relaxed));
        let since = Instant::now();
        let until = max_pause.map(|p| since + p);
        #[expect(clippy::disallowed_methods, reason = "one answer a worker")]
        let (drained, mut acks) = mpsc::unbounded_channel();
        let closed = Closed { gates: self.clone(), hold, since, sealed: false };
        let mut missing = 0;
        for w in self.workers.iter() {
            let command = Command::Close { hold, scope, until, drained: drained.clone() };
            missing += usize::from(w.send(command).is_ok());
        }
        drop(drained);
        let all = async {
            while missing > 0 && acks.recv().await.is_some() {
                missing -= 1;
            }
        };
        if tokio::time::timeout(drain_timeout, all).await.is_ok() {
            return Ok(closed);
        }
        let blockers = self.blockers(scope).await;
        drop(closed);
        Err(Blocked { waited: since.elapsed(), blockers })
    }

    /// Until every worker has come to the end of what it was at: what it decided by something that
    /// was true before this call, it has carried out.
    pub async fn settle(&self) {
        self.blockers(Scope::All).await;
    }

    /// The open transactions that a hold of this scope would have to wait for.
    pub async fn blockers(&self, scope: Scope) -> Vec<Blocker> {
        let mut all = Vec::new();
        for w in self.workers.iter() {
            let (answer, given) = oneshot::channel();
            if w.send(Command::Blockers { scope, answer }).is_ok() {
                all.extend(given.await.unwrap_or_default());
            }
        }
        all
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for w in self.workers.iter() {
            // A worker that is gone holds nobody.
            let _ = w.send(command());
        }
    }
}

/// Proof that nothing matching the scope is in flight, and that nothing will start.
/// Dropping it opens the gates, unless it is sealed.
#[derive(Debug)]
pub struct Closed {
    gates: Gates,
    hold: HoldId,
    since: Instant,
    sealed: bool,
}

impl Closed {
    /// How long the gates have been closed, counted from the first command.
    pub fn held_for(&self) -> Duration {
        self.since.elapsed()
    }

    /// From now on only [`Closed::open`] opens the gates: no worker by itself, and no drop. False
    /// if a worker has opened already.
    pub async fn seal(&mut self) -> bool {
        self.sealed = true;
        #[expect(clippy::disallowed_methods, reason = "one answer a worker")]
        let (answer, mut answers) = mpsc::unbounded_channel();
        self.gates.tell(|| Command::Seal { hold: self.hold, answer: answer.clone() });
        drop(answer);
        let mut held = true;
        while let Some(still) = answers.recv().await {
            held &= still;
        }
        held
    }

    /// Opens the gates and tells how long they were closed.
    pub fn open(mut self) -> Duration {
        self.sealed = false;
        self.held_for()
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        if self.sealed {
            tracing::error!(hold = self.hold.0, "a gate stays closed: it is not known who serves");
            return;
        }
        self.gates.tell(|| Command::Open { hold: self.hold });
    }
}
