//! A statement that is carried out on several participants: what each is sent, and how what they
//! answer becomes the client's one answer.
//!
//! ```text
//!   begin ─► say ─► (turn) ─► say ─► ... ─► (turn) hear ─► (turn) hear ─► ... ─► conclude
//!                    COMMIT:  say ─► hear ─► (turn) say ─► hear ─► ...  (crate::commit)
//! ```
//!
//! Each participant is sent the same request, with the start of its transaction where it has none, and
//! then they are heard one after the other: all of them work at once, and the sockets of those whose
//! turn has not come push back. Every request of it is a [`Fate::Part`]: the session notes what its
//! answer says of the connection, and what the client reads is decided here.
//!
//! A participant that fails ends the statement; the client reads the first error. Of the others
//! nothing is of use any more: where no transaction could go on with them their statements are
//! cancelled and their connections closed, else they are heard to their ends in silence.

use std::rc::Rc;
use std::sync::Arc;

use postgres_protocol::escape::escape_literal;

use super::binding::Sight;
use super::block::OwnBlock;
use super::clock::Clock;
use super::gathering::Gathering;
use super::link::{Done, Expect, Fate, Reply};
use super::making::Making;
use super::request::Request;
use super::splitting::Splitting;
use super::{Io, Session};
use crate::commit::{Act, Commit};
use crate::merge::Answer;
use crate::router::plan::{Effect, Plan, Reference, TimesTold};
use crate::router::times::Times;
use crate::sight::Ending;
use crate::topology::NodeId;
use crate::wire::backend::{self, Report, Status};
use crate::wire::{frame, frontend};

/// How far the act of a transaction's end that is next has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    ToSay,
    Said,
    Failed,
}

/// How the answers become one.
#[derive(Debug)]
pub(super) enum How {
    /// Rows, by way of the merger.
    Merged(Box<Answer>),
    /// Rows of which one node then makes the answer.
    Gathered(Box<Gathering>),
    /// The clock is asked for the transaction's time, and then the statement is carried out.
    Timed(Box<Later>),
    /// The transaction's snapshot is taken on all nodes: the client reads nothing of it.
    Snapshot,
    /// All answer alike: the body of a CommandComplete, once one has come.
    Same(Vec<u8>),
    /// The client has had its answer.
    Nothing,
    /// The answers that have come make none.
    Refused(Report),
}

/// A change of a reference table, which waits until the participants keep others from changing it.
#[derive(Debug)]
pub(super) struct Held {
    pub request: Request,
    pub how: How,
    pub splitting: Option<Box<Splitting>>,
}

/// A statement that waits for the transaction's time.
#[derive(Debug)]
pub(super) struct Later {
    pub nodes: Vec<NodeId>,
    pub request: Request,
    pub how: How,
}

#[derive(Debug)]
pub(super) struct Spread {
    /// In the order in which they are heard.
    pub nodes: Vec<NodeId>,
    /// Those that have taken part in what came before.
    pub earlier: Vec<NodeId>,
    /// How many were sent the request.
    pub said: usize,
    /// How many have answered whole.
    pub heard: usize,
    pub request: Request,
    pub how: How,
    /// What all are sent when they have carried out the request.
    pub held: Option<Box<Held>>,
    /// It is COPY FROM STDIN.
    pub splitting: Option<Box<Splitting>>,
    pub step: Step,
    /// The first participant carries it out before the others: who else does so waits for locks there, and
    /// not for one on each node.
    pub first_alone: bool,
    /// The most that it may do on each node.
    pub effect: Effect,
    /// The client's portal that it is executed by.
    pub portal: Vec<u8>,
    /// It tells the transaction's time.
    pub times: Option<TimesTold>,
    /// That time, once it is known.
    pub time: Option<Times>,
    /// It is DDL: what it does to distributed tables.
    pub making: Option<Box<Making>>,
    /// Answers to the client's messages before the statement's own, for the first error not to repeat.
    pub answered: usize,
    /// How it comes to read all nodes at one instant.
    pub sight: Sight,
    /// While a transaction of several writers is being decided: reads of several nodes wait for it.
    pub ending: Option<Ending>,
    /// It is to see one instant, once the transaction's time is known.
    pub looks_later: bool,
    /// What it is sent now joins rows that were collected.
    pub without_loops: bool,
    /// It is a query of the simple protocol that the nodes are sent by the extended one.
    pub plain: bool,
    /// The client asked for no ParseComplete: a Parse of pgshunt's stands in front.
    pub hide_parse: bool,
    /// The client asked for no RowDescription of the portal.
    pub hide_describe: bool,
    /// Of the answers only rows are the client's.
    pub silent: bool,
    /// ParameterDescription has come: the columns that follow are the statement's.
    pub of_statement: bool,
    /// What answers the client's messages before the statement.
    pub before: Vec<u8>,
    /// What answers the client's messages behind it.
    pub behind: Vec<u8>,
    /// It is a query, or the client has sent Sync: ReadyForQuery is due.
    pub ready: bool,
    /// The client has read an error.
    pub failed: bool,
    /// A transaction block was open when it began.
    pub in_block: bool,
    /// A participant that has committed has sent notifications.
    notified: bool,
}

