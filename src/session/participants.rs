//! The server connections that a session holds: the one in hand, and those that rest.
//!
//! A transaction has a participant on each node that it has used. The session decides, writes and
//! listens with one of them in hand ([`Session::link`]); the others rest, and owe nothing unless a
//! statement is being carried out on several ([`super::spread`]). Whoever needs another one asks for
//! a turn ([`Need::Turn`], [`Session::wanted_turn`]); the shell then exchanges the connections as the
//! session has exchanged its links. So no decision has to say which connection it means, and the
//! client's order of answers is the order of turns.
//!
//! A participant is enlisted by its first statement: BEGIN, and what the transaction has set since
//! ([`super::prelude`]), go along with it.

use super::link::{Expect, Fate, Link, Reply};
use super::reach::newer_placement;
use super::{Env, Facts, Io, Need, Session};
use crate::gate::machine::{Entry, Touch};
use crate::router::Sees;
use crate::router::place::Place;
use crate::router::plan::{Control, Effect, Plan, Statement};
use crate::topology::{GroupId, NodeId, Shard};
use crate::wire::backend::{Report, Status};
use crate::wire::frontend;

/// What a statement may do on the node it is sent to, to rows and to its transaction: what sets something
/// does not merely read.
pub(super) fn effect_of(plan: &Plan) -> Effect {
    let reads = |s: &Statement| matches!(s.control, Control::None | Control::Pure);
    match plan.statements.iter().all(reads) {
        true => plan.effect,
        false => plan.effect.max(Effect::Locks),
    }
}

