//! What the clients of one thread share: gate, planner, figures. No locks: one thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};
use bytes::BytesMut;
use hashbrown::HashMap;
use tokio::sync::{Notify, mpsc};

use super::shared::Shared;
use crate::config::{Config, Live};
use crate::gate::Command;
use crate::gate::machine::{Effect, Gate, HoldId};
use crate::router::Planner;
use crate::session::{Env, Lender};
use crate::telemetry::WorkerStats;
use crate::topology::{Routes, RoutingTable};

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
    /// Room for what a session writes to a connection before it has it.
    room: Cell<Vec<u8>>,
}

/// As many as clients speak at once; more are not kept.
const BUFFERS: usize = 64;
/// More room than this is not kept, in bytes.
const ROOM: usize = 64 << 10;

/// The process's routing tables, of which the worker looks at the latest.
struct Tables(Arc<Routes>);

impl Deref for Tables {
    type Target = ArcSwap<RoutingTable>;

    fn deref(&self) -> &Self::Target {
        self.0.swap_cell()
    }
}

struct Decide {
    /// The table and the settings in force.
    routes: Cache<Tables, Arc<RoutingTable>>,
    config: Cache<Live, Arc<Config>>,
    gate: Gate,
    effects: Vec<Effect>,
    planner: Planner,
    drained: HashMap<HoldId, mpsc::UnboundedSender<HoldId>>,
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>, planner: Planner) -> Rc<Self> {
        let stats = shared.registry.worker(index);
        let routes = Cache::new(Tables(shared.store.routes().clone()));
        let config = Cache::new(shared.config.clone());
        Rc::new(Self {
            index,
            shared,
            stats,
            woken: Notify::new(),
            drain: Arc::default(),
            ending: Cell::new(false),
            buffers: RefCell::default(),
            room: Cell::default(),
            decide: RefCell::new(Decide {
                routes,
                config,
                gate: Gate::default(),
                effects: Vec::new(),
                planner,
                drained: HashMap::new(),
            }),
        })
    }

    /// The process drains, or ends.
    pub fn drains(&self) -> bool {
        self.ending.get() || *self.shared.draining.borrow()
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

    /// Bytes of a client's message (`limits.max_message`).
    pub fn max_message(&self) -> usize {
        self.decide.borrow_mut().config.load().limits.max_message
    }

    /// Empty; to be given back empty.
    pub fn take_room(&self) -> Vec<u8> {
        self.room.take()
    }

    pub fn give_room(&self, mut room: Vec<u8>) {
        room.clear();
        if room.capacity() <= ROOM {
            self.room.set(room);
        }
    }

    /// Lets a session decide something, on one snapshot of the routing table.
    pub fn with_env<T>(&self, lender: &mut dyn Lender, f: impl FnOnce(&mut Env<'_>) -> T) -> T {
        let decide = &mut *self.decide.borrow_mut();
        let routes = decide.routes.load();
        let config = decide.config.load();
        let mut env = Env {
            now: Instant::now(),
            lender,
            routes,
            gate: &mut decide.gate,
            planner: &mut decide.planner,
            max_prepared: config.pool.max_prepared,
            max_session: config.limits.max_session,
            max_message: config.limits.max_message,
            collect_limit: config.read.collect_limit,
            moments: &self.shared.moments,
            sights: config.read.one_instant.then(|| self.shared.store.sights()),
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
