//! The client's prepared statements under the names that the client gave them.
//!
//! On server connections a statement of the protocol bears a name made from its content, and may not
//! be there yet. Where SQL names one (`EXECUTE`, `DEALLOCATE`), and where
//! pg_prepared_statements is read, it is prepared under the client's own name too, in the same write
//! and before what needs it. Such names go when the connection is free again, unseen by the client,
//! and before the connection serves anybody else.

use std::rc::Rc;

use super::link::{Expect, Fate, Reply};
use super::prepared::{server_name, statement_id};
use super::{Io, Session, Statement, residue};
use crate::router::plan::{Control, Kind, Plan};
use crate::wire::backend::{Report, Status};
use crate::wire::frontend;

impl Session {
    /// The statement of the protocol that an EXECUTE names.
    pub(super) fn named_by_execute(&self, control: &Control) -> Option<(&[u8], &Rc<Statement>)> {
        match control {
            Control::Leaves(traces) => {
                let name = traces.executes.as_ref()?.as_bytes();
                self.statements.get_key_value(name)
            }
            _ => None,
        }
    }

    /// Why an EXECUTE cannot be carried out, if so: what it leads to is not looked at again.
    pub(super) fn refuses_execute(&self, plan: &Plan) -> Option<Report> {
        let refused = |inner: &Plan| {
            let placeless = matches!(inner.kind, Kind::Home | Kind::Any);
            let harmless = matches!(inner.single(), Some(Control::None | Control::Pure));
            !placeless || !harmless
        };
        let mut named = plan.statements.iter().filter_map(|s| self.named_by_execute(&s.control));
        named.any(|(_, s)| refused(&s.plan)).then(|| {
            let what = "EXECUTE of this statement, prepared by the protocol, is not supported";
            Report::error("0A000", what).hint("Bind and execute it by the protocol.")
        })
    }

    /// The statement as it is prepared on the node. An EXECUTE of the same text is another statement
    /// for each statement that bears the name.
    pub(super) fn as_node_reads(&mut self, s: &Rc<Statement>, io: &mut Io<'_>) -> Rc<Statement> {
        let inner = s.plan.single().and_then(|c| self.named_by_execute(c));
        let Some((name, inner)) = inner.map(|(name, inner)| (name.to_vec(), inner.clone())) else {
            return s.clone();
        };
        self.put_own_name(&name, &inner, Fate::Swallow, io);
        let mut read = Statement::new(&s.text, &s.oids, s.plan.clone(), s.meant);
        read.is_told_apart_by(&inner.content());
        Rc::new(read)
    }

    /// Puts in front of a text what it names. True: the connection's list of statements is the
    /// client's own.
    pub(super) fn put_own_names(&mut self, plan: &Plan, io: &mut Io<'_>) -> bool {
        let failed = self.link.as_ref().is_none_or(|l| l.status == Status::Failed);
        if failed || !self.names_own(plan) {
            return false;
        }
        let lists = plan.statements.iter().any(|s| self.lists_statements(&s.control));
        if lists {
            self.put_own_list(io);
            return true;
        }
        for s in &plan.statements {
            let named = self.named_by_execute(&s.control);
            if let Some((name, s)) = named.map(|(name, s)| (name.to_vec(), s.clone())) {
                self.put_own_name(&name, &s, Fate::Swallow, io);
            }
        }
        false
    }

    /// Whether the text needs anything under a name of the client's own.
    pub(super) fn names_own(&self, plan: &Plan) -> bool {
        plan.statements.iter().any(|s| {
            self.lists_statements(&s.control) || self.named_by_execute(&s.control).is_some()
        })
    }

    /// The server knows a statement of the protocol by another name than the client: DEALLOCATE of
    /// it finds an empty one by the client's, which can be prepared in whatever state.
    pub(super) fn put_deallocated(&mut self, control: &Control, io: &mut Io<'_>) {
        let Control::Deallocate(Some(name)) = control else { return };
        let name = name.as_bytes();
        let Some(link) = self.link.as_mut().filter(|_| self.statements.has(name)) else {
            return;
        };
        let id = Some(statement_id(b"", b""));
        link.named.insert(name.to_vec(), id);
        frontend::put_named(io.server, b'C', b'S', name);
        link.push(Expect::new(Reply::Close, Fate::Swallow));
        frontend::put_parse(io.server, name, b"", b"");
        link.push(Expect::new(Reply::Parse, Fate::Swallow));
    }

    fn lists_statements(&self, control: &Control) -> bool {
        matches!(control, Control::Leaves(t)
            if t.prepared || t.executes.is_some() && self.prepares_listing)
    }

    /// The connection knows the client's statements, and no others but those of SQL's PREPARE.
    fn put_own_list(&mut self, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        while let Some(id) = link.facts.prepared.oldest(0) {
            frontend::put_named(io.server, b'C', b'S', &server_name(&id));
            let mut e = Expect::new(Reply::Close, Fate::Swallow);
            e.undo.content = Some((id, link.facts.prepared.remove(&id)));
            link.push(e);
        }
        let checks = std::mem::take(&mut link.facts.checks).then(|| residue::NAME.to_vec());
        let named = std::mem::take(&mut link.named).into_keys();
        for name in checks.into_iter().chain(named) {
            frontend::put_named(io.server, b'C', b'S', &name);
            link.push(Expect::new(Reply::Close, Fate::Swallow));
        }
        // In the order in which the client has prepared them: `prepare_time` tells it.
        let all = self.statements.by_age().into_iter();
        let all: Vec<_> = all.map(|(name, s)| (name.to_vec(), s.clone())).collect();
        for (name, s) in all {
            let shown = String::from_utf8_lossy(&name);
            let what = "pg_prepared_statements cannot be read in this session";
            let report = Report::error("0A000", what)
                .detail(format!("\"{shown}\" could not be prepared once more."))
                .hint("Deallocate it first: what it was made for is not there any more.");
            self.put_own_name(&name, &s, Fate::Refuse(Box::new(report)), io);
        }
    }

    fn put_own_name(&mut self, name: &[u8], s: &Statement, fate: Fate, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        if link.status == Status::Failed {
            return;
        }
        let id = Some(s.content());
        match link.named.insert(name.to_vec(), id) {
            Some(known) if known == id => return,
            Some(_) => {
                frontend::put_named(io.server, b'C', b'S', name);
                link.push(Expect::new(Reply::Close, Fate::Swallow));
            }
            None => {}
        }
        self.counters.server_parses += 1;
        frontend::put_parse(io.server, name, &s.text, &s.types());
        link.push(Expect::new(Reply::Parse, fate));
    }

    /// Takes the client's names off the connection again.
    pub(super) fn take_back_names(&mut self, io: &mut Io<'_>) {
        let Some(link) = self.link.as_mut().filter(|l| !l.named.is_empty() && l.is_free()) else {
            return;
        };
        for name in std::mem::take(&mut link.named).into_keys() {
            frontend::put_named(io.server, b'C', b'S', &name);
            link.push(Expect::new(Reply::Close, Fate::Tidy));
        }
        frontend::put_empty(io.server, b'S');
        link.push(Expect::new(Reply::Sync, Fate::Tidy));
    }
}
