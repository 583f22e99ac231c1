//! Messages of the extended protocol whose place is not known yet: where they go when they must go
//! somewhere, and which of them need no node at all.

use std::rc::Rc;

use super::link::{Link, Undo};
use super::stop::Stop;
use super::{Env, Io, Need, Pending, Session, Statement};
use crate::router::place::Place;
use crate::router::plan::{Control, Effect, Kind};
use crate::topology::RoutingTable;
use crate::wire::backend::{self, Report, Status};
use crate::wire::frontend;

impl Pending {
    /// The answer, where it is none of the server's.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Parse { .. } => backend::put_bare(&mut bytes, b'1'),
            Self::Bind { .. } => backend::put_bare(&mut bytes, b'2'),
            Self::ClosePortal { .. } => backend::put_bare(&mut bytes, b'3'),
            Self::Ours { bytes: ours, .. } => bytes.extend_from_slice(ours),
            // Only a node can answer these; an error ends the segment anyway.
            Self::DescribeStatement { .. } | Self::DescribePortal { .. } | Self::Execute { .. } => {
            }
        }
        bytes
    }

    /// The answer, where it is none of the server's, and what is to be undone if it is not given.
    pub(super) fn answered(self) -> (Vec<u8>, Undo) {
        let bytes = self.bytes();
        let undo = match self {
            Self::Parse { name, before, .. } => {
                Undo { client: Some((name, before)), ..Undo::default() }
            }
            Self::Ours { undo, .. } => undo,
            _ => Undo::default(),
        };
        (bytes, undo)
    }
}

impl Session {
    /// Without Sync the server keeps its answers to itself; who waits for them must ask.
    pub(super) fn ask_for_answers(&mut self, io: &mut Io<'_>) {
        if let Some(link) = self.link.as_mut().filter(|l| l.in_segment && !l.flushed) {
            link.flushed = true;
            frontend::put_empty(io.server, b'H');
        }
    }

    /// What is pending, but for the first `kept`, will never be carried out.
    pub(super) fn forget_pending(&mut self, kept: usize) {
        self.pending_bytes = 0;
        for p in std::mem::take(&mut self.pending).into_iter().skip(kept).rev() {
            let (_, undo) = p.answered();
            self.undo(&undo);
        }
    }

    /// Sends what is pending to a node that can answer it.
    pub(super) fn flush_pending(
        &mut self,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let place = self.pending_place(env.routes);
        match self.reach(&place, Effect::Reads, env, io) {
            Ok(()) => Ok(None),
            Err(Stop::Wait(need)) => Ok(Some(need)),
            Err(Stop::Refuse(report)) => Err(*report),
        }
    }

    fn pending_place(&self, routes: &RoutingTable) -> Place {
        let plans = || {
            self.pending.iter().filter_map(|p| match p {
                Pending::Parse { statement, .. }
                | Pending::DescribeStatement { statement, .. }
                | Pending::Bind { statement, .. } => Some(&statement.plan),
                _ => None,
            })
        };
        // What FETCH returns only the node knows that has the cursor.
        let of_cursor = plans().find_map(|plan| self.cursor_nodes(plan).next());
        match of_cursor.filter(|_| self.place_to_fail().is_none()) {
            Some(node) => Place::Node { node, touches: Vec::new() },
            None => self.parsing_place(routes, || plans().map(|plan| &plan.kind)),
        }
    }

    /// A place that knows the tables of all these: any node of the group does, since the parents
    /// exist everywhere. No shard is read, so no shard is touched.
    pub(super) fn parsing_place<'a, I: Iterator<Item = &'a Kind>>(
        &self,
        routes: &RoutingTable,
        kinds: impl Fn() -> I,
    ) -> Place {
        if let Some(place) = self.place_to_fail() {
            return place;
        }
        // What is refused as it is, and parsed all the same, has a part that must be computed first.
        let at_home = |kind: &Kind| kind.names_local() || matches!(kind, Kind::Refused(_));
        let node = if kinds().any(at_home) {
            // No other node knows its tables.
            routes.home().id
        } else {
            let group = kinds().find_map(|kind| match kind {
                Kind::Keys { group, .. } | Kind::Every { group, .. } => Some(*group),
                Kind::Leaf(shard) => routes.shard(*shard).map(|s| s.group),
                Kind::Home | Kind::Any | Kind::Apart | Kind::Ddl(_) | Kind::Refused(_) => None,
            });
            self.node()
                .or_else(|| group.and_then(|g| routes.nodes_of(g).first().copied()))
                .unwrap_or(routes.home().id)
        };
        Place::Node { node, touches: Vec::new() }
    }

    /// A transaction, or a segment, that has no node yet does not get one by preparing a statement,
    /// whose keys may be anywhere: that is done on some node that knows the tables, outside of the
    /// transaction. Drivers ask for the types with Flush first and bind then (asyncpg).
    pub(super) fn prepares_outside(&self) -> bool {
        let prepares = |p: &Pending| {
            matches!(
                p,
                Pending::Parse { .. } | Pending::DescribeStatement { .. } | Pending::Ours { .. }
            )
        };
        let holds = self.pending.iter().any(|p| !matches!(p, Pending::Ours { .. }));
        holds
            && self.pinned().is_none()
            && self.status != Status::Failed
            && self.link.as_ref().is_none_or(Link::is_free)
            && self.pending.iter().all(prepares)
    }

