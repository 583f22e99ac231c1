//! The columns that a client was told its statement returns.
//!
//! A driver describes a statement once and reads every later result by it. PostgreSQL promises that
//! they stay: when a table has changed, it fails with "cached plan must not change result type". On
//! a server connection that does not have the statement yet nobody would notice, since it is prepared
//! there with the columns of the moment. So the server is asked for them first, and the same error is
//! given where they are others. What has been compared once is known there by text, types and columns,
//! so that it is asked once for each connection, and a statement described anew is another one.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::link::{Expect, Fate, Link, Reply};
use super::prepared::{StatementId, server_name};
use super::stop::Stop;
use super::{Env, Io, Need, Session, Statement};
use crate::topology::NodeId;
use crate::wire::backend::{Report, Routine};
use crate::wire::frontend;

/// Numbers below are the same on every node; the others CREATE TYPE has given on one of them.
const FIRST_MADE: u32 = 16384;

/// A RowDescription, as far as PostgreSQL holds a plan to it: names, types and their modifiers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    node: NodeId,
    exact: [u8; 32],
    /// Without the numbers that only this node has.
    anywhere: [u8; 32],
}

impl Columns {
    /// None: the message is malformed, and tells nothing.
    pub(super) fn of(row_description: &[u8], node: NodeId) -> Option<Self> {
        let (count, mut rest) = row_description.split_first_chunk::<2>()?;
        let mut exact = Sha256::new();
        // Where no such number is among them both are the same.
        let mut anywhere: Option<Sha256> = None;
        for _ in 0..u16::from_be_bytes(*count) {
            let end = memchr::memchr(0, rest)?;
            let (name, behind) = rest.split_at_checked(end + 1)?;
            // Behind the name: table and its column, which may change, type, size, modifier, format.
            let (numbers, more) = behind.split_first_chunk::<18>()?;
            let (oid, size_and_modifier) = (&numbers[6..10], &numbers[10..16]);
            let made = u32::from_be_bytes(oid.try_into().ok()?) >= FIRST_MADE;
            if made && anywhere.is_none() {
                anywhere = Some(exact.clone());
            }
            let add = |digest: &mut Sha256, oid: &[u8]| {
                digest.update(name);
                digest.update(oid);
                digest.update(size_and_modifier);
            };
            add(&mut exact, oid);
            if let Some(anywhere) = &mut anywhere {
                add(anywhere, if made { &[] } else { oid });
            }
            rest = more;
        }
        let exact = exact.finalize().into();
        Some(Self { node, exact, anywhere: anywhere.map_or(exact, |a| a.finalize().into()) })
    }

    /// Whether a client that was told these reads a result of those rightly.
    fn are_like(&self, those: &Self) -> bool {
        if self.node == those.node {
            self.exact == those.exact
        } else {
            self.anywhere == those.anywhere
        }
    }

    pub(super) fn print(&self) -> &[u8] {
        &self.exact
    }
}

/// As PostgreSQL words it, with the routine that drivers go by.
fn changed() -> Report {
    Report::error("0A000", "cached plan must not change result type")
        .routine(Routine::RevalidateCachedQuery)
}

