//! A prepared statement of the client: its text, and what is known of it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::columns::Columns;
use super::link::Link;
use super::listening;
use super::moments::Meaning;
use super::names::Costs;
use super::prepared::{StatementId, statement_id};
use crate::router::analysis::{Under, is_long};
use crate::router::parameters_of_silent;
use crate::router::plan::Plan;
use crate::topology::NodeId;
use crate::wire::backend::put_bare;
use crate::wire::frame;

/// Bytes of a RowDescription up to which it is remembered as it came, so that it need not be read again.
const MOST_SEEN: usize = 256;

/// A prepared statement of the client.
#[derive(Debug)]
pub struct Statement {
    pub id: StatementId,
    pub text: Vec<u8>,
    /// As the server gets it, if not as it is.
    pub sent: Option<Vec<u8>>,
    pub oids: Vec<u8>,
    pub plan: Arc<Plan>,
    /// What the plan of a long text holds under; of others there is a cache to ask.
    pub planned_under: Option<Under>,
    /// It is carried out once, in place of this one of the client's.
    pub instead_of: Option<StatementId>,
    /// What the client's Parse of it meant.
    pub meant: Meaning,
    /// The client has been told its result's columns and may go by them.
    pub described: Cell<bool>,
    /// Its result's columns as the client was told them last, if there are any.
    pub columns: RefCell<Option<Columns>>,
    /// The message by which it was told them, while it is not too long, and whose it was.
    seen: RefCell<Option<(NodeId, Box<[u8]>)>>,
    /// The types of its parameters as the client was told them.
    told: RefCell<Option<Vec<u8>>>,
    /// What it is with all that the client was told.
    content: Cell<StatementId>,
}

impl Costs for Rc<Statement> {
    fn bytes(&self) -> usize {
        let sent = self.sent.as_ref().map_or(0, Vec::len);
        size_of::<Statement>() + self.text.len() + sent + 2 * self.oids.len() + MOST_SEEN
    }
}

impl Statement {
    pub(super) fn new(text: &[u8], oids: &[u8], plan: Arc<Plan>, meant: Meaning) -> Self {
        let sent = match listening::sent(&plan, text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(sent) => Some(sent),
        };
        let id = statement_id(text, oids);
        Self {
            id,
            content: Cell::new(id),
            text: text.to_vec(),
            sent,
            oids: oids.to_vec(),
            plan,
            planned_under: None,
            instead_of: None,
            meant,
            described: Cell::default(),
            columns: RefCell::default(),
            seen: RefCell::default(),
            told: RefCell::default(),
        }
    }

    /// What is carried out once in place of a statement of the client's.
    pub(super) fn instead_of(s: &Self, text: &[u8], types: &[u8], plan: Arc<Plan>) -> Self {
        Self { instead_of: Some(s.id), ..Self::new(text, types, plan, s.meant) }
    }

    /// Whether what the client says of this one is said of `s`.
    pub(super) fn is_for(&self, s: &Self) -> bool {
        self.id == s.id || self.instead_of == Some(s.id)
    }

    /// The same text over another statement is another one.
    pub(super) fn is_told_apart_by(&mut self, inner: &StatementId) {
        self.id = statement_id(&self.text, &[inner, &self.oids[..]].concat());
        self.content.set(self.id);
    }

    pub(super) fn sent(&self) -> &[u8] {
        self.sent.as_deref().unwrap_or(&self.text)
    }

    /// What it is prepared as where it is not yet. A client encodes its values for the types it was
    /// told, so those hold from then on, whatever the table's columns have become; and it goes by
    /// the columns it was told.
    pub fn content(&self) -> StatementId {
        self.content.get()
    }

    /// Whether the client has been told of its columns by these very bytes last.
    pub(super) fn has_seen(&self, node: NodeId, row_description: &[u8]) -> bool {
        let seen = self.seen.borrow();
        seen.as_ref().is_some_and(|(of, bytes)| *of == node && **bytes == *row_description)
    }

