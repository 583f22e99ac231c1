//! A client's session, as a machine without IO.
//!
//! It is given the client's messages and the server's answers, and it writes to two buffers: what
//! goes to the client, what goes to the server it is linked to. What it cannot do itself it asks
//! for ([`Need`]); the message it was given is then given to it again once the need is met, and it
//! decides anew, on whatever the routing table says by then.
//!
//! ```text
//!              client(message)                     Need::Lease(node) ─► linked()
//!   unlinked ───────────────────► wants a node ──► Need::Gate        ─► (woken)
//!      ▲   (BEGIN, empty Sync, ... answered here)  Need::Turn(node)  ─► turned()
//!      │                                           Need::Quiet       ─► (server quiet)
//!      │                                           Need::Ddl         ─► ddl_done()
//!      │ ReadyForQuery 'I', nothing outstanding,         │
//!      │ not pinned: release                             ▼
//!      └───────────────────────────────────────────── linked ◄──► server(bytes)
//! ```
//!
//! - `BEGIN` opens nothing: it is kept until the first statement that needs a node, and goes there
//!   in the same write.
//! - Messages of the extended protocol that come before the place is known (Parse, Describe) wait
//!   in `pending` until a Bind, or Sync, tells.
//! - A transaction has a participant on each node it uses ([`participants`]), one of them in hand. A
//!   statement that concerns several is sent to each and its answers become one ([`spread`]).
//! - The gate is entered when the transaction starts on its connection, not before: who waits for
//!   a connection must not keep a cutover from draining.

mod analysed;
mod apply;
mod batch;
mod behind;
mod binding;
mod block;
mod clock;
mod columns;
mod computing;
mod copied;
mod copying;
mod counters;
mod cursors;
mod emit;
mod execute;
mod extended;
mod feeding;
mod function_call;
mod gathering;
mod hearing;
mod joining;
mod link;
mod listening;
mod losing;
mod luggage;
mod maintain;
mod making;
mod moments;
mod names;
mod need;
mod opening;
mod order;
mod owed;
mod own_block;
mod participants;
mod patience;
mod pending;
mod places;
mod portals;
mod prelude;
mod prepared;
mod reach;
mod reading;
mod refusing;
mod relay;
mod reported;
mod request;
mod residue;
mod retry;
mod route;
mod rows;
mod schema;
mod script;
mod sequences;
mod settings;
mod several;
mod sight;
mod simple;
mod snapshot;
mod splitting;
mod spread;
mod statement;
mod stop;
mod timing;
mod told;
mod two_phase;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::gate::machine::Gate;
use crate::router::Planner;
use crate::router::analysis::Analysed;
use crate::sight::Sights;
use crate::topology::{Epoch, NodeId, RoutingTable, ShardId};
use crate::wire::backend::{Report, Status};
use crate::wire::frame::Header;
use crate::wire::{ProtocolError, frontend};

pub use behind::Behind;
use block::OwnBlock;
pub use counters::Counters;
pub use gathering::Moved;
use link::Expect;
pub use link::{Facts, Setting, Settings};
use link::{Link, Undo};
pub use listening::Notification;
pub use luggage::Luggage;
pub use moments::Moments;
pub use need::{Ddl, Need};
pub use patience::{Limit, Limits};
pub use prepared::StatementId;
use reach::Entrance;
use refusing::FAILING;
use reported::Reported;
pub use sequences::{Drawn, Followed};
pub use settings::{are_in_force, reset_sql};
pub use sight::{Awaited, unended};
pub use splitting::Onto;
pub use statement::Statement;

/// What a session may look at while it decides.
pub struct Env<'a> {
    pub now: Instant,
    pub lender: &'a mut dyn Lender,
    pub routes: &'a Arc<RoutingTable>,
    pub gate: &'a mut Gate,
    pub planner: &'a mut Planner,
    pub max_prepared: usize,
    /// Bytes that a session may keep of what its client has set and named (`limits.max_session`).
    pub max_session: usize,
    /// The same of one message, and of a row of COPY data (`limits.max_message`).
    pub max_message: usize,
    /// Bytes of the nodes' rows of which one node makes the answer (`read.collect_limit`).
    pub collect_limit: usize,
    pub moments: &'a Moments,
    /// While reads over several nodes are to see one instant (`read.one_instant`).
    pub sights: Option<&'a Arc<Sights>>,
}

/// Who has idle connections at hand, so that a session that needs one gets it while it decides.
pub trait Lender {
    /// A connection to this node, if one idles that may be had at once: what it carries, and it is the
    /// session's. `None`: it is to be waited for ([`Need::Lease`]).
    fn lend(&mut self, node: NodeId, routes: &RoutingTable) -> Option<Box<Facts>>;
}

