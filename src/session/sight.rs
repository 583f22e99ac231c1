//! A read of several nodes at one instant: all of them bind it before any executes it.
//!
//! ```text
//!   look ──► Parse, Bind, Describe, Flush to each ──► BindComplete of each ──► the look ends
//!        ──► Execute, Sync to each ──► rows
//!
//!   commits have gone by meanwhile:  Bind, Flush to each again, under another look
//!   one could not bind:              Sync to each, and the error is the client's
//! ```
//!
//! A node takes a statement's snapshot when it binds it. What a look is, and who waits for it, is told in
//! [`crate::sight`]; that a commit is held is decided here too.

use super::binding::{Binding, Sight, cut};
use super::gathering::PLAIN_BIND;
use super::participants::effect_of;
use super::request::{Request, Segment};
use super::spread::{How, Spread};
use super::{Env, Io, Need, Session};
use crate::commit::Act;
use crate::router::plan::{Effect, Plan};
use crate::sight::{Ending, Look, Unseen};
use crate::topology::{NodeId, RoutingTable};
use crate::wire::backend::{Report, Status};

/// A read that commits have gone by so often, under ever longer looks, is given up.
const MOST_TRIES: u32 = 4;

/// What a statement under way waits for, until the shell gives it ([`Session::awaits`]).
#[derive(Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A look at these nodes: [`Session::looks`].
    Look { nodes: Vec<NodeId>, tries: u32 },
    /// A transaction with these writers is to be decided: [`Session::decides`].
    Decision(Vec<NodeId>),
}

impl Spread {
    /// It reads, and what several nodes answer is to be of one instant. COPY takes its snapshots when it is
    /// executed.
    fn is_to_look(&self) -> bool {
        let bound = match &self.request {
            Request::Text { controls, .. } => controls.is_none(),
            Request::Segment { .. } | Request::Each(_) => true,
            Request::Ending { .. } => false,
        };
        let reads = match &self.how {
            How::Merged(answer) => !answer.copies_out(),
            How::Gathered(_) => true,
            How::Same(_) | How::Nothing | How::Refused(_) | How::Timed(_) | How::Snapshot => false,
        };
        bound && reads && self.nodes.len() > 1 && !self.writes()
    }

    /// Binds under this look, or else under one that it awaits.
    pub fn looks(&mut self, look: Option<Look>) {
        if let Request::Text { plan, text, .. } = &self.request {
            self.plain = true;
            let mut segment = Segment::new();
            segment.parse(text, &[]);
            segment.bind(&PLAIN_BIND);
            segment.describe(b'P');
            segment.execute(0);
            self.request = segment.request(plan, None);
        }
        let whole = std::mem::replace(&mut self.request, Request::Each(Default::default()));
        self.request = match cut(whole) {
            Ok((first, bind, rest)) => {
                let binding = Binding { look, tries: 0, again: false, bind, rest };
                self.sight = Sight::Binding(Box::new(binding));
                first
            }
            Err(whole) => whole,
        };
    }

    /// The transaction's time, which it tells, is known: a look is awaited, if it needs one.
    pub fn looks_in_time(&mut self) {
        if self.looks_later && self.is_to_look() {
            self.looks(None);
        }
    }

    pub fn is_binding(&self) -> bool {
        matches!(self.sight, Sight::Binding(_))
    }

    pub fn has_failed_to_bind(&self) -> bool {
        matches!(self.sight, Sight::Failed)
    }

    /// What is answered now the client has read before.
    pub fn binds_again(&self) -> bool {
        matches!(&self.sight, Sight::Binding(b) if b.again)
    }

    /// The statement was begun with what is sent before.
    pub fn goes_on(&self) -> bool {
        self.binds_again() || matches!(self.sight, Sight::Bound | Sight::Failed)
    }

    /// One could not bind: all that were told to are sent Sync, `first` before the others.
    pub fn unbinds(&mut self) -> Vec<NodeId> {
        self.sight = Sight::Failed;
        self.request = Segment::new().request(&Plan::nothing().into(), None);
        let unsaid = self.nodes.split_off(self.said.min(self.nodes.len()));
        if self.heard < self.nodes.len() {
            self.nodes.swap(0, self.heard);
        }
        (self.said, self.heard) = (0, 0);
        unsaid
    }

    /// All have bound. False: not at one instant, and a look is awaited.
    fn has_looked(&mut self) -> bool {
        let Sight::Binding(binding) = &mut self.sight else { return true };
        if !binding.look.take().is_some_and(Look::end) {
            binding.tries += 1;
            return false;
        }
        let rest = std::mem::replace(&mut binding.rest, Request::Each(Default::default()));
        self.sight = Sight::Bound;
        self.request = rest;
        (self.said, self.heard) = (0, 0);
        true
    }

