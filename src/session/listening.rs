//! LISTEN without a connection of one's own.
//!
//! The server connections that a session goes through never listen. One shared connection of
//! pgshunt does (`client::listeners`); what it hears is handed to every session that wants it. The
//! client's LISTEN is carried out as `UNLISTEN` of the same channel, which does nothing there and
//! fails where LISTEN would; from its answer on the session knows that the transaction listens, and
//! from the transaction's end on it does.
//!
//! Before a LISTEN is sent the shared connection listens already ([`super::Need::Listen`]), so
//! nothing that is committed behind it is missed. Before a transaction of a session that listens, and
//! behind one that notifies, all that was sent so far is waited for ([`super::Need::Fence`]): what
//! others have committed comes no later than the next answer, its own before its ReadyForQuery, as
//! from PostgreSQL, and bears the pid that it was given at login.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Io, Need, Session};
use crate::router::plan::{Control, Plan, Statement};
use crate::wire::backend::{Report, Status};
use crate::wire::frame;

/// A notification, as the shared connection has heard it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    pub channel: Arc<str>,
    pub payload: Arc<str>,
    /// Of the server process that sent it.
    pub pid: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    Listen(String),
    Unlisten(String),
    UnlistenAll,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Open {
    actions: Vec<Action>,
    /// Each savepoint with the number of actions before it, oldest first.
    savepoints: Vec<(String, usize)>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Channels {
    /// What the session listens to.
    listens: Vec<String>,
    /// What its open transaction has said so far.
    open: Open,
    /// What the shared connection listens to for its sake.
    held: Vec<String>,
    /// Heard and not handed over yet; true: the session's own.
    mail: VecDeque<(Notification, bool)>,
    /// The pid of which its notifications are, and the one the client knows as its own.
    pid: i32,
    /// ReadyForQuery is kept back until the session's own notifications are there.
    keeps_ready: bool,
}

impl Channels {
    pub(super) fn is_empty(&self) -> bool {
        self.listens.is_empty()
    }

    /// What the names of its channels take.
    pub(super) fn bytes(&self) -> usize {
        const EACH: usize = 128;
        EACH * (self.listens.len() + self.open.actions.len())
    }

    fn hears(&self, channel: &str) -> bool {
        self.listens.iter().any(|c| c == channel)
    }

    pub(super) fn commit(&mut self) {
        for action in std::mem::take(&mut self.open).actions {
            match action {
                Action::Listen(c) if self.hears(&c) => {}
                Action::Listen(c) => self.listens.push(c),
                Action::Unlisten(c) => self.listens.retain(|l| *l != c),
                Action::UnlistenAll => self.listens.clear(),
            }
        }
    }

    pub(super) fn rollback(&mut self) {
        self.open = Open::default();
    }

    pub(super) fn savepoint(&mut self, name: &str) {
        self.open.savepoints.push((name.to_owned(), self.open.actions.len()));
    }

    pub(super) fn release(&mut self, name: &str) {
        if let Some(at) = self.open.savepoints.iter().rposition(|(n, _)| n == name) {
            self.open.savepoints.truncate(at);
        }
    }

    pub(super) fn rollback_to(&mut self, name: &str) {
        let Some(at) = self.open.savepoints.iter().rposition(|(n, _)| n == name) else { return };
        let (_, actions) = self.open.savepoints[at];
        self.open.actions.truncate(actions);
        self.open.savepoints.truncate(at + 1);
    }

    pub(super) fn listen(&mut self, channel: &str) {
        self.open.actions.push(Action::Listen(channel.to_owned()));
    }

    pub(super) fn unlisten(&mut self, channel: Option<&str>) {
        self.open.actions.push(match channel {
            Some(c) => Action::Unlisten(c.to_owned()),
            None => Action::UnlistenAll,
        });
    }

    /// ReadyForQuery waits for the session's own notifications, if it has sent any and listens.
    pub(super) fn keep_ready(&mut self, notified: bool) {
        self.keeps_ready = notified && !self.is_empty();
    }

    /// DISCARD ALL
    pub(super) fn discard(&mut self) {
        self.rollback();
        self.listens.clear();
    }
}

fn reads_channels(plan: &Plan) -> bool {
    plan.statements.iter().any(|s| matches!(&s.control, Control::Leaves(t) if t.channels))
}

/// The text as the server gets it: each LISTEN as UNLISTEN, EXPLAIN (ROUTE) as what tells the route, catalogs as the
/// client is to see them.
pub(super) fn sent<'a>(plan: &Plan, text: &'a [u8]) -> Cow<'a, [u8]> {
    let of_control = |s: &Statement| match &s.control {
        Control::Listen { at, .. } => Some((*at, *at, b"UN".to_vec())),
        Control::Route { sql, .. } => Some((s.span.0, s.span.1, sql.clone().into_bytes())),
        _ => None,
    };
    let catalogs = plan.instead.iter().map(|i| (i.at, i.end, i.text.clone().into_bytes()));
    let mut all: Vec<_> = plan.statements.iter().filter_map(of_control).chain(catalogs).collect();
    if all.is_empty() {
        return Cow::Borrowed(text);
    }
    all.sort_unstable();
    let mut out = text.to_vec();
    for (at, end, instead) in all.into_iter().rev().filter(|(_, end, _)| *end <= text.len()) {
        out.splice(at..end, instead);
    }
    Cow::Owned(out)
}

impl Session {
    /// The pid that the client was told at its login.
    pub fn known_as(&mut self, pid: i32) {
        self.channels.pid = pid;
    }