/// The two buffers a session writes to.
pub struct Io<'a> {
    pub client: &'a mut Vec<u8>,
    /// Only written to while the session is linked.
    pub server: &'a mut Vec<u8>,
}

/// What became of a client's message.
#[derive(Debug)]
#[must_use]
pub enum Flow {
    /// Taken.
    Done,
    /// Not taken: give it again when the need is met.
    Wait(Need),
    /// The client said goodbye.
    Terminate,
}

/// A message of the extended protocol whose place is not known yet.
#[derive(Debug)]
enum Pending {
    Parse { name: Vec<u8>, statement: Rc<Statement>, before: Option<Rc<Statement>> },
    Bind { portal: Vec<u8>, statement: Rc<Statement>, name: Vec<u8>, rest: Vec<u8> },
    DescribeStatement { statement: Rc<Statement>, name: Vec<u8> },
    DescribePortal { portal: Vec<u8> },
    Execute { portal: Vec<u8>, limit: i32 },
    ClosePortal { portal: Vec<u8> },
    Ours { bytes: Vec<u8>, undo: Undo },
}

/// Upper bound of what may wait in `pending`, in bytes.
const MAX_PENDING: usize = 16 << 20;

#[derive(Debug)]
pub struct Session {
    client: u64,
    /// The server connection in hand.
    link: Option<Link>,
    /// The others that it holds.
    resting: Vec<Link>,
    /// Room for the requests of the next connection: the last one's, without them.
    room: VecDeque<Expect>,
    /// The statement that is being carried out on several of them.
    spread: Option<Box<spread::Spread>>,
    /// What the open transaction has changed of what is on all nodes.
    changes: Option<Box<schema::Changes>>,
    /// Whose the open transaction's snapshot is.
    snapshot: snapshot::Snapshot,
    /// A participant of a transaction that has ended stands prepared.
    left_prepared: bool,
    /// The statement under way is cancelled to end a deadlock over several nodes.
    deadlocked: bool,
    /// Its place in the gate, for as long as it has a link.
    entrance: Option<Entrance>,
    /// As the client believes it: the last ReadyForQuery it was sent.
    status: Status,
    /// BEGIN, until the transaction has a node.
    begin: Vec<u8>,
    /// Whether the open block is one that the client does not know of.
    own_block: OwnBlock,
    /// The text whose statements are carried out one after the other.
    script: Option<Box<script::Script>>,
    /// The failed transaction, which has no node, cannot be begun on one.
    unspoilable: bool,
    /// The BEGIN that was sent late, to be sent again if the transaction must begin elsewhere.
    opened: Vec<u8>,
    /// BEGIN as the open transaction began, for nodes that take part later; empty: not known.
    begin_text: Vec<u8>,
    prelude: prelude::Prelude,
    clock: clock::Clock,
    computing: computing::Computing,
    /// What the open transaction has done so far, its prelude, could as well be done on another node.
    movable: bool,
    /// In the extended protocol after an error: everything up to Sync is discarded.
    skipping: bool,
    statements: names::Names<Rc<Statement>>,
    unnamed: Option<Rc<Statement>>,
    /// The long text that was analysed last. One that is sent again and again under an older plan
    /// (Bind) keeps its place.
    analysed: Option<Analysed>,
    portals: names::Names<portals::Portal>,
    cursors: cursors::Cursors,
    pending: Vec<Pending>,
    pending_bytes: usize,
    channels: listening::Channels,
    sequences: sequences::Sequences,
    patience: patience::Patience,
    settings: settings::SessionSettings,
    /// An answer of pgshunt's own request was an error: the connection must be closed.
    broken: Option<String>,
    /// The epoch of the open transaction: placements newer than this are refused within it.
    epoch: Option<Epoch>,
    retry: retry::Retry,
    owed: owed::Owed,
    /// A prepared statement to be closed on the connection behind the next Sync.
    stale: Option<StatementId>,
    /// The statement of whose parameters' types a node was asked last.
    asked_types: Option<StatementId>,
    told: Reported,
    /// It has a PREPARE of SQL that reads pg_prepared_statements.
    prepares_listing: bool,
    /// A database that is to be left by idle server connections.
    vacate: Option<String>,
    /// What a statement has had moved to one node, if that was much.
    moved: Option<Moved>,
    pub counters: Counters,
}