impl Spread {
    pub fn new(nodes: Vec<NodeId>, request: Request, how: How) -> Self {
        Self {
            nodes,
            earlier: Vec::new(),
            said: 0,
            heard: 0,
            request,
            how,
            step: Step::ToSay,
            held: None,
            splitting: None,
            first_alone: false,
            effect: Effect::Reads,
            portal: Vec::new(),
            times: None,
            time: None,
            making: None,
            answered: 0,
            sight: Sight::Own,
            ending: None,
            looks_later: false,
            without_loops: false,
            plain: false,
            hide_parse: false,
            hide_describe: false,
            silent: false,
            of_statement: false,
            before: Vec::new(),
            behind: Vec::new(),
            ready: true,
            failed: false,
            in_block: false,
            notified: false,
        }
    }

    /// It changes a reference table: first all keep others from doing so, one after the other, until the
    /// transaction ends. The home node is the first, and knows whether there is another node since.
    pub fn holds_first(&mut self, table: &Reference) {
        let text =
            format!("SELECT pgshunt.hold({}, {})", escape_literal(&table.quoted), self.nodes.len());
        let plan = Arc::new(Plan::nothing());
        let hold = Request::Text { plan, text: text.into_bytes(), controls: None };
        self.held = Some(Box::new(Held {
            request: std::mem::replace(&mut self.request, hold),
            how: std::mem::replace(&mut self.how, How::Nothing),
            splitting: self.splitting.take(),
        }));
        self.first_alone = true;
    }

    /// All that it needs, sooner or later.
    pub fn participants(&self) -> impl Iterator<Item = NodeId> {
        let others = self.making.iter().flat_map(|m| &m.others);
        self.nodes.iter().chain(others).copied()
    }

    /// What is sent goes to these, from the first on.
    pub fn starts_over(&mut self, nodes: Vec<NodeId>) {
        self.nodes = nodes;
        (self.said, self.heard, self.first_alone) = (0, 0, false);
    }

    /// A participant has answered whole.
    pub fn heard_some(&self) -> bool {
        self.heard > 0
    }

    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// It changes rows, and not only the session.
    pub fn writes(&self) -> bool {
        self.effect > Effect::Locks
    }

    /// The statement is over: what is left is to end the transaction on these nodes.
    pub fn ends_with(&mut self, nodes: Vec<NodeId>, commit: Commit, plan: Plan) {
        // Whether a participant that is lost while it decides has committed is not known.
        self.in_block = !commit.is_undone();
        self.nodes = nodes;
        self.step = Step::ToSay;
        self.request = Request::Ending { commit, plan: Arc::new(plan), controls: None };
    }

    pub fn is_to_say(&self) -> bool {
        match &self.request {
            Request::Ending { commit, .. } => self.step == Step::ToSay && commit.next().is_some(),
            _ => self.said < self.nodes.len() && !self.waits_for_first(),
        }
    }