impl Session {
    /// The server connections it holds, the one in hand first.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.link.iter().chain(&self.resting).filter(|l| !l.abandoned)
    }

    /// Where its connections lead, the one in hand first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.link.iter().chain(&self.resting).map(|l| l.node)
    }

    pub(super) fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.link.iter_mut().chain(&mut self.resting)
    }

    pub(super) fn holds(&self, node: NodeId) -> bool {
        self.links().any(|l| l.node == node)
    }

    /// The open transaction block may have several participants.
    pub(super) fn may_be_several(&self) -> bool {
        !self.resting.is_empty()
    }

    /// The participants of the open transaction block.
    pub(super) fn participants(&self) -> Vec<NodeId> {
        self.links().filter(|l| l.is_open()).map(|l| l.node).collect()
    }

    /// Takes the connection to `node` in hand. Gives where in the line of those that rest it was, and
    /// where the one before it is now; `None`: it is in hand already, or there is none.
    pub fn turn_to(&mut self, node: NodeId) -> Option<usize> {
        let at = self.resting.iter().position(|l| l.node == node)?;
        std::mem::swap(self.link.as_mut()?, &mut self.resting[at]);
        Some(at)
    }

    /// The connection that is to be taken in hand although no message of the client asks for it.
    pub fn wanted_turn(&self) -> Option<NodeId> {
        let link = self.link.as_ref()?;
        if let Some(spread) = &self.spread {
            return spread.wants().filter(|node| *node != link.node);
        }
        if self.fails_all() && link.is_quiet() && !link.in_segment {
            let sound = |l: &&Link| l.is_open() && l.status != Status::Failed;
            return self.resting.iter().find(sound).map(|l| l.node);
        }
        // Between transactions those that rest are given back, unless they are kept.
        let ended = self.status == Status::Idle && link.is_free() && !link.residue.is_due();
        let kept =
            |l: &&Link| l.is_free() && l.residue.why_kept().is_none() && (l.started || l.let_go);
        let goes = || self.resting.iter().find(kept).map(|l| l.node);
        if ended && !link.can_be_released() { goes() } else { None }
    }

    /// Another connection has been taken in hand: goes on with what it was wanted for.
    pub fn turned(&mut self, io: &mut Io<'_>) {
        if self.spread.is_some() {
            return self.go_on(io);
        }
        if self.gives_up(io) {
            return;
        }
        self.tidy_link(io);
        if self.status == Status::Failed {
            self.fail_on_node(io);
        }
    }

    /// Rolls back what is in hand of a transaction that has failed on another participant. False: it has not,
    /// or goes on.
    pub(super) fn gives_up(&mut self, io: &mut Io<'_>) -> bool {
        let sound = |l: &&mut Link| l.is_open() && l.status != Status::Failed && l.is_quiet();
        let fails = self.fails_all();
        let Some(link) = self.link.as_mut().filter(|l| fails && sound(l)) else { return false };
        frontend::put_query(io.server, b"ROLLBACK");
        link.push(Expect::new(Reply::Query, Fate::Tidy));
        link.ending = true;
        true
    }

    /// The transaction has failed on one participant and cannot go back to a savepoint: the others, and
    /// their locks, are not kept until the client has said so.
    fn fails_all(&self) -> bool {
        self.status == Status::Failed
            && !self.prelude.has_savepoint()
            && self.links().any(|l| l.status == Status::Failed)
    }

    /// Between requests: what pgshunt has left on the connection goes, and the server is asked what
    /// the transaction has left.
    pub(super) fn tidy_link(&mut self, io: &mut Io<'_>) {
        if self.spread.is_none() {
            self.take_back_names(io);
            self.ask_what_is_behind(io);
            self.ask_what_is_left(io);
        } else if self.spread.as_ref().is_some_and(|s| s.has_failed_to_bind()) {
            self.go_on(io);
        }
        self.end_own_block(io);
    }

    /// What the transaction is if the participant in hand says so: one that has failed on another has
    /// failed.
    pub(super) fn of_all(&self, status: Status) -> Status {
        let elsewhere = self.resting.iter().any(|l| l.status == Status::Failed);
        if status == Status::Transaction && elsewhere { Status::Failed } else { status }
    }

    /// Where among those that rest one is whose answer nobody waits for any more, if any: it is
    /// forgotten, and its statement is to be cancelled and the connection closed.
    pub fn take_abandoned(&mut self) -> Option<usize> {
        let at = self.resting.iter().position(|l| l.abandoned)?;
        self.resting.remove(at);
        Some(at)
    }

    /// The connection in hand is gone, or goes: the next one is taken in hand.
    pub(super) fn take_link(&mut self) -> Option<Box<Facts>> {
        let mut link = self.link.take()?;
        if !self.resting.is_empty() {
            self.link = self.resting.pop();
        }
        if link.strange {
            link.facts.applied = None;
        }
        if link.expects.is_empty() {
            self.room = link.expects;
        }
        Some(link.facts)
    }

    /// Ends the segment on the connection in hand, so that it can rest: within a transaction block a
    /// Sync changes nothing else.
    pub(super) fn end_segment(&mut self, io: &mut Io<'_>) {
        if let Some(link) = self.link.as_mut().filter(|l| l.in_segment) {
            frontend::put_empty(io.server, b'S');
            link.push(Expect::new(Reply::Sync, Fate::Rest));
        }
    }

    /// The connection to `node` is needed beside the one in hand, which is quiet.
    ///
    /// # Errors
    /// The session, in the state it is in, cannot have both.
    pub(super) fn enlist(
        &mut self,
        node: NodeId,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Need, Report> {
        let has_failed = |l: &Link| l.node == node && l.status == Status::Failed;
        if self.links().any(has_failed) {
            // It tells the client that the transaction has failed.
            return Ok(self.rest_for(node, io));
        }
        self.may_span(node, env)?;
        if self.is_own_transaction() && !self.has_only_read() {
            return Ok(self.make_own_block(io));
        }
        Ok(self.rest_for(node, io))
    }

    /// Of a pipeline that has only read so far it makes no difference where its transaction ends, but
    /// for portals that it has bound by name.
    fn has_only_read(&self) -> bool {
        self.link.as_ref().is_some_and(|l| l.is_quiet() && l.effect == Effect::Reads)
            && !self.portals.has_named()
            && !self.has_snapshot_of_its_own()
    }

    /// The connection in hand is to rest, so that the one to `node` can be taken in hand.
    pub(super) fn rest_for(&mut self, node: NodeId, io: &mut Io<'_>) -> Need {
        if self.link.as_ref().is_some_and(|l| !l.is_quiet()) {
            return Need::Quiet;
        }
        self.retry.disarm();
        self.movable = false;
        if self.link.as_ref().is_some_and(|l| l.in_segment) {
            self.end_segment(io);
            return Need::Quiet;
        }
        if self.holds(node) { Need::Turn(node) } else { Need::Lease(node) }
    }

    /// Whether the transaction, or the session between two, may use this node beside those it has.
    fn may_span(&self, node: NodeId, env: &Env<'_>) -> Result<(), Report> {
        let Some(link) = &self.link else { return Ok(()) };
        // In the segment under way BEGIN may have been carried out that the client has not been told of.
        let begun = !self.begin_text.is_empty() || !self.begin.is_empty();
        if self.status == Status::Idle && !begun && (link.is_free() || self.has_only_read()) {
            return Ok(());
        }
        let joins = begun || self.is_own_transaction();
        if self.status == Status::Failed || !joins {
            return Err(self.other_node(env, node));
        }
        // What pg_dump executes sets nothing.
        if self.prelude.is_lost() && self.settings.sees() != Sees::Dump {
            return Err(self.other_node(env, node).detail(
                "A statement of the transaction may have set parameters by a function, which only \
                 the node that ran it knows.",
            ));
        }
        self.refuses_snapshot().map_or(Ok(()), Err)
    }

    /// Where a text goes that has no place of its own, if the session keeps a connection and has another
    /// one in hand: to what is kept for it, which the text may be about.
    pub(super) fn at_pin(&self, plan: &Plan, place: Place) -> Place {
        if !matches!(place, Place::Any) {
            return place;
        }
        let of_all = |s: &Statement| concerns_all(&s.control) || s.control == Control::Begin;
        let kept = || {
            let may = !self.resting.is_empty() && !plan.statements.iter().any(of_all);
            let mut links = self.links().filter(|_| may);
            links.find(|l| l.residue.pinned.is_some()).map(|l| l.node)
        };
        // The node of a cursor that the text is about.
        let node = self.cursor_nodes(plan).next().or_else(kept);
        node.map_or(Place::Any, |node| Place::Node { node, touches: Vec::new() })
    }

    /// Gets connections to all these nodes, and through the gate to these colocation groups; `Ok(None)`: they are there, and
    /// nothing is under way.
    pub(super) fn ensure_all(
        &mut self,
        groups: &[GroupId],
        nodes: &[NodeId],
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if let Some(report) = self.aborted_for_good() {
            return Err(report);
        }
        let closed = groups.iter().any(|g| env.gate.would_hold(Touch::Group(*g)));
        if self.link.is_none() && closed {
            return Ok(Some(Need::Gate));
        }
        if let Some(link) = &mut self.link {
            if !link.is_quiet() {
                return Ok(Some(Need::Quiet));
            }
            // Of a message that was refused, or of the placements of a moment ago.
            if link.is_free() && !link.started && !nodes.contains(&link.node) {
                link.let_go = true;
                return Ok(Some(Need::Quiet));
            }
            if link.is_free() && link.started && link.residue.pinned.is_none() {
                link.residue.kept = false;
                self.epoch = None;
                self.renew_ticket(env);
            }
        }
        let missing = nodes.iter().find(|n| !self.holds(**n)).copied();
        let other = nodes.iter().find(|n| Some(**n) != self.node()).copied();
        let in_segment = self.link.as_ref().is_some_and(|l| l.in_segment);
        match (missing, other) {
            (Some(node), _) if self.link.is_none() => return Ok(Some(Need::Lease(node))),
            (Some(node), _) => return self.enlist(node, env, io).map(Some),
            (None, Some(node)) => {
                // What all participants are told they are told whatever state they are in.
                if !groups.is_empty() {
                    self.may_span(node, env)?;
                    if self.is_own_transaction() && !self.has_only_read() {
                        return Ok(Some(self.make_own_block(io)));
                    }
                }
                if in_segment {
                    self.end_segment(io);
                    return Ok(Some(Need::Quiet));
                }
            }
            (None, None) => {}
        }
        if groups.is_empty() {
            return Ok(None);
        }
        let shards = groups.iter().filter_map(|g| env.routes.group(*g)).flat_map(|g| &g.shards);
        let touched = |s: &Shard| Touch::Shard { group: s.group, shard: s.id, node: s.node };
        let shards: Vec<_> = shards.map(touched).collect();
        if let Some(report) = newer_placement(self.epoch, &shards, env.routes) {
            return Err(report);
        }
        let Some(entrance) = &mut self.entrance else { return Ok(Some(Need::Quiet)) };
        let mut touches = groups.iter().map(|g| Touch::Group(*g));
        if touches.any(|touch| entrance.enter(touch, env.gate) == Entry::Held) {
            self.links_mut().filter(|l| !l.started).for_each(|l| l.let_go = true);
            return Ok(Some(Need::Gate));
        }
        self.epoch.get_or_insert(env.routes.epoch);
        Ok(None)
    }

    /// A participant of a transaction that has failed for the client has not failed on any node: one
    /// is made to, so that it answers what follows in its own words.
    pub(super) fn fail_on_node(&mut self, io: &mut Io<'_>) {
        let failed = self.links().any(|l| l.status == Status::Failed);
        let sound = |l: &&mut Link| !failed && l.is_open() && l.is_quiet() && !l.in_segment;
        let Some(link) = self.link.as_mut().filter(sound) else { return };
        frontend::put_parse(io.server, b"", super::FAILING, b"");
        link.push(Expect::new(Reply::Parse, Fate::Spoil));
        frontend::put_empty(io.server, b'S');
        link.push(Expect::new(Reply::Sync, Fate::Spoil));
    }
}

/// What every participant of a transaction must be told, and not only the one in hand.
pub(super) fn concerns_all(control: &Control) -> bool {
    match control {
        Control::Commit
        | Control::Rollback
        | Control::CommitAndChain
        | Control::RollbackAndChain
        | Control::Savepoint(_)
        | Control::Release(_)
        | Control::RollbackTo(_)
        | Control::Local
        | Control::LocalPath
        | Control::Set(_)
        | Control::SetEach(_)
        | Control::Reset(_)
        | Control::ResetLocal(_)
        | Control::ResetAll
        | Control::Close(None) => true,
        Control::None
        | Control::Begin
        | Control::PrepareTransaction
        | Control::Pure
        | Control::DiscardAll
        | Control::Deallocate(_)
        | Control::Vacate(_)
        | Control::Pin(_)
        | Control::Bind(_)
        | Control::Leaves(_)
        | Control::Frees
        | Control::Fetch(_)
        | Control::Close(Some(_))
        | Control::DiscardSequences
        | Control::Listen { .. }
        | Control::Unlisten(_)
        | Control::ChangesFunctions
        | Control::ChangesTables
        | Control::Route { .. } => false,
    }
}
