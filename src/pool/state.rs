//! One pool's decisions, as a machine without IO: who gets which connection, when a new one is
//! opened, who waits and for how long.
//!
//! ```text
//!   take ──► idle connection of the same worker ─┐
//!        ──► room below the limit: Open           ├─► Grant
//!        ──► idle connection of another worker ──┘
//!        ──► wait in line ──(give | opened)──► Grant
//!                          └─(deadline)──────► Fail
//! ```
//!
//! With [`Terms::round_robin`] the connection that has been idle the longest is granted first, whichever
//! worker opened it, and one is opened only where none is idle.
//!
//! The line is fair: a connection that comes back goes to whoever has waited longest, and a
//! newcomer never overtakes the line. But for who holds a connection of another pool already: two such
//! could each wait for what the other holds. It comes first, and is opened a connection beyond the limit
//! where none is idle. Of those there are no more at once than all pools have connections.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// Index of a worker thread.
pub type Worker = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Hand this connection to this waiter.
    Grant { waiter: WaiterId, conn: ConnId },
    /// Open a connection on this worker; answer with `opened` or `open_failed`.
    Open { worker: Worker },
    /// The waiter's deadline has passed.
    Expire { waiter: WaiterId },
    /// This open failed while the waiter stood first in line.
    Fail { waiter: WaiterId },
    /// Close this idle connection.
    Close { conn: ConnId },
}

#[derive(Debug)]
struct Idle {
    conn: ConnId,
    worker: Worker,
    since: Instant,
}

#[derive(Debug)]
struct Waiter {
    id: WaiterId,
    worker: Worker,
    since: Instant,
    deadline: Instant,
    /// It holds a connection of another pool.
    holds: bool,
}

/// What a pool is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub limit: usize,
    /// So many are opened as soon as one is taken, and kept although they are idle.
    pub least: usize,
    pub idle_timeout: Duration,
    pub round_robin: bool,
}

#[derive(Debug)]
pub struct State {
    terms: Terms,
    /// The one that came last is last. Last in, first out, as long as the terms do not say otherwise:
    /// the warmest connection is used, the coldest times out.
    idle: Vec<Idle>,
    waiting: VecDeque<Waiter>,
    /// Handed out.
    busy: usize,
    opening: usize,
    /// Whether those that are missing to the least are opened now: not again right after an open has
    /// failed.
    filling: bool,
}

