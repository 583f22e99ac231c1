//! One instant for a read over several nodes, as a machine without IO.
//!
//! Each node takes its snapshot when it binds the statement, one a little later than the other. Without
//! more, a transaction over two nodes could be seen on one of them and not on the other, and an effect
//! without its cause. So while a read binds on its nodes, which is a [`Look`], no commit is sent:
//!
//! ```text
//!   reader   look ──► Bind to all ──► bound by all: the look ends ──► Execute, whenever
//!   writer   COMMIT, or a write that is a transaction by itself ──► Held while a look is open
//!   commit   of several writers: an Ending from the decision until the last of them has been told;
//!            a look waits for those of its nodes, and they wait for looks
//! ```
//!
//! A commit of one writer that was sent before the look needs no waiting for: its node is asked once, and
//! what depends on it is sent later, hence held. Every look and every commit that wait take turns, so
//! neither starves the other; and a look that takes too long, as a Bind that waits for a lock whose
//! holder cannot commit, loses its hold on commits ([`Look::end`]) and is begun anew.
//!
//! An [`Ending`] whose session was lost before all were told stands until the recovery of prepared
//! transactions has been to their nodes ([`Sights::recovered`]).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::topology::NodeId;

/// How long a first look may hold commits; each further one of the same read thrice as long.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a look waits for what recovery is to end.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long a look that waits keeps further transactions from being decided, and then does not.
const TURN: Duration = Duration::from_millis(50);

/// It must wait: for [`Sights::poll_changed`], and not beyond `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Held {
    version: u64,
    pub until: Instant,
}

/// Why a read cannot look now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    Held(Held),
    /// A transaction that was decided is still to be ended on this node, and recovery has had its time.
    Lost(NodeId),
}

/// The looks and endings of one process.
#[derive(Debug, Default)]
pub struct Sights {
    /// Looks that are open: without any, commits need not lock.
    open: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Another one after everything that somebody may wait for.
    version: u64,
    next: u64,
    looks: Vec<Open>,
    /// A commit waits: no further look before those that are open have ended.
    commit_waits: bool,
    endings: Vec<Told>,
    /// When a look that waits for endings came, whose turn it is for [`TURN`].
    look_waits: Option<Instant>,
    waiting: Vec<Waker>,
}

#[derive(Debug)]
struct Open {
    id: u64,
    until: Instant,
}

/// A decided transaction, and who of it has not been told yet.
#[derive(Debug)]
struct Told {
    id: u64,
    untold: Vec<NodeId>,
    lost: bool,
    /// When a read has met it as lost.
    met: Option<Instant>,
}

impl State {
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Who waits may try again.
    fn changed(&mut self) {
        self.version += 1;
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn held(&self, until: Instant) -> Held {
        Held { version: self.version, until }
    }
}

impl Sights {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, state: &mut State, keep: impl FnMut(&Open) -> bool) {
        state.looks.retain(keep);
        self.open.store(state.looks.len(), Ordering::Release);
        if state.looks.is_empty() {
            state.commit_waits = false;
            state.changed();
        }
    }

    /// Whether a commit may be sent now.
    ///
    /// # Errors
    /// A read is looking.
    pub fn commits(&self, now: Instant) -> Result<(), Held> {
        if self.open.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        self.waits_for_looks(&mut self.lock(), now)
    }

    fn waits_for_looks(&self, state: &mut State, now: Instant) -> Result<(), Held> {
        if state.looks.iter().any(|l| l.until <= now) {
            self.close(state, |l| l.until > now);
        }
        let Some(until) = state.looks.iter().map(|l| l.until).min() else { return Ok(()) };
        state.commit_waits = true;
        Err(state.held(until))
    }

    /// A transaction with these writers is about to be decided. One that has fewer than two is seen whole
    /// or not at all.
    ///
    /// # Errors
    /// A read is looking, or about to.
    pub fn decides(self: &Arc<Self>, writers: &[NodeId], now: Instant) -> Result<Ending, Held> {
        let mut state = self.lock();
        self.waits_for_looks(&mut state, now)?;
        let several = writers.len() > 1;
        if let Some(since) = state.look_waits.filter(|since| several && now < *since + TURN) {
            return Err(state.held(since + TURN));
        }
        let id = state.id();
        if several {
            state.endings.push(Told { id, untold: writers.to_vec(), lost: false, met: None });
        }
        Ok(Ending { sights: self.clone(), id })
    }

