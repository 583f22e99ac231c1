//! Writing the extended protocol's messages to the link, with what each is expected to answer.

use std::rc::Rc;

use super::link::{Expect, Fate, Reply, server_name};
use super::simple::controls;
use super::{Env, Io, Pending, Session, Statement};
use crate::wire::{backend, frontend};

impl Session {
    pub(super) fn emit_pending(&mut self, env: &mut Env<'_>, io: &mut Io<'_>) {
        self.pending_bytes = 0;
        for p in std::mem::take(&mut self.pending) {
            match p {
                Pending::Parse { name, statement } => self.emit_parse(&name, &statement, env, io),
                Pending::Bind { portal, statement, unnamed, rest } => {
                    self.emit_bind(&portal, &statement, unnamed, &rest, env, io);
                }
                Pending::DescribeStatement { statement, unnamed } => {
                    self.emit_describe_statement(&statement, unnamed, env, io);
                }
                Pending::DescribePortal { portal } => {
                    frontend::put_named(io.server, b'D', b'P', &portal);
                    if let Some(link) = &mut self.link {
                        link.expects.push_back(Expect::forward(Reply::Describe));
                    }
                }
                Pending::Execute { portal, limit } => self.emit_execute(&portal, limit, io),
                Pending::Ours(bytes) => {
                    // Nothing is pending any more and the link is there, so this cannot wait.
                    let _ = self.ours(bytes, io);
                }
            }
        }
    }

    pub(super) fn emit_parse(
        &mut self,
        name: &[u8],
        s: &Rc<Statement>,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) {
        if !self.has_started() {
            self.begin_on_link(io);
        }
        let Some(link) = &mut self.link else { return };
        if name.is_empty() {
            frontend::put_parse(io.server, b"", &s.text, &s.oids);
            link.unnamed = Some(s.id);
            link.expects.push_back(Expect::forward(Reply::Parse));
            return;
        }
        if link.facts.prepared.touch(&s.id) {
            let mut done = Vec::new();
            backend::put_bare(&mut done, b'1');
            let _ = self.ours(done, io);
            return;
        }
        frontend::put_parse(io.server, &server_name(&s.id), &s.text, &s.oids);
        let mut e = Expect::forward(Reply::Parse);
        e.creates = Some(s.id);
        e.client_name = Some(name.to_vec());
        link.expects.push_back(e);
        self.prepared(s, env, io);
    }

    /// Notes a statement as prepared on the link and closes the one that must give way.
    pub(super) fn prepared(&mut self, s: &Statement, env: &Env<'_>, io: &mut Io<'_>) {
        let Some(link) = &mut self.link else { return };
        link.facts.prepared.insert(s.id);
        if let Some(old) = link.facts.prepared.evict(env.max_prepared) {
            frontend::put_named(io.server, b'C', b'S', &server_name(&old));
            link.expects.push_back(Expect::new(Reply::Close, Fate::Swallow));
        }
    }

    /// Makes sure the link knows the statement, and gives its name there.
    pub(super) fn known(
        &mut self,
        s: &Rc<Statement>,
        unnamed: bool,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) -> Vec<u8> {
        let Some(link) = &mut self.link else { return Vec::new() };
        if unnamed {
            if link.unnamed != Some(s.id) {
                frontend::put_parse(io.server, b"", &s.text, &s.oids);
                link.unnamed = Some(s.id);
                let mut e = Expect::new(Reply::Parse, Fate::Swallow);
                e.creates = None;
                link.expects.push_back(e);
            }
            return Vec::new();
        }
        let name = server_name(&s.id).to_vec();
        if !link.facts.prepared.touch(&s.id) {
            frontend::put_parse(io.server, &name, &s.text, &s.oids);
            let mut e = Expect::new(Reply::Parse, Fate::Swallow);
            e.creates = Some(s.id);
            link.expects.push_back(e);
            self.prepared(s, env, io);
        }
        name
    }

    pub(super) fn emit_bind(
        &mut self,
        portal: &[u8],
        s: &Rc<Statement>,
        unnamed: bool,
        rest: &[u8],
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) {
        let name = self.known(s, unnamed, env, io);
        frontend::put_bind(io.server, portal, &name, rest);
        if let Some(link) = &mut self.link {
            link.expects.push_back(Expect::forward(Reply::Bind));
        }
    }

    pub(super) fn emit_describe_statement(
        &mut self,
        s: &Rc<Statement>,
        unnamed: bool,
        env: &Env<'_>,
        io: &mut Io<'_>,
    ) {
        if !self.has_started() {
            self.begin_on_link(io);
        }
        let name = self.known(s, unnamed, env, io);
        frontend::put_named(io.server, b'D', b'S', &name);
        if let Some(link) = &mut self.link {
            link.expects.push_back(Expect::forward(Reply::Describe));
        }
    }

    pub(super) fn emit_execute(&mut self, portal: &[u8], limit: i32, io: &mut Io<'_>) {
        let statement = self.portals.iter().find(|(n, _)| n == portal).map(|(_, s)| s.clone());
        let Some(link) = &mut self.link else { return };
        crate::wire::frame::put(io.server, b'E', |b| {
            b.extend_from_slice(portal);
            b.push(0);
            b.extend_from_slice(&limit.to_be_bytes());
        });
        let mut e = Expect::forward(Reply::Execute);
        e.controls = statement.and_then(|s| controls(&s.plan, &s.text));
        link.expects.push_back(e);
    }
}
