//! Participants of a statement on several nodes that fail it, or are lost amid it.

use super::binding::Sight;
use super::request::Request;
use super::spread::{How, Spread, Step};
use super::{Io, Session};
use crate::wire::backend::{self, Report};
use crate::wire::frame;

impl Session {
    /// The client has read why the statement has failed: what the others answer is of no use.
    pub(super) fn fails(&mut self) {
        let goes_back = self.prelude.has_savepoint();
        let in_hand = self.node();
        let Some(spread) = &mut self.spread else { return };
        if spread.splits() {
            return spread.copy_fails(in_hand);
        }
        spread.failed = true;
        match (&spread.request, &spread.sight) {
            (Request::Ending { .. }, _) | (_, Sight::Failed) => return,
            (_, Sight::Binding(_)) => {
                let unsaid = spread.unbinds();
                let unused = |l: &&mut super::Link| unsaid.contains(&l.node) && !l.is_open();
                self.resting.iter_mut().filter(unused).for_each(|l| l.let_go = true);
                return;
            }
            (_, Sight::Own | Sight::Bound) => {}
        }
        let keeps = spread.in_block && (goes_back || matches!(spread.how, How::Same(_)));
        let rest = spread.nodes.split_off((spread.heard + 1).min(spread.nodes.len()));
        let said = spread.said.saturating_sub(spread.heard + 1);
        for (n, node) in rest.into_iter().enumerate() {
            let Some(link) = self.resting.iter_mut().find(|l| l.node == node) else { continue };
            let was_said = n < said;
            if keeps || link.residue.why_kept().is_some() {
                // A savepoint may bring it back: it is heard to its end, if it was told to begin.
                if was_said {
                    spread.nodes.push(node);
                }
            } else if was_said || link.is_open() {
                link.abandoned = true;
            } else {
                link.let_go = true;
            }
        }
        spread.said = spread.nodes.len();
    }

    /// An error of the participant that is heard. True: it is the client's.
    pub(super) fn part_fails(&mut self) -> bool {
        let Some(spread) = &mut self.spread else { return false };
        if let Request::Ending { commit, .. } = &spread.request {
            // Behind the decision, and behind the first error, nothing is the client's any more.
            let told = commit.is_decided() || commit.is_undone();
            spread.step = Step::Failed;
            spread.failed |= !told;
            return !told;
        }
        let told = spread.failed;
        self.fails();
        !told
    }

    /// The participant in hand could not begin its transaction: `error` is the body of its message.
    pub(super) fn part_cannot_begin(&mut self, error: &[u8], io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        link.opening = false;
        link.facts.applied = None;
        for e in link.take_skipped() {
            link.undo(&e.undo);
        }
        let kept = self.snapshot_fails(|| Report::from_node(error));
        if self.part_fails() && !kept {
            let code = backend::report_field(error, b'C').unwrap_or_default();
            self.note_error(crate::wire::blame::Blame::of_node(code));
            frame::put(io.client, b'E', |b| b.extend_from_slice(error));
        }
        self.tidy_sync(io);
        self.roll_back(io);
        self.forget_part(io);
    }

    /// The connection of the participant that is heard has broken off. True: outside of a transaction
    /// block the session goes on without it ([`Session::lose_part`]).
    pub fn part_lost(&mut self, report: &Report, io: &mut Io<'_>) -> bool {
        let survives = self.may_lose_part();
        if survives && self.part_fails() {
            self.tell(report, io);
        }
        survives
    }

    /// Nothing is on the connection of the participant that is heard which the session cannot do
    /// without.
    pub(super) fn may_lose_part(&self) -> bool {
        self.spread.as_ref().is_some_and(|s| !s.in_block || s.is_decided())
            && self.link.as_ref().is_some_and(|l| l.residue.why_kept().is_none())
    }

    /// Rows are being read from several nodes: of no use to a client that has gone.
    pub fn reads_from_several(&self) -> bool {
        let rows = |s: &Spread| {
            matches!(s.how, How::Merged(_) | How::Gathered(_) | How::Timed(_) | How::Snapshot)
        };
        let reads = |s: &Spread| rows(s) && !s.writes();
        self.spread.as_deref().is_some_and(reads)
    }

    /// Goes on without the connection in hand.
    pub fn lose_part(&mut self, io: &mut Io<'_>) {
        self.broken = None;
        self.take_link();
        self.forget_part(io);
    }

    /// The participant whose turn it is takes no part any more.
    pub(super) fn forget_part(&mut self, io: &mut Io<'_>) {
        let Some(spread) = &mut self.spread else { return };
        if let Request::Ending { commit, .. } = &mut spread.request {
            commit.failed();
            spread.step = Step::ToSay;
        } else if spread.heard < spread.nodes.len() {
            let node = spread.nodes.remove(spread.heard);
            spread.said = spread.said.saturating_sub(1);
            spread.splitting.iter_mut().for_each(|s| s.forgets(node));
        }
        self.carry_on(io);
    }
}
