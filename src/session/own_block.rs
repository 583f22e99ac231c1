//! A transaction block of pgshunt's own, in place of the transaction that PostgreSQL would give to a
//! request outside of a block.
//!
//! On one node a Query, or a segment of the extended protocol up to its Sync, is a transaction by
//! itself. Where it writes on several nodes each of them gets BEGIN in front of its part, and the end
//! of the request commits all of them, or rolls all of them back, as the client's own COMMIT would
//! ([`crate::commit`]). A segment may have written on one node before it needs another: BEGIN takes
//! what it has done there into the block.
//!
//! The client believes that no transaction is open; within the session one is, so all that holds in a
//! block of the client's holds here.

use std::collections::VecDeque;

use super::block::OwnBlock;
use super::clock::Clock;
use super::request::Request;
use super::snapshot::Snapshot;
use super::spread::{How, Spread};
use super::{Io, Need, Session};
use crate::commit::Commit;
use crate::router::plan::Plan;
use crate::topology::NodeId;
use crate::wire::backend::{Report, Status};

const BEGIN: &[u8] = b"BEGIN";

impl Session {
    /// A statement that is about to be sent to several nodes changes rows there: it needs a block.
    pub(super) fn open_own_block(&mut self) {
        if self.status == Status::Idle {
            self.own_block = OwnBlock::Open;
            self.status = Status::Transaction;
            self.begin.clear();
            self.begin.extend_from_slice(BEGIN);
        }
    }

    /// The segment under way has begun on the connection in hand, where it is a transaction by itself,
    /// and nothing is outstanding.
    pub(super) fn is_own_transaction(&self) -> bool {
        let begun = !self.begin_text.is_empty() || !self.begin.is_empty();
        let link = self.link.as_ref();
        self.status == Status::Idle && !begun && link.is_some_and(|l| l.in_segment && l.is_quiet())
    }

    /// What the segment under way has done on the connection in hand becomes part of a block, which
    /// other nodes can join.
    pub(super) fn make_own_block(&mut self, io: &mut Io<'_>) -> Need {
        self.own_block = OwnBlock::Open;
        self.begin_text.extend_from_slice(BEGIN);
        self.retry.disarm();
        self.put_own_behind("BEGIN", io);
        if let Some(link) = &mut self.link {
            link.begun = true;
            self.clock = Clock::of(link.node);
        }
        self.end_segment(io);
        Need::Quiet
    }

    /// The client's request has ended, whose block is open: it ends as soon as nothing is under way.
    /// False: there is none.
    pub(super) fn own_block_is_over(&mut self, io: &mut Io<'_>) -> bool {
        if self.own_block == OwnBlock::No {
            return false;
        }
        self.own_block = OwnBlock::Over;
        self.pending.clear();
        self.pending_bytes = 0;
        self.end_segment(io);
        self.end_own_block(io);
        true
    }

    /// Ends the block, if that is due and nothing is under way.
    pub(super) fn end_own_block(&mut self, io: &mut Io<'_>) {
        let busy = self.spread.is_some() || self.link.as_ref().is_some_and(|l| !l.is_quiet());
        if self.own_block == OwnBlock::Over && !busy {
            let nothing = Request::Each(VecDeque::new());
            let mut spread = Spread::new(Vec::new(), nothing, How::Nothing);
            spread.failed = self.status == Status::Failed;
            self.end_own_block_by(spread, io);
        }
    }

    /// Behind a statement on several nodes: the block ends before the client reads the rest of the
    /// answer.
    pub(super) fn end_own_block_by(&mut self, mut spread: Spread, io: &mut Io<'_>) {
        self.own_block = OwnBlock::Over;
        let parts = self.parts();
        let nodes: Vec<NodeId> = parts.iter().map(|p| p.node).collect();
        spread.failed |= self.links().any(|l| l.status == Status::Failed);
        self.begin.clear();
        let commit = match spread.failed {
            true => Commit::undo(nodes.iter().copied()),
            false => Commit::new(parts),
        };
        spread.ends_with(nodes, commit, Plan::nothing());
        self.spread = Some(Box::new(spread));
        self.carry_on(io);
    }

    /// Whatever was open has ended. COMMIT and ROLLBACK have said how already.
    pub(super) fn block_ended(&mut self, failed: bool) {
        if failed {
            self.settings.rollback();
            self.channels.rollback();
            self.cursors.rollback();
        } else {
            self.settings.commit();
            self.channels.commit();
            self.cursors.commit();
        }
        self.end_portals();
        self.epoch = None;
        self.opened.clear();
        self.begin_text.clear();
        self.own_block = OwnBlock::No;
        self.prelude.clear();
        self.clock = Clock::default();
        self.movable = false;
        self.deadlocked = false;
        self.snapshot = Snapshot::Own;
    }

    /// Whether a participant may stand prepared that this session does not end.
    pub fn take_left_prepared(&mut self) -> bool {
        std::mem::take(&mut self.left_prepared)
    }

    /// A commit is under way: who breaks off now may leave participants prepared.
    pub fn is_committing(&self) -> bool {
        self.spread.as_ref().is_some_and(|s| matches!(s.request, Request::Ending { .. }))
    }

    /// A Query cannot be part of a transaction that messages of the extended protocol have begun on
    /// several nodes.
    pub(super) fn refuse_amid_own_block(&mut self, io: &mut Io<'_>) {
        let report = Report::error(
            "0A000",
            "a query cannot follow messages that use several nodes without Sync",
        )
        .hint("Send Sync first.");
        self.refuse_message(b'S', report, io);
    }
}