impl State {
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            filling: true,
            idle: Vec::new(),
            waiting: VecDeque::new(),
            busy: 0,
            opening: 0,
        }
    }

    pub fn busy(&self) -> usize {
        self.busy
    }
    pub fn idle(&self) -> usize {
        self.idle.len()
    }
    pub fn opening(&self) -> usize {
        self.opening
    }
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
    /// How long the first in line has waited.
    pub fn longest_wait(&self, now: Instant) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |w| now.saturating_duration_since(w.since))
    }
    /// Connections that there are, and clients in line for one.
    pub fn demand(&self) -> usize {
        self.total() + self.waiting.len()
    }
    fn total(&self) -> usize {
        self.idle.len() + self.busy + self.opening
    }

    /// Connections to be opened though nobody waits for them.
    fn missing(&self) -> usize {
        let least = self.terms.least.min(self.terms.limit);
        if self.filling { least.saturating_sub(self.total()) } else { 0 }
    }

    /// The idle connection that this worker is granted.
    fn choice(&self, worker: Worker) -> Option<usize> {
        if self.terms.round_robin {
            return (!self.idle.is_empty()).then_some(0);
        }
        self.idle.iter().rposition(|i| i.worker == worker)
    }

    /// The way of almost every transaction: an idle connection, nobody in line, nothing to be opened.
    pub fn take_now(&mut self, worker: Worker) -> Option<ConnId> {
        if !self.waiting.is_empty() || self.missing() > 0 {
            return None;
        }
        let at = self.choice(worker)?;
        self.busy += 1;
        Some(self.idle.remove(at).conn)
    }

    /// Asks for a connection; the answer is a Grant, Fail or Expire, now or later.
    pub fn take(
        &mut self,
        worker: Worker,
        waiter: WaiterId,
        now: Instant,
        patience: Duration,
        holds: bool,
        fx: &mut Vec<Effect>,
    ) {
        let deadline = now + patience;
        let waiter = Waiter { id: waiter, worker, since: now, deadline, holds };
        match holds {
            true => {
                let at = self.waiting.iter().position(|w| !w.holds).unwrap_or(self.waiting.len());
                self.waiting.insert(at, waiter);
            }
            false => self.waiting.push_back(waiter),
        }
        self.serve(fx);
        for _ in 0..self.missing() {
            self.open(worker, fx);
        }
    }

    /// The waiter went away before it was served.
    pub fn forget(&mut self, waiter: WaiterId) {
        self.waiting.retain(|w| w.id != waiter);
    }

    /// Everybody leaves the line.
    pub fn turn_away(&mut self) -> Vec<WaiterId> {
        self.waiting.drain(..).map(|w| w.id).collect()
    }

    /// Other terms from now on. What is handed out beyond them is closed when it comes back.
    pub fn change(&mut self, terms: Terms, fx: &mut Vec<Effect>) {
        self.terms = terms;
        let surplus = self.total().saturating_sub(terms.limit).min(self.idle.len());
        fx.extend(self.idle.drain(..surplus).map(|i| Effect::Close { conn: i.conn }));
        self.serve(fx);
    }

    /// A connection that was handed out by another process's pool counts here now, beyond the limit
    /// if need be.
    pub fn adopted(&mut self) {
        self.busy += 1;
    }

    /// A connection comes back in a clean state.
    pub fn give(&mut self, now: Instant, conn: ConnId, worker: Worker, fx: &mut Vec<Effect>) {
        self.busy = self.busy.saturating_sub(1);
        if self.total() >= self.terms.limit {
            fx.push(Effect::Close { conn });
            return self.serve(fx);
        }
        self.idle.push(Idle { conn, worker, since: now });
        self.serve(fx);
    }

    /// Hands this one out, if it is idle and nobody waits.
    pub fn take_this(&mut self, conn: ConnId) -> bool {
        let at = self.idle.iter().position(|i| i.conn == conn && self.waiting.is_empty());
        let Some(at) = at else { return false };
        self.idle.remove(at);
        self.busy += 1;
        true
    }

    /// A connection that was handed out is gone.
    pub fn lost(&mut self, fx: &mut Vec<Effect>) {
        self.busy = self.busy.saturating_sub(1);
        self.serve(fx);
    }

    pub fn opened(&mut self, now: Instant, conn: ConnId, worker: Worker, fx: &mut Vec<Effect>) {
        self.opening = self.opening.saturating_sub(1);
        let holds = self.waiting.front().is_some_and(|w| w.holds);
        if self.total() >= self.terms.limit && !holds {
            // It was opened beyond the limit for one that has gone away.
            fx.push(Effect::Close { conn });
            return self.serve(fx);
        }
        self.idle.push(Idle { conn, worker, since: now });
        self.serve(fx);
    }

    /// An open failed: the first in line is told why, the next one tries anew.
    pub fn open_failed(&mut self, fx: &mut Vec<Effect>) {
        self.opening = self.opening.saturating_sub(1);
        self.filling = false;
        if let Some(w) = self.waiting.pop_front() {
            fx.push(Effect::Fail { waiter: w.id });
        }
        self.serve(fx);
    }

    /// An idle connection was found dead or closed by its node. To be told before any decision that
    /// may hand it out; the decision then makes use of the room.
    pub fn idle_died(&mut self, conn: ConnId) {
        self.idle.retain(|i| i.conn != conn);
    }

    /// Expires waiters and idle connections whose time is over.
    pub fn tick(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        self.waiting.retain(|w| {
            let keep = w.deadline > now;
            if !keep {
                fx.push(Effect::Expire { waiter: w.id });
            }
            keep
        });
        self.filling = true;
        let timeout = self.terms.idle_timeout;
        let mut spare = self.total().saturating_sub(self.terms.least);
        self.idle.retain(|i| {
            let keep = spare == 0 || now.duration_since(i.since) < timeout;
            if !keep {
                spare -= 1;
                fx.push(Effect::Close { conn: i.conn });
            }
            keep
        });
        self.serve(fx);
    }

    fn serve(&mut self, fx: &mut Vec<Effect>) {
        while let Some(first) = self.waiting.pop_front() {
            let chosen = self.choice(first.worker);
            // Borrowing across workers costs wake-ups, so it comes after opening one of our own.
            let beyond = first.holds && self.idle.is_empty();
            let room = self.total() < self.terms.limit || beyond;
            let at = chosen.or_else(|| if room { None } else { self.idle.len().checked_sub(1) });
            let Some(at) = at else {
                self.waiting.push_front(first);
                break;
            };
            let conn = self.idle.remove(at).conn;
            self.busy += 1;
            fx.push(Effect::Grant { waiter: first.id, conn });
        }
        // One open per waiter that none is under way for.
        let unserved: Vec<(Worker, bool)> =
            self.waiting.iter().skip(self.opening).map(|w| (w.worker, w.holds)).collect();
        for (worker, holds) in unserved {
            if self.total() >= self.terms.limit && !holds {
                break;
            }
            self.open(worker, fx);
        }
    }

    fn open(&mut self, worker: Worker, fx: &mut Vec<Effect>) {
        self.opening += 1;
        fx.push(Effect::Open { worker });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    struct Story {
        pool: State,
        now: Instant,
        fx: Vec<Effect>,
    }

    impl Story {
        fn new(limit: usize) -> Self {
            Self::on(Terms { limit, least: 0, idle_timeout: MINUTE, round_robin: false })
        }
        fn on(terms: Terms) -> Self {
            let pool = State::new(terms);
            Self { pool, now: Instant::now(), fx: Vec::new() }
        }
        fn take(&mut self, worker: Worker, waiter: u64) -> Vec<Effect> {
            let patience = Duration::from_secs(waiter);
            self.pool.take(worker, WaiterId(waiter), self.now, patience, false, &mut self.fx);
            std::mem::take(&mut self.fx)
        }
        fn take_holding(&mut self, waiter: u64) -> Vec<Effect> {
            self.pool.take(0, WaiterId(waiter), self.now, MINUTE, true, &mut self.fx);
            std::mem::take(&mut self.fx)
        }
        fn then(&mut self, f: impl FnOnce(&mut State, Instant, &mut Vec<Effect>)) -> Vec<Effect> {
            f(&mut self.pool, self.now, &mut self.fx);
            std::mem::take(&mut self.fx)
        }
    }

    fn grant(waiter: u64, conn: u64) -> Effect {
        Effect::Grant { waiter: WaiterId(waiter), conn: ConnId(conn) }
    }

    #[test]
    fn who_holds_another_connection_overtakes_the_line_and_the_limit() {
        let mut s = Story::new(1);
        s.take(0, 1);
        s.then(|p, now, fx| p.opened(now, ConnId(9), 0, fx));
        assert_eq!(s.take(0, 2), []);
        assert_eq!(s.take_holding(3), [Effect::Open { worker: 0 }]);
        assert_eq!(s.take_holding(4), [Effect::Open { worker: 0 }]);
        assert_eq!(s.then(|p, now, fx| p.opened(now, ConnId(10), 0, fx)), [grant(3, 10)]);
        assert_eq!(
            s.then(|p, now, fx| p.give(now, ConnId(9), 0, fx)),
            [Effect::Close { conn: ConnId(9) }]
        );
        assert_eq!(s.then(|p, now, fx| p.opened(now, ConnId(11), 0, fx)), [grant(4, 11)]);
        assert_eq!(s.take_holding(5), [Effect::Open { worker: 0 }]);
        s.pool.forget(WaiterId(5));
        assert_eq!(
            s.then(|p, now, fx| p.opened(now, ConnId(12), 0, fx)),
            [Effect::Close { conn: ConnId(12) }]
        );
        // Back within the limit the line goes on.
        s.then(|p, now, fx| p.give(now, ConnId(10), 0, fx));
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(11), 0, fx)), [grant(2, 11)]);
    }

    #[test]
    fn who_holds_another_connection_takes_an_idle_one_of_another_worker_first() {
        let mut s = Story::new(1);
        s.take(1, 1);
        s.then(|p, now, fx| p.opened(now, ConnId(9), 1, fx));
        s.then(|p, now, fx| p.give(now, ConnId(9), 1, fx));
        assert_eq!(s.take_holding(2), [grant(2, 9)]);
    }

    #[test]
    fn opens_up_to_the_limit_then_queues_in_order() {
        let mut s = Story::new(1);
        assert_eq!(s.take(0, 1), [Effect::Open { worker: 0 }]);
        assert_eq!(s.take(0, 2), []);
        assert_eq!(s.take(0, 3), []);
        assert_eq!(s.then(|p, now, fx| p.opened(now, ConnId(9), 0, fx)), [grant(1, 9)]);
        assert_eq!(s.pool.take_now(0), None, "nobody overtakes the line");
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(9), 0, fx)), [grant(2, 9)]);
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(9), 0, fx)), [grant(3, 9)]);
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(9), 0, fx)), []);
        assert_eq!(s.pool.take_now(0), Some(ConnId(9)));
        assert_eq!((s.pool.busy(), s.pool.idle()), (1, 0));
    }

    #[test]
    fn lends_across_workers_only_at_the_limit() {
        let mut s = Story::new(2);
        s.take(0, 1);
        s.then(|p, now, fx| p.opened(now, ConnId(1), 0, fx));
        s.then(|p, now, fx| p.give(now, ConnId(1), 0, fx));
        assert_eq!(s.take(1, 2), [Effect::Open { worker: 1 }], "there is room");
        s.then(|p, now, fx| p.opened(now, ConnId(2), 1, fx));
        assert_eq!(s.take(1, 3), [grant(3, 1)], "the limit is reached: lent by worker 0");
    }

    #[test]
    fn a_certain_connection_is_handed_out_if_it_is_idle() {
        let mut s = Story::new(2);
        for n in [1, 2] {
            s.take(0, n);
            s.then(|p, now, fx| p.opened(now, ConnId(n), 0, fx));
        }
        assert!(!s.pool.take_this(ConnId(1)), "it is busy");
        for n in [1, 2] {
            s.then(|p, now, fx| p.give(now, ConnId(n), 0, fx));
        }
        assert!(s.pool.take_this(ConnId(1)) && !s.pool.take_this(ConnId(1)));
        assert_eq!((s.pool.busy(), s.pool.idle()), (1, 1));
        assert_eq!(s.pool.take_now(0), Some(ConnId(2)));
    }

    #[test]
    fn a_dead_idle_connection_is_not_lent_but_makes_room() {
        let mut s = Story::new(1);
        s.take(0, 1);
        s.then(|p, now, fx| p.opened(now, ConnId(1), 0, fx));
        s.then(|p, now, fx| p.give(now, ConnId(1), 0, fx));
        s.pool.idle_died(ConnId(1));
        assert_eq!(s.take(1, 2), [Effect::Open { worker: 1 }]);
    }

    #[test]
    fn a_lost_connection_makes_room_for_the_line() {
        let mut s = Story::new(1);
        s.take(0, 1);
        s.then(|p, now, fx| p.opened(now, ConnId(1), 0, fx));
        assert_eq!(s.take(0, 2), []);
        assert_eq!(s.then(|p, _, fx| p.lost(fx)), [Effect::Open { worker: 0 }]);
        let failed = s.then(|p, _, fx| p.open_failed(fx));
        assert_eq!(failed, [Effect::Fail { waiter: WaiterId(2) }]);
        assert_eq!((s.pool.busy(), s.pool.opening(), s.pool.waiting()), (0, 0, 0));
    }

    #[test]
    fn a_pool_grows_for_its_line_and_shrinks_as_connections_come_back() {
        let mut s = Story::new(1);
        s.take(0, 1);
        s.then(|p, now, fx| p.opened(now, ConnId(1), 0, fx));
        assert_eq!(s.take(0, 2), []);
        let terms = |limit| Terms { limit, ..s.pool.terms };
        let (three, one) = (terms(3), terms(1));
        assert_eq!(s.then(|p, _, fx| p.change(three, fx)), [Effect::Open { worker: 0 }]);
        s.then(|p, now, fx| p.opened(now, ConnId(2), 0, fx));
        s.then(|p, now, fx| p.give(now, ConnId(2), 0, fx));
        s.take(0, 3);
        s.take(0, 4);
        s.then(|p, now, fx| p.opened(now, ConnId(3), 0, fx));
        s.then(|p, now, fx| p.give(now, ConnId(3), 0, fx));
        // Connections 1 and 2 are handed out, 3 is idle.
        let close = |n| Effect::Close { conn: ConnId(n) };
        assert_eq!(s.then(|p, _, fx| p.change(one, fx)), [close(3)]);
        assert_eq!(s.take(0, 5), []);
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(2), 0, fx)), [close(2)]);
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(1), 0, fx)), [grant(5, 1)]);
        assert_eq!((s.pool.busy(), s.pool.idle()), (1, 0));
    }

    #[test]
    fn what_comes_from_another_process_counts() {
        let mut s = Story::new(1);
        s.pool.adopted();
        s.pool.adopted();
        assert_eq!(s.take(0, 1), [], "there is no room");
        let close = Effect::Close { conn: ConnId(7) };
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(7), 0, fx)), [close]);
        assert_eq!(s.then(|p, now, fx| p.give(now, ConnId(8), 0, fx)), [grant(1, 8)]);
    }

    #[test]
    fn deadlines_and_idle_time_are_kept() {
        let mut s = Story::new(1);
        s.take(0, 1);
        s.then(|p, now, fx| p.opened(now, ConnId(1), 0, fx));
        s.take(0, 5);
        s.take(0, 2);
        s.now += Duration::from_secs(3);
        let expired = s.then(|p, now, fx| p.tick(now, fx));
        assert_eq!(expired, [Effect::Expire { waiter: WaiterId(2) }], "5 has time left");
        s.pool.forget(WaiterId(5));
        s.then(|p, now, fx| p.give(now, ConnId(1), 0, fx));
        s.now += Duration::from_secs(61);
        assert_eq!(s.then(|p, now, fx| p.tick(now, fx)), [Effect::Close { conn: ConnId(1) }]);
        assert_eq!(s.pool.idle(), 0);
    }

    #[test]
    fn round_robin_lends_what_has_been_idle_the_longest_of_whichever_worker() {
        let terms = Terms { limit: 4, least: 0, idle_timeout: MINUTE, round_robin: true };
        let mut s = Story::on(terms);
        for n in 1..=3 {
            assert_eq!(s.take(0, n), [Effect::Open { worker: 0 }]);
        }
        for n in 1..=3 {
            assert_eq!(s.then(|p, now, fx| p.opened(now, ConnId(n), 0, fx)), [grant(n, n)]);
        }
        for n in [2, 3, 1] {
            s.then(|p, now, fx| p.give(now, ConnId(n), 0, fx));
        }
        let mut lent = Vec::new();
        for worker in [1, 0, 1, 1] {
            let ConnId(n) = s.pool.take_now(worker).expect("all are idle");
            lent.push(n);
            s.then(|p, now, fx| p.give(now, ConnId(n), worker, fx));
        }
        assert_eq!(lent, [2, 3, 1, 2]);
        assert_eq!(s.take(1, 4), [grant(4, 3)], "so does the line, and nothing is opened");
        let last_first = Terms { round_robin: false, ..terms };
        s.then(|p, _, fx| p.change(last_first, fx));
        assert_eq!(s.pool.take_now(1), Some(ConnId(2)), "from now on the other way round");
    }

    #[test]
    fn a_pool_in_use_has_its_least_and_keeps_it() {
        let terms = Terms { limit: 5, least: 3, idle_timeout: MINUTE, round_robin: false };
        let mut s = Story::on(terms);
        let open = Effect::Open { worker: 0 };
        assert_eq!(s.then(|p, now, fx| p.tick(now, fx)), [], "nobody uses it");
        assert_eq!(s.take(0, 1), [open.clone(), open.clone(), open.clone()]);
        assert_eq!(s.then(|p, now, fx| p.opened(now, ConnId(1), 0, fx)), [grant(1, 1)]);
        s.then(|p, now, fx| p.opened(now, ConnId(2), 0, fx));
        assert_eq!(s.then(|p, _, fx| p.open_failed(fx)), []);
        s.then(|p, now, fx| p.give(now, ConnId(1), 0, fx));
        assert_eq!(s.pool.take_now(0), Some(ConnId(1)), "not every transaction tries it again");
        s.then(|p, now, fx| p.give(now, ConnId(1), 0, fx));
        assert_eq!(s.then(|p, now, fx| p.tick(now, fx)), []);
        assert_eq!(s.pool.take_now(0), None, "one is missing, and may be had by now");
        assert_eq!(s.take(0, 2), [grant(2, 1), open]);
        s.then(|p, now, fx| p.opened(now, ConnId(3), 0, fx));
        s.then(|p, now, fx| p.opened(now, ConnId(4), 0, fx));
        s.then(|p, now, fx| p.give(now, ConnId(1), 0, fx));
        s.now += 2 * MINUTE;
        let closed = s.then(|p, now, fx| p.tick(now, fx));
        assert_eq!(
            closed,
            [Effect::Close { conn: ConnId(2) }],
            "what is beyond the least times out"
        );
        assert_eq!(s.pool.idle(), 3);
    }

    #[test]
    fn the_least_is_bounded_by_the_limit() {
        let mut s =
            Story::on(Terms { limit: 2, least: 9, idle_timeout: MINUTE, round_robin: false });
        assert_eq!(s.take(0, 1), [Effect::Open { worker: 0 }, Effect::Open { worker: 0 }]);
        assert_eq!(s.take(0, 2), []);
    }
}