    /// A read is about to bind on these nodes. `tries`: how often it has in vain.
    ///
    /// # Errors
    /// A transaction is being ended on one of them, or a commit waits for its turn.
    pub fn look(
        self: &Arc<Self>,
        nodes: &[NodeId],
        tries: u32,
        now: Instant,
    ) -> Result<Look, Unseen> {
        let mut state = self.lock();
        if state.commit_waits {
            self.waits_for_looks(&mut state, now).map_err(Unseen::Held)?;
        }
        let owes = |t: &Told| t.untold.iter().copied().find(|n| nodes.contains(n));
        let owing = state.endings.iter_mut().find_map(|t| owes(t).map(|node| (t, node)));
        if let Some((told, node)) = owing {
            let lost = told.lost;
            if lost && now > *told.met.get_or_insert(now) + RECOVERY {
                return Err(Unseen::Lost(node));
            }
            // What waits for recovery is waited for by nobody else.
            if !lost && state.look_waits.is_none_or(|since| now >= since + 2 * TURN) {
                state.look_waits = Some(now);
            }
            return Err(Unseen::Held(state.held(now + TURN)));
        }
        state.look_waits = None;
        let id = state.id();
        state.looks.push(Open { id, until: now + PATIENCE * 3u32.pow(tries.min(4)) });
        self.open.store(state.looks.len(), Ordering::Release);
        Ok(Look { sights: self.clone(), id })
    }

    /// Whether what was waited for may have come; else `waker` is woken when it may.
    pub fn poll_changed(&self, held: &Held, waker: &Waker) -> Poll<()> {
        let mut state = self.lock();
        if state.version != held.version {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|w| w.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        Poll::Pending
    }

    /// What recovery is about to look for: all that is lost by now.
    pub fn lost(&self) -> Lost {
        Lost { before: self.lock().next }
    }

    /// Recovery has ended all that was lost on this node when it began.
    pub fn recovered(&self, node: NodeId, lost: &Lost) {
        let mut state = self.lock();
        for ending in state.endings.iter_mut().filter(|e| e.lost && e.id <= lost.before) {
            ending.untold.retain(|n| *n != node);
        }
        let before = state.endings.len();
        state.endings.retain(|e| !e.untold.is_empty());
        if state.endings.len() < before {
            state.changed();
        }
    }

    /// Somebody before this process may have left transactions on these nodes.
    pub fn starts(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut state = self.lock();
        let id = state.id();
        let untold: Vec<NodeId> = nodes.into_iter().collect();
        if !untold.is_empty() {
            state.endings.push(Told { id, untold, lost: true, met: None });
        }
    }
}

/// What had been lost at some time.
#[derive(Debug, Clone, Copy)]
pub struct Lost {
    before: u64,
}

/// A read that binds on its nodes; commits wait until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Look {
    sights: Arc<Sights>,
    id: u64,
}

impl Look {
    /// All nodes have bound. False: commits have gone by meanwhile, and the nodes may have bound at
    /// different instants.
    pub fn end(self) -> bool {
        self.sights.lock().looks.iter().any(|l| l.id == self.id)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut state = self.sights.lock();
        if state.looks.iter().any(|l| l.id == self.id) {
            self.sights.close(&mut state, |l| l.id != self.id);
        }
    }
}

/// A transaction of several writers that is being decided. Dropped before it is over, it is lost.
#[derive(Debug)]
#[must_use]
pub struct Ending {
    sights: Arc<Sights>,
    id: u64,
}