impl Session {
    /// A session of client `client` (its id in SHOW CLIENTS) whose startup packet asked for
    /// these parameters.
    pub fn new(client: u64, startup: &[(String, String)]) -> Self {
        Self {
            client,
            link: None,
            resting: Vec::new(),
            room: VecDeque::new(),
            spread: None,
            changes: None,
            snapshot: snapshot::Snapshot::Own,
            left_prepared: false,
            deadlocked: false,
            entrance: None,
            status: Status::Idle,
            begin: Vec::new(),
            own_block: OwnBlock::No,
            script: None,
            unspoilable: false,
            opened: Vec::new(),
            begin_text: Vec::new(),
            prelude: prelude::Prelude::default(),
            clock: clock::Clock::default(),
            computing: computing::Computing::default(),
            movable: false,
            skipping: false,
            statements: names::Names::default(),
            unnamed: None,
            analysed: None,
            portals: names::Names::default(),
            cursors: cursors::Cursors::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            channels: listening::Channels::default(),
            sequences: sequences::Sequences::default(),
            patience: patience::Patience::default(),
            settings: settings::SessionSettings::new(startup),
            broken: None,
            epoch: None,
            retry: retry::Retry::default(),
            owed: owed::Owed::default(),
            stale: None,
            asked_types: None,
            prepares_listing: false,
            vacate: None,
            moved: None,
            counters: Counters::default(),
            told: Reported::default(),
        }
    }

    /// What the client was told of the server's parameters at its login.
    pub fn told(&mut self, status: Vec<(String, String)>) {
        self.told = status.into();
    }

    /// Another one when anything of what the client was told of the server's parameters is.
    pub fn told_print(&self) -> u64 {
        self.told.print()
    }

    pub fn application_name(&self) -> &str {
        self.told.get("application_name").unwrap_or_default()
    }

