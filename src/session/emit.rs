//! Writing the extended protocol's messages to the link, with what each is expected to answer.

use std::rc::Rc;

use super::link::{Expect, Fate, Reply, Undo};
use super::prepared::{StatementId, server_name};
use super::simple::controls;
use super::{Env, Io, Pending, Session, Statement};
use crate::router::plan::Control;
use crate::wire::frontend;

/// Messages before the place is known; where there were more, no room is kept for them.
const USUALLY_PENDING: usize = 8;

impl Session {
    pub(super) fn emit_pending(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) {
        self.pending_bytes = 0;
        let mut pending = std::mem::take(&mut self.pending);
        for p in pending.drain(..) {
            match p {
                Pending::Parse { name, statement, before } => {
                    self.emit_parse(&name, &statement, before, env, io);
                }
                Pending::Bind { portal, statement, name, rest } => {
                    self.emit_bind(&portal, &statement, &name, &rest, env, io);
                }
                Pending::DescribeStatement { statement, name } => {
                    self.emit_describe_statement(&statement, &name, env, io);
                }
                Pending::DescribePortal { portal } => {
                    self.emit_describe_portal(&portal, io);
                }
                Pending::ClosePortal { portal } => {
                    self.emit_close_portal(&portal, io);
                }
                Pending::Execute { portal, limit } => self.emit_execute(&portal, limit, io),
                Pending::Ours { bytes, undo } => {
                    // Nothing is pending any more and the link is there, so this cannot wait.
                    let _ = self.ours(bytes, undo, io);
                }
            }
        }
        if pending.capacity() <= USUALLY_PENDING {
            // Room for the next ones.
            self.pending = pending;
        }
    }

    /// Notes a request of the client's own; an answer it has had already it does not get again.
    pub(super) fn push(&mut self, mut e: Expect) {
        let bare = matches!(
            e.reply,
            Reply::Parse | Reply::Bind | Reply::Describe | Reply::Close | Reply::Ours(_)
        );
        if bare && e.fate == Fate::Forward && self.retry.mutes() {
            e.fate = Fate::Swallow;
        }
        if let Some(link) = &mut self.link {
            link.push(e);
        }
    }

    pub(super) fn emit_parse(
        &mut self,
        name: &[u8],
        s: &Rc<Statement>,
        before: Option<Rc<Statement>>,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) {
        if !self.has_started() {
            self.begin_on_link(io);
        }
        let undo = Undo { client: Some((name.to_vec(), before)), ..Undo::default() };
        let s = &self.as_node_reads(s, io);
        let Some(link) = &mut self.link else { return };
        if name.is_empty() {
            self.counters.server_parses += 1;
            frontend::put_parse(io.server, b"", s.sent(), &s.oids);
            let mut e = Expect::forward(Reply::Parse);
            e.undo = undo;
            e.undo.unnamed = Some(link.unnamed.replace(s.id));
            self.push(e);
            return;
        }
        if link.may_be_prepared(&s.id) {
            // What it means may have changed since another client had it prepared: the types of
            // its parameters and its columns are those of the moment it is parsed.
            self.close_on_link(s.id, io);
        } else {
            self.make_room(env, io);
        }
        self.counters.server_parses += 1;
        frontend::put_parse(io.server, &server_name(&s.id), s.sent(), &s.oids);
        let mut e = Expect::forward(Reply::Parse);
        e.undo = undo;
        self.prepared(s, e, env);
    }

