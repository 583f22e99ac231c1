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
//!      ▲   (BEGIN, empty Sync, ... answered here)  Need::Quiet       ─► (server quiet)
//!      │                                           Need::Job         ─► job_done()
//!      │ ReadyForQuery 'I', nothing outstanding,         │
//!      │ not pinned: release                             ▼
//!      └───────────────────────────────────────────── linked ◄──► server(bytes)
//! ```
//!
//! - `BEGIN` opens nothing: it is kept until the first statement that needs a node, and goes there
//!   in the same write.
//! - Messages of the extended protocol that come before the place is known (Parse, Describe) wait
//!   in `pending` until a Bind, or Sync, tells.
//! - A transaction has one node. Another one is refused, never silently done beside it.
//! - The gate is entered when the transaction starts on its connection, not before: who waits for
//!   a connection must not keep a cutover from draining.
//!
//! What is left out: a second node within a transaction.

mod analysed;
mod apply;
mod behind;
mod check;
mod columns;
mod copying;
mod counters;
mod emit;
mod execute;
mod extended;
mod function_call;
mod jobs;
mod link;
mod listening;
mod luggage;
mod moments;
mod names;
mod opening;
mod order;
mod owed;
mod patience;
mod pending;
mod portals;
mod prepared;
mod reach;
mod reading;
mod refusing;
mod relay;
mod reported;
mod retry;
mod sequences;
mod settings;
mod simple;
mod statement;
mod two_phase;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::gate::machine::Gate;
use crate::router::Planner;
use crate::router::analysis::{Analysed, Order};
use crate::router::plan::{Control, Kind, Merge, Plan};
use crate::topology::{Epoch, GroupId, NodeId, RoutingTable, ShardId};
use crate::wire::backend::{Report, Status};
use crate::wire::frame::Header;
use crate::wire::{ProtocolError, frontend};

pub use behind::Behind;
pub use counters::Counters;
use link::Expect;
pub use link::{Facts, Setting, Settings};
use link::{Link, Undo};
pub use listening::Notification;
pub use luggage::Luggage;
pub use moments::Moments;
pub use patience::{Limit, Limits};
pub use prepared::StatementId;
use refusing::FAILING;
use reported::Reported;
pub use sequences::{Drawn, Followed};
pub use settings::{are_in_force, reset_sql};
pub use statement::Statement;

/// What a session may look at while it decides.
pub struct Env<'a> {
    pub now: Instant,
    pub routes: &'a Arc<RoutingTable>,
    pub gate: &'a mut Gate,
    pub planner: &'a mut Planner,
    pub max_prepared: usize,
    /// Bytes that a session may keep of what its client has set and named (`limits.max_session`).
    pub max_session: usize,
    pub moments: &'a Moments,
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

#[derive(Debug)]
pub enum Need {
    /// A server connection to this node: then [`Session::linked`].
    Lease(NodeId),
    /// The gate is closed for what the message touches.
    Gate,
    /// Everything outstanding must be answered first.
    Quiet,
    /// The text is too long to be analysed here: then [`Session::analysed`].
    Analysis(Box<Order>),
    /// Work that involves several nodes: then [`Session::job_done`].
    Job(Box<Job>),
    /// The shared connection must listen to these: then [`Session::listening`].
    Listen(Vec<String>),
    /// All notifications sent so far must have been posted: then [`Session::fenced`].
    Fence,
}

/// Work for several nodes, done outside of the session.
#[derive(Debug)]
pub enum Job {
    /// Run the request on these nodes and merge the answers.
    Gather(Gather),
    /// Carry out DDL on all nodes; the answer is a command tag, between these messages.
    Ddl { sql: String, before: Vec<u8>, behind: Vec<u8> },
}

