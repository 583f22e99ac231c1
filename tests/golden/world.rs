//! The world around a session while a script runs: two nodes with four shards of a table, their
//! pooled connections, the gate, and what the shell (`client::relay`) does for a session. Nothing
//! of it does IO.

mod copying;
mod schema;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgshunt::gate::machine::{Effect, Gate, HoldId, Scope};
use pgshunt::router::Planner;
use pgshunt::router::{Function, Functions};
use pgshunt::session::{Awaited, Ddl, Env, Facts, Flow, Io, Moments, Need, Notification, Session};
use pgshunt::sight::Sights;
use pgshunt::topology::{Epoch, NodeId, RoutingTable, ShardId};
use pgshunt::wire::backend::{Report, Status, put_command_complete, put_ready};
use pgshunt::wire::frame;

use crate::cluster::{GROUP, rows};
use crate::idle::Idle;
use crate::messages;

/// One client and the shell's part of its state.
struct Client {
    session: Session,
    /// Not taken yet.
    input: VecDeque<Vec<u8>>,
    again: VecDeque<Vec<u8>>,
    /// What nodes have sent and the session has not read.
    from_nodes: BTreeMap<NodeId, BytesMut>,
    ddl: Option<Ddl>,
    waits: Option<&'static str>,
    gone: bool,
}

pub struct World {
    routes: Arc<RoutingTable>,
    gate: Gate,
    gate_effects: Vec<Effect>,
    planner: Planner,
    max_prepared: usize,
    moments: Moments,
    sights: Arc<Sights>,
    /// Reads of all nodes see one instant.
    looks: bool,
    idle: BTreeMap<NodeId, Vec<Facts>>,
    clients: BTreeMap<String, Client>,
    current: String,
    /// Server-side statement names, by first appearance.
    names: Vec<String>,
    out: Vec<String>,
    /// Every session goes over to another process whenever it can.
    changes_over: bool,
    /// How often one did, with the server connection it held and without one.
    pub changed: (usize, usize),
}

const QUIET: &str = "waits for the node";

const BUILTIN: [&str; 9] = [
    "pg_advisory_lock",
    "now",
    "set_config",
    "count",
    "sum",
    "pg_backend_pid",
    "version",
    "pg_sleep",
    "current_setting",
];

impl World {
    pub fn new(changes_over: bool) -> Self {
        let builtin = BUILTIN.map(|n| Function {
            name: n.to_owned(),
            stable: !matches!(n, "set_config" | "pg_advisory_lock" | "pg_backend_pid" | "pg_sleep"),
            aggregate: n == "count" || n == "sum",
            set: false,
        });
        Self {
            routes: Arc::new(RoutingTable::build(&rows()).expect("the rows are valid")),
            gate: Gate::default(),
            gate_effects: Vec::new(),
            planner: Planner::new(Functions::new(builtin)),
            max_prepared: 100,
            moments: Moments::default(),
            sights: Arc::default(),
            looks: false,
            idle: BTreeMap::new(),
            clients: BTreeMap::new(),
            current: "C".into(),
            names: Vec::new(),
            out: Vec::new(),
            changes_over,
            changed: (0, 0),
        }
    }

    /// Carries out one line of input and gives the lines of what came of it.
    pub fn step(&mut self, line: &str) -> Vec<String> {
        if let Some(command) = line.strip_prefix("! ") {
            self.command(command);
        } else if let Some((who, messages)) = line.split_once("> ") {
            if who.starts_with('n') {
                self.node_says(who, messages);
            } else {
                self.current = who.to_owned();
                let frames = messages::encode(messages, true);
                self.client().input.extend(frames);
            }
        } else {
            panic!("a script's line begins with a client's name and `>`, a node's, or `!`: {line}");
        }
        self.settle();
        std::mem::take(&mut self.out)
    }

    fn client(&mut self) -> &mut Client {
        let id = self.clients.len() as u64 + 1;
        self.clients.entry(self.current.clone()).or_insert_with(|| Client::new(id, &[]))
    }