    /// Sends what is pending, without the BEGIN that is kept.
    pub(super) fn prepare_outside(
        &mut self,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        let place = self.pending_place(env.routes);
        if let Some(need) = self.ensure(&place, Effect::Reads, env, io)? {
            return Err(Stop::Wait(need));
        }
        if let Some(link) = &mut self.link {
            link.outside = true;
        }
        match self.flush_pending(env, io)? {
            Some(need) => Err(Stop::Wait(need)),
            None => Ok(()),
        }
    }

    /// Answers BEGIN and the like at the head of what is pending without a node, when what is left
    /// behind them is but a Parse.
    pub(super) fn answer_virtual_head(&mut self, io: &mut Io<'_>) {
        let executed = |p: &Pending| matches!(p, Pending::Execute { .. });
        let Some(last) = self.pending.iter().rposition(executed) else { return };
        let left = self.pending.split_off(last + 1);
        if self.link.is_none() && self.answer_virtual(io) {
            self.pending = left;
        } else {
            self.pending.extend(left);
        }
    }

    /// Answers a segment of nothing but BEGIN, COMMIT or ROLLBACK without a node.
    pub(super) fn answer_virtual(&mut self, io: &mut Io<'_>) -> bool {
        let Some(ends) = self.virtual_executions() else { return false };
        let mut ends = ends.into_iter();
        for p in std::mem::take(&mut self.pending) {
            match p {
                Pending::Parse { .. } => backend::put_bare(io.client, b'1'),
                Pending::Bind { .. } => backend::put_bare(io.client, b'2'),
                Pending::DescribeStatement { .. } => {
                    crate::wire::frame::put(io.client, b't', |b| b.extend_from_slice(&[0, 0]));
                    backend::put_bare(io.client, b'n');
                }
                Pending::DescribePortal { .. } => backend::put_bare(io.client, b'n'),
                Pending::Execute { .. } => {
                    let tag = ends.next().and_then(|s| {
                        s.plan.single().and_then(|c| self.virtual_control(c, &s.text))
                    });
                    backend::put_command_complete(io.client, tag.unwrap_or_default());
                }
                Pending::ClosePortal { .. } => backend::put_bare(io.client, b'3'),
                Pending::Ours { bytes, .. } => io.client.extend_from_slice(&bytes),
            }
        }
        true
    }

    /// What is executed in the pending segment, if that is nothing but the beginning and the end of
    /// transactions, each in its place; in whatever else the server must say what becomes of it.
    fn virtual_executions(&self) -> Option<Vec<Rc<Statement>>> {
        let mut portals: Vec<(&[u8], &Rc<Statement>)> = Vec::new();
        let mut executed = Vec::new();
        let mut status = self.status;
        for p in &self.pending {
            let statement = match p {
                Pending::Parse { statement, .. }
                | Pending::Bind { statement, .. }
                | Pending::DescribeStatement { statement, .. } => Some(statement),
                _ => None,
            };
            // In a failed transaction the server refuses even to parse a BEGIN.
            let begins = status != Status::Failed;
            let controls = |s: &Rc<Statement>| {
                let control = s.plan.single();
                control.is_some_and(|c| begins && *c == Control::Begin || c.ends_block())
            };
            if !statement.is_none_or(controls) {
                return None;
            }
            match p {
                Pending::Bind { portal, statement, .. } => {
                    if !portal.is_empty() && portals.iter().any(|(n, _)| n == portal) {
                        return None;
                    }
                    portals.retain(|(n, _)| n != portal);
                    portals.push((portal, statement));
                }
                Pending::DescribePortal { portal } => {
                    portals.iter().find(|(n, _)| n == portal)?;
                }
                Pending::ClosePortal { portal } => portals.retain(|(n, _)| n != portal),
                Pending::Execute { portal, .. } => {
                    let at = portals.iter().position(|(n, _)| n == portal)?;
                    let (_, statement) = portals.remove(at);
                    status = match (statement.plan.single()?, status) {
                        (Control::Begin, Status::Idle) => Status::Transaction,
                        (
                            Control::Commit | Control::Rollback,
                            Status::Transaction | Status::Failed,
                        ) => Status::Idle,
                        (
                            Control::CommitAndChain | Control::RollbackAndChain,
                            Status::Transaction | Status::Failed,
                        ) => Status::Transaction,
                        _ => return None,
                    };
                    executed.push(statement.clone());
                }
                Pending::Parse { .. }
                | Pending::DescribeStatement { .. }
                | Pending::Ours { .. } => {}
            }
        }
        // What is bound and not executed yet the next segment may execute.
        if !portals.is_empty() {
            return None;
        }
        // In a failed transaction even these are only parsed.
        (!executed.is_empty() || self.status == Status::Failed).then_some(executed)
    }
}
