//! What the clients of one thread share: gate, planner, figures. No locks: one thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::BytesMut;
use hashbrown::HashMap;
use tokio::sync::{Notify, mpsc};

use super::shared::Shared;
use crate::gate::Command;
use crate::gate::machine::{Effect, Gate, HoldId};
use crate::router::Planner;
use crate::session::Env;
use crate::telemetry::WorkerStats;

pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub stats: Arc<WorkerStats>,
    /// Told when a gate opens.
    pub woken: Notify,
    /// Told when the process drains, and when it ends.
    pub drain: Arc<Notify>,
    /// Time is up: open transactions are ended too.
    pub ending: Cell<bool>,
    decide: RefCell<Decide>,
    /// Buffers that no client reads into at the moment. Whoever waits for its client's next word has
    /// none: there are thousands of them.
    buffers: RefCell<Vec<BytesMut>>,
}

/// As many as clients speak at once; more are not kept.
const BUFFERS: usize = 64;

struct Decide {
    gate: Gate,
    effects: Vec<Effect>,
    planner: Planner,
    drained: HashMap<HoldId, mpsc::UnboundedSender<HoldId>>,
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>, planner: Planner) -> Rc<Self> {
        let stats = shared.registry.worker(index);
        Rc::new(Self {
            index,
            shared,
            stats,
            woken: Notify::new(),
            drain: Arc::default(),
            ending: Cell::new(false),
            buffers: RefCell::default(),
            decide: RefCell::new(Decide {
                gate: Gate::default(),
                effects: Vec::new(),
                planner,
                drained: HashMap::new(),
            }),
        })
    }

    /// An empty buffer to read into.
    pub fn take_buffer(&self) -> BytesMut {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes an empty buffer back.
    pub fn give_buffer(&self, buffer: BytesMut) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS && buffer.capacity() > 0 {
            buffers.push(buffer);
        }
    }

    /// Lets a session decide something, on one snapshot of the routing table.
    pub fn with_env<T>(&self, f: impl FnOnce(&mut Env<'_>) -> T) -> T {
        let routes = self.shared.store.routes().swap_cell().load();
        let config = self.shared.config.load();
        let decide = &mut *self.decide.borrow_mut();
        let mut env = Env {
            now: Instant::now(),
            routes: &routes,
            gate: &mut decide.gate,
            planner: &mut decide.planner,
            max_prepared: config.pool.max_prepared,
            max_session: config.limits.max_session,
            moments: &self.shared.moments,
        };
        let result = f(&mut env);
        self.act(decide);
        result
    }

    /// Moves the planner's figures to the worker's.
    pub fn count_plans(&self) {
        let planner = &mut self.decide.borrow_mut().planner;
        self.stats.plan_cache_hits.add(std::mem::take(&mut planner.found));
        self.stats.plan_cache_misses.add(std::mem::take(&mut planner.parsed));
    }

    fn act(&self, decide: &mut Decide) {
        decide.gate.settle(&mut decide.effects);
        for effect in decide.effects.drain(..) {
            match effect {
                Effect::Drained(hold) => {
                    if let Some(told) = decide.drained.remove(&hold) {
                        // A cutover that no longer listens has given up.
                        let _ = told.send(hold);
                    }
                }
                Effect::Wake => self.woken.notify_waiters(),
            }
        }
    }

    /// Notices tickets that were dropped outside of [`Worker::with_env`].
    fn watch_gate(&self, waker: &Waker) {
        let decide = &mut *self.decide.borrow_mut();
        decide.gate.watch(waker, &mut decide.effects);
        self.act(decide);
    }

    /// Carries out the commands of cutovers and of the console, for as long as there are any.
    pub async fn keep_gate(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let deadline = self.decide.borrow().gate.next_deadline();
            let command = poll_fn(|cx| {
                self.watch_gate(cx.waker());
                commands.poll_recv(cx)
            });
            let command = match deadline {
                Some(at) => match tokio::time::timeout_at(at.into(), command).await {
                    Ok(command) => command,
                    Err(_) => {
                        let decide = &mut *self.decide.borrow_mut();
                        decide.gate.tick(Instant::now(), &mut decide.effects);
                        self.act(decide);
                        continue;
                    }
                },
                None => command.await,
            };
            let Some(command) = command else { return };
            let decide = &mut *self.decide.borrow_mut();
            match command {
                Command::Close { hold, scope, until, drained } => {
                    decide.drained.insert(hold, drained);
                    decide.gate.close(hold, scope, until, &mut decide.effects);
                }
                Command::Seal { hold, answer } => {
                    // A cutover that no longer listens has given up.
                    let _ = answer.send(decide.gate.seal(hold));
                }
                Command::Open { hold } => {
                    decide.drained.remove(&hold);
                    decide.gate.open(hold, &mut decide.effects);
                }
                Command::Blockers { scope, answer } => {
                    let _ = answer.send(decide.gate.blockers(Instant::now(), scope));
                }
            }
            self.act(decide);
        }
    }
}