    fn command(&mut self, command: &str) {
        let words: Vec<&str> = command.split(' ').collect();
        match words.as_slice() {
            // A login with these parameters in its startup packet.
            ["login", who, params @ ..] => {
                let startup: Vec<_> = params
                    .iter()
                    .map(|p| p.split_once('=').expect("name=value"))
                    .map(|(n, v)| (n.to_owned(), v.replace('_', " ")))
                    .collect();
                self.current = (*who).to_owned();
                let id = self.clients.len() as u64 + 1;
                self.clients.insert((*who).to_owned(), Client::new(id, &startup));
            }
            ["one_instant"] => self.looks = true,
            // Commits that wait for looks go by, as they have waited long enough.
            ["gone", "by"] => {
                let later = Instant::now() + Duration::from_secs(60);
                self.sights.commits(later).expect("no look lasts a minute");
            }
            ["max_prepared", n] => self.max_prepared = n.parse().unwrap(),
            // The shard is served elsewhere from now on.
            ["move", shard, node] => {
                let node = self.routes.node_by_name(node).expect("a node").id;
                let shard = ShardId(shard.parse().unwrap());
                let epoch = Epoch(self.routes.epoch.0 + 1);
                let moved = self.routes.with_moved(shard, node, epoch).expect("the next epoch");
                self.routes = Arc::new(moved);
            }
            ["close", "shard", shard] => {
                let shard = ShardId(shard.parse().unwrap());
                let scope = Scope::Shard { group: GROUP, shard };
                self.gate.close(HoldId(1), scope, None, &mut self.gate_effects);
            }
            ["close", "all"] => {
                self.gate.close(HoldId(1), Scope::All, None, &mut self.gate_effects);
            }
            ["open"] => self.gate.open(HoldId(1), &mut self.gate_effects),
            // The DDL of the client who spoke last has ended.
            ["ddl", "done", tag @ ..] => {
                let client = self.clients.get_mut(&self.current).expect("a client");
                let ddl = client.ddl.take().expect("DDL");
                client.take_front();
                let mut out = ddl.before;
                put_command_complete(&mut out, &tag.join(" "));
                out.extend_from_slice(&ddl.behind);
                put_ready(&mut out, Status::Idle);
                client.session.ddl_done();
                self.note(&out);
            }
            ["ddl", "failed", code, message @ ..] => {
                self.clients.get_mut(&self.current).expect("a client").ddl.take().expect("DDL");
                self.refuse_front(code, &message.join(" "));
            }
            // The shell could not meet the need (a cancel, a full pool).
            ["refuse", code, message @ ..] => {
                self.refuse_front(code, &message.join(" "));
            }
            // A notification for the client who spoke last.
            ["heard", pid, channel, payload] => {
                let heard = Notification {
                    channel: (*channel).into(),
                    payload: (*payload).into(),
                    pid: pid.parse().unwrap(),
                };
                self.with_session(|session, _, io| {
                    session.post([heard]);
                    if session.is_idle() {
                        session.hand_over_mail(io);
                    }
                });
            }
            // The connection in hand broke off.
            ["lost"] => self.lost(),
            ["show"] => {
                let client = self.clients.get(&self.current).expect("a client");
                let s = &client.session;
                let node = s.node().map_or("none".into(), |n| format!("n{n}"));
                let (status, idle) = (s.status(), s.is_idle());
                let pinned = s.pinned().map_or(String::new(), |p| format!(", pinned by {p}"));
                let settings: Vec<_> = s.settings().iter().map(|s| s.sql.clone()).collect();
                self.say(&format!(
                    "{status:?}, link {node}, idle {idle}{pinned}, settings {settings:?}"
                ));
            }
            _ => panic!("unknown command of a script: {command}"),
        }
        if self.gate_effects.contains(&Effect::Wake) {
            self.say("gate: wake");
        }
        self.gate_effects.clear();
    }