    /// The client has been told of its columns by these bytes.
    pub(super) fn sees(&self, node: NodeId, row_description: &[u8]) {
        let kept = row_description.len() <= MOST_SEEN;
        *self.seen.borrow_mut() = kept.then(|| (node, row_description.into()));
    }

    /// The columns that the client has been told now.
    pub(super) fn goes_by(&self, columns: Option<Columns>) {
        *self.columns.borrow_mut() = columns;
        self.renew_content();
    }

    fn renew_content(&self) {
        let told = self.told.borrow();
        let declared = match &*told {
            Some(types) if *types != self.oids => statement_id(&self.text, types),
            _ => self.id,
        };
        self.content.set(match &*self.columns.borrow() {
            Some(columns) => statement_id(&declared, columns.print()),
            None => declared,
        });
    }

    /// The types of its parameters, as far as they are settled.
    pub fn types(&self) -> Vec<u8> {
        self.told.borrow().as_ref().unwrap_or(&self.oids).clone()
    }

    /// The types of its parameters are declared, or have been told.
    pub(super) fn has_types(&self, parameters: usize) -> bool {
        let declared = self.oids.chunks_exact(4).filter(|oid| **oid != [0; 4]).count();
        declared >= parameters || self.told.borrow().is_some()
    }

    /// The answer to its Describe, where the server need not be asked: it returns no columns, and the
    /// types of its parameters are settled.
    pub(super) fn described_by_text(&self) -> Option<Vec<u8>> {
        const UNKNOWN: u32 = 705;
        let types = self.types();
        let settled = types.chunks_exact(4).all(|oid| {
            let oid = u32::from_be_bytes(oid.try_into().unwrap_or_default());
            oid != 0 && oid != UNKNOWN
        });
        if !settled || is_long(&self.text) || parameters_of_silent(&self.text)? > types.len() / 4 {
            return None;
        }
        let mut answer = Vec::new();
        frame::put(&mut answer, b't', |b| {
            b.extend_from_slice(&((types.len() / 4) as u16).to_be_bytes());
            b.extend_from_slice(&types);
        });
        put_bare(&mut answer, b'n');
        Some(answer)
    }

    /// Types that CREATE TYPE has made stay as the client declared them, or did not: each node has
    /// other numbers for them.
    ///
    /// A cast to unknown takes a parameter of no type and not one of the type that it is told to have.
    fn settle_types(&self, told: &[u8]) {
        const FIRST_MADE: u32 = 16384;
        if self.text.windows(7).any(|w| w.eq_ignore_ascii_case(b"unknown")) {
            return;
        }
        let mut oids = Vec::with_capacity(told.len());
        for (n, oid) in told.chunks_exact(4).enumerate() {
            let made = u32::from_be_bytes(oid.try_into().unwrap_or_default()) >= FIRST_MADE;
            let declared = self.oids.get(4 * n..4 * n + 4).unwrap_or(&[0; 4]);
            oids.extend_from_slice(if made { declared } else { oid });
        }
        let changed = *self.told.borrow().as_ref().unwrap_or(&self.oids) != oids;
        *self.told.borrow_mut() = Some(oids);
        if changed {
            self.renew_content();
        }
    }
}

impl Link {
    /// What the statement is prepared as here.
    pub fn prepared_as(&mut self, s: &Statement) -> StatementId {
        self.facts.prepared.find(&s.content()).unwrap_or(s.content())
    }

    /// The server has told the types of a statement's parameters: it is what it would be had the
    /// client declared them.
    pub fn settle_types(&mut self, s: &Statement, oids: &[u8]) {
        let before = s.content();
        s.settle_types(oids);
        if s.content() == before {
            return;
        }
        if self.unnamed == Some(before) {
            self.unnamed = Some(s.content());
        }
        if !self.expects.iter().any(|e| e.undo.content == Some((before, false))) {
            self.facts.prepared.is_also(s.content(), before);
        }
    }
}