    /// The first participant has been sent the request, and is to have carried it out before the others.
    fn waits_for_first(&self) -> bool {
        self.first_alone && self.said == 1 && self.heard == 0
    }

    /// The participant that is to be sent the request next, or else the one to be heard.
    pub fn wants(&self) -> Option<NodeId> {
        if let Request::Ending { commit, .. } = &self.request {
            return commit.next().map(|(node, _)| node);
        }
        let splitting = self.splitting.as_ref().filter(|_| !self.is_to_say());
        if let Some(wanted) = splitting.and_then(|s| s.turn()) {
            return wanted;
        }
        let at = if self.is_to_say() { self.said } else { self.heard };
        self.nodes.get(at).copied()
    }

    /// Nothing is left to be heard.
    pub fn is_over(&self) -> bool {
        match &self.request {
            Request::Ending { commit, .. } => commit.next().is_none(),
            _ => self.heard == self.nodes.len(),
        }
    }

    /// What it does is done, for all that the client will read.
    pub fn is_decided(&self) -> bool {
        matches!(&self.request, Request::Ending { commit, .. } if commit.is_decided())
    }

    /// Whether the statement's effects on the session count from this answer on: all have succeeded.
    pub fn is_last(&self) -> bool {
        matches!(self.how, How::Merged(_) | How::Gathered(_))
            || matches!(self.request, Request::Ending { .. })
            || self.heard + 1 == self.nodes.len()
    }

    /// The first participant's description is what the client reads.
    pub fn is_first(&self) -> bool {
        self.heard == 0 && self.splitting.as_ref().is_none_or(|s| s.is_first())
    }

    /// A row comes that must be looked at.
    pub fn folds(&self) -> bool {
        let ends = matches!(self.request, Request::Ending { .. });
        let told = self.making.as_ref().is_some_and(|m| m.listens(self.heard));
        let looks = match &self.how {
            How::Merged(answer) => answer.folds(),
            How::Gathered(_) | How::Timed(_) => true,
            How::Same(_) | How::Nothing | How::Refused(_) | How::Snapshot => false,
        };
        ends || told || !self.failed && looks
    }

    /// Whether a message that is not looked at is the client's.
    pub fn passes(&mut self, tag: u8) -> bool {
        match &mut self.how {
            How::Merged(answer) if tag == b'D' => !self.failed && answer.takes_row(),
            // CopyOutResponse is said once.
            How::Merged(_) if tag == b'H' => !self.failed && self.heard == 0,
            How::Same(_) if tag == b'D' => self.making.is_none() && !self.failed && self.heard == 0,
            // All say the same.
            How::Same(_) => {
                let listens = self.making.as_ref().is_none_or(|m| m.listens(self.heard));
                tag == b'N' && self.heard == 0 && listens
            }
            How::Merged(_)
            | How::Gathered(_)
            | How::Timed(_)
            | How::Nothing
            | How::Refused(_)
            | How::Snapshot => tag == b'N',
        }
    }
}

impl Session {
    /// Begins to carry a statement out. All participants are there and owe nothing.
    pub(super) fn begin_spread(&mut self, mut spread: Spread, io: &mut Io<'_>) {
        self.retry.disarm();
        self.movable = false;
        spread.in_block = self.status != Status::Idle;
        // The answer to a text is complete when its last statement's is.
        spread.ready &= self.script.is_none();
        if !spread.in_block {
            self.clock = Clock::default();
        }
        if spread.writes() {
            self.open_own_block();
        }
        spread.takes_time(&self.clock);
        spread.looks_in_time();
        // Those of another placement, and of what was refused.
        let needs = |node| spread.participants().any(|n| n == node);
        let unused = |l: &&mut super::Link| !l.started && !needs(l.node);
        self.link.iter_mut().chain(&mut self.resting).filter(unused).for_each(|l| l.let_go = true);
        io.client.append(&mut spread.before);
        self.spread = Some(Box::new(spread));
        self.go_on(io);
    }