    /// All that was sent so far has been heard.
    fn fence(&mut self) {
        self.say("all is heard");
        self.with_session(|session, _, io| session.fenced(io));
    }

    fn refuse_front(&mut self, code: &str, message: &str) {
        let report = Report::error(code.to_owned(), message.to_owned());
        let client = self.clients.get_mut(&self.current).expect("a client");
        let tag = client.take_front().expect("a message in front")[0];
        self.with_session(|session, _, io| session.refuse(tag, report, io));
    }

    fn lost(&mut self) {
        let report = Report::error("08006", "the node closed the connection unexpectedly");
        let mut lost = false;
        self.with_session(|session, _, io| lost = session.part_lost(&report, io));
        self.say("lost");
        if lost {
            self.drop_abandoned();
            // Nothing can be sent on it any more.
            let (mut out, mut none) = (Vec::new(), Vec::new());
            let client = self.clients.get_mut(&self.current).expect("a client");
            client.session.lose_part(&mut Io { client: &mut out, server: &mut none });
            self.wrote(&out, &none);
        } else {
            self.with_session(|session, env, _| {
                session.unlink(env);
            });
        }
    }

    fn drop_abandoned(&mut self) {
        let client = self.clients.get_mut(&self.current).expect("a client");
        let mut dropped = 0;
        while client.session.take_abandoned().is_some() {
            dropped += 1;
        }
        (0..dropped).for_each(|_| self.say("one is cancelled and closed"));
    }

    /// What a node sends goes to the client that is linked to it and was named last, else to any. The
    /// session reads it when that connection is in its hand.
    fn node_says(&mut self, node: &str, messages: &str) {
        let (node, who) = node.split_once(':').unwrap_or((node, ""));
        if !who.is_empty() {
            self.current = who.to_owned();
        }
        let node = self.routes.node_by_name(node).expect("a node").id;
        let sent = messages::encode(messages, false).concat();
        self.client().from_nodes.entry(node).or_default().extend_from_slice(&sent);
        if !self.hears() {
            self.say("nobody listens yet");
        }
    }

    /// The session reads what the node in hand has sent. True: there was something.
    fn hears(&mut self) -> bool {
        self.turn_to_who_speaks();
        let Some(node) = self.client().session.node() else { return false };
        let mut input = self.client().from_nodes.remove(&node).unwrap_or_default();
        if input.is_empty() {
            return false;
        }
        self.with_session(|session, env, io| {
            if let Err(e) = session.server(&mut input, env, io) {
                panic!("the session does not understand the node: {e}");
            }
        });
        if !input.is_empty() {
            self.client().from_nodes.insert(node, input);
        }
        let broken = self.client().session.broken().map(str::to_owned);
        if let Some(why) = broken {
            self.say(&format!("broken: {why}"));
            self.with_session(|session, env, _| {
                session.unlink(env);
            });
            self.client().gone = true;
        }
        true
    }

    /// Does what the shell does until every client waits for something.
    fn settle(&mut self) {
        let names: Vec<_> = self.clients.keys().cloned().collect();
        let spoke = std::mem::take(&mut self.current);
        for name in names {
            self.current = name;
            while !self.client().gone && self.turn() {}
            if self.changes_over {
                self.change_over();
            }
        }
        self.current = spoke;
    }

    /// What the shell does when a successor has come.
    fn change_over(&mut self) {
        let client = self.client();
        if client.gone || !client.input.is_empty() || !client.again.is_empty() {
            return;
        }
        let (mut held, mut free) = (0, 0);
        self.with_session(|session, env, _| {
            let Some(luggage) = session.pack(env) else { return };
            *(if session.is_linked() { &mut held } else { &mut free }) += 1;
            let packed = serde_json::to_string(&luggage).unwrap();
            session.unlink(env);
            *session = Session::unpack(1, serde_json::from_str(&packed).unwrap(), env);
        });
        self.changed.0 += held;
        self.changed.1 += free;
    }

