//! The snapshot of a REPEATABLE READ transaction, which is of one instant on all nodes.
//!
//! PostgreSQL takes it at the transaction's first statement. When that comes, BEGIN has not been sent anywhere
//! yet: every node takes part at once, and under a look ([`crate::sight`]) each is sent BEGIN and a statement
//! of pgshunt's that takes its snapshot. The client's statement comes behind it and may go to any of them.
//! The transaction has its place in the gate of every colocation group, so no shard leaves what it sees.
//!
//! Where that cannot be (a node is away, reads of one instant are switched off) the transaction stays on the
//! node of its first statement, and one that needs another node is refused. So is SERIALIZABLE.

use std::sync::Arc;

use super::block::OwnBlock;
use super::link::Link;
use super::prelude::is_repeatable;
use super::request::Request;
use super::sight::unended;
use super::spread::{How, Spread};
use super::{Env, Io, Need, Session};
use crate::router::Sees;
use crate::router::plan::Plan;
use crate::sight::Unseen;
use crate::wire::backend::{Report, Status};

/// Takes a snapshot, and asks nothing.
const TAKES: &[u8] = b"SELECT 1";

/// The look is as long as one that has been in vain so often: a snapshot cannot be taken twice.
const TRIES: u32 = 2;

/// Whose the snapshot of the open transaction is.
#[derive(Debug, Default)]
pub(super) enum Snapshot {
    /// Each statement's, or the one node's.
    #[default]
    Own,
    /// All nodes are about to take it.
    Taking,
    /// A node cannot be reached: the transaction does without, to its end.
    Forgone,
    /// They could not, and the statement that waits for it is told why.
    Failed(Report),
    /// That of all nodes, at one instant.
    OfAll,
}

/// What the texts of the transaction and of the session say of its isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Isolation {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    fn said(text: &[u8]) -> Self {
        let has = |word: &[u8]| text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
        if has(b"serializable") {
            Self::Serializable
        } else if has(b"repeatable") {
            Self::RepeatableRead
        } else {
            Self::ReadCommitted
        }
    }
}

impl Session {
    /// The transaction's isolation level; of several that are said the strictest.
    fn isolation(&self) -> Isolation {
        let settings = self.settings.current().iter();
        let isolation = settings.filter(|s| s.name.ends_with("transaction_isolation"));
        let texts = [&self.begin_text[..], &self.begin].into_iter();
        let texts = texts
            .chain(self.prelude.steps().map(str::as_bytes))
            .chain(isolation.map(|s| s.sql.as_bytes()));
        texts.map(Isolation::said).max().unwrap_or(Isolation::ReadCommitted)
    }

    /// The transaction has one snapshot for all of it, which is not that of all nodes.
    pub(super) fn has_snapshot_of_its_own(&self) -> bool {
        match self.snapshot {
            Snapshot::OfAll => return false,
            // Unless it was given up since: then BEGIN has been sent somewhere.
            Snapshot::Taking if !self.begin.is_empty() => return false,
            _ => {}
        }
        let only_reads = |s: &str| s.to_ascii_lowercase().contains("read only");
        if self.settings.sees() == Sees::Dump && self.prelude.steps().any(only_reads) {
            // Each node's part is of one moment, as pg_dump's own jobs would be without pgshunt.
            return false;
        }
        self.isolation() != Isolation::ReadCommitted
    }

    /// Why the transaction, which writes or goes on, cannot use several nodes, if that is for its
    /// isolation level.
    pub(super) fn refuses_snapshot(&self) -> Option<Report> {
        if !self.has_snapshot_of_its_own() {
            return None;
        }
        if self.isolation() == Isolation::Serializable {
            let what = "a SERIALIZABLE transaction cannot use several nodes";
            let report = Report::error("0A000", what)
                .detail("Each node knows of the conflicts on itself only.")
                .hint("Use REPEATABLE READ, or an equality on the distribution column.");
            return Some(report);
        }
        let what = "this REPEATABLE READ transaction cannot use several nodes";
        let report = Report::error("0A000", what)
            .detail("Its snapshot was not taken on all of them when it began.")
            .hint(
                "Send BEGIN by itself, with all nodes there and read.one_instant on, or use READ \
                 COMMITTED.",
            );
        Some(report)
    }