impl Session {
    /// Asks for the columns of a statement that is not on the link yet, if the client goes by some.
    ///
    /// # Errors
    /// They are others now; or the answer is to be waited for.
    pub(super) fn compare_columns(
        &mut self,
        s: &Rc<Statement>,
        unnamed: bool,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Stop> {
        if s.columns.borrow().is_none() || self.names_own(&s.plan) {
            return Ok(());
        }
        let id = s.content();
        let Some(link) = &mut self.link else { return Ok(()) };
        // It has been asked and has not answered all of it yet.
        if link.expects.back().is_some_and(|e| e.fate == Fate::Columns) {
            return Err(Stop::Wait(Need::Quiet));
        }
        if link.unlike.take().is_some_and(|unlike| unlike == id) {
            link.unnamed.take_if(|_| unnamed);
            self.close_on_link(id, io);
            return Err(changed().into());
        }
        let known = match unnamed {
            true => link.unnamed == Some(id),
            false => link.facts.prepared.find(&id).is_some(),
        };
        if known {
            return Ok(());
        }
        let name = if unnamed { Vec::new() } else { server_name(&id).to_vec() };
        if !unnamed {
            // It may be there without having been compared.
            frontend::put_named(io.server, b'C', b'S', &name);
            link.push(Expect::new(Reply::Close, Fate::Swallow));
        }
        self.known(s, unnamed, env, io);
        frontend::put_named(io.server, b'D', b'S', &name);
        let mut e = Expect::new(Reply::Describe, Fate::Columns);
        e.statement = Some(s.clone());
        e.undo.content = (!unnamed).then_some((id, false));
        e.undo.unnamed = unnamed.then_some(None);
        if let Some(link) = &mut self.link {
            link.push(e);
        }
        Err(Stop::Wait(Need::Quiet))
    }
}

impl Link {
    /// The server has told the columns of a statement that the client described: it is what it would
    /// be had it always had them.
    pub(super) fn settle_columns(&mut self, s: &Statement, row_description: &[u8]) {
        if s.has_seen(self.node, row_description) {
            return;
        }
        let columns = Columns::of(row_description, self.node);
        s.sees(self.node, row_description);
        if *s.columns.borrow() == columns {
            return;
        }
        let before = s.content();
        s.goes_by(columns);
        let now = s.content();
        if self.unnamed == Some(before) {
            self.unnamed = Some(now);
        }
        let of = self.facts.prepared.find(&before);
        let created =
            |id: StatementId| self.expects.iter().any(|e| e.undo.content == Some((id, false)));
        if let Some(of) = of.filter(|&of| !created(of) && !created(before)) {
            self.facts.prepared.is_also(now, of);
        }
    }

    /// The server has told what a statement's columns are here.
    pub(super) fn compare_columns(&mut self, s: &Statement, row_description: &[u8]) {
        let told = s.columns.borrow();
        let here = Columns::of(row_description, self.node);
        let alike =
            told.as_ref().zip(here.as_ref()).is_some_and(|(told, here)| told.are_like(here));
        if !alike {
            drop(told);
            self.unlike = Some(s.content());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(columns: &[(&str, u32, u32)]) -> Vec<u8> {
        let mut out = (columns.len() as u16).to_be_bytes().to_vec();
        for (name, table, oid) in columns {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.extend_from_slice(&table.to_be_bytes());
            out.extend_from_slice(&[0, 1]);
            out.extend_from_slice(&oid.to_be_bytes());
            out.extend_from_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        }
        out
    }

    #[test]
    fn names_and_types_count_and_tables_do_not() {
        let of = |columns: &[_], node| Columns::of(&described(columns), NodeId(node)).unwrap();
        let told = of(&[("a", 7, 23), ("b", 7, 20_000)], 1);
        let like = |columns: &[_], node| told.are_like(&of(columns, node));
        assert!(like(&[("a", 8, 23), ("b", 8, 20_000)], 1));
        assert!(!like(&[("a", 7, 23), ("b", 7, 20_001)], 1), "another type of the same node");
        assert!(like(&[("a", 7, 23), ("b", 7, 20_001)], 2), "which has other numbers elsewhere");
        assert!(!like(&[("a", 7, 25), ("b", 7, 20_000)], 2));
        assert!(!like(&[("a", 7, 23), ("c", 7, 20_000)], 1));
        assert!(!like(&[("a", 7, 23)], 1));
        let plain = of(&[("a", 7, 23)], 1);
        assert!(plain.are_like(&of(&[("a", 8, 23)], 2)), "no type has a number of its own");
        assert!(!plain.are_like(&of(&[("a", 7, 20_000)], 2)));
        assert_eq!(Columns::of(&described(&[("a", 7, 23)])[..12], NodeId(1)), None);
        assert_eq!(Columns::of(&[], NodeId(1)), None);
    }
}
