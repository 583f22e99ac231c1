//! A link: the server connection a session holds, seen from the session.
//!
//! Every message sent to the server is remembered as an [`Expect`] until its answer came, so that
//! each answer finds whom it is for: the client, nobody (what pgshunt slipped in), or the client
//! with another wording. This is the only truth about what is under way. After an error the server
//! discards what it had of the extended protocol up to Sync, and so does [`Link::take_skipped`];
//! each request remembers what it changed in the session's beliefs, so that those can be undone.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::router::Harmless;
use crate::router::plan::{Control, Effect};
use crate::topology::NodeId;
use crate::wire::backend::{Report, Status};

use super::Statement;
use super::behind::Behind;
use super::copying::Doubt;
use super::order::Order;
use super::portals::Portal;
use super::prepared::{Prepared, StatementId};
use super::reported::Reported;
use super::residue::Residue;
use super::sequences::{Drawn, Followed};

/// One session parameter: its canonical name and the SQL that puts it in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    pub sql: String,
}

pub type Settings = Arc<[Setting]>;

/// What a server connection carries from one session to the next.
#[derive(Debug, Serialize, Deserialize)]
pub struct Facts {
    pub prepared: Prepared,
    /// The session parameters in force beyond the role's defaults; `None` when a transaction that
    /// set some broke off, so that all must be reset before use.
    pub applied: Option<Settings>,
    /// The connection must not serve anybody else: what it still answers cannot be told.
    pub spent: bool,
    /// ParameterStatus as last reported. Clients are told it at login.
    pub reported: Reported,
    /// The question what a transaction has left (`session::check`) is prepared.
    pub checks: bool,
    /// Functions of its database that leave nothing; each process asks anew.
    #[serde(skip)]
    pub harmless: Harmless,
    /// Of the server process.
    pub pid: i32,
    /// Who may have drawn values of sequences on it.
    pub drawn: Drawn,
    /// Of its pool, as is what follows.
    #[serde(skip)]
    pub followed: Followed,
    #[serde(skip)]
    pub behind: Behind,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            prepared: Prepared::default(),
            applied: Some(Arc::from([])),
            spent: false,
            reported: Reported::default(),
            checks: false,
            harmless: Harmless::default(),
            pid: 0,
            drawn: Drawn::default(),
            followed: Followed::default(),
            behind: Behind::default(),
        }
    }
}

/// Which answer completes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// ReadyForQuery, after whatever.
    Query,
    /// ParseComplete
    Parse,
    /// BindComplete
    Bind,
    /// RowDescription or NoData; before it ParameterDescription for a statement.
    Describe,
    /// CommandComplete, EmptyQueryResponse or PortalSuspended
    Execute,
    /// CloseComplete
    Close,
    /// ReadyForQuery
    Sync,
    /// A statement of pgshunt's own by Parse, Bind and Execute, up to CommandComplete; with
    /// `closed`, up to the CloseComplete of its portal.
    Own { closed: bool },
    /// The rows of pgshunt's own question, up to CommandComplete.
    Check,
    /// The same, of the other question.
    Behind,
    /// The same, of the question that the client's statement waits for.
    Answer,
    /// Nothing: these bytes are the client's as soon as it is their turn.
    Ours(Vec<u8>),
    /// Nothing: the client ended its part of a COPY here.
    Copied,
}

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Forward,
    /// Like Forward without ReadyForQuery: more statements of the client's text follow.
    Statement,
    /// pgshunt slipped the request in; an error of it is the error of the client's request.
    Swallow,
    /// pgshunt tidies up behind itself; that cannot fail.
    Tidy,
    /// Part of the question what a transaction has left behind.
    Check,
    /// Part of the question that the client's statement waits for; an error is the statement's.
    Asked,
    /// pgshunt compares the columns with those that the client goes by; an error is the client's.
    Columns,
    /// The request was made to fail; this is the error the client reads.
    Refuse(Box<Report>),
    /// The same, even if the server says that the transaction has failed.
    Insist(Box<Report>),
    /// ReadyForQuery is the client's, but tells of its own transaction and not of the server's.
    Outside,
    /// Like Forward without ReadyForQuery: a second request goes on for it.
    Before,
    /// That second request: changed parameters, an error and ReadyForQuery are the client's.
    After,
    /// ReadyForQuery may be the client's or not, until CloseComplete tells.
    Doubt,
    /// pgshunt makes the transaction fail that had failed for the client before it had a node.
    Spoil,
    /// ReadyForQuery ends the segment for another node's turn, and is not the client's.
    Rest,
    /// Part of a statement on several nodes: what the client reads of it, the spread decides.
    Part,
}

