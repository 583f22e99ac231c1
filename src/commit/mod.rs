//! COMMIT of a transaction that has participants on several nodes, as a machine without IO.
//!
//! ```text
//!   decider   Ask  Prepare ................... Decide ──► decided
//!   writers                 Prepare, in turn            CommitPrepared
//!   readers                                             Leave
//! ```
//!
//! With one writer its COMMIT is all that decides. With several each is prepared, the decider first, under
//! names that tell the decider's node and its transaction ([`Gid`]); COMMIT PREPARED of the decider's is
//! the decision. Whoever finds one that was left behind asks that node what became of the decider's
//! (`pg_xact_status`): there is no record of decisions beside PostgreSQL's own, and nobody has to own one.
//! The decider is prepared too because only then its id survives a crash of its node: an id that no
//! durable record bears is given to another transaction afterwards. What only reads ends last, whatever
//! it says.
//!
//! Until the decision any failure undoes all of it. Behind it nothing can fail any more: who cannot be
//! told is told later, by `catalog::transactions`.

mod gid;
pub mod waits;

pub use gid::{Gid, PREFIX};

use crate::topology::NodeId;

/// What a participant is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The decider's transaction's id.
    Ask,
    Prepare,
    /// COMMIT, or COMMIT PREPARED, of the decider: the decision.
    Decide,
    CommitPrepared,
    /// COMMIT of a participant that has only read.
    Leave,
    RollBack,
    RollBackPrepared,
}

/// How a participant took part.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub node: NodeId,
    pub wrote: bool,
}

/// The end of one transaction, act by act.
#[derive(Debug, Clone)]
pub struct Commit {
    acts: Vec<(NodeId, Act)>,
    /// How many of them are over.
    over: usize,
    /// The decider, and its transaction once it has told it.
    decider: NodeId,
    xid: Option<u64>,
    decided: bool,
    /// It was given up before the decision.
    undone: bool,
    /// Who has been prepared.
    prepared: Vec<NodeId>,
    /// A prepared one could not be ended.
    left: bool,
}

const ASK: &str = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text";

impl Commit {
    pub fn new(mut parts: Vec<Part>) -> Self {
        parts.sort_by_key(|p| (!p.wrote, p.node));
        let mut acts = Vec::new();
        let decider = parts.first().map(|p| p.node).unwrap_or(NodeId(0));
        if let Some((_, rest)) = parts.split_first() {
            let (writers, readers): (Vec<&Part>, Vec<&Part>) = rest.iter().partition(|p| p.wrote);
            if !writers.is_empty() {
                acts.extend([(decider, Act::Ask), (decider, Act::Prepare)]);
            }
            acts.extend(writers.iter().map(|p| (p.node, Act::Prepare)));
            acts.push((decider, Act::Decide));
            acts.extend(writers.iter().map(|p| (p.node, Act::CommitPrepared)));
            acts.extend(readers.iter().map(|p| (p.node, Act::Leave)));
        }
        Self {
            acts,
            over: 0,
            decider,
            xid: None,
            decided: false,
            undone: false,
            prepared: Vec::new(),
            left: false,
        }
    }

    /// The end of one that has failed, as the client has read: it is rolled back on these nodes.
    pub fn undo(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let acts = nodes.into_iter().map(|node| (node, Act::RollBack)).collect();
        Self { acts, undone: true, ..Self::new(Vec::new()) }
    }

    /// What is to be done now, and where; `None`: nothing any more.
    pub fn next(&self) -> Option<(NodeId, Act)> {
        self.acts.get(self.over).copied()
    }

    /// The text of what is to be done now.
    pub fn sql(&self) -> String {
        let Some((node, act)) = self.next() else { return String::new() };
        let gid = || Gid { decider: self.decider, xid: self.xid.unwrap_or(0), node };
        match act {
            Act::Ask => ASK.to_owned(),
            Act::Prepare => format!("PREPARE TRANSACTION '{}'", gid()),
            Act::Decide if self.prepared.is_empty() => "COMMIT".to_owned(),
            Act::Leave => "COMMIT".to_owned(),
            Act::Decide | Act::CommitPrepared => format!("COMMIT PREPARED '{}'", gid()),
            Act::RollBack => "ROLLBACK".to_owned(),
            Act::RollBackPrepared => format!("ROLLBACK PREPARED '{}'", gid()),
        }
    }

    /// Those whose changes the decision is about, if they are several: all of them are prepared by then.
    pub fn writers(&self) -> &[NodeId] {
        &self.prepared
    }

    /// The decider has told its transaction's id.
    pub fn knows(&mut self, xid: u64) {
        self.xid = Some(xid);
    }

    /// It was done.
    pub fn done(&mut self) {
        let Some((node, act)) = self.next() else { return };
        match act {
            // Without the id nothing can be prepared.
            Act::Ask if self.xid.is_none() => return self.failed(),
            Act::Prepare => self.prepared.push(node),
            Act::Decide => self.decided = true,
            _ => {}
        }
        self.over += 1;
    }

