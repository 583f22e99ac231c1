//! How a session gets to a node: which connection it needs, and through the gate.

use super::link::Link;
use super::{Env, Io, Need, Session};
use crate::gate::machine::{Entry, Gate, Ticket, Touch};
use crate::router::place::Place;
use crate::router::plan::Effect;
use crate::topology::{Epoch, NodeId, RoutingTable, ShardId};
use crate::wire::backend::{Report, Status};

/// A transaction's place in the gate.
#[derive(Debug)]
pub(super) struct Entrance {
    pub ticket: Ticket,
    /// The ticket has touched something.
    pub entered: bool,
    /// The shard touched last.
    pub shard: Option<ShardId>,
}

impl Entrance {
    pub fn new(client: u64, env: &mut Env<'_>) -> Self {
        Self { ticket: env.gate.ticket(env.now, client), entered: false, shard: None }
    }

    pub fn enter(&mut self, touch: Touch, gate: &mut Gate) -> Entry {
        let entry = gate.enter(&self.ticket, touch);
        if entry == Entry::Entered {
            self.entered = true;
            if let Touch::Shard { shard, .. } = touch {
                self.shard = Some(shard);
            }
        }
        entry
    }
}

impl Session {
    /// Decides whether the session may use a node now: `Ok(None)` means it is linked to it and has
    /// entered the gate.
    pub(super) fn ensure(
        &mut self,
        place: &Place,
        effect: Effect,
        env: &mut Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<Option<Need>, Report> {
        if let Some(report) = self.aborted_for_good() {
            return Err(report);
        }
        let (node, touches) = match place {
            Place::Node { node, touches } => (*node, touches.as_slice()),
            Place::Any => match self.any_node() {
                Some(node) => (node, [].as_slice()),
                None => (env.routes.home().id, [].as_slice()),
            },
            Place::Every { .. } => {
                debug_assert!(false, "a statement on several nodes is spread");
                return Ok(Some(Need::Quiet));
            }
        };

        let own = [Touch::Node(node)];
        let touches = if touches.is_empty() { &own[..] } else { touches };
        let closed = touches.iter().any(|&t| env.gate.would_hold(t));

        if self.link.is_none() {
            if closed {
                return Ok(Some(Need::Gate));
            }
            self.borrow_idle(node, env);
        }
        let Some(link) = &mut self.link else { return Ok(Some(Need::Lease(node))) };
        // Between two transactions: nothing of the last one counts any more.
        let fresh = link.is_free() && link.residue.pinned.is_none();
        if link.node != node {
            if fresh && !self.resting.iter().any(|l| l.node == node) {
                link.let_go = true;
                link.residue.kept = false;
                return Ok(Some(Need::Lease(node)));
            }
            if !link.is_quiet() {
                return Ok(Some(Need::Quiet));
            }
            if self.can_move() {
                self.begin_elsewhere(io);
                return Ok(Some(Need::Quiet));
            }
            if self.restarts_segment(io) {
                return Ok(Some(Need::Quiet));
            }
            return self.enlist(node, env, io).map(Some);
        }
        if fresh && link.started {
            self.renew_ticket(env);
            self.epoch = None;
        }
        let (Some(link), Some(entrance)) = (&mut self.link, &mut self.entrance) else {
            return Ok(Some(Need::Lease(node)));
        };
        if closed && !link.is_quiet() {
            // Whether a transaction is still open behind what is under way is not known yet.
            return Ok(Some(Need::Quiet));
        }
        if let Some(report) = newer_placement(self.epoch, touches, env.routes) {
            return Err(report);
        }
        for &t in touches {
            if entrance.enter(t, env.gate) == Entry::Held {
                link.let_go |= fresh;
                return Ok(Some(Need::Gate));
            }
        }
        link.effect = link.effect.max(effect);
        self.epoch.get_or_insert(env.routes.epoch);
        self.begins_segment();
        Ok(None)
    }

    /// Gets linked to `node`, if a connection idles there. Who asks for what it has drawn gets the one on
    /// which it has, which is looked for elsewhere.
    fn borrow_idle(&mut self, node: NodeId, env: &mut Env<'_>) {
        if self.wants_drawn().is_none()
            && let Some(facts) = env.lender.lend(node, env.routes)
        {
            self.linked(node, facts, env);
        }
    }

    /// The node that what has no place of its own goes to, if the session holds any: a participant of
    /// the open transaction before one that is kept for something else.
    fn any_node(&self) -> Option<NodeId> {
        let in_hand = self.link.as_ref()?;
        let open = self.links().find(|l| l.is_open()).filter(|_| in_hand.is_free());
        Some(open.unwrap_or(in_hand).node)
    }

    /// A message of the client's is about to go out: only what begins a transaction can be tried
    /// again as a whole. Otherwise what came before it in the transaction would be lost.
    pub(super) fn begins_segment(&mut self) {
        let Some(link) = self.link.as_ref().filter(|l| !l.in_segment) else { return };
        if !link.is_free() && !self.can_move() {
            self.retry.disarm();
        }
    }

    /// Where to send whatever cannot be carried out, as the open transaction has failed: its server
    /// refuses it in its own words.
    pub(super) fn place_to_fail(&self) -> Option<Place> {
        let failed = |l: &&Link| l.status == Status::Failed && l.is_quiet() && !l.in_segment;
        let place = |l: &Link| Place::Node { node: l.node, touches: Vec::new() };
        let quiet = |l: &&Link| l.is_quiet() && !l.in_segment;
        let in_hand = self.link.as_ref().filter(quiet)?;
        let others = self.resting.iter().filter(|l| !l.abandoned);
        std::iter::once(in_hand).chain(others).find(failed).map(place)
    }

    /// Between transactions a pinned session keeps its connection, but not its place in the gate.
    pub(super) fn renew_ticket(&mut self, env: &mut Env<'_>) {
        if let Some(entrance) = self.entrance.as_mut().filter(|e| e.entered) {
            entrance.ticket = env.gate.ticket(env.now, self.client);
            entrance.entered = false;
        }
    }

    pub(super) fn other_node(&self, env: &Env<'_>, wanted: NodeId) -> Report {
        let name = |id| env.routes.node(id).map_or_else(|| "?".to_owned(), |n| n.name.clone());
        let held = self.link.as_ref().map(|l| name(l.node)).unwrap_or_default();
        let wanted = name(wanted);
        match self.link.as_ref().and_then(|l| l.residue.pinned) {
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
}

/// Within a transaction: a shard that moved here after the transaction's first statement. Its
/// snapshot may be older than the shard's last change, so the transaction must begin again.
pub(super) fn newer_placement(
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