/// What was believed before a request, in case the server skips it.
#[derive(Debug, Default)]
pub struct Undo {
    /// A statement's name of the client's, and what bore it.
    pub client: Option<(Vec<u8>, Option<Rc<Statement>>)>,
    /// A portal's name, and what it was.
    pub portal: Option<(Vec<u8>, Option<Portal>)>,
    /// The connection's unnamed statement.
    pub unnamed: Option<Option<StatementId>>,
    /// The statement prepared or closed on the connection, and whether it was there before.
    pub content: Option<(StatementId, bool)>,
    /// Who had drawn on the connection before it was made to forget.
    pub drawn: Option<Drawn>,
}

/// What a completed statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub control: Control,
    pub sql: String,
    /// Slipped into the client's text: its answers are not the client's.
    pub ours: bool,
}

/// A request whose answer is outstanding.
#[derive(Debug)]
pub struct Expect {
    pub reply: Reply,
    pub fate: Fate,
    pub undo: Undo,
    /// What each CommandComplete in turn does to the session.
    pub controls: Option<Rc<[Done]>>,
    pub completed: usize,
    /// It is, or has in it, COPY FROM STDIN.
    pub copies: bool,
    /// For a Bind, and for a Describe of a statement; and the client's name of it.
    pub statement: Option<Rc<Statement>>,
    pub name: Vec<u8>,
}

impl Expect {
    pub fn new(reply: Reply, fate: Fate) -> Self {
        Self {
            reply,
            fate,
            undo: Undo::default(),
            controls: None,
            completed: 0,
            copies: false,
            statement: None,
            name: Vec::new(),
        }
    }

    pub fn forward(reply: Reply) -> Self {
        Self::new(reply, Fate::Forward)
    }

    /// Its rows answer a question of pgshunt's own.
    pub fn is_question(&self) -> bool {
        matches!(self.reply, Reply::Check | Reply::Behind | Reply::Answer)
    }

    /// The answers that come now belong to a statement of pgshunt's within the client's text.
    pub fn is_ours_now(&self) -> bool {
        self.controls.as_ref().and_then(|c| c.get(self.completed)).is_some_and(|d| d.ours)
    }

    /// Whether an answer without a meaning of its own is the client's.
    pub fn passes(&self) -> bool {
        use Fate::{Before, Forward, Outside, Statement};
        matches!(self.fate, Forward | Statement | Before | Outside) && !self.is_ours_now()
    }
}

#[derive(Debug)]
pub struct Link {
    pub node: NodeId,
    pub facts: Box<Facts>,
    pub residue: Residue,
    /// It goes back to the pool although nothing was sent on it.
    pub let_go: bool,
    /// Nobody waits for its answer any more: it is to be cancelled and closed.
    pub abandoned: bool,
    /// The most that the open transaction's statements may do on this node; a request under way counts.
    pub effect: Effect,
    pub expects: VecDeque<Expect>,
    /// As the last ReadyForQuery said.
    pub status: Status,
    /// What the unnamed statement of this connection is.
    pub unnamed: Option<StatementId>,
    /// The statement that has turned out to have other columns here than the client goes by.
    pub unlike: Option<StatementId>,
    /// Bytes of the current answer that are still to come, and whether the client gets them.
    pub passing: usize,
    pub passing_on: bool,
    /// Something was sent: the connection is not as it came from the pool.
    pub started: bool,
    /// Messages of the extended protocol were sent and no Sync behind them.
    pub in_segment: bool,
    /// BEGIN was sent, and no ReadyForQuery has told what came of it.
    pub begun: bool,
    /// The server has been asked for the answers it keeps back until Sync.
    pub flushed: bool,
    /// Until what starts the transaction is confirmed, one request goes along with it and no more:
    /// the server must not carry out a second one if the start fails.
    pub opening: bool,
    /// That one request is complete.
    pub opening_full: bool,
    /// Statements are prepared here while the client's transaction has no node yet: BEGIN is not sent.
    pub outside: bool,
    /// Only tidying is under way; then the connection goes back to the pool.
    pub ending: bool,
    /// The server waits for COPY data.
    pub copy_in: bool,
    /// Syncs that the server passed over, or will, because they came within a COPY.
    pub eaten: usize,
    pub doubt: Option<Doubt>,
    /// The statement in front is COPY FROM STDIN and has begun.
    pub takes_data: bool,
    /// DISCARD ALL has gone through since the last ReadyForQuery. It commits at once, and what puts
    /// the startup packet's values back behind it may not.
    pub discarded: bool,
    /// An error came since the last ReadyForQuery.
    pub failed: bool,
    /// Code of somebody's has run here: parameters may be set of which nothing is known. They are
    /// reset before the connection serves anybody's next transaction.
    pub strange: bool,
    /// What its server process has notified before this session got it has been heard.
    pub fenced: bool,
    /// The open transaction may have sent notifications.
    pub notified: bool,
    /// The open transaction may have changed tables.
    pub changes_tables: bool,
    /// The Query under way has requests in front of it, with which it fails: none may follow it yet.
    pub prefaced: bool,
    /// Names of the client's own that it may know statements by, and what it does know by them.
    pub named: BTreeMap<Vec<u8>, Option<StatementId>>,
    pub order: Order,
}