    /// Gives back and takes in hand what the session says. True: one was given back.
    fn follow(&mut self) -> bool {
        let mut released = false;
        loop {
            self.drop_abandoned();
            if self.release() {
                released = true;
                continue;
            }
            match self.client().session.wanted_turn() {
                Some(node) => self.turn_to(node),
                None => return released,
            }
        }
    }

    fn turn_to(&mut self, node: NodeId) {
        if self.client().session.turn_to(node).is_some() {
            self.say(&format!("turns to n{node}"));
            self.with_session(|session, _, io| session.turned(io));
        }
    }

    fn turn(&mut self) -> bool {
        self.follow();
        let need = self.take_messages();
        let released = self.follow();
        if self.hears() || self.sees() {
            return true;
        }
        if self.meets_ddl(&need) {
            return true;
        }
        let session = &self.client().session;
        if matches!(need, Some(Need::Fence)) || need.is_none() && session.waits_for_fence() {
            self.fence();
            return true;
        }
        let waits = match need {
            Some(Need::Turn(node)) => {
                self.turn_to(node);
                return true;
            }
            Some(Need::Lease(node)) => {
                let facts = Box::new(self.idle.entry(node).or_default().pop().unwrap_or_default());
                self.say(&format!("linked n{node}"));
                self.with_session(|session, env, _| session.linked(node, facts, env));
                return true;
            }
            Some(Need::Ddl(ddl)) => {
                if self.client().ddl.is_none() {
                    self.say(&format!("ddl: {}", ddl.sql));
                    self.client().ddl = Some(*ddl);
                }
                None
            }
            Some(Need::Listen(channels)) => {
                self.say(&format!("listens to {}", channels.join(" ")));
                self.client().session.listening(channels);
                return true;
            }
            Some(Need::Analysis(order)) => {
                self.client().session.analysed(order.carry_out());
                return true;
            }
            Some(Need::Stay(..) | Need::Publish | Need::Fence) => None,
            Some(Need::Gate) => Some("held by the gate"),
            Some(Need::Sight(_)) => Some("held by a look"),
            Some(Need::Quiet) => Some(QUIET),
            None => None,
        };
        if self.client().waits != waits {
            self.client().waits = waits;
            if let Some(text) = waits {
                self.say(text);
            }
        }
        released && (waits == Some(QUIET) || !self.client().again.is_empty())
    }

    /// Gives the statement under way the look, or the leave to decide, that it awaits.
    fn sees(&mut self) -> bool {
        let Some(awaited) = self.client().session.awaits() else { return false };
        let (sights, now) = (self.sights.clone(), Instant::now());
        self.with_session(|session, _, io| match awaited {
            Awaited::Look { nodes, tries } => {
                session.looks(sights.look(&nodes, tries, now).expect("nobody commits"), io);
            }
            Awaited::Decision(writers) => {
                session.decides(sights.decides(&writers, now).expect("nobody looks"), io);
            }
        });
        true
    }

    fn take_messages(&mut self) -> Option<Need> {
        if self.client().ddl.is_some() {
            return None;
        }
        while let Some(frame) = {
            let c = self.client();
            c.again.front().or(c.input.front()).cloned()
        } {
            let header = frame::header(&frame).unwrap().expect("whole frames");
            if header.tag == b'd' {
                match self.copy_data(&frame) {
                    None => continue,
                    need => return need,
                }
            }
            let mut flow = None;
            self.with_session(|session, env, io| {
                flow = Some(session.client(header, &frame[frame::HEADER..], env, io));
            });
            match flow.expect("the session was asked") {
                Ok(Flow::Done) => {
                    self.client().take_front();
                    self.client().waits = None;
                }
                Ok(Flow::Wait(need)) => return Some(need),
                Ok(Flow::Terminate) => {
                    self.say("goodbye");
                    self.client().gone = true;
                    return None;
                }
                Err(e) => {
                    self.say(&format!("protocol violation: {e}"));
                    self.client().gone = true;
                    return None;
                }
            }
        }
        None
    }

