//! What a statement does to the session that sends it, besides its result.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Kind;

/// What a statement does to the session, besides its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    None,
    /// BEGIN / START TRANSACTION, with whatever options the text has.
    Begin,
    Commit,
    Rollback,
    /// COMMIT AND CHAIN, ROLLBACK AND CHAIN: another transaction begins at once.
    CommitAndChain,
    RollbackAndChain,
    /// PREPARE TRANSACTION
    PrepareTransaction,
    Savepoint(String),
    /// RELEASE SAVEPOINT
    Release(String),
    /// ROLLBACK TO SAVEPOINT: may undo a SET.
    RollbackTo(String),
    /// SET LOCAL, SET TRANSACTION, SET CONSTRAINTS: counts until the transaction ends.
    Local,
    /// SET LOCAL search_path
    LocalPath,
    /// Leaves no trace and reads nothing: a constant, SHOW.
    Pure,
    /// SET (not LOCAL) of a parameter, by its canonical name.
    Set(String),
    /// SET SESSION CHARACTERISTICS: the parameters it sets, and how each is set alone.
    SetEach(Box<[(String, String)]>),
    Reset(String),
    /// SET LOCAL ... TO DEFAULT
    ResetLocal(String),
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// DEALLOCATE; `None` is ALL.
    Deallocate(Option<String>),
    /// Wants a database that nobody is connected to: DROP DATABASE and its like.
    Vacate(String),
    /// Leaves something behind on the server connection; the reason SHOW CLIENTS gives.
    Pin(&'static str),
    /// The same, and nobody can tell when it is gone: until DISCARD ALL, or for good.
    Bind(&'static str),
    /// May leave something behind that the text does not show.
    Leaves(Arc<Traces>),
    /// May end what an earlier statement has left behind.
    Frees,
    /// FETCH or MOVE of the cursor of this name.
    Fetch(String),
    /// CLOSE of a cursor; `None` is ALL.
    Close(Option<String>),
    /// DISCARD SEQUENCES
    DiscardSequences,
    /// LISTEN, and where the word stands in the text.
    Listen {
        channel: String,
        at: usize,
    },
    /// UNLISTEN; `None` is all.
    Unlisten(Option<String>),
    /// CREATE FUNCTION and the like: what functions leave behind must be found out anew.
    ChangesFunctions,
    /// CREATE TRIGGER, ALTER TABLE and the like: the same of what is behind tables.
    ChangesTables,
    /// EXPLAIN (ROUTE), which a node answers by carrying out this instead, with the nodes' names in place of
    /// [`NODES`]; and where the statement that it is of goes.
    Route {
        sql: String,
        of: Box<Kind>,
    },
}

/// Stands for the nodes' names in what EXPLAIN (ROUTE) tells.
pub const NODES: &str = "{the nodes}";

/// The pin of statements that SQL has prepared.
pub const PREPARE: &str = "PREPARE";

/// Where to look for what a statement may have left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// What it leaves for certain. It binds the session as soon as it is there.
    #[serde(skip)]
    pub pin: Option<&'static str>,
    /// It calls these, which the server did not come with.
    pub functions: Vec<String>,
    /// It may set these parameters.
    pub parameters: Vec<String>,
    /// It has code of its own (DO).
    pub code: bool,
    /// It sends notifications (NOTIFY).
    pub notifies: bool,
    /// It asks which channels the session listens to.
    pub channels: bool,
    /// It asks which statements the session has prepared.
    pub prepared: bool,
    /// It is EXECUTE of the prepared statement of this name.
    pub executes: Option<String>,
    /// It is DECLARE of the cursor of this name.
    #[serde(skip)]
    pub declares: Option<String>,
}

impl Traces {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// It may send notifications.
    pub fn notifies(&self) -> bool {
        self.notifies || self.code || !self.functions.is_empty()
    }
}

impl Control {
    /// What a failed transaction still understands.
    pub fn ends_block(&self) -> bool {
        matches!(
            self,
            Self::Commit
                | Self::Rollback
                | Self::CommitAndChain
                | Self::RollbackAndChain
                | Self::PrepareTransaction
                | Self::RollbackTo(_)
        )
    }

    /// Whether the texts behind it may mean something else than those before. The end of a
    /// transaction, or of a part of it, may take such a change back.
    pub fn changes_reading(&self) -> bool {
        match self {
            Self::Set(name) | Self::Reset(name) => {
                super::super::reading::READING.contains(&name.as_str())
            }
            Self::ResetLocal(name) => name == "search_path",
            Self::ResetAll | Self::DiscardAll | Self::LocalPath | Self::Pin(_) | Self::Bind(_) => {
                true
            }
            Self::Leaves(traces) => traces.pin.is_some() || !traces.parameters.is_empty(),
            Self::None
            | Self::Vacate(_)
            | Self::Begin
            | Self::Commit
            | Self::Rollback
            | Self::CommitAndChain
            | Self::RollbackAndChain
            | Self::PrepareTransaction
            | Self::Savepoint(_)
            | Self::Release(_)
            | Self::RollbackTo(_)
            | Self::Local
            | Self::Pure
            | Self::SetEach(_)
            | Self::Frees
            | Self::Fetch(_)
            | Self::Close(_)
            | Self::DiscardSequences
            | Self::Listen { .. }
            | Self::Unlisten(_)
            | Self::ChangesFunctions
            | Self::ChangesTables
            | Self::Route { .. }
            | Self::Deallocate(_) => false,
        }
    }
}
