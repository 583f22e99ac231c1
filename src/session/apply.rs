//! What a completed statement does to the session, and what a skipped one does not.

use std::rc::Rc;

use super::link::{Done, Expect, Link, Reply, Undo};
use super::patience::PARAMETERS;
use super::prelude::is_repeatable;
use super::snapshot::Snapshot;
use super::{Pending, Session, Statement};
use crate::router::plan::{Control, PREPARE, Traces};
use crate::router::{mentions_last_value, mentions_prepared};

impl Session {
    pub(super) fn forget_statement(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        if name.is_empty() { self.unnamed.take() } else { self.statements.remove(name) }
    }

    /// What a completed statement did to the session.
    pub(super) fn apply(&mut self, done: &Done) {
        let sql = done.sql.as_str();
        self.changes_at_savepoint(&done.control);
        match &done.control {
            Control::None | Control::Pure | Control::Vacate(_) | Control::Route { .. } => {}
            Control::Begin => {
                if self.begin_text.is_empty() {
                    self.begin_text.extend_from_slice(sql.as_bytes());
                } else if sql.split_ascii_whitespace().count() > 2 {
                    // It begins nothing, and its options count.
                    self.prelude.note(&Control::Local, sql);
                }
            }
            Control::Local => self.settings.set_local(),
            Control::Commit | Control::PrepareTransaction => {
                self.begin_text.clear();
                self.settings.commit();
                self.channels.commit();
                self.cursors.commit();
            }
            Control::Rollback => {
                self.begin_text.clear();
                self.settings.rollback();
                self.channels.rollback();
                self.cursors.rollback();
            }
            Control::CommitAndChain => {
                self.settings.commit();
                self.channels.commit();
                self.cursors.commit();
                self.chained();
            }
            Control::RollbackAndChain => {
                self.settings.rollback();
                self.channels.rollback();
                self.cursors.rollback();
                self.chained();
            }
            Control::Savepoint(name) => {
                self.settings.savepoint(name);
                self.channels.savepoint(name);
                self.cursors.savepoint(name);
            }
            Control::Release(name) => {
                self.settings.release(name);
                self.channels.release(name);
                self.cursors.release(name);
            }
            Control::RollbackTo(name) => {
                self.settings.rollback_to(name);
                self.channels.rollback_to(name);
                self.cursors.rollback_to(name);
            }
            Control::Set(name) => {
                self.settings.set(name, sql);
                self.times(name);
            }
            Control::SetEach(each) => {
                for (name, sql) in each {
                    self.settings.set(name, sql);
                }
            }
            Control::Reset(name) => {
                self.settings.reset(name);
                self.times(name);
            }
            Control::LocalPath => self.settings.set_local_path(Some(sql)),
            Control::ResetLocal(name) if name == "search_path" => {
                self.settings.set_local_path(None);
            }
            Control::ResetLocal(_) => {}
            Control::ResetAll => {
                self.settings.reset_all();
                self.patience.reset();
            }
            Control::DiscardAll => {
                self.patience.reset();
                self.settings.discard();
                self.channels.discard();
                self.sequences_discarded();
                if let Some(link) = &mut self.link {
                    self.cursors.leave(link.node);
                    link.discarded = true;
                    link.residue.pinned = None;
                    // A library stays loaded, and who knows what else.
                    link.facts.spent |= link.residue.bound.take().is_some();
                    link.residue.nothing_is_left();
                }
                self.all_deallocated();
            }
            Control::Deallocate(Some(name)) => {
                self.forget_statement(name.as_bytes());
                self.link.iter_mut().for_each(Link::forget_names);
                self.look_again();
            }
            Control::Deallocate(None) => {
                self.all_deallocated();
                self.look_again();
            }
            Control::Pin(why) => {
                self.prepares_listing |= *why == PREPARE && mentions_prepared(sql.as_bytes());
                self.sequences.prepares_question |=
                    *why == PREPARE && mentions_last_value(sql.as_bytes());
                self.is_pinned_by(why);
                self.look_again();
            }
            Control::Bind(why) => {
                if let Some(residue) = self.residue() {
                    residue.bound.get_or_insert(why);
                }
                self.is_pinned_by(why);
            }
            Control::Leaves(traces) => {
                if let Some(name) = &traces.declares {
                    self.has_declared(name, traces.pin.is_some());
                }
                if let Some(link) = &mut self.link {
                    // It may hold DDL.
                    link.changes_tables |= traces.code || !traces.functions.is_empty();
                }
                self.leaves(traces);
            }
            Control::Frees => self.look_again(),
            Control::Fetch(_) => {}
            Control::Close(name) => {
                self.has_closed(name.as_deref());
                self.look_again();
            }
            Control::DiscardSequences => self.sequences_discarded(),
            Control::Listen { channel, .. } => self.channels.listen(channel),
            Control::Unlisten(channel) => {
                self.channels.unlisten(channel.as_deref());
                self.look_again();
            }
            Control::ChangesFunctions => self.functions_change(),
            Control::ChangesTables => self.tables_change(),
        }
        self.extend_prelude(done);
    }