/// A read on several nodes.
#[derive(Debug)]
pub struct Gather {
    pub group: GroupId,
    pub nodes: Vec<NodeId>,
    pub merge: Merge,
    /// The frames to send to each node, up to and with Query or Sync.
    pub request: Vec<u8>,
    pub epoch: Epoch,
    /// The first ParseComplete of each node is not the client's.
    pub hide_parse: bool,
    /// The RowDescription is ours alone: the client did not ask for it.
    pub hide_describe: bool,
    /// The row limit of Execute; 0: none. The portal ends with Sync, so there is no going on.
    pub limit: u64,
    /// What answers the client's messages behind Execute.
    pub behind: Vec<u8>,
    /// Session parameters to put in force on each connection first.
    pub settings: Settings,
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
    link: Option<Link>,
    /// As the client believes it: the last ReadyForQuery it was sent.
    status: Status,
    /// BEGIN, until the transaction has a node.
    begin: Vec<u8>,
    /// The failed transaction, which has no node, cannot be begun on one.
    unspoilable: bool,
    /// The BEGIN that was sent late, to be sent again if the transaction must begin elsewhere.
    opened: Vec<u8>,
    /// What the open transaction has done so far could as well be done on another node: these.
    prelude: Vec<String>,
    movable: bool,
    /// In the extended protocol after an error: everything up to Sync is discarded.
    skipping: bool,
    statements: names::Names<Rc<Statement>>,
    unnamed: Option<Rc<Statement>>,
    /// The long text that was analysed last. One that is sent again and again under an older plan
    /// (Bind) keeps its place.
    analysed: Option<Analysed>,
    portals: names::Names<portals::Portal>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    /// Why the connection must be kept between transactions.
    pinned: Option<&'static str>,
    /// The same, for what nobody can tell the end of.
    bound: Option<&'static str>,
    check: check::Check,
    behind: behind::Question,
    channels: listening::Channels,
    sequences: sequences::Sequences,
    patience: patience::Patience,
    settings: settings::SessionSettings,
    /// The connection goes back to the pool although nothing was sent on it.
    let_go: bool,
    /// An answer of pgshunt's own request was an error: the connection must be closed.
    broken: Option<String>,
    /// The epoch of the open transaction: placements newer than this are refused within it.
    epoch: Option<Epoch>,
    retry: retry::Retry,
    owed: owed::Owed,
    /// A prepared statement to be closed on the connection behind the next Sync.
    stale: Option<StatementId>,
    told: Reported,
    /// It has a PREPARE of SQL that reads pg_prepared_statements.
    prepares_listing: bool,
    /// A database that is to be left by idle server connections.
    vacate: Option<String>,
    pub counters: Counters,
}

impl Session {
    /// A session of client `client` (its id in SHOW CLIENTS) whose startup packet asked for
    /// these parameters.
    pub fn new(client: u64, startup: &[(String, String)]) -> Self {
        Self {
            client,
            link: None,
            status: Status::Idle,
            begin: Vec::new(),
            unspoilable: false,
            opened: Vec::new(),
            prelude: Vec::new(),
            movable: false,
            skipping: false,
            statements: names::Names::default(),
            unnamed: None,
            analysed: None,
            portals: names::Names::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            pinned: None,
            bound: None,
            check: check::Check::default(),
            behind: behind::Question::default(),
            channels: listening::Channels::default(),
            sequences: sequences::Sequences::default(),
            patience: patience::Patience::default(),
            settings: settings::SessionSettings::new(startup),
            let_go: false,
            broken: None,
            epoch: None,
            retry: retry::Retry::default(),
            owed: owed::Owed::default(),
            stale: None,
            prepares_listing: false,
            vacate: None,
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
        self.pinned.or(self.sequences.kept.then_some(sequences::SEQUENCES))
    }
    /// What its connection keeps for it is nowhere else.
    pub fn is_bound(&self) -> bool {
        self.pinned.is_some()
    }
    /// The client has gone: what it has drawn is of no use any more.
    pub fn ends(&mut self) {
        self.sequences.kept = false;
    }
    pub fn node(&self) -> Option<NodeId> {
        self.link.as_ref().map(|l| l.node)
    }
    /// The shard it used last on the connection it holds.
    pub fn shard(&self) -> Option<ShardId> {
        self.link.as_ref().and_then(|l| l.shard)
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
            && self.link.as_ref().is_none_or(|l| l.is_free() && !l.ending)
    }
    /// An answer of the server is outstanding.
    pub fn is_waiting_for_server(&self) -> bool {
        self.link.as_ref().is_some_and(|l| !l.is_quiet())
    }
    /// Why the server connection is of no use any more, if so.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// The node waits for COPY data.
    pub fn copies_in(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.copy_in)
    }