    /// It could not be done; the participant's transaction, if it was not prepared, is undone.
    pub fn failed(&mut self) {
        let Some((node, act)) = self.next() else { return };
        self.over += 1;
        self.left |= matches!(act, Act::CommitPrepared | Act::RollBackPrepared);
        if self.decided || self.undone {
            return;
        }
        self.undone = true;
        let left = self.acts.split_off(self.over).into_iter().map(|(other, _)| other);
        // What could not be decided stands prepared still, unless somebody else has ended it.
        let still = (act == Act::Decide).then_some(node);
        let mut undo: Vec<(NodeId, Act)> = Vec::new();
        for other in still.into_iter().chain(left) {
            let prepared = self.prepared.contains(&other);
            // An error has undone what was not prepared, but for that of a question.
            let undone = other == node && !prepared && act != Act::Ask;
            if !undone && !undo.iter().any(|(n, _)| *n == other) {
                undo.push((other, if prepared { Act::RollBackPrepared } else { Act::RollBack }));
            }
        }
        self.acts.extend(undo);
    }

    /// Where a test stops the process, or kills it: before the act that is next.
    pub fn failpoint(&self) -> &'static str {
        match self.next().map(|(_, act)| act) {
            Some(Act::Ask) => "commit:ask",
            Some(Act::Prepare) => "commit:prepare",
            Some(Act::Decide) => "commit:decide",
            Some(Act::CommitPrepared) => "commit:commit_prepared",
            Some(Act::Leave) => "commit:leave",
            Some(Act::RollBack) => "commit:roll_back",
            Some(Act::RollBackPrepared) => "commit:roll_back_prepared",
            None => "commit:over",
        }
    }

    /// All of it counts: whatever comes now changes nothing for the client.
    pub fn is_decided(&self) -> bool {
        self.decided
    }

    /// A participant stands prepared that could not be told how it ended.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// It was given up, and the client has read why.
    pub fn is_undone(&self) -> bool {
        self.undone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(node: i32, wrote: bool) -> Part {
        Part { node: NodeId(node), wrote }
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum State {
        Open,
        Prepared,
        Committed,
        Undone,
    }

    /// Plays an end to its end; the act of this number fails. Gives what became of each participant.
    fn play(parts: &[Part], fails: usize) -> (Vec<(NodeId, State)>, Commit) {
        let mut commit = Commit::new(parts.to_vec());
        let mut states: Vec<_> = parts.iter().map(|p| (p.node, State::Open)).collect();
        let mut number = 0;
        while let Some((node, act)) = commit.next() {
            let state = &mut states.iter_mut().find(|(n, _)| *n == node).expect("it takes part").1;
            assert!(!commit.sql().is_empty());
            let several = parts.iter().filter(|p| p.wrote).count() > 1;
            let prepared = matches!(act, Act::CommitPrepared | Act::RollBackPrepared)
                || act == Act::Decide && several;
            assert_eq!(*state, if prepared { State::Prepared } else { State::Open }, "{act:?}");
            if number == fails {
                if !prepared && act != Act::Ask {
                    *state = State::Undone;
                }
                commit.failed();
            } else {
                match act {
                    Act::Ask => commit.knows(7),
                    Act::Prepare => *state = State::Prepared,
                    Act::Decide | Act::CommitPrepared | Act::Leave => *state = State::Committed,
                    Act::RollBack | Act::RollBackPrepared => *state = State::Undone,
                }
                commit.done();
            }
            number += 1;
            assert!(number < 50, "it ends");
        }
        (states, commit)
    }

    #[test]
    fn whatever_fails_those_that_wrote_end_alike() {
        let kinds = |n: u32| (0..3).map(|bit| part(bit + 1, n >> bit & 1 == 1)).collect::<Vec<_>>();
        for parts in (0..8).map(kinds) {
            for fails in 0..12 {
                let (states, commit) = play(&parts, fails);
                let wrote = |node: &NodeId| parts.iter().any(|p| p.node == *node && p.wrote);
                for (node, state) in states.iter().filter(|(n, _)| wrote(n)) {
                    let wanted = match commit.is_decided() {
                        // Left to recovery, if the node could not be told.
                        true => [State::Committed, State::Prepared],
                        false => [State::Undone, State::Prepared],
                    };
                    assert!(wanted.contains(state), "{parts:?} {fails} {node:?} {states:?}");
                }
                let left = states.iter().filter(|(_, s)| *s == State::Prepared).count();
                assert!(left <= 1, "only the one that failed is left: {states:?}");
                assert!(!states.iter().any(|(_, s)| *s == State::Open), "{states:?}");
                assert_ne!(commit.is_decided(), commit.is_undone());
            }
        }
    }

    #[test]
    fn one_writer_needs_no_preparing() {
        let acts = |parts: &[Part]| {
            let all = Commit::new(parts.to_vec()).acts;
            all.into_iter().map(|(n, a)| (n.0, a)).collect::<Vec<_>>()
        };
        assert_eq!(
            acts(&[part(1, false), part(2, true), part(3, false)]),
            [(2, Act::Decide), (1, Act::Leave), (3, Act::Leave)]
        );
        assert_eq!(
            acts(&[part(2, true), part(1, true), part(3, false)]),
            [
                (1, Act::Ask),
                (1, Act::Prepare),
                (2, Act::Prepare),
                (1, Act::Decide),
                (2, Act::CommitPrepared),
                (3, Act::Leave)
            ]
        );
    }
}
