//! What a session takes along when its client is handed to another pgshunt process.
//!
//! A session travels that owes nothing: every message of its client is answered and every answer of
//! the server has been passed on. Then all there is of it are beliefs: its settings, its prepared
//! statements, what its client was told, what it listens to, what its open transaction has done so
//! far. If it holds a server connection, because a transaction is open or because something binds it,
//! that goes along, and with it what is known of it; the connection itself notices nothing.

use std::rc::Rc;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::behind::Question;
use super::block::OwnBlock;
use super::clock::Clock;
use super::columns::Columns;
use super::cursors::Cursors;
use super::link::{Facts, Link};
use super::listening::Channels;
use super::moments::Meaning;
use super::patience::Patience;
use super::portals::Portal;
use super::prelude::Prelude;
use super::prepared::StatementId;
use super::reach::Entrance;
use super::reported::Reported;
use super::residue::{Check, Residue};
use super::sequences::Sequences;
use super::settings::SessionSettings;
use super::{Env, Session, Statement};
use crate::gate::machine::Touch;
use crate::router::plan::{Effect, Kind};
use crate::topology::{Epoch, NodeId, ShardId};
use crate::wire::backend::Status;
use crate::wire::base64;

/// A session without its plans, which the routing table of the other process makes anew.
#[derive(Serialize, Deserialize)]
pub struct Luggage {
    status: Status,
    /// BEGIN, which may not have been sent yet; and what the transaction has done that could be
    /// repeated on another node.
    #[serde(with = "base64")]
    begin: Vec<u8>,
    unspoilable: bool,
    #[serde(with = "base64")]
    opened: Vec<u8>,
    #[serde(with = "base64")]
    begin_text: Vec<u8>,
    prelude: Prelude,
    movable: bool,
    epoch: Option<Epoch>,
    settings: SessionSettings,
    statements: Vec<Named>,
    unnamed: Option<Packed>,
    portals: Vec<(Named, bool)>,
    #[serde(default)]
    cursors: Cursors,
    told: Reported,
    channels: Channels,
    prepares_listing: bool,
    sequences: Sequences,
    patience: Patience,
    link: Option<Held>,
}

/// The server connection it holds.
#[derive(Serialize, Deserialize)]
struct Held {
    node: NodeId,
    facts: Box<Facts>,
    pinned: Option<String>,
    bound: Option<String>,
    kept: bool,
    check: Check,
    behind: Question,
    /// What the open transaction has touched.
    touches: Vec<Touch>,
    shard: Option<ShardId>,
    entered: bool,
    status: Status,
    unnamed: Option<StatementId>,
    started: bool,
    effect: Effect,
    outside: bool,
    discarded: bool,
    failed: bool,
    strange: bool,
    fenced: bool,
    notified: bool,
    #[serde(default)]
    changes_tables: bool,
    named: Vec<(Vec<u8>, Option<StatementId>)>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    #[serde(with = "base64")]
    name: Vec<u8>,
    statement: Packed,
}

#[derive(Serialize, Deserialize)]
struct Packed {
    #[serde(with = "base64")]
    text: Vec<u8>,
    #[serde(with = "base64")]
    oids: Vec<u8>,
    #[serde(default)]
    meant: Meaning,
    described: bool,
    columns: Option<Columns>,
}

impl Packed {
    fn of(s: &Statement) -> Self {
        let (described, columns) = (s.described.get(), s.columns.borrow().clone());
        Self { text: s.text.clone(), oids: s.types(), meant: s.meant, described, columns }
    }

    fn unpack(self, session: &Session, env: &mut Env<'_>) -> Rc<Statement> {
        let plan = env.planner.plan_text(&self.text, env.routes, session.speech());
        let statement = Statement::new(&self.text, &self.oids, plan, self.meant);
        statement.described.set(self.described);
        statement.goes_by(self.columns);
        Rc::new(statement)
    }
}

impl Named {
    fn of((name, statement): (&[u8], &Rc<Statement>)) -> Self {
        Self { name: name.to_vec(), statement: Packed::of(statement) }
    }
}

/// Why a session is bound, as SHOW CLIENTS says it. There are few reasons, and each is kept once.
fn reason(text: String) -> &'static str {
    static KNOWN: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(|e| e.into_inner());
    match known.iter().find(|k| **k == text) {
        Some(k) => k,
        None => {
            let text: &'static str = Box::leak(text.into_boxed_str());
            known.push(text);
            text
        }
    }
}

impl Held {
    fn of(link: &mut Link, entrance: Option<&Entrance>, env: &Env<'_>) -> Self {
        let Link {
            node,
            facts,
            residue,
            let_go: _,
            abandoned: _,
            effect,
            begun: _,
            expects: _,
            status,
            unnamed,
            unlike: _,
            passing: _,
            passing_on: _,
            started,
            in_segment: _,
            flushed: _,
            opening: _,
            opening_full: _,
            outside,
            ending: _,
            copy_in: _,
            eaten: _,
            doubt: _,
            takes_data: _,
            discarded,
            failed,
            strange,
            fenced,
            notified,
            changes_tables,
            prefaced: _,
            named,
            order: _,
        } = link;
        Self {
            node: *node,
            facts: std::mem::take(facts),
            pinned: residue.pinned.map(str::to_owned),
            bound: residue.bound.map(str::to_owned),
            kept: residue.kept,
            check: residue.check.clone(),
            behind: residue.behind.clone(),
            touches: entrance.map_or(&[][..], |e| env.gate.touches(&e.ticket)).to_vec(),
            shard: entrance.and_then(|e| e.shard),
            entered: entrance.is_some_and(|e| e.entered),
            status: *status,
            unnamed: *unnamed,
            started: *started,
            effect: *effect,
            outside: *outside,
            discarded: *discarded,
            failed: *failed,
            strange: *strange,
            fenced: *fenced,
            notified: *notified,
            changes_tables: *changes_tables,
            named: named.iter().map(|(name, id)| (name.clone(), *id)).collect(),
        }
    }