    /// Sends the request to the participant in hand, if it is its turn.
    pub(super) fn go_on(&mut self, io: &mut Io<'_>) {
        self.feed(io);
        let Some(spread) = self.spread.as_mut().filter(|s| s.is_to_say()) else { return };
        if self.link.as_ref().map(|l| l.node) != spread.wants() || spread.awaits().is_some() {
            return;
        }
        let (goes_on, binds) = (spread.goes_on(), spread.is_binding());
        spread.said += 1;
        let all_said = spread.said == spread.nodes.len();
        // What COPY writes is known when rows are handed over.
        let effect = match &spread.how {
            How::Timed(_) => Effect::Reads,
            _ if spread.splits() => Effect::Locks,
            _ => spread.effect,
        };
        let ends = matches!(spread.request, Request::Ending { .. });
        let request = match &mut spread.request {
            Request::Each(left) => match left.pop_front() {
                Some(request) => request,
                None => return,
            },
            Request::Ending { commit, plan, controls } => {
                spread.step = Step::Said;
                let text = commit.sql().into_bytes();
                let decides = commit.next().is_some_and(|(_, act)| act == Act::Decide);
                crate::failpoint::hit(commit.failpoint());
                let controls = controls.clone().filter(|_| decides);
                Request::Text { plan: plan.clone(), text, controls }
            }
            request => request.clone(),
        };
        let request = match (&spread.time, &spread.times, &spread.how) {
            (_, _, How::Timed(_)) => request,
            (Some(time), Some(told), _) => request.in_time(time, told.named),
            _ => request,
        };
        let (joins, in_block) = (spread.without_loops, spread.in_block);
        if !ends {
            self.begin_on_link(io);
        }
        if let Some(link) = &mut self.link {
            if joins && !ends {
                link.joins_without_loops(io);
            }
            link.effect = link.effect.max(effect);
        }
        match request {
            Request::Text { plan, text, controls } => {
                self.put_text(&plan, &text, controls, Fate::Part, io);
            }
            Request::Ending { .. } | Request::Each(_) => {}
            Request::Segment { plan, frames, replies, controls } => {
                if !goes_on {
                    self.before_sequences(&plan, io);
                    self.uses_tables(&plan);
                }
                self.put_segment(&frames, replies, controls.as_ref(), joins && in_block, io);
                if let Some(link) = &mut self.link {
                    // It is asked to answer what it has bound.
                    link.flushed |= binds;
                }
            }
        }
        if all_said {
            crate::failpoint::hit("spread:said");
        }
    }

    /// Sends the participant in hand its messages. `back`: it joins as before behind them.
    fn put_segment(
        &mut self,
        frames: &[u8],
        replies: Vec<Reply>,
        controls: Option<&Rc<[Done]>>,
        back: bool,
        io: &mut Io<'_>,
    ) {
        let Some(link) = &mut self.link else { return };
        let before_sync = frames.len().saturating_sub(if back { frame::HEADER } else { 0 });
        io.server.extend_from_slice(frames.get(..before_sync).unwrap_or_default());
        for reply in replies {
            if back && matches!(reply, Reply::Sync) {
                link.joins_as_before(io);
                frontend::put_empty(io.server, b'S');
            }
            let mut e = Expect::new(reply, Fate::Part);
            match e.reply {
                Reply::Parse => e.undo.unnamed = Some(link.unnamed.take()),
                Reply::Execute => e.controls = controls.cloned(),
                _ => {}
            }
            link.push(e);
        }
    }

    /// What comes next, which may be for the participant in hand.
    pub(super) fn carry_on(&mut self, io: &mut Io<'_>) {
        match self.spread.as_mut().is_some_and(|s| s.is_over() && !s.makes_on()) {
            true => self.conclude(io),
            false => self.go_on(io),
        }
    }

    /// The participant in hand has answered whole.
    pub(super) fn part_ready(&mut self, status: Status, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        link.facts.reported.tell(&mut self.told, io.client);
        self.settings.learn_date_style(|| link.facts.reported.get("DateStyle"));
        let notified = status == Status::Idle && std::mem::take(&mut link.notified) && link.fenced;
        if status == Status::Idle {
            link.forget_effect();
            self.transaction_ended();
        }
        let Some(spread) = &mut self.spread else { return };
        spread.notified |= notified;
        spread.heard += 1;
        if let Request::Ending { commit, .. } = &mut spread.request {
            match std::mem::replace(&mut spread.step, Step::ToSay) {
                Step::Failed => commit.failed(),
                Step::ToSay | Step::Said => commit.done(),
            }
        }
        self.next_round();
        self.carry_on(io);
    }