    /// The channels that the shared connection listens to for its sake.
    pub fn listens_to(&self) -> &[String] {
        &self.channels.held
    }

    /// What must be done before a text is sent, for what it listens to.
    pub(super) fn listen_first(&self, plan: &Plan) -> Result<Option<Need>, Report> {
        let missing: Vec<String> = plan
            .statements
            .iter()
            .filter_map(|s| match &s.control {
                Control::Listen { channel, .. } => Some(channel),
                _ => None,
            })
            .filter(|c| !self.channels.held.contains(c))
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Ok(Some(Need::Listen(missing)));
        }
        if !self.channels.is_empty() && reads_channels(plan) {
            return Err(Report::error(
                "0A000",
                "pg_listening_channels() is not supported in a session that listens",
            )
            .hint("pgshunt listens for all sessions on one connection of its own."));
        }
        Ok(None)
    }

    /// The same on the connection that the text will be sent on. What was committed before is heard
    /// before the answer, as PostgreSQL's signal arrives before; and what a transaction has notified
    /// that listens itself is known as its own.
    pub(super) fn fence_first(&self, plan: &Plan) -> Option<Need> {
        let fenced = self.link.as_ref().is_none_or(|l| l.fenced);
        let listens = plan.statements.iter().any(|s| matches!(s.control, Control::Listen { .. }));
        (!fenced && (listens || !self.channels.is_empty())).then_some(Need::Fence)
    }

    /// The shared connection listens to these now.
    pub fn listening(&mut self, channels: Vec<String>) {
        self.channels.held.extend(channels);
    }

    /// What the shared connection need not listen to any more for this session.
    pub fn take_surplus(&mut self) -> Vec<String> {
        let c = &mut self.channels;
        if c.held.len() == c.listens.len() || self.status != Status::Idle || self.link.is_some() {
            return Vec::new();
        }
        let (kept, surplus) = std::mem::take(&mut c.held).into_iter().partition(|h| c.hears(h));
        c.held = kept;
        surplus
    }

    /// What was heard, in its order.
    pub fn post(&mut self, heard: impl IntoIterator<Item = Notification>) {
        let own = self.link.as_ref().filter(|l| l.fenced).map(|l| l.facts.pid);
        self.channels.mail.extend(heard.into_iter().map(|n| {
            let own = own == Some(n.pid);
            (n, own)
        }));
    }

    /// So much is posted that it must be handed over before there is more.
    pub fn has_much_mail(&self) -> bool {
        const MUCH: usize = 64 << 10;
        let mut bytes = 0;
        self.channels.mail.iter().any(|(n, _)| {
            bytes += n.payload.len() + n.channel.len() + size_of::<Notification>();
            bytes > MUCH
        })
    }

    /// All that was sent before this moment has been posted.
    pub fn fenced(&mut self, io: &mut Io<'_>) {
        let mut between = self.status == Status::Idle;
        if let Some(link) = &mut self.link {
            link.fenced = true;
            between &= link.expects.is_empty();
        }
        let keeps_ready = std::mem::take(&mut self.channels.keeps_ready);
        if keeps_ready || between {
            self.hand_over_mail(io);
        }
        if keeps_ready {
            self.put_ready(io);
        }
    }

    /// ReadyForQuery waits for [`Session::fenced`].
    pub fn waits_for_fence(&self) -> bool {
        self.channels.keeps_ready
    }

    /// The transaction has ended, and its ReadyForQuery is the last thing outstanding. True: it is
    /// kept back.
    pub(super) fn keeps_ready(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        if !link.expects.is_empty() {
            return false;
        }
        let notified = std::mem::take(&mut link.notified) && link.fenced;
        self.channels.keep_ready(notified);
        self.channels.keeps_ready
    }

    /// Gives the client what it was posted; only between transactions.
    pub fn hand_over_mail(&mut self, io: &mut Io<'_>) {
        let c = &mut self.channels;
        for (n, own) in std::mem::take(&mut c.mail) {
            if !c.hears(&n.channel) {
                continue;
            }
            // Nobody else's may pass for its own.
            let pid = match own {
                true => c.pid,
                false if n.pid == c.pid => 0,
                false => n.pid,
            };
            frame::put(io.client, b'A', |b| {
                b.extend_from_slice(&pid.to_be_bytes());
                b.extend_from_slice(n.channel.as_bytes());
                b.push(0);
                b.extend_from_slice(n.payload.as_bytes());
                b.push(0);
            });
        }
    }

    /// The client says more within a transaction: what was heard so far of channels that it does
    /// not listen to yet is from before its LISTEN counts.
    pub(super) fn forget_early_mail(&mut self) {
        let c = &mut self.channels;
        if self.status != Status::Idle && !c.mail.is_empty() {
            let mail = std::mem::take(&mut c.mail);
            c.mail = mail.into_iter().filter(|(n, _)| c.hears(&n.channel)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_counts_from_its_commit_on() {
        let mut c = Channels::default();
        c.listen("a");
        assert!(!c.hears("a"));
        c.rollback();
        c.commit();
        assert!(!c.hears("a"), "rolled back");
        c.listen("a");
        c.savepoint("s");
        c.listen("b");
        c.unlisten(Some("a"));
        c.rollback_to("s");
        c.listen("c");
        c.rollback_to("s");
        c.release("s");
        c.commit();
        assert_eq!(c.listens, ["a"]);
        c.listen("b");
        c.unlisten(None);
        c.listen("c");
        c.commit();
        assert_eq!(c.listens, ["c"]);
    }
}