    fn unpack(self, client: u64, env: &mut Env<'_>) -> (Link, Entrance) {
        let ticket = env.gate.adopt(env.now, client, self.touches);
        let entrance = Entrance { ticket, entered: self.entered, shard: self.shard };
        let mut link = Link::new(self.node, self.facts);
        link.residue = Residue {
            pinned: self.pinned.map(reason),
            bound: self.bound.map(reason),
            kept: self.kept,
            check: self.check,
            behind: self.behind,
        };
        link.status = self.status;
        link.unnamed = self.unnamed;
        link.started = self.started;
        link.effect = self.effect;
        link.outside = self.outside;
        link.discarded = self.discarded;
        link.failed = self.failed;
        link.strange = self.strange;
        link.fenced = self.fenced;
        link.notified = self.notified;
        link.changes_tables = self.changes_tables;
        link.named = self.named.into_iter().collect();
        (link, entrance)
    }
}

impl Session {
    /// Whether the session can travel now.
    pub fn travels(&self) -> bool {
        let link_travels = |l: &Link| {
            l.is_quiet()
                && !(l.in_segment || l.opening || l.ending || l.copy_in || l.eaten > 0 || l.doubt.is_some())
                // It is about to be asked what the transaction has left.
                && (l.status != Status::Idle || !l.residue.is_due())
                && !l.residue.is_asked()
        };
        self.link.as_ref().is_none_or(link_travels)
            // One connection goes along with it, not several.
            && self.resting.is_empty()
            && self.spread.is_none()
            && self.changes.is_none()
            && !self.holds_rows()
            && self.own_block == OwnBlock::No
            && self.script.is_none()
            && self.pending.is_empty()
            && !self.skipping
            && !self.waits_for_fence()
            && !self.retry.is_again()
            && self.stale.is_none()
            && self.vacate.is_none()
            && self.broken.is_none()
    }

    /// What the session takes along; `None`: it cannot travel now.
    pub fn pack(&mut self, env: &Env<'_>) -> Option<Luggage> {
        if !self.travels() {
            return None;
        }
        // Each field is named, so that a new one is thought of here.
        let Self {
            client: _,
            link,
            resting: _,
            changes: _,
            room: _,
            spread: _,
            left_prepared: _,
            deadlocked: _,
            entrance,
            status,
            begin,
            own_block: _,
            script: _,
            unspoilable,
            opened,
            begin_text,
            prelude,
            // The participant that goes along.
            clock: _,
            computing: _,
            movable,
            skipping: _,
            statements,
            unnamed,
            analysed: _,
            portals,
            cursors,
            pending: _,
            pending_bytes: _,
            prepares_listing,
            sequences,
            patience,
            channels,
            settings,
            broken: _,
            epoch,
            retry: _,
            owed: _,
            stale: _,
            asked_types: _,
            told,
            vacate: _,
            moved: _,
            counters: _,
            // Of a transaction that has begun nowhere nothing is taken.
            snapshot: _,
        } = self;
        Some(Luggage {
            status: *status,
            begin: begin.clone(),
            unspoilable: *unspoilable,
            opened: opened.clone(),
            begin_text: begin_text.clone(),
            prelude: prelude.clone(),
            movable: *movable,
            epoch: *epoch,
            settings: settings.clone(),
            statements: statements.by_age().into_iter().map(Named::of).collect(),
            unnamed: unnamed.as_deref().map(Packed::of),
            portals: portals
                .by_age()
                .into_iter()
                .map(|(name, p)| (Named::of((name, &p.statement)), p.left_behind))
                .collect(),
            cursors: cursors.clone(),
            told: told.clone(),
            channels: channels.clone(),
            prepares_listing: *prepares_listing,
            sequences: sequences.clone(),
            patience: *patience,
            link: link.as_mut().map(|link| Held::of(link, entrance.as_ref(), env)),
        })
    }

    /// The session of `client`, as it was when it was packed.
    pub fn unpack(client: u64, luggage: Luggage, env: &mut Env<'_>) -> Self {
        let mut session = Self::new(client, &[]);
        session.settings = luggage.settings;
        session.told = luggage.told;
        session.channels = luggage.channels;
        session.cursors = luggage.cursors;
        session.status = luggage.status;
        session.begin = luggage.begin;
        session.unspoilable = luggage.unspoilable;
        session.opened = luggage.opened;
        session.begin_text = luggage.begin_text;
        session.prelude = luggage.prelude;
        session.movable = luggage.movable;
        session.epoch = luggage.epoch;
        session.sequences = luggage.sequences;
        session.patience = luggage.patience;
        session.prepares_listing = luggage.prepares_listing;
        (session.link, session.entrance) =
            luggage.link.map(|held| held.unpack(client, env)).unzip();
        if session.status == Status::Transaction {
            session.clock = session.node().map(Clock::of).unwrap_or_default();
        }
        for Named { name, statement } in luggage.statements {
            let statement = statement.unpack(&session, env);
            session.statements.insert(&name, statement);
        }
        session.unnamed = luggage.unnamed.map(|s| s.unpack(&session, env));
        for (Named { name, statement }, left_behind) in luggage.portals {
            let statement = statement.unpack(&session, env);
            let node = session.node().filter(|_| !left_behind);
            let over_nodes = matches!(statement.plan.kind, Kind::Every { .. });
            let portal = Portal { statement, node, over_nodes, left_behind, held: None };
            session.portals.insert(&name, portal);
        }
        session
    }
}