impl Ending {
    /// All have been told, or nothing was decided and nothing is left.
    pub fn over(self) {
        let mut state = self.sights.lock();
        state.endings.retain(|e| e.id != self.id);
        state.changed();
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.sights.lock();
        if let Some(ending) = state.endings.iter_mut().find(|e| e.id == self.id) {
            ending.lost = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn at(ms: u64) -> impl Fn(Instant) -> Instant {
        move |start| start + Duration::from_millis(ms)
    }

    fn held(look: Result<Look, Unseen>) -> Held {
        match look {
            Err(Unseen::Held(held)) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commits_wait_while_a_read_looks() {
        let (sights, now) = (Arc::<Sights>::default(), Instant::now());
        assert_eq!(sights.commits(now), Ok(()));
        let look = sights.look(&[A, B], 0, now).unwrap();
        let held = sights.commits(now).unwrap_err();
        assert!(sights.poll_changed(&held, Waker::noop()).is_pending());
        assert!(sights.decides(&[A, B], now).is_err());
        assert!(look.end());
        assert!(sights.poll_changed(&held, Waker::noop()).is_ready());
        assert_eq!(sights.commits(now), Ok(()));
    }

    #[test]
    fn a_look_that_takes_too_long_holds_nobody_and_knows_it() {
        let (sights, start) = (Arc::<Sights>::default(), Instant::now());
        let slow = sights.look(&[A, B], 0, start).unwrap();
        let quick = sights.look(&[A, B], 0, at(90)(start)).unwrap();
        let held = sights.commits(at(99)(start)).unwrap_err();
        assert_eq!(held.until, at(100)(start));
        assert!(sights.commits(at(101)(start)).is_err(), "the other one is still looking");
        assert!(quick.end());
        assert_eq!(sights.commits(at(102)(start)), Ok(()));
        assert!(!slow.end());
        // The next attempt has more time.
        let again = sights.look(&[A, B], 1, at(102)(start)).unwrap();
        assert!(sights.commits(at(390)(start)).is_err());
        drop(again);
    }

    #[test]
    fn a_commit_that_waits_keeps_further_looks_out() {
        let (sights, now) = (Arc::<Sights>::default(), Instant::now());
        let first = sights.look(&[A, B], 0, now).unwrap();
        let second = sights.look(&[A, C], 0, now).unwrap();
        assert!(sights.commits(now).is_err());
        let held = held(sights.look(&[A, B], 0, now));
        drop(first);
        assert!(sights.poll_changed(&held, Waker::noop()).is_pending());
        assert!(sights.commits(now).is_err(), "the second one is open");
        drop(second);
        assert!(sights.poll_changed(&held, Waker::noop()).is_ready());
        assert!(sights.look(&[A, B], 0, now).is_ok());
    }

    #[test]
    fn a_look_waits_for_what_is_being_ended_on_its_nodes_and_has_its_turn() {
        let (sights, start) = (Arc::<Sights>::default(), Instant::now());
        let ending = sights.decides(&[A, B], start).unwrap();
        assert!(sights.look(&[C], 0, start).is_ok());
        let held = held(sights.look(&[B, C], 0, start));
        // Nothing further is decided before it, for its turn's length.
        assert!(sights.decides(&[A, C], at(49)(start)).is_err());
        let other = sights.decides(&[A, C], at(51)(start)).unwrap();
        assert!(sights.look(&[B, C], 0, at(60)(start)).is_err());
        assert!(sights.decides(&[A, B], at(61)(start)).map(Ending::over).is_ok());
        ending.over();
        other.over();
        assert!(sights.poll_changed(&held, Waker::noop()).is_ready());
        assert!(sights.look(&[B, C], 0, at(62)(start)).is_ok());
    }

    #[test]
    fn what_is_lost_stands_until_recovery_was_there() {
        let (sights, now) = (Arc::<Sights>::default(), Instant::now());
        let before = sights.lost();
        drop(sights.decides(&[A, B], now).unwrap());
        let _ = held(sights.look(&[A, C], 0, now));
        assert_eq!(sights.look(&[A, C], 0, at(5001)(now)).unwrap_err(), Unseen::Lost(A));
        assert!(sights.decides(&[A], now).map(Ending::over).is_ok(), "and holds nobody else");
        sights.recovered(A, &before);
        assert!(
            sights.look(&[A, C], 0, now).is_err(),
            "a recovery that began before may have missed it"
        );
        let lost = sights.lost();
        sights.recovered(A, &lost);
        assert!(sights.look(&[A, C], 0, now).is_ok());
        assert!(sights.look(&[B, C], 0, now).is_err());
        sights.recovered(B, &lost);
        assert!(sights.look(&[B, C], 0, now).is_ok());
        sights.starts([A]);
        let _ = held(sights.look(&[A], 0, now));
    }
}
