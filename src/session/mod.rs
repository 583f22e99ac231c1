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
//! What is left out: a second node within a transaction, and LISTEN without a pin.

mod emit;
mod extended;
mod link;
mod reading;
mod relay;
mod settings;
mod simple;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;

use crate::gate::machine::{Entry, Gate, Touch};
use crate::router::Planner;
use crate::router::place::Place;
use crate::router::plan::{Control, Kind, Merge, Plan};
use crate::topology::{Epoch, GroupId, NodeId, RoutingTable};
use crate::wire::backend::{self, Report, Status};
use crate::wire::frame::Header;
use crate::wire::{ProtocolError, frontend};

use link::Expect;
pub use link::{Facts, Fate, Link, Prepared, Reply, Setting, Settings, StatementId};
pub use settings::reset_sql;

/// What a session may look at while it decides.
pub struct Env<'a> {
    pub now: Instant,
    pub routes: &'a Arc<RoutingTable>,
    pub gate: &'a mut Gate,
    pub gate_effects: &'a mut Vec<crate::gate::machine::Effect>,
    pub planner: &'a mut Planner,
    pub max_prepared: usize,
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
    /// Work that involves several nodes: then [`Session::job_done`].
    Job(Box<Job>),
}

/// Work for several nodes, done outside of the session.
#[derive(Debug)]
pub enum Job {
    /// Run the request on these nodes and merge the answers.
    Gather(Gather),
    /// Carry out DDL on all nodes; the answer is a command tag.
    Ddl { sql: String, extended: bool, described: bool },
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
    /// Session parameters to put in force on each connection first.
    pub settings: Settings,
}

/// A prepared statement of the client.
#[derive(Debug)]
pub struct Statement {
    pub id: StatementId,
    pub text: Vec<u8>,
    pub oids: Vec<u8>,
    pub plan: Arc<Plan>,
}

/// A message of the extended protocol whose place is not known yet.
#[derive(Debug)]
enum Pending {
    Parse { name: Vec<u8>, statement: Rc<Statement> },
    Bind { portal: Vec<u8>, statement: Rc<Statement>, unnamed: bool, rest: Vec<u8> },
    DescribeStatement { statement: Rc<Statement>, unnamed: bool },
    DescribePortal { portal: Vec<u8> },
    Execute { portal: Vec<u8>, limit: i32 },
    Ours(Vec<u8>),
}

/// Upper bound of what may wait in `pending`, in bytes.
const MAX_PENDING: usize = 16 << 20;

#[derive(Debug)]
pub struct Session {
    client: u64,
    link: Option<Link>,
    /// As the client believes it: the last ReadyForQuery it was sent.
    status: Status,
    /// BEGIN and what else came before the transaction has a node.
    begin: Vec<u8>,
    /// In the extended protocol after an error: everything up to Sync is discarded.
    skipping: bool,
    statements: HashMap<Vec<u8>, Rc<Statement>>,
    unnamed: Option<Rc<Statement>>,
    portals: Vec<(Vec<u8>, Rc<Statement>)>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    /// Why the connection must be kept between transactions.
    pinned: Option<&'static str>,
    settings: settings::SessionSettings,
    /// The connection can go back to the pool.
    release: bool,
    /// An answer of pgshunt's own request was an error: the connection must be closed.
    broken: Option<String>,
    /// The epoch of the open transaction: placements newer than this are refused within it.
    epoch: Option<Epoch>,
    retry: relay::Retry,
    pub counters: Counters,
}