    /// Of a message of the server's the client has had only the beginning.
    pub fn is_amid_message(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.passing > 0 && l.passing_on)
    }

    pub fn status(&self) -> Status {
        self.status
    }
    pub fn pinned(&self) -> Option<&'static str> {
        self.links().find_map(|l| l.residue.why_kept())
    }
    /// What its connection keeps for it is nowhere else.
    pub fn is_bound(&self) -> bool {
        self.links().any(|l| l.residue.pinned.is_some())
    }
    /// The client has gone: what it has drawn is of no use any more.
    pub fn ends(&mut self) {
        self.links_mut().for_each(|l| l.residue.kept = false);
    }
    pub fn node(&self) -> Option<NodeId> {
        self.link.as_ref().map(|l| l.node)
    }
    /// The shard it used last on the connection it holds.
    pub fn shard(&self) -> Option<ShardId> {
        self.entrance.as_ref().and_then(|e| e.shard)
    }
    /// How many prepared statements it has by name.
    pub fn prepared_count(&self) -> usize {
        self.statements.len()
    }
    pub fn is_linked(&self) -> bool {
        self.link.is_some()
    }
    /// Nothing is owed to the client and no transaction is open: the session may be ended by us.
    pub fn is_idle(&self) -> bool {
        self.status == Status::Idle
            && self.pending.is_empty()
            && !self.waits_for_fence()
            && self.spread.is_none()
            && self.changes.is_none()
            && self.own_block == OwnBlock::No
            && self.script.is_none()
            && self.links().all(|l| l.is_free() && !l.ending)
    }
    /// The statement under way is being cancelled, as it waits in a circle over several nodes.
    pub fn is_deadlocked(&mut self) {
        self.deadlocked = true;
    }
    /// The connection in hand owes an answer.
    pub fn is_waiting_for_link(&self) -> bool {
        self.link.as_ref().is_some_and(|l| !l.is_quiet())
    }
    /// An answer of the server is outstanding.
    pub fn is_waiting_for_server(&self) -> bool {
        self.spread.is_some() || self.is_waiting_for_link()
    }
    /// Why the server connection is of no use any more, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Takes one whole message of the client.
    ///
    /// # Errors
    /// A malformed message; the connection must end.
    pub fn client(
        &mut self,
        header: Header,
        body: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Flow, ProtocolError> {
        if self.changes.is_none() {
            return self.take(header, body, env, io);
        }
        if self.publishes() && header.tag != b'X' {
            return Ok(Flow::Wait(Need::Publish));
        }
        let starts = self.takes_start();
        let Some((routes, mut planner)) = self.take_changed(env) else {
            let flow = self.take(header, body, env, io)?;
            self.started(starts && matches!(flow, Flow::Wait(_)));
            return Ok(flow);
        };
        let mut env = Env {
            routes: &routes,
            planner: &mut planner,
            gate: env.gate,
            lender: env.lender,
            ..*env
        };
        let flow = self.take(header, body, &mut env, io);
        self.give_planner(planner);
        flow
    }

    /// Takes a message by what the open transaction goes by.
    fn take(
        &mut self,
        header: Header,
        body: &[u8],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Flow, ProtocolError> {
        if self.takes_rows() && header.tag != b'X' {
            return self.amid_rows(header.tag, body, io);
        }
        if let Some(flow) = self.before_message(header.tag, io) {
            return Ok(flow);
        }
        if matches!(header.tag, b'd' | b'c' | b'f') && self.copies_pending() {
            return Ok(self.cut_for_copy(header.tag, env, io));
        }
        let begins = self.begin_unit(header.tag);
        let flow = match header.tag {
            b'Q' | b'F' if self.own_block != OwnBlock::No && self.script.is_none() => {
                self.refuse_amid_own_block(io);
                Flow::Done
            }
            b'Q' => {
                let flow = self.query(frontend::query(body), env, io);
                if matches!(flow, Flow::Done) {
                    // Any simple query ends the unnamed statement, whatever becomes of it.
                    self.unnamed = None;
                }
                flow
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' => {
                self.extended(header.tag, body, env, io)
            }
            b'd' | b'c' | b'f' => match self.commits_segment(env).filter(|_| header.tag == b'c') {
                Some(need) => Flow::Wait(need),
                None => {
                    self.copy_data(header.tag, body, io);
                    Flow::Done
                }
            },
            b'F' => self.function_call(body, env, io),
            b'X' => Flow::Terminate,
            _ => return Err(ProtocolError("invalid frontend message type")),
        };
        if matches!((header.tag, &flow), (b'Q' | b'P', Flow::Done)) {
            self.analysed = None;
        }
        match &flow {
            Flow::Done => {
                self.computing.is_taken();
                self.retry.record(header.tag, body);
                self.note_owed(body.len());
            }
            Flow::Wait(need) => {
                if begins {
                    self.retry.not_taken();
                }
                if matches!(need, Need::Quiet) {
                    self.ask_for_answers(io);
                }
            }
            Flow::Terminate => {}
        }
        Ok(flow)
    }

    /// The connection asked for by [`Need::Lease`] is there.
    pub fn linked(&mut self, node: NodeId, facts: Box<Facts>, env: &mut Env<'_>) {
        debug_assert!(!self.holds(node), "one connection per node");
        if self.link.is_some() {
            self.resting.extend(self.link.take());
        }
        let mut link = Link::new(node, facts);
        link.expects = std::mem::take(&mut self.room);
        self.link = Some(link);
        if self.entrance.is_none() {
            self.entrance = Some(Entrance::new(self.client, env));
        }
    }

    /// What the connections of its pool know together holds for the one that came along.
    pub fn shares(&mut self, of_pool: &Facts) {
        if let Some(link) = &mut self.link {
            link.facts.followed = of_pool.followed.clone();
            link.facts.behind = of_pool.behind.clone();
        }
    }

    fn can_release(&self) -> bool {
        !self.waits_for_fence()
            && self.spread.is_none()
            && self.link.as_ref().is_some_and(Link::can_be_released)
    }

    /// Whether there is anything for [`Session::take_retry`] or [`Session::take_released`].
    pub fn lets_go(&self) -> bool {
        self.can_release() || self.retry.is_again()
    }

    /// Gives the link up, when it can be given up: the connection goes back to the pool.
    pub fn take_released(&mut self, env: &mut Env<'_>) -> Option<Box<Facts>> {
        if self.can_release() { self.unlink(env) } else { None }
    }

    /// The connection in hand is gone, or must go; the next one is taken in hand.
    pub fn unlink(&mut self, env: &mut Env<'_>) -> Option<Box<Facts>> {
        let link = self.link.as_ref()?;
        let node = link.node;
        if link.changes_tables {
            env.moments.tables_may_have_changed();
        }
        let facts = self.take_link();
        if self.link.is_none() {
            self.entrance = None;
            self.epoch = None;
            self.spread = None;
            self.counters.transactions += 1;
        }
        self.broken = None;
        self.leave_portals(node);
        self.cursors.leave(node);
        facts
    }

    /// A statement has had much moved to one node.
    pub fn take_moved(&mut self) -> Option<Moved> {
        self.moved.take()
    }

    /// A statement under way wants nobody to be connected to this database. Our idle connections are
    /// nobody's.
    pub fn take_vacated(&mut self) -> Option<String> {
        self.vacate.take()
    }

    /// Whether anything was sent on the link since it was leased.
    pub fn has_started(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.started)
    }

    /// The answer to everything in a failed transaction that cannot have a node.
    fn aborted_for_good(&self) -> Option<Report> {
        (self.unspoilable && self.link.is_none() && self.status == Status::Failed)
            .then(block::aborted)
    }

    /// The parameters that must be in force on a connection of this session.
    pub fn settings(&self) -> &Settings {
        self.settings.current()
    }

    /// DDL is done: its answer, ReadyForQuery included, has been written to the client.
    pub fn ddl_done(&mut self) {
        self.retry.give_up(b'S');
        if self.pending.is_empty() {
            // It was a simple query.
            self.unnamed = None;
        }
        self.pending.clear();
        self.pending_bytes = 0;
        self.portals.clear();
        self.counters.transactions += 1;
    }
}