    /// AND CHAIN has begun another transaction, which has a snapshot of its own on each node.
    fn chained(&mut self) {
        self.prelude.clear();
        self.clock.time = None;
        self.epoch = None;
        self.snapshot = Snapshot::Own;
    }

    /// A parameter has been set: which value came of it is asked where pgshunt goes by it.
    fn times(&mut self, name: &str) {
        if PARAMETERS.contains(&name) {
            let parameters = vec![name.to_owned()];
            self.leaves(&Traces { parameters, ..Traces::default() });
        }
    }

    fn all_deallocated(&mut self) {
        // The unnamed statement is none of them.
        self.statements.clear();
        if let Some(link) = &mut self.link {
            link.facts.prepared.clear();
            link.facts.checks = false;
            link.forget_names();
        }
    }

    /// What the open transaction sets is noted, for nodes that take part later; while it does nothing
    /// else it may begin anew on another one.
    fn extend_prelude(&mut self, done: &Done) {
        if let (Control::Leaves(traces), Some(link)) = (&done.control, &self.link) {
            let strange = |f: &String| !link.facts.harmless.knows(f);
            if traces.code || !traces.parameters.is_empty() || traces.functions.iter().any(strange)
            {
                self.prelude.lose();
            }
        }
        self.prelude.note(&done.control, &done.sql);
        let harmless =
            matches!(done.control, Control::Pure | Control::Begin | Control::Deallocate(_));
        self.movable &= !self.prelude.is_lost() && (harmless || is_repeatable(&done.control));
    }

    /// From here on the name is this statement's.
    fn give_name(
        &mut self,
        name: &[u8],
        statement: Option<Rc<Statement>>,
    ) -> Option<Rc<Statement>> {
        match statement {
            s if name.is_empty() => std::mem::replace(&mut self.unnamed, s),
            Some(s) => self.statements.insert(name, s),
            None => self.statements.remove(name),
        }
    }

    /// What bore the name before the first of those outstanding requests that have changed it.
    fn later_change(&mut self, name: &[u8]) -> Option<&mut Option<Rc<Statement>>> {
        let changed = |undo: &Undo| undo.client.as_ref().is_some_and(|(n, _)| n == name);
        let link = self.link.as_mut();
        let sent = link.filter(|l| l.order.changes_name(name, l.expects.len()));
        let sent = sent.and_then(|l| l.later(changed)).and_then(|u| u.client.as_mut());
        if let Some((_, before)) = sent {
            return Some(before);
        }
        self.pending.iter_mut().find_map(|p| match p {
            Pending::Parse { name: n, before, .. } => (n == name).then_some(before),
            Pending::Ours { undo, .. } if changed(undo) => {
                undo.client.as_mut().map(|(_, before)| before)
            }
            _ => None,
        })
    }

    /// Takes back what a request changed that the server has skipped.
    pub(super) fn undo(&mut self, undo: &Undo) {
        if let Some((name, before)) = &undo.client {
            match self.later_change(name) {
                // What came behind it has found this before it.
                Some(later) => later.clone_from(before),
                None => {
                    self.give_name(name, before.clone());
                }
            }
        }
        if let Some((name, before)) = &undo.portal {
            self.forget_portal(name);
            if let Some(before) = before {
                self.portals.insert(name, before.clone());
            }
        }
        if let Some(link) = &mut self.link {
            link.undo(undo);
        }
    }

    /// The request in front has failed, and the server skips the rest of its segment.
    pub(super) fn skip_segment(&mut self) {
        let Some(link) = &mut self.link else { return };
        let failed = link.expects.pop_front();
        let skipped = link.take_skipped();
        // A Query that was skipped has not ended the segment.
        link.in_segment |= link.expects.is_empty();
        for e in &skipped {
            self.undo(&e.undo);
        }
        if let Some(Expect { reply, mut undo, controls, .. }) = failed {
            if let Some(controls) = controls {
                self.failed_half_way(&controls);
            }
            // A failed Parse has dropped the unnamed statement first.
            if let Some((name, before)) = &mut undo.client
                && name.is_empty()
            {
                *before = None;
            }
            if reply == Reply::Parse && undo.unnamed.is_some() {
                undo.unnamed = Some(None);
            }
            self.undo(&undo);
        }
    }
}