    fn release(&mut self) -> bool {
        let again = self.client().session.take_retry();
        let node = self.client().session.node();
        let mut released = None;
        self.with_session(|session, env, _| released = session.take_released(env));
        let gone = released.is_some();
        if let Some(facts) = released {
            let node = node.expect("it was linked");
            let applied = match &facts.applied {
                None => " (parameters unknown)".to_owned(),
                Some(a) if a.is_empty() => String::new(),
                Some(a) => {
                    let names: Vec<_> = a.iter().map(|s| s.name.as_str()).collect();
                    format!(" ({})", names.join(", "))
                }
            };
            let kept = if facts.spent { " and closed" } else { "" };
            self.say(&format!("released n{node}{applied}{kept}"));
            if !facts.spent {
                self.idle.entry(node).or_default().push(*facts);
            }
            if self.client().session.is_linked() {
                self.with_session(|session, _, io| session.turned(io));
            }
        }
        if !again.is_empty() {
            self.say("tried again");
            self.client().again.extend(again);
        }
        gone
    }

    fn with_session(&mut self, f: impl FnOnce(&mut Session, &mut Env<'_>, &mut Io<'_>)) {
        let (mut out, mut to_node) = (Vec::new(), Vec::new());
        let client = self.clients.get_mut(&self.current).expect("a client");
        let mut lender = Idle { all: &mut self.idle, lent: None };
        let mut env = Env {
            now: Instant::now(),
            lender: &mut lender,
            routes: &self.routes,
            gate: &mut self.gate,
            planner: &mut self.planner,
            max_prepared: self.max_prepared,
            collect_limit: 16 << 20,
            max_session: 1 << 20,
            max_message: 1 << 20,
            moments: &self.moments,
            sights: self.looks.then_some(&self.sights),
        };
        f(&mut client.session, &mut env, &mut Io { client: &mut out, server: &mut to_node });
        self.gate.settle(&mut self.gate_effects);
        if let Some(node) = lender.lent {
            self.say(&format!("linked n{node}"));
        }
        self.wrote(&out, &to_node);
    }

    fn wrote(&mut self, to_client: &[u8], to_node: &[u8]) {
        self.note(to_client);
        if !to_node.is_empty() {
            let node = self.client().session.node().expect("nothing is sent without a link");
            let text = messages::decode(to_node, true).join(" | ");
            let text = self.short(&text);
            self.say(&format!("n{node}< {text}"));
        }
    }

    fn note(&mut self, to_client: &[u8]) {
        if !to_client.is_empty() {
            let text = messages::decode(to_client, false).join(" | ");
            let who = self.current.clone();
            self.say(&format!("{who}< {text}"));
        }
    }

    fn say(&mut self, text: &str) {
        self.out.push(format!("  {text}"));
    }

    /// With the long names of statements on the nodes made short.
    fn short(&mut self, text: &str) -> String {
        let mut short = text.replace('\n', "\\n");
        let mut from = 0;
        while let Some(at) = short[from..].find("pgs_").map(|at| from + at) {
            let hex = short[at + 4..].bytes().take(32).take_while(u8::is_ascii_hexdigit).count();
            if hex < 32 {
                from = at + 4;
                continue;
            }
            let long = short[at..at + 36].to_owned();
            let n = self.names.iter().position(|n| *n == long).unwrap_or_else(|| {
                self.names.push(long.clone());
                self.names.len() - 1
            });
            short = short.replace(&long, &format!("@{}", n + 1));
        }
        short
    }
}

impl Client {
    fn new(id: u64, startup: &[(String, String)]) -> Self {
        Self {
            session: Session::new(id, startup),
            input: VecDeque::new(),
            again: VecDeque::new(),
            from_nodes: BTreeMap::new(),
            ddl: None,
            waits: None,
            gone: false,
        }
    }

    fn take_front(&mut self) -> Option<Vec<u8>> {
        self.again.pop_front().or_else(|| self.input.pop_front())
    }
}