    /// Closes the statement that must give way to another one.
    fn make_room(&mut self, env: &Env<'_>, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        if let Some(old) = link.facts.prepared.oldest(env.max_prepared) {
            self.close_on_link(old, io);
        }
    }

    /// Closes a statement on the link; the client does not learn of it.
    pub(super) fn close_on_link(&mut self, id: StatementId, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        frontend::put_named(io.server, b'C', b'S', &server_name(&id));
        let mut e = Expect::new(Reply::Close, Fate::Swallow);
        e.undo.content = Some((id, link.facts.prepared.remove(&id)));
        link.push(e);
    }

    /// Notes a statement as prepared on the link, by this request.
    fn prepared(&mut self, s: &Statement, mut e: Expect, env: &Env<'_>) {
        e.undo.content = Some((s.content(), false));
        if let Some(link) = &mut self.link {
            let made = env.moments.parsed_by(self.settings.search_path());
            link.facts.prepared.insert(s.content(), made);
        }
        self.push(e);
    }

    /// Makes sure the link knows the statement, and gives what it has its name from there; `None`:
    /// it has none.
    pub(super) fn known(
        &mut self,
        s: &Rc<Statement>,
        unnamed: bool,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) -> Option<StatementId> {
        let link = self.link.as_mut()?;
        if unnamed {
            if !link.has_unnamed(s.content()) {
                self.counters.server_parses += 1;
                frontend::put_parse(io.server, b"", s.sent(), &s.types());
                let mut e = Expect::new(Reply::Parse, Fate::Swallow);
                e.undo.unnamed = Some(link.unnamed.replace(s.content()));
                link.push(e);
            }
            return None;
        }
        let content = s.content();
        if let Some(id) = link.find_prepared(&content) {
            let made = link.facts.prepared.made(&id);
            let path = self.settings.search_path();
            if s.described.get() || !env.moments.differ(made, s.meant, path) {
                return Some(id);
            }
            self.close_on_link(id, io);
        } else if link.may_be_prepared(&content) {
            // Whether it is there an earlier segment will tell.
            self.close_on_link(content, io);
        } else {
            self.make_room(env, io);
        }
        self.counters.server_parses += 1;
        frontend::put_parse(io.server, &server_name(&content), s.sent(), &s.types());
        self.prepared(s, Expect::new(Reply::Parse, Fate::Swallow), env);
        Some(content)
    }

    pub(super) fn emit_bind(
        &mut self,
        portal: &[u8],
        s: &Rc<Statement>,
        client_name: &[u8],
        rest: &[u8],
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) {
        self.before_sequences(&s.plan, io);
        self.uses_tables(&s.plan);
        let lists = self.put_own_names(&s.plan, io);
        let known = if lists && !client_name.is_empty() {
            None
        } else {
            let on_node = self.as_node_reads(s, io);
            self.known(&on_node, client_name.is_empty(), env, io)
        };
        match known {
            Some(id) => frontend::put_bind(io.server, portal, &server_name(&id), rest),
            None => frontend::put_bind(io.server, portal, client_name, rest),
        }
        let mut e = Expect::forward(Reply::Bind);
        // Of a statement over several nodes only Bind is said to one of them.
        let over_nodes =
            self.portal(portal).is_some_and(|p| p.over_nodes && Rc::ptr_eq(&p.statement, s));
        let before = self.remember_portal(portal, s, over_nodes);
        e.undo.portal = Some((portal.to_vec(), before));
        e.statement = Some(s.clone());
        e.name = client_name.to_vec();
        self.push(e);
    }

    pub(super) fn emit_describe_statement(
        &mut self,
        s: &Rc<Statement>,
        client_name: &[u8],
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) {
        if !self.has_started() {
            self.begin_on_link(io);
        }
        let on_node = self.as_node_reads(s, io);
        match self.known(&on_node, client_name.is_empty(), env, io) {
            Some(id) => frontend::put_named(io.server, b'D', b'S', &server_name(&id)),
            None => frontend::put_named(io.server, b'D', b'S', b""),
        }
        let mut e = Expect::forward(Reply::Describe);
        e.statement = Some(s.clone());
        e.name = client_name.to_vec();
        self.push(e);
    }

    /// The client goes by the columns of a portal as by those of its statement.
    pub(super) fn emit_describe_portal(&mut self, portal: &[u8], io: &mut Io<'_>) {
        frontend::put_named(io.server, b'D', b'P', portal);
        let mut e = Expect::forward(Reply::Describe);
        e.statement = self.portal(portal).map(|p| p.statement.clone());
        self.push(e);
    }

    pub(super) fn emit_close_portal(&mut self, portal: &[u8], io: &mut Io<'_>) {
        frontend::put_named(io.server, b'C', b'P', portal);
        let mut e = Expect::forward(Reply::Close);
        e.undo.portal = self.forget_portal(portal).map(|p| (portal.to_vec(), Some(p)));
        self.push(e);
    }

    pub(super) fn emit_execute(&mut self, portal: &[u8], limit: i32, io: &mut Io<'_>) {
        let statement = self.portal(portal).map(|p| p.statement.clone());
        let spans = |s: &Statement, n: usize| s.plan.statements.get(n).map_or((0, 0), |s| s.span);
        let copies = statement.as_ref().is_some_and(|s| s.plan.copies_in);
        let controls = statement.and_then(|s| controls(&s.plan, &s.text, |n| spans(&s, n)));
        let control = controls.as_ref().and_then(|c| c.first()).map(|d| d.control.clone());
        let mut e = Expect::forward(Reply::Execute);
        e.copies = copies;
        control.iter().for_each(|c| self.put_deallocated(c, io));
        crate::wire::frame::put(io.server, b'E', |b| {
            b.extend_from_slice(portal);
            b.push(0);
            b.extend_from_slice(&limit.to_be_bytes());
        });
        e.controls = controls.map(Into::into);
        self.push(e);
        let mut restores: Vec<_> = control.iter().flat_map(|c| self.settings.restores(c)).collect();
        if control == Some(Control::DiscardAll) && !restores.is_empty() {
            // It has committed by itself, and so must this.
            restores.insert(0, "BEGIN".to_owned());
            restores.push("COMMIT".to_owned());
        }
        for sql in restores {
            self.put_own_behind(&sql, io);
        }
    }
}