    /// Takes the transaction's snapshot on all nodes, if it is to have one and this is its first statement.
    ///
    /// # Errors
    /// It could not be taken.
    pub(super) fn take_snapshot(
        &mut self,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if let Snapshot::Failed(report) = &self.snapshot {
            let report = report.clone();
            self.snapshot = Snapshot::Own;
            self.computing.insists = true;
            return Err(report);
        }
        if self.status != Status::Transaction || self.own_block != OwnBlock::No {
            return Ok(None);
        }
        // Or it has but set its own stage somewhere.
        let begins = !self.begin.is_empty() || self.can_move();
        let Some(sights) = env.sights.filter(|_| begins) else { return Ok(None) };
        let forgone = matches!(self.snapshot, Snapshot::Forgone);
        // What pg_dump executes sets nothing.
        let lost = self.prelude.is_lost() && self.settings.sees() != Sees::Dump;
        if forgone || lost || self.isolation() != Isolation::RepeatableRead {
            return Ok(None);
        }
        let groups: Vec<_> = env.routes.groups().map(|g| g.id).collect();
        let mut nodes = vec![env.routes.home().id];
        for node in groups.iter().flat_map(|g| env.routes.nodes_of(*g)) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        if nodes.len() < 2 {
            return Ok(None);
        }
        if self.begin.is_empty() {
            if self.links().all(Link::is_quiet) {
                self.begin_elsewhere(io);
            }
            return Ok(Some(Need::Quiet));
        }
        self.snapshot = Snapshot::Taking;
        if let Some(need) = self.ensure_all(&groups, &nodes, env, io)? {
            return Ok(Some(need));
        }
        let look = match sights.look(&nodes, TRIES, env.now) {
            Ok(look) => look,
            Err(Unseen::Held(held)) => return Ok(Some(Need::Sight(held))),
            Err(Unseen::Lost(node)) => return Err(unended(node, env.routes)),
        };
        let (plan, text) = (Arc::new(Plan::nothing()), TAKES.to_vec());
        let request = Request::Text { plan, text, controls: None };
        let mut spread = Spread::new(nodes, request, How::Snapshot);
        (spread.silent, spread.ready) = (true, false);
        spread.looks(Some(look));
        self.begin_spread(spread, io);
        Ok(Some(Need::Quiet))
    }

    /// The same, unless the statement only sets the transaction's stage, which takes no snapshot.
    pub(super) fn take_snapshot_for(
        &mut self,
        plan: &Plan,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if plan.statements.iter().all(|s| is_repeatable(&s.control)) {
            return Ok(None);
        }
        self.take_snapshot(env, io)
    }

    /// A node cannot be reached: if it is for the snapshot alone, the transaction does without. False: it
    /// is not.
    pub fn forgoes_snapshot(&mut self) -> bool {
        let taking = matches!(self.snapshot, Snapshot::Taking) && self.spread.is_none();
        if taking {
            self.snapshot = Snapshot::Forgone;
            self.links_mut().filter(|l| !l.started).for_each(|l| l.let_go = true);
        }
        taking
    }

    /// What keeps the nodes from taking it is kept for the statement that waits. False: none is being taken.
    pub(super) fn snapshot_fails(&mut self, report: impl FnOnce() -> Report) -> bool {
        let takes = self.spread.as_ref().is_some_and(|s| matches!(s.how, How::Snapshot));
        if takes && !matches!(self.snapshot, Snapshot::Failed(_)) {
            self.snapshot = Snapshot::Failed(report());
        }
        takes
    }

    /// All nodes have answered.
    pub(super) fn snapshot_taken(&mut self, spread: &Spread, io: &mut Io<'_>) {
        let failed = spread.failed || self.links().any(|l| l.status == Status::Failed);
        if !failed {
            (self.status, self.snapshot) = (Status::Transaction, Snapshot::OfAll);
            return;
        }
        self.status = Status::Failed;
        if !matches!(self.snapshot, Snapshot::Failed(_)) {
            self.snapshot = Snapshot::Failed(crate::merge::malformed());
        }
        if self.links().all(|l| !l.is_open()) {
            self.begin.clone_from(&self.begin_text);
        } else if !self.gives_up(io) {
            self.fail_on_node(io);
        }
    }
}