    pub fn awaits(&self) -> Option<Awaited> {
        match (&self.request, &self.sight) {
            (Request::Ending { commit, .. }, _) => {
                let decides = commit.next().is_some_and(|(_, act)| act == Act::Decide);
                let due = decides && self.is_to_say() && self.ending.is_none();
                due.then(|| Awaited::Decision(commit.writers().to_vec()))
            }
            (_, Sight::Binding(binding)) if binding.look.is_none() => {
                Some(Awaited::Look { nodes: self.nodes.clone(), tries: binding.tries })
            }
            _ => None,
        }
    }
}

impl Session {
    /// Whether the text may commit something on one node, now that a read may be looking.
    pub(super) fn commits_now(&self, plan: &Plan, env: &Env<'_>) -> Option<Need> {
        if plan.statements.iter().any(|s| s.control.ends_block()) {
            return hold(env);
        }
        if effect_of(plan) > Effect::Reads { self.commits_alone(env) } else { None }
    }

    /// The same of what is a transaction by itself unless one is open.
    pub(super) fn commits_alone(&self, env: &Env<'_>) -> Option<Need> {
        if self.status == Status::Idle { hold(env) } else { None }
    }

    /// The same of the end of a segment, or of COPY, that is a transaction by itself.
    pub(super) fn commits_segment(&self, env: &Env<'_>) -> Option<Need> {
        let wrote = self.link.as_ref().is_some_and(|l| l.effect > Effect::Reads);
        if wrote { self.commits_alone(env) } else { None }
    }

    /// Opens the look that the statement needs, if it needs one.
    pub(super) fn look_first(
        &self,
        spread: &mut Spread,
        env: &Env<'_>,
    ) -> Result<Option<Need>, Report> {
        spread.looks_later = env.sights.is_some() && spread.times.is_some();
        let looks_now = spread.times.is_none() && spread.is_to_look();
        let Some(sights) = env.sights.filter(|_| looks_now) else { return Ok(None) };
        match sights.look(&spread.nodes, 0, env.now) {
            Ok(look) => {
                spread.looks(Some(look));
                Ok(None)
            }
            Err(Unseen::Held(held)) => Ok(Some(Need::Sight(held))),
            Err(Unseen::Lost(node)) => Err(unended(node, env.routes)),
        }
    }

    /// What the statement under way waits for.
    pub fn awaits(&self) -> Option<Awaited> {
        self.spread.as_ref().and_then(|s| s.awaits())
    }

    /// The look that was awaited: what is bound on each node is bound anew.
    pub fn looks(&mut self, look: Look, io: &mut Io<'_>) {
        let Some(spread) = &mut self.spread else { return };
        if let Sight::Binding(binding) = &mut spread.sight {
            binding.look = Some(look);
            if binding.tries > 0 {
                binding.again = true;
                spread.request = binding.bind.clone();
            }
            (spread.said, spread.heard) = (0, 0);
        }
        self.go_on(io);
    }

    /// There will be none.
    pub fn cannot_look(&mut self, report: &Report, io: &mut Io<'_>) {
        self.tell(report, io);
        self.fails();
        self.go_on(io);
    }

    /// The transaction may be decided.
    pub fn decides(&mut self, ending: Ending, io: &mut Io<'_>) {
        if let Some(spread) = &mut self.spread {
            spread.ending = Some(ending);
        }
        self.go_on(io);
    }

    /// The participant in hand owes no answer any more, of what it was sent to bind.
    pub(super) fn part_bound(&mut self, io: &mut Io<'_>) {
        let quiet = self.link.as_ref().is_some_and(|l| l.is_quiet());
        let Some(spread) = self.spread.as_mut().filter(|s| quiet && s.is_binding()) else { return };
        spread.heard += 1;
        if spread.heard == spread.nodes.len() && !spread.has_looked() {
            let vain = matches!(&spread.sight, Sight::Binding(b) if b.tries > MOST_TRIES)
                || matches!(spread.how, How::Snapshot);
            if vain {
                let report = Report::error(
                    "40001",
                    "could not bind the statement on all nodes at one instant",
                );
                let report = report
                    .detail("One of them may wait for a lock of a transaction that is to commit.")
                    .hint("The statement might succeed if retried.");
                self.tell(&report, io);
                self.fails();
            }
            return;
        }
        self.go_on(io);
    }
}

fn hold(env: &Env<'_>) -> Option<Need> {
    env.sights?.commits(env.now).err().map(Need::Sight)
}

/// Why a read cannot be of one instant.
pub fn unended(node: NodeId, routes: &RoutingTable) -> Report {
    let name = routes.node(node).map_or_else(|| node.to_string(), |n| n.name.clone());
    Report::error("40001", "a transaction over several nodes is not yet ended on all of them")
        .detail(format!("It is decided, and node {name} has not carried it out."))
        .hint("Try again: it is ended as soon as all nodes that took part can be reached.")
}