/// What happened, to be read and reset by the shell.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    pub statements: u64,
    pub shard: u64,
    pub every: u64,
    pub home: u64,
    pub refused: u64,
    pub transactions: u64,
    pub retries: u64,
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
            skipping: false,
            statements: HashMap::new(),
            unnamed: None,
            portals: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            pinned: None,
            settings: settings::SessionSettings::new(startup),
            release: false,
            broken: None,
            epoch: None,
            retry: relay::Retry::default(),
            counters: Counters::default(),
        }
    }

    pub fn status(&self) -> Status {
        self.status
    }
    pub fn pinned(&self) -> Option<&'static str> {
        self.pinned
    }
    pub fn node(&self) -> Option<NodeId> {
        self.link.as_ref().map(|l| l.node)
    }
    pub fn is_linked(&self) -> bool {
        self.link.is_some()
    }
    /// Nothing is owed to the client and no transaction is open: the session may be ended by us.
    pub fn is_idle(&self) -> bool {
        self.status == Status::Idle
            && self.pending.is_empty()
            && self.link.as_ref().is_none_or(Link::is_quiet)
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
        self.link.as_ref().is_some_and(|l| l.copy_in || !l.is_quiet())
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
        // What is prepared outside of the transaction is no place for its first statement.
        if self.link.as_ref().is_some_and(|l| l.outside && l.started) && header.tag != b'X' {
            return Ok(Flow::Wait(Need::Quiet));
        }
        match header.tag {
            b'Q' => {
                let text = frontend::query(body)?;
                Ok(self.query(text, env, io))
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' => {
                self.extended(header.tag, body, env, io)
            }
            b'd' | b'c' | b'f' => {
                self.copy_data(header.tag, body, io);
                Ok(Flow::Done)
            }
            b'F' => Ok(self.function_call(body, env, io)),
            b'X' => Ok(Flow::Terminate),
            _ => Err(ProtocolError("invalid frontend message type")),
        }
    }

    /// The connection asked for by [`Need::Lease`] is there.
    pub fn linked(&mut self, node: NodeId, facts: Facts, env: &mut Env<'_>) {
        debug_assert!(self.link.is_none(), "one link at a time");
        let ticket = env.gate.ticket(env.now, self.client);
        self.link = Some(Link::new(node, facts, ticket));
    }

    /// Whether there is anything for [`Session::take_retry`] or [`Session::take_released`].
    pub fn lets_go(&self) -> bool {
        self.release || self.retry.again
    }

    /// Gives the link up, when it can be given up: the connection goes back to the pool.
    pub fn take_released(&mut self, env: &mut Env<'_>) -> Option<Facts> {
        if !std::mem::take(&mut self.release) {
            return None;
        }
        self.unlink(env)
    }

    /// The connection is gone, or must go: no facts are kept.
    pub fn unlink(&mut self, env: &mut Env<'_>) -> Option<Facts> {
        let link = self.link.take()?;
        env.gate.leave(link.ticket, env.gate_effects);
        self.release = false;
        self.broken = None;
        self.epoch = None;
        self.portals.clear();
        self.retry.forget();
        self.counters.transactions += 1;
        Some(link.facts)
    }

    /// Whether anything was sent on the link since the transaction began.
    pub fn has_started(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.started)
    }

    /// Decides whether the session may use a node now: `Ok(None)` means it is linked to it and has
    /// entered the gate.
    fn ensure(&mut self, place: &Place, env: &mut Env<'_>) -> Result<Option<Need>, Report> {
        let (node, touches) = match place {
            Place::Node { node, touches } => (*node, touches.as_slice()),
            Place::Any => match &self.link {
                Some(l) => (l.node, [].as_slice()),
                None => (env.routes.home().id, [].as_slice()),
            },
            Place::Every { .. } => {
                debug_assert!(false, "several nodes are a job");
                return Ok(Some(Need::Quiet));
            }
        };
        let own = [Touch::Node(node)];
        let touches = if touches.is_empty() { &own[..] } else { touches };
        let closed = touches.iter().any(|&t| env.gate.would_hold(t));

        let Some(link) = &mut self.link else {
            return Ok(Some(if closed { Need::Gate } else { Need::Lease(node) }));
        };
        let fresh = !link.started && self.pinned.is_none();
        if link.node != node {
            if fresh {
                self.release = true;
                return Ok(Some(Need::Lease(node)));
            }
            // In the middle of a segment nothing is answered before its Sync.
            if !link.is_quiet() && link.is_synced() {
                return Ok(Some(Need::Quiet));
            }
            return Err(self.other_node(env, node));
        }
        if closed && !link.is_quiet() && link.is_synced() {
            // Whether a transaction is still open behind what is under way is not known yet.
            return Ok(Some(Need::Quiet));
        }
        if let Some(report) = newer_placement(self.epoch, touches, env.routes) {
            return Err(report);
        }
        for &t in touches {
            if env.gate.enter(&link.ticket, t) == Entry::Held {
                self.release |= fresh;
                return Ok(Some(Need::Gate));
            }
            link.entered = true;
        }
        self.epoch.get_or_insert(env.routes.epoch);
        Ok(None)
    }

    /// Between transactions a pinned session keeps its connection, but not its place in the gate.
    pub(super) fn renew_ticket(&mut self, env: &mut Env<'_>) {
        if let Some(link) = self.link.as_mut().filter(|l| l.entered) {
            let ticket = env.gate.ticket(env.now, self.client);
            let old = std::mem::replace(&mut link.ticket, ticket);
            env.gate.leave(old, env.gate_effects);
            link.entered = false;
        }
    }

    fn other_node(&self, env: &Env<'_>, wanted: NodeId) -> Report {
        let name = |id| env.routes.node(id).map_or_else(|| "?".to_owned(), |n| n.name.clone());
        let held = self.link.as_ref().map(|l| name(l.node)).unwrap_or_default();
        let wanted = name(wanted);
        match self.pinned {
            Some(why) if self.status == Status::Idle => Report::error(
                "0A000",
                format!(
                    "this session is bound to node {held} by {why} and cannot use node {wanted}"
                ),
            )
            .hint("Use another connection for this statement, or end what binds the session."),
            _ => Report::error(
                "0A000",
                format!("a transaction cannot use node {wanted} beside node {held}"),
            )
            .detail("The transaction has begun on one node and this statement needs another one.")
            .hint("Run the statement in a transaction of its own, or distribute the tables alike."),
        }
    }

    /// Starts the transaction on a fresh link: session parameters, then the BEGIN that was kept.
    fn begin_on_link(&mut self, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        if link.started {
            return;
        }
        link.started = true;
        let wanted = self.settings.current();
        if link.facts.applied.as_ref() != Some(wanted) {
            let sql = reset_sql(link.facts.applied.as_ref(), wanted);
            frontend::put_query(io.server, sql.as_bytes());
            link.expects.push_back(Expect::new(Reply::Query, Fate::Swallow));
            link.facts.applied = Some(wanted.clone());
        }
        if !self.begin.is_empty() && !link.outside {
            frontend::put_query(io.server, &self.begin);
            link.expects.push_back(Expect::new(Reply::Query, Fate::Swallow));
            self.begin.clear();
        }
    }

    /// Whether the session must be alone with the server before the next request: a role that could
    /// not be put in force must not lead to a statement under another role.
    fn settings_need_quiet(&mut self, io: &mut Io<'_>) -> bool {
        let Some(link) = &self.link else { return false };
        if link.started || !self.settings.changes_role(link.facts.applied.as_ref()) {
            return false;
        }
        self.begin_on_link(io);
        true
    }

    /// Answers with an error of ours, in the simple protocol.
    fn refuse_query(&mut self, report: Report, io: &mut Io<'_>) {
        self.counters.refused += 1;
        match &mut self.link {
            Some(link) if link.started => {
                // The server must see a failing statement too, or its transaction would go on.
                frontend::put_query(io.server, FAILING);
                let fate = Fate::Refuse(Box::new(report));
                link.expects.push_back(Expect::new(Reply::Query, fate));
            }
            _ => {
                report.put(io.client);
                if self.status == Status::Transaction {
                    self.status = Status::Failed;
                }
                backend::put_ready(io.client, self.status);
                self.release |= self.link.is_some() && self.pinned.is_none();
            }
        }
    }

    /// The answer to everything in a failed transaction that never had a node.
    fn aborted() -> Report {
        Report::error(
            "25P02",
            "current transaction is aborted, commands ignored until end of transaction block",
        )
    }

    fn copy_data(&mut self, tag: u8, body: &[u8], io: &mut Io<'_>) {
        // Late data of a COPY that has failed meanwhile is discarded, as PostgreSQL does.
        let Some(link) = self.link.as_mut().filter(|l| l.copy_in || !l.is_quiet()) else { return };
        crate::wire::frame::put(io.server, tag, |b| b.extend_from_slice(body));
        if tag != b'd' {
            link.copy_in = false;
        }
    }

    fn function_call(&mut self, body: &[u8], env: &mut Env<'_>, io: &mut Io<'_>) -> Flow {
        let place = Place::Node { node: env.routes.home().id, touches: Vec::new() };
        match self.ensure(&place, env) {
            Ok(None) => {}
            Ok(Some(need)) => return Flow::Wait(need),
            Err(report) => {
                self.refuse_query(report, io);
                return Flow::Done;
            }
        }
        self.begin_on_link(io);
        crate::wire::frame::put(io.server, b'F', |b| b.extend_from_slice(body));
        if let Some(link) = &mut self.link {
            link.expects.push_back(Expect::forward(Reply::Query));
        }
        Flow::Done
    }

    /// The parameters that must be in force on a connection of this session.
    pub fn settings(&self) -> &Settings {
        self.settings.current()
    }

    /// The message in front could not be carried out: it is answered with an error.
    pub fn refuse(&mut self, tag: u8, report: Report, io: &mut Io<'_>) {
        match tag {
            b'Q' | b'F' => self.refuse_query(report, io),
            _ => self.refuse_message(tag, report, io),
        }
    }

    /// A job has failed after `answered` of its request's answers had been passed on.
    pub fn job_failed(&mut self, tag: u8, answered: usize, report: Report, io: &mut Io<'_>) {
        let passed = answered.min(self.pending.len());
        self.pending.drain(..passed);
        self.refuse(tag, report, io);
    }

    /// A job is done: its answer, ReadyForQuery included, has been written to the client.
    pub fn job_done(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.portals.clear();
        self.counters.transactions += 1;
    }

    fn count(&mut self, kind: &Kind) {
        self.counters.statements += 1;
        match kind {
            Kind::Keys { .. } | Kind::Leaf(_) => self.counters.shard += 1,
            Kind::Every { .. } => self.counters.every += 1,
            Kind::Home | Kind::Any | Kind::Ddl => self.counters.home += 1,
            Kind::Refused(_) => {}
        }
    }

    fn forget_statement(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            self.statements.remove(name);
        }
    }

    /// What a completed statement did to the session.
    fn apply(&mut self, control: &Control, sql: &str) {
        match control {
            Control::None | Control::Begin => {}
            Control::Commit => self.settings.commit(),
            Control::Rollback => self.settings.rollback(),
            Control::RollbackTo => {
                if self.settings.is_pending() {
                    self.pinned.get_or_insert("a SET before ROLLBACK TO SAVEPOINT");
                }
            }
            Control::Set(name) => self.settings.set(name, sql),
            Control::Reset(name) => self.settings.reset(name),
            Control::ResetAll => self.settings.reset_all(),
            Control::DiscardAll => {
                self.settings.reset_all();
                self.settings.commit();
                self.statements.clear();
                self.unnamed = None;
                self.pinned = None;
                if let Some(link) = &mut self.link {
                    link.facts.prepared.clear();
                    link.unnamed = None;
                }
            }
            Control::Deallocate(Some(name)) => self.forget_statement(name.as_bytes()),
            Control::Deallocate(None) => {
                self.statements.clear();
                self.unnamed = None;
                if let Some(link) = &mut self.link {
                    link.facts.prepared.clear();
                    link.unnamed = None;
                }
            }
            Control::Pin(why) => {
                self.pinned.get_or_insert(why);
            }
        }
    }
}

/// A statement that fails in any PostgreSQL, whatever the session's state.
const FAILING: &[u8] = b"this statement was refused by pgshunt";

/// Within a transaction: a shard that moved here after the transaction's first statement. Its
/// snapshot may be older than the shard's last change, so the transaction must begin again.
fn newer_placement(
    epoch: Option<Epoch>,
    touches: &[Touch],
    routes: &RoutingTable,
) -> Option<Report> {
    let epoch = epoch?;
    let moved = touches.iter().find_map(|t| match t {
        Touch::Shard { shard, .. } => routes.shard(*shard).filter(|s| s.since > epoch),
        Touch::Group(_) | Touch::Node(_) => None,
    })?;
    Some(
        Report::error(
            "40001",
            format!(
                "could not serialize access: shard {} has moved during this transaction",
                moved.id
            ),
        )
        .hint("The transaction might succeed if retried."),
    )
}
