//! A link: the server connection a session holds, seen from the session.
//!
//! Every message sent to the server is remembered as an [`Expect`] until its answer came, so that
//! each answer finds whom it is for: the client, nobody (what pgshunt slipped in), or the client
//! with another wording. This is the only truth about what is under way; there is no state flag
//! besides it. After an error the server discards what it had of the extended protocol up to Sync,
//! and so does [`Link::fail_segment`].

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::gate::machine::TicketId;
use crate::router::plan::Control;
use crate::topology::NodeId;
use crate::wire::backend::{Report, Status};

/// Names a statement by its content (text, parameter types): SHA-256, cut to 128 bits.
pub type StatementId = [u8; 16];

/// SHA-256 of text and types, cut to 128 bits: two contents never share it by accident or design.
pub fn statement_id(text: &[u8], oids: &[u8]) -> StatementId {
    let digest = Sha256::new()
        .chain_update((text.len() as u64).to_be_bytes())
        .chain_update(text)
        .chain_update(oids)
        .finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

/// The name a statement bears on server connections.
pub fn server_name(id: &StatementId) -> [u8; 36] {
    let mut name = *b"pgs_00000000000000000000000000000000";
    for (i, byte) in id.iter().enumerate() {
        let hex = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
        name[4 + 2 * i] = hex(byte >> 4);
        name[5 + 2 * i] = hex(byte & 15);
    }
    name
}

/// Statements prepared on one connection, least recently used first.
#[derive(Debug, Default)]
pub struct Prepared {
    order: VecDeque<StatementId>,
}

impl Prepared {
    /// Whether the statement is there; if so it is now the most recently used.
    pub fn touch(&mut self, id: &StatementId) -> bool {
        if self.order.back() == Some(id) {
            return true;
        }
        match self.order.iter().position(|s| s == id) {
            Some(at) => {
                self.order.remove(at);
                self.order.push_back(*id);
                true
            }
            None => false,
        }
    }

    pub fn insert(&mut self, id: StatementId) {
        if !self.touch(&id) {
            self.order.push_back(id);
        }
    }

    pub fn remove(&mut self, id: &StatementId) {
        self.order.retain(|s| s != id);
    }

    /// The statement to close when `limit` is exceeded.
    pub fn evict(&mut self, limit: usize) -> Option<StatementId> {
        if self.order.len() > limit { self.order.pop_front() } else { None }
    }

    pub fn clear(&mut self) {
        self.order.clear();
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// One session parameter: its canonical name and the SQL that puts it in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    pub sql: String,
}

pub type Settings = Arc<[Setting]>;

/// What a server connection carries from one session to the next.
#[derive(Debug)]
pub struct Facts {
    pub prepared: Prepared,
    /// The session parameters in force beyond the role's defaults; `None` when a transaction that
    /// set some broke off, so that all must be reset before use.
    pub applied: Option<Settings>,
    /// ParameterStatus as last reported, in order of first appearance. Clients are told it at login.
    pub reported: Vec<(String, String)>,
    /// The connection must not serve anybody else: what it still answers cannot be told.
    pub spent: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            prepared: Prepared::default(),
            applied: Some(Arc::from([])),
            reported: Vec::new(),
            spent: false,
        }
    }
}

impl Facts {
    /// Notes a ParameterStatus body; one that is malformed tells nothing.
    pub fn note_status(&mut self, body: &[u8]) {
        let mut parts = body.split(|&b| b == 0);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return;
        };
        match self.reported.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.reported.push((name.to_owned(), value.to_owned())),
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
    /// Nothing: these bytes are the client's as soon as it is their turn.
    Ours(Vec<u8>),
}

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Forward,
    /// pgshunt slipped the request in; its failure breaks the connection off.
    Swallow,
    /// The request was made to fail; this is the error the client reads.
    Refuse(Box<Report>),
}

/// A request whose answer is outstanding.
#[derive(Debug)]
pub struct Expect {
    pub reply: Reply,
    pub fate: Fate,
    /// For a Parse: the statement on the server connection it creates. `None`: the unnamed one.
    pub creates: Option<StatementId>,
    /// For a Parse: the client's name of it, forgotten if it fails.
    pub client_name: Option<Vec<u8>>,
    /// For Query and Execute: what each CommandComplete in turn does to the session.
    pub controls: Option<Rc<[(Control, String)]>>,
    pub completed: usize,
}

impl Expect {
    pub fn new(reply: Reply, fate: Fate) -> Self {
        Self { reply, fate, creates: None, client_name: None, controls: None, completed: 0 }
    }

    pub fn forward(reply: Reply) -> Self {
        Self::new(reply, Fate::Forward)
    }
}

#[derive(Debug)]
pub struct Link {
    pub node: NodeId,
    pub facts: Facts,
    pub ticket: TicketId,
    /// The ticket has touched something.
    pub entered: bool,
    pub expects: VecDeque<Expect>,
    /// As the last ReadyForQuery said.
    pub status: Status,
    /// What the unnamed statement of this connection is.
    pub unnamed: Option<StatementId>,
    /// Bytes of the current answer that are still to come, and whether the client gets them.
    pub passing: usize,
    pub passing_on: bool,
    /// Something was sent that the server has not confirmed with ReadyForQuery.
    pub started: bool,
    /// The server waits for COPY data.
    pub copy_in: bool,
    /// Statements are prepared here while the client's transaction has no node yet: BEGIN was not
    /// sent, and what the server says of its own transaction is not the client's.
    pub outside: bool,
}

impl Link {
    pub fn new(node: NodeId, facts: Facts, ticket: TicketId) -> Self {
        Self {
            node,
            facts,
            ticket,
            entered: false,
            expects: VecDeque::new(),
            status: Status::Idle,
            unnamed: None,
            passing: 0,
            passing_on: false,
            started: false,
            copy_in: false,
            outside: false,
        }
    }

    /// Nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.expects.is_empty() && self.passing == 0
    }

    /// What was sent last is the end of a segment, so that the server will answer all of it.
    pub fn is_synced(&self) -> bool {
        self.expects.back().is_none_or(|e| matches!(e.reply, Reply::Sync | Reply::Query))
    }

    /// Drops what the server discards after an error in the extended protocol: everything up to
    /// the next Sync. Gives the client names of the statements that thus were never created.
    pub fn fail_segment(&mut self) -> Vec<Vec<u8>> {
        let mut forgotten = Vec::new();
        while let Some(e) = self.expects.front() {
            if e.reply == Reply::Sync || e.reply == Reply::Query {
                break;
            }
            let e = self.expects.pop_front().expect("front was there");
            if e.reply == Reply::Parse {
                match &e.creates {
                    Some(id) => self.facts.prepared.remove(id),
                    None => self.unnamed = None,
                }
                forgotten.extend(e.client_name);
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_statement_goes_first() {
        let mut p = Prepared::default();
        for n in 1..=3 {
            p.insert([n; 16]);
        }
        assert!(p.touch(&[1; 16]));
        assert_eq!(p.evict(2), Some([2; 16]));
        assert_eq!(p.evict(2), None);
        assert!(!p.touch(&[2; 16]));
        assert_eq!(p.len(), 2);
    }

    #[test]
    fn server_names_are_hex() {
        let mut id = [0; 16];
        id[0] = 0xaf;
        id[15] = 0x01;
        assert_eq!(&server_name(&id)[..], b"pgs_af000000000000000000000000000001");
    }
}
