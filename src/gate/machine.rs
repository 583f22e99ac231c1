//! One worker's gate, as a machine without IO.
//!
//! ```text
//!   transaction:  enter(touch) ──► Entered ──► enter(touch) ... ──► the ticket is dropped
//!                      └─────────► Held ──(Wake)──► plan again, enter again
//!
//!   hold:         close ──► draining ──(last matching ticket leaves)──► Drained ──► open ──► Wake
//!                              └────────────(until passed)──────────────────────────►┘
//! ```
//!
//! While a hold drains, a transaction that already touched what it holds may go on and finish;
//! whoever did not must wait. Once drained nobody holds a matching ticket, so everybody waits.
//! With no hold in force `enter` writes one touch into the ticket and its drop frees it.
//!
//! A [`Ticket`] leaves the gate when it is dropped, whatever drops it: the end of a transaction, a
//! future that is given up, a panic. The gate notices at its next [`Gate::settle`]; while a hold is in
//! force the drop wakes whoever [watches](Gate::watch) the gate.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

pub use crate::topology::Touch;
use crate::topology::{GroupId, NodeId, ShardId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HoldId(pub u64);

/// What a hold stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Shard { group: GroupId, shard: ShardId },
    Node(NodeId),
    All,
}

impl Scope {
    fn stops(self, touch: Touch) -> bool {
        match (self, touch) {
            (Self::All, _) | (Self::Node(_), Touch::Group(_)) => true,
            (Self::Shard { shard, .. }, Touch::Shard { shard: s, .. }) => shard == s,
            (Self::Shard { group, .. }, Touch::Group(g)) => group == g,
            (Self::Shard { .. }, Touch::Node(_)) => false,
            (Self::Node(n), Touch::Shard { node, .. } | Touch::Node(node)) => n == node,
        }
    }
}

/// A transaction's place in the gate, obtained from [`Gate::ticket`]. Dropping it leaves the gate.
#[derive(Debug)]
pub struct Ticket {
    slot: usize,
    left: Rc<Left>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.left.slots.borrow_mut().push(self.slot);
        if let Some(waker) = self.left.watcher.take() {
            waker.wake();
        }
    }
}

/// The slots whose tickets were dropped since the gate settled last.
#[derive(Debug, Default)]
struct Left {
    slots: RefCell<Vec<usize>>,
    /// Who is woken by the next drop: set while a hold is in force.
    watcher: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Entry {
    Entered,
    /// Wait for [`Effect::Wake`], then plan again: the placement may have changed.
    Held,
}

/// A transaction that keeps a hold from draining.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// The id of SHOW CLIENTS.
    pub client: u64,
    pub open_for: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// No matching transaction is left on this worker.
    Drained(HoldId),
    /// Whoever was held may try again.
    Wake,
}

/// What the gate knows of a ticket.
#[derive(Debug)]
struct Holder {
    client: u64,
    since: Instant,
    touches: Vec<Touch>,
}

#[derive(Debug)]
struct Hold {
    id: HoldId,
    scope: Scope,
    until: Option<Instant>,
    /// Matching tickets still in flight.
    draining: usize,
}

#[derive(Debug, Default)]
pub struct Gate {
    tickets: Vec<Option<Holder>>,
    free: Vec<usize>,
    /// Touch lists of ended transactions, kept so that a new one allocates nothing.
    spare: Vec<Vec<Touch>>,
    left: Rc<Left>,
    holds: Vec<Hold>,
}