    /// COPY data may be passed on as it comes, without waiting for whole messages.
    pub fn streams_copy(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.doubt.is_none() && (l.copy_in || !l.is_quiet()))
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
        if self.skipping && !matches!(header.tag, b'S' | b'X') {
            return Ok(Flow::Done);
        }
        if self.waits_for_fence() && header.tag != b'X' {
            return Ok(Flow::Wait(Need::Fence));
        }
        if let Some(link) = &mut self.link {
            link.prefaced &= !link.is_quiet();
        }
        if self.is_held_by_copy(header.tag, io) {
            self.ask_for_answers(io);
            return Ok(Flow::Wait(Need::Quiet));
        }
        if matches!(header.tag, b'H' | b'S')
            && let Some(link) = self.link.as_mut().filter(|l| l.copy_in)
        {
            // PostgreSQL passes over these, if the COPY still runs when they come.
            if header.tag == b'S' {
                frontend::put_empty(io.server, b'S');
                link.eaten += 1;
            }
            return Ok(Flow::Done);
        }
        if let Some(link) = &self.link {
            match header.tag {
                b'd' | b'c' | b'f' | b'X' => {}
                b'S' if self.skipping => {}
                _ if self.check.is_asked()
                    || self.behind.is_asked()
                    || self.is_spoiling()
                    || link.ending
                    || link.prefaced
                    || (link.opening && link.opening_full) =>
                {
                    return Ok(Flow::Wait(Need::Quiet));
                }
                _ => {}
            }
        }
        self.forget_early_mail();
        if self.owes_enough(header.tag, io) {
            return Ok(Flow::Wait(Need::Quiet));
        }
        let begins = self.begin_unit(header.tag);
        let flow = match header.tag {
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
            b'd' | b'c' | b'f' => {
                self.copy_data(header.tag, body, io);
                Flow::Done
            }
            b'F' => self.function_call(body, env, io),
            b'X' => Flow::Terminate,
            _ => return Err(ProtocolError("invalid frontend message type")),
        };
        if matches!((header.tag, &flow), (b'Q' | b'P', Flow::Done)) {
            self.analysed = None;
        }
        match &flow {
            Flow::Done => {
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

    /// Without Sync the server keeps its answers to itself; who waits for them must ask.
    fn ask_for_answers(&mut self, io: &mut Io<'_>) {
        if let Some(link) = self.link.as_mut().filter(|l| l.in_segment && !l.flushed) {
            link.flushed = true;
            frontend::put_empty(io.server, b'H');
        }
    }

    /// The connection asked for by [`Need::Lease`] is there.
    pub fn linked(&mut self, node: NodeId, facts: Facts, env: &mut Env<'_>) {
        debug_assert!(self.link.is_none(), "one link at a time");
        let ticket = env.gate.ticket(env.now, self.client);
        self.link = Some(Link::new(node, facts, ticket));
        self.let_go = false;
    }

    /// What the connections of its pool know together holds for the one that came along.
    pub fn shares(&mut self, of_pool: &Facts) {
        if let Some(link) = &mut self.link {
            link.facts.followed = of_pool.followed.clone();
            link.facts.behind = of_pool.behind.clone();
        }
    }

    fn can_release(&self) -> bool {
        let free = |l: &Link| l.is_free() && l.named.is_empty() && (l.started || self.let_go);
        self.pinned.is_none()
            && !self.sequences.kept
            && !self.check.is_due()
            && !self.behind.is_due()
            && !self.waits_for_fence()
            && self.link.as_ref().is_some_and(free)
    }

    /// Whether there is anything for [`Session::take_retry`] or [`Session::take_released`].
    pub fn lets_go(&self) -> bool {
        self.can_release() || self.retry.is_again()
    }

    /// Gives the link up, when it can be given up: the connection goes back to the pool.
    pub fn take_released(&mut self, env: &mut Env<'_>) -> Option<Facts> {
        if self.can_release() { self.unlink(env) } else { None }
    }

    /// The connection is gone, or must go: no facts are kept.
    pub fn unlink(&mut self, env: &mut Env<'_>) -> Option<Facts> {
        let mut link = self.link.take()?;
        if link.strange {
            link.facts.applied = None;
        }
        if link.changes_tables {
            env.moments.tables_may_have_changed();
        }
        self.let_go = false;
        self.broken = None;
        self.epoch = None;
        self.leave_portals();
        self.counters.transactions += 1;
        Some(link.facts)
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
        (self.unspoilable && self.link.is_none() && self.status == Status::Failed).then(|| {
            Report::error(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            )
        })
    }

    /// The parameters that must be in force on a connection of this session.
    pub fn settings(&self) -> &Settings {
        self.settings.current()
    }

    /// A job is done: its answer, ReadyForQuery included, has been written to the client.
    pub fn job_done(&mut self) {
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

    fn count(&mut self, plan: &Plan) {
        if let Some(Control::Vacate(database)) = plan.single() {
            self.vacate = Some(database.clone());
        }
        self.counters.statements += 1;
        match &plan.kind {
            Kind::Keys { .. } | Kind::Leaf(_) => self.counters.shard += 1,
            Kind::Every { .. } => self.counters.every += 1,
            Kind::Home | Kind::Any | Kind::Ddl => self.counters.home += 1,
            Kind::Refused(_) => {}
        }
    }
}