impl Link {
    pub fn new(node: NodeId, facts: Box<Facts>) -> Self {
        Self {
            node,
            facts,
            residue: Residue::default(),
            let_go: false,
            abandoned: false,
            effect: Effect::default(),
            expects: VecDeque::new(),
            status: Status::Idle,
            unnamed: None,
            unlike: None,
            passing: 0,
            passing_on: false,
            started: false,
            in_segment: false,
            begun: false,
            flushed: false,
            opening: false,
            opening_full: false,
            outside: false,
            ending: false,
            copy_in: false,
            eaten: 0,
            doubt: None,
            takes_data: false,
            discarded: false,
            failed: false,
            strange: false,
            fenced: false,
            notified: false,
            changes_tables: false,
            prefaced: false,
            named: BTreeMap::new(),
            order: Order::default(),
        }
    }

    /// Nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.expects.is_empty() && self.passing == 0
    }

    /// A transaction block is open on it, or about to be.
    pub fn is_open(&self) -> bool {
        self.begun || self.status != Status::Idle
    }

    /// It may go back to the pool: nothing is under way, and nothing of the session's is left on it.
    pub fn can_be_released(&self) -> bool {
        self.is_free()
            && self.named.is_empty()
            && (self.started || self.let_go)
            && self.residue.why_kept().is_none()
            && !self.residue.is_due()
    }

    /// A transaction has ended, and with it what it did here; of what is under way behind its end that is
    /// not known yet.
    pub fn forget_effect(&mut self) {
        if self.expects.is_empty() {
            self.effect = Effect::default();
        }
    }

    /// Nothing is under way and no transaction is open.
    pub fn is_free(&self) -> bool {
        self.is_quiet() && self.status == Status::Idle && !self.in_segment
    }

    /// What is under way may change what the texts behind it mean; or only its end may, by taking
    /// such a change back.
    pub fn may_change_reading(&self, may_be_taken_back: bool) -> bool {
        self.order.may_change_reading(may_be_taken_back, self.expects.len())
    }

    /// An earlier segment may turn out not to have given this name of the client's, or not to have
    /// taken it.
    pub fn is_name_open(&self, name: &[u8]) -> bool {
        self.order.is_name_open(name, self.expects.len())
    }

    /// The statement of this content on the connection, if that is certain.
    pub fn find_prepared(&mut self, id: &StatementId) -> Option<StatementId> {
        let found = self.facts.prepared.find(id)?;
        (!self.order.is_content_open(&found, self.expects.len())).then_some(found)
    }

    /// Whether a statement of this content may be there.
    pub fn may_be_prepared(&mut self, id: &StatementId) -> bool {
        self.order.is_content_open(id, self.expects.len()) || self.facts.prepared.touch(id)
    }

    /// The connection's unnamed statement, if that is certain.
    pub fn has_unnamed(&self, id: StatementId) -> bool {
        self.unnamed == Some(id) && !self.order.is_unnamed_open(self.expects.len())
    }

    /// Notes a request that was written to the server.
    pub fn push(&mut self, expect: Expect) {
        match expect.reply {
            Reply::Query | Reply::Sync => {
                self.in_segment = false;
                self.opening_full |= self.opening;
            }
            Reply::Ours(_) | Reply::Copied => {}
            _ => {
                self.in_segment = true;
                self.flushed = false;
            }
        }
        self.order.note(&expect, self.expects.len());
        self.expects.push_back(expect);
    }

    /// The next thing in line needs no answer of the server.
    pub fn has_due(&self) -> bool {
        matches!(self.expects.front().map(|e| &e.reply), Some(Reply::Ours(_) | Reply::Copied))
    }

    /// Takes out what the server skips after an error in the extended protocol: everything up to
    /// the next Sync, queries too. The latest is first.
    pub fn take_skipped(&mut self) -> Vec<Expect> {
        self.forget_names();
        let until = self.expects.iter().position(|e| e.reply == Reply::Sync);
        let n = until.unwrap_or(self.expects.len());
        let mut skipped: Vec<_> = self.expects.drain(..n).collect();
        skipped.reverse();
        skipped
    }

    /// What the client's own names stand for is not known any more.
    pub fn forget_names(&mut self) {
        for id in self.named.values_mut() {
            *id = None;
        }
    }

    /// Forgets what a request that was never carried out would have left on the connection.
    pub fn undo(&mut self, undo: &Undo) {
        if let Some(drawn) = undo.drawn {
            self.facts.drawn = drawn;
        }
        // A request that was sent since has found before it what this one has found.
        if let Some((id, there)) = undo.content {
            let open = self.order.changes_content(&id, self.expects.len());
            match self.later(|u| open && u.content.is_some_and(|(i, _)| i == id)) {
                Some(later) => later.content = undo.content,
                None if there => self.facts.prepared.keep(id),
                None => {
                    self.facts.prepared.remove(&id);
                }
            }
        }
        if let Some(before) = undo.unnamed {
            match self.later(|u| u.unnamed.is_some()) {
                Some(later) => later.unnamed = Some(before),
                None => self.unnamed = before,
            }
        }
    }

    /// The first outstanding request that has changed this.
    pub(super) fn later(&mut self, changes: impl Fn(&Undo) -> bool) -> Option<&mut Undo> {
        self.expects.iter_mut().map(|e| &mut e.undo).find(|u| changes(u))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link::new(NodeId(1), Box::default())
    }

    #[test]
    fn what_was_there_is_told_to_whoever_has_changed_it_since() {
        let changes = |there| {
            let mut e = Expect::forward(Reply::Parse);
            e.undo.content = Some(([1; 16], there));
            e
        };
        let mut link = link();
        link.facts.prepared.insert([1; 16], Default::default());
        // Two segments that close it and prepare it anew; both are skipped.
        for there in [true, false, true, false] {
            link.push(changes(there));
        }
        for _ in 0..2 {
            let skipped: Vec<_> = link.expects.drain(..2).collect();
            skipped.iter().rev().for_each(|e| link.undo(&e.undo));
        }
        assert!(link.facts.prepared.touch(&[1; 16]), "it was never closed");
        link.facts.prepared.remove(&[1; 16]);
        link.push(changes(false));
        link.push(changes(true));
        for _ in 0..2 {
            let skipped = link.expects.pop_front().unwrap();
            link.undo(&skipped.undo);
        }
        assert!(!link.facts.prepared.touch(&[1; 16]), "it never was");
    }

    fn executes(control: Control) -> Expect {
        let mut e = Expect::forward(Reply::Execute);
        e.controls = Some(Rc::new([Done { control, sql: String::new(), ours: false }]));
        e
    }

    #[test]
    fn what_is_under_way_is_known_without_looking_through_it() {
        let mut link = link();
        assert!(!link.may_change_reading(true));
        link.push(executes(Control::Set("search_path".into())));
        link.push(Expect::forward(Reply::Execute));
        link.push(executes(Control::Commit));
        assert!(link.may_change_reading(false));
        link.expects.pop_front();
        assert!(!link.may_change_reading(false), "the SET is answered");
        assert!(link.may_change_reading(true), "COMMIT is not");
        link.expects.pop_front();
        assert!(link.may_change_reading(true));
        link.expects.pop_front();
        assert!(!link.may_change_reading(true));
        link.push(executes(Control::Local));
        assert!(!link.may_change_reading(true));
    }

    #[test]
    fn a_sync_within_a_copy_hides_nothing_that_is_under_way() {
        let mut link = link();
        link.push(Expect::forward(Reply::Execute));
        link.push(Expect::forward(Reply::Sync));
        link.push(Expect::forward(Reply::Copied));
        link.push(executes(Control::ResetAll));
        link.push(Expect::forward(Reply::Sync));
        link.copy_begins(true);
        assert_eq!((link.eaten, link.expects.len()), (1, 4));
        for _ in 0..3 {
            assert!(link.may_change_reading(false));
            link.expects.pop_front();
        }
        link.expects.clear();
        assert!(!link.may_change_reading(false));
        link.push(Expect::forward(Reply::Execute));
        link.push(executes(Control::ResetAll));
        assert!(link.may_change_reading(false));
    }
}