impl Gate {
    /// A ticket that has touched nothing yet.
    pub fn ticket(&mut self, now: Instant, client: u64) -> Ticket {
        let holder = Holder { client, since: now, touches: self.spare.pop().unwrap_or_default() };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.tickets[slot] = Some(holder);
                slot
            }
            None => {
                self.tickets.push(Some(holder));
                self.tickets.len() - 1
            }
        };
        Ticket { slot, left: self.left.clone() }
    }

    /// A ticket of a transaction that began in another process and has touched this already.
    pub fn adopt(&mut self, now: Instant, client: u64, touches: Vec<Touch>) -> Ticket {
        for hold in self.holds.iter_mut().filter(|h| h.draining > 0) {
            // One that has drained waits for nobody any more.
            hold.draining += usize::from(touches.iter().any(|&had| hold.scope.stops(had)));
        }
        let ticket = self.ticket(now, client);
        if let Some(t) = &mut self.tickets[ticket.slot] {
            t.touches = touches;
        }
        ticket
    }

    /// What the transaction has touched.
    pub fn touches(&self, ticket: &Ticket) -> &[Touch] {
        self.tickets[ticket.slot].as_ref().map_or(&[], |t| &t.touches)
    }

    /// Asks to touch something more. `Held` leaves the ticket as it was.
    pub fn enter(&mut self, ticket: &Ticket, touch: Touch) -> Entry {
        #[expect(
            clippy::expect_used,
            reason = "only `leave` ends a ticket, and it takes it by value"
        )]
        let t = self.tickets[ticket.slot].as_mut().expect("a Ticket names a live holder");
        for hold in &self.holds {
            if hold.scope.stops(touch) && !t.touches.iter().any(|&had| hold.scope.stops(had)) {
                return Entry::Held;
            }
        }
        if !t.touches.contains(&touch) {
            t.touches.push(touch);
        }
        Entry::Entered
    }

    /// Whether a new transaction touching this would be held: asked before work is pipelined
    /// behind a transaction whose end has not been seen yet.
    pub fn would_hold(&self, touch: Touch) -> bool {
        self.holds.iter().any(|h| h.scope.stops(touch))
    }

    /// Takes out the tickets that were dropped.
    pub fn settle(&mut self, effects: &mut Vec<Effect>) {
        loop {
            let Some(slot) = self.left.slots.borrow_mut().pop() else { return };
            let Some(gone) = self.tickets[slot].take() else { continue };
            self.free.push(slot);
            for hold in &mut self.holds {
                if hold.draining > 0 && gone.touches.iter().any(|&had| hold.scope.stops(had)) {
                    hold.draining -= 1;
                    if hold.draining == 0 {
                        effects.push(Effect::Drained(hold.id));
                    }
                }
            }
            let mut touches = gone.touches;
            touches.clear();
            self.spare.push(touches);
        }
    }

    /// Settles, and has `waker` woken by the next drop of a ticket if a hold is in force.
    pub fn watch(&mut self, waker: &Waker, effects: &mut Vec<Effect>) {
        self.settle(effects);
        self.left.watcher.replace((!self.holds.is_empty()).then(|| waker.clone()));
    }

    pub fn close(
        &mut self,
        id: HoldId,
        scope: Scope,
        until: Option<Instant>,
        effects: &mut Vec<Effect>,
    ) {
        self.settle(effects);
        let draining = self
            .tickets
            .iter()
            .flatten()
            .filter(|t| t.touches.iter().any(|&had| scope.stops(had)))
            .count();
        if draining == 0 {
            effects.push(Effect::Drained(id));
        }
        self.holds.push(Hold { id, scope, until, draining });
    }

    /// From now on the hold ends by [`Gate::open`] only. False: it has ended already.
    #[must_use]
    pub fn seal(&mut self, id: HoldId) -> bool {
        match self.holds.iter_mut().find(|h| h.id == id) {
            Some(hold) => {
                hold.until = None;
                true
            }
            None => false,
        }
    }

    /// Opening a hold that is not in force is no error: `until` may have opened it.
    pub fn open(&mut self, id: HoldId, effects: &mut Vec<Effect>) {
        let before = self.holds.len();
        self.holds.retain(|h| h.id != id);
        if self.holds.len() < before {
            effects.push(Effect::Wake);
        }
    }

    /// Opens the holds whose time is over.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let before = self.holds.len();
        self.holds.retain(|h| h.until.is_none_or(|u| u > now));
        if self.holds.len() < before {
            effects.push(Effect::Wake);
        }
    }

    /// When [`Gate::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.holds.iter().filter_map(|h| h.until).min()
    }

    /// Who keeps a hold of this scope from draining, or would.
    pub fn blockers(&self, now: Instant, scope: Scope) -> Vec<Blocker> {
        self.tickets
            .iter()
            .flatten()
            .filter(|t| t.touches.iter().any(|&had| scope.stops(had)))
            .map(|t| Blocker { client: t.client, open_for: now.duration_since(t.since) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(1);

    fn shard(n: i32) -> Touch {
        Touch::Shard { group: G, shard: ShardId(n), node: NodeId(n) }
    }
    fn hold(n: i32) -> Scope {
        Scope::Shard { group: G, shard: ShardId(n) }
    }

    #[test]
    fn only_what_could_see_the_shard_is_held() {
        let (mut g, now, mut fx) = (Gate::default(), Instant::now(), Vec::new());
        g.close(HoldId(1), hold(1), None, &mut fx);
        assert_eq!(fx, [Effect::Drained(HoldId(1))], "nothing was in flight");
        let t = g.ticket(now, 1);
        assert_eq!(g.enter(&t, shard(2)), Entry::Entered, "another shard");
        assert_eq!(g.enter(&t, Touch::Node(NodeId(1))), Entry::Entered, "a local table");
        assert_eq!(g.enter(&t, Touch::Group(GroupId(2))), Entry::Entered, "another group");
        assert_eq!(g.enter(&t, shard(1)), Entry::Held);
        assert_eq!(g.enter(&t, Touch::Group(G)), Entry::Held, "a statement to every node");
    }

    #[test]
    fn open_transactions_finish_new_ones_wait() {
        let (mut g, now, mut fx) = (Gate::default(), Instant::now(), Vec::new());
        let old = g.ticket(now, 7);
        assert_eq!(g.enter(&old, shard(1)), Entry::Entered);
        g.close(HoldId(1), hold(1), None, &mut fx);
        assert!(fx.is_empty(), "one is in flight");
        assert_eq!(g.enter(&old, shard(1)), Entry::Entered, "it holds the shard already");
        assert_eq!(g.enter(&old, Touch::Group(G)), Entry::Entered, "or it could never end");
        let new = g.ticket(now, 8);
        assert_eq!(g.enter(&new, shard(1)), Entry::Held);
        assert_eq!(g.blockers(now, hold(1)).len(), 1);
        assert_eq!(g.blockers(now, hold(1))[0].client, 7);
        let other = Scope::Shard { group: GroupId(2), shard: ShardId(9) };
        assert!(g.blockers(now, other).is_empty(), "who is open can be asked without a hold");
        drop(old);
        g.settle(&mut fx);
        assert_eq!(fx, [Effect::Drained(HoldId(1))]);
        fx.clear();
        g.open(HoldId(1), &mut fx);
        assert_eq!(fx, [Effect::Wake]);
        assert_eq!(g.enter(&new, shard(1)), Entry::Entered);
    }

    #[test]
    fn a_transaction_from_elsewhere_is_waited_for_as_if_it_had_begun_here() {
        let (mut g, now, mut fx) = (Gate::default(), Instant::now(), Vec::new());
        let there = g.ticket(now, 1);
        assert_eq!(g.enter(&there, shard(1)), Entry::Entered);
        let touches = g.touches(&there).to_vec();
        let mut g = Gate::default();
        let early = g.adopt(now, 1, touches.clone());
        g.close(HoldId(1), hold(1), None, &mut fx);
        let late = g.adopt(now, 2, touches.clone());
        drop(early);
        g.settle(&mut fx);
        assert!(fx.is_empty(), "the other one is open");
        assert_eq!(g.enter(&late, shard(1)), Entry::Entered, "it holds the shard already");
        drop(late);
        g.settle(&mut fx);
        assert_eq!(fx, [Effect::Drained(HoldId(1))]);
        let too_late = g.adopt(now, 3, touches);
        drop(too_late);
        g.settle(&mut fx);
        assert_eq!(fx.len(), 1, "it had drained");
    }

    #[test]
    fn a_dropped_ticket_wakes_who_watches_a_hold_drain() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let woken = std::sync::Arc::new(Count(0.into()));
        let times = || woken.0.load(std::sync::atomic::Ordering::Relaxed);
        let waker = Waker::from(woken.clone());
        let (mut g, now, mut fx) = (Gate::default(), Instant::now(), Vec::new());
        g.watch(&waker, &mut fx);
        drop(g.ticket(now, 1));
        assert_eq!(times(), 0, "nobody waits for it");
        let t = g.ticket(now, 2);
        assert_eq!(g.enter(&t, shard(1)), Entry::Entered);
        g.close(HoldId(1), hold(1), None, &mut fx);
        g.watch(&waker, &mut fx);
        drop(t);
        assert_eq!(times(), 1);
        g.watch(&waker, &mut fx);
        assert_eq!(fx, [Effect::Drained(HoldId(1))]);
    }

    #[test]
    fn a_hold_ends_by_itself_when_its_time_is_over() {
        let (mut g, now, mut fx) = (Gate::default(), Instant::now(), Vec::new());
        let until = now + Duration::from_secs(1);
        g.close(HoldId(1), Scope::All, Some(until), &mut fx);
        assert_eq!(g.next_deadline(), Some(until));
        fx.clear();
        g.tick(now, &mut fx);
        assert!(fx.is_empty());
        g.tick(until, &mut fx);
        assert_eq!(fx, [Effect::Wake]);
        assert!(!g.seal(HoldId(1)), "too late");
        fx.clear();
        g.open(HoldId(1), &mut fx);
        assert!(fx.is_empty(), "opening twice is no error and wakes nobody");
    }

    #[test]
    fn a_sealed_hold_ends_only_when_it_is_opened() {
        let (mut g, now, mut fx) = (Gate::default(), Instant::now(), Vec::new());
        g.close(HoldId(1), hold(1), Some(now), &mut fx);
        assert!(g.seal(HoldId(1)));
        assert_eq!(g.next_deadline(), None);
        fx.clear();
        g.tick(now + Duration::from_secs(3600), &mut fx);
        assert!(fx.is_empty());
        let t = g.ticket(now, 1);
        assert_eq!(g.enter(&t, shard(1)), Entry::Held);
        g.open(HoldId(1), &mut fx);
        assert_eq!(fx, [Effect::Wake]);
    }

    #[test]
    fn pausing_a_node_stops_what_runs_there() {
        let (mut g, now, mut fx) = (Gate::default(), Instant::now(), Vec::new());
        g.close(HoldId(1), Scope::Node(NodeId(2)), None, &mut fx);
        let t = g.ticket(now, 1);
        assert_eq!(g.enter(&t, shard(1)), Entry::Entered);
        assert_eq!(g.enter(&t, shard(2)), Entry::Held);
        assert_eq!(g.enter(&t, Touch::Group(G)), Entry::Held);
    }
}