    /// All have been heard: what completes the statement's answer.
    fn complete(&mut self, spread: &mut Spread, io: &mut Io<'_>) {
        let out = match self.script.as_mut().and_then(|s| s.held()) {
            Some(held) => held,
            None => &mut *io.client,
        };
        let completed = match &mut spread.how {
            _ if spread.failed => Ok(()),
            How::Merged(answer) => {
                let finished = answer.finish(out);
                let held = answer.take_held().filter(|_| finished.is_ok());
                held.into_iter().for_each(|held| self.hold_rows(&spread.portal, held));
                finished
            }
            How::Same(tag) => {
                frame::put(out, b'C', |b| b.extend_from_slice(tag));
                Ok(())
            }
            How::Nothing | How::Snapshot => Ok(()),
            How::Refused(report) => Err(report.clone()),
            // The last of those that were to be heard is gone.
            How::Gathered(_) | How::Timed(_) => Err(crate::merge::malformed()),
        };
        spread.how = How::Nothing;
        if let Err(report) = completed {
            self.tell(&report, io);
            spread.failed = true;
        }
    }

    /// All have been heard: what is left of the answer, and the state that the session is in now.
    pub(super) fn conclude(&mut self, io: &mut Io<'_>) {
        let Some(mut spread) = self.spread.take() else { return };
        if matches!(spread.how, How::Snapshot) {
            return self.snapshot_taken(&spread, io);
        }
        spread.splitting = None;
        let ended = matches!(spread.request, Request::Ending { .. });
        let text = matches!(spread.request, Request::Text { .. });
        let ends = ended || text && matches!(spread.how, How::Same(_));
        let ends_own = self.own_block == OwnBlock::Open && spread.ready;
        // That rows were changed is said when it is decided.
        if !(ends_own && spread.writes()) {
            self.complete(&mut spread, io);
        }
        if ends_own {
            return self.end_own_block_by(*spread, io);
        }
        if spread.failed {
            self.forget_pending(spread.answered);
        } else {
            io.client.extend_from_slice(&spread.behind);
            self.pending.clear();
            self.pending_bytes = 0;
            if let Some(making) = &spread.making {
                self.settled(&making.outcome(), &making.told);
            }
        }
        if let Request::Ending { commit, .. } = &spread.request {
            self.left_prepared |= commit.has_left();
            if let Some(ending) = spread.ending.take().filter(|_| !commit.has_left()) {
                ending.over();
            }
        }
        let open = !ended && self.links().any(super::Link::is_open);
        if open {
            let failed = spread.failed || self.links().any(|l| l.status == Status::Failed);
            self.status = if failed { Status::Failed } else { Status::Transaction };
            if failed && !self.gives_up(io) {
                self.fail_on_node(io);
            }
        } else if spread.in_block && !ends {
            // None of them could begin its transaction, which goes on without a node.
            self.status = if spread.failed { Status::Failed } else { Status::Transaction };
            self.begin.clone_from(&self.begin_text);
        } else {
            self.status = Status::Idle;
            self.block_ended(spread.failed);
            let applied = self.settings.current().clone();
            let took_part: Vec<_> = spread.nodes.iter().chain(&spread.earlier).copied().collect();
            for link in self.links_mut().filter(|l| took_part.contains(&l.node)) {
                link.facts.applied = Some(applied.clone());
            }
        }
        if spread.ready {
            self.skipping = false;
            if self.status == Status::Idle {
                self.channels.keep_ready(spread.notified);
                if self.keeps_for_schema() || self.waits_for_fence() {
                    return;
                }
                self.hand_over_mail(io);
            }
            backend::put_ready(io.client, self.status);
        } else {
            self.skipping |= spread.failed && self.script.is_none();
            self.retry.went_over();
        }
    }
}
