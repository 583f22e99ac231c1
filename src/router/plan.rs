//! What the planner says about a statement: where it may run and what it does to the session.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::copy::Form;
use crate::sql::defaults::Defaults;
use crate::sql::wanted::Wanted;
use crate::topology::{GroupId, ShardId, TableId};
use crate::wire::backend::Report;

mod collect;

pub use collect::{Collect, Collected, Piece};

/// Where one value of a distribution key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Parameter `$(index + 1)`. `alone`: it stands nowhere else, so that PostgreSQL takes the key's
    /// type for it if the client declares none.
    Param { index: usize, alone: bool },
    /// A literal of the text: the n-th the lexer found, behind a minus sign or not.
    Literal { index: usize, negative: bool },
    /// A quoted literal's contents, of a text that is not cached by shape.
    Text(Vec<u8>),
    /// An integer literal of such a text.
    Integer { negative: bool, digits: Vec<u8> },
    /// NULL: such a row has its place; an equality with it matches nothing.
    Null,
}

/// One complete key: a source per distribution column.
pub type Key = Box<[KeySource]>;

/// How answers of several nodes become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// All rows, in whatever order.
    Concat,
    /// Rows in an order, or so many of them.
    Ordered(Arc<Ordered>),
    /// One node makes the answer of what all of them send.
    Combine(Arc<Combine>),
    /// One node carries out the client's own statement, over the rows that all of them send.
    Collect(Arc<Collect>),
    /// One row; each column is folded over the nodes.
    Fold(Box<[Fold]>),
    /// The nodes change rows: how many they are together, and all that they return.
    Changes { returns: bool },
    /// The nodes change the same rows of a reference table, and say the same.
    Alike(Arc<Alike>),
    /// Each node inserts rows of its own: how many they are together, and what they return as if one had.
    Rows(Arc<Parts>),
    /// COPY FROM STDIN: each node is given its rows of the client's data, and tells how many they are.
    CopyIn(Arc<CopyIn>),
    /// COPY TO STDOUT: all data, with one head and one end.
    CopyOut(Arc<CopyOut>),
}

/// A change of a reference table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alike {
    pub returns: bool,
    pub table: Reference,
}

/// A reference table that is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Quoted and qualified.
    pub quoted: String,
    /// It has dates or times: a text such as 'now' would not be the same on every node.
    pub has_times: bool,
}

/// Which rows of an INSERT each node gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Their numbers, for each node in its turn.
    pub rows: Vec<Vec<usize>>,
    pub returns: bool,
}

/// An INSERT of several rows, which may be sent to several nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeveralRows {
    pub returns: bool,
    /// What in it the nodes would not agree on.
    pub unsteady: Option<String>,
}

/// The calls in a text that tell the transaction's time or the statement's (`sql::times`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimesTold {
    /// How many there are.
    pub calls: usize,
    /// One tells the statement's time.
    pub of_statement: bool,
    /// A column of a result is called like one.
    pub named: bool,
    /// Of an INSERT: columns that it leaves to defaults which tell the time.
    pub defaults: Option<Arc<Defaults>>,
}

/// What is known of a COPY FROM STDIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyIn {
    /// What each node is sent; `None`: the client's own text.
    pub text: Option<String>,
    pub form: Form,
    /// The table is a reference table: every node is given all rows.
    pub reference: Option<Reference>,
}

/// What is known of a COPY TO STDOUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOut {
    /// What each node is sent; `None`: the client's own text.
    pub text: Option<String>,
    pub binary: bool,
    /// The first line of each node's data is a header.
    pub header: bool,
}

/// Rows of several nodes in one order, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// What each node is sent; `None`: the client's own text. Where there are keys they are in its last
    /// column.
    pub text: Option<String>,
    pub keys: Box<[SortKey]>,
    pub limit: Option<Count>,
    pub offset: Option<Count>,
    /// Rows that tie with the last one come too.
    pub ties: bool,
}

/// How what stands for something in [`Combine::last`] begins.
pub const GAP: &str = "pgs_";
/// Stands there for the rows of all nodes.
pub const RELATION: &str = "pgs_relation";
/// Stands there for the client's own columns.
pub const STAR: &str = "pgs_star";
/// Stands there, with a number behind it, for the sum of that column.
pub const SUM: &str = "pgs_sum_";

/// A statement that all nodes carry out a part of, and one of them the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combine {
    /// What each node is sent.
    pub partial: String,
    /// So many of its columns, the last ones, are `p.f1` and so on in the last statement. Those before are
    /// the client's own.
    pub fixed: usize,
    /// What makes the answer of the rows of all nodes, with gaps: [`RELATION`], [`STAR`], [`SUM`].
    pub last: String,
}

/// One item of ORDER BY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    pub descending: bool,
    pub nulls_first: bool,
}

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Number(i64),
    /// The value of `$(index + 1)`; NULL says nothing.
    Param(usize),
}

impl Merge {
    /// The reference table that it changes.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Alike(alike) => Some(&alike.table),
            Self::CopyIn(copy) => copy.reference.as_ref(),
            _ => None,
        }
    }

    /// The colocation groups that it reads besides the plan's own.
    pub fn others(&self) -> &[GroupId] {
        match self {
            Self::Collect(collect) => &collect.others,
            _ => &[],
        }
    }

    /// What each node is sent, if not the client's own text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Ordered(ordered) => ordered.text.as_deref(),
            Self::CopyIn(copy) => copy.text.as_deref(),
            Self::CopyOut(out) => out.text.as_deref(),
            Self::Concat
            | Self::Combine(_)
            | Self::Collect(_)
            | Self::Fold(_)
            | Self::Alike(_)
            | Self::Changes { .. }
            | Self::Rows(_) => None,
        }
    }
}

/// How one aggregate's partial results become one. Sources: the combine functions in
/// `pg_aggregate.aggcombinefn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// `count`, and `sum` over what adds exactly.
    Sum,
    Min,
    Max,
}

/// Where a statement runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// On the shards of these keys, which must live on one node. A statement with a WHERE has one
    /// key, an INSERT one per row.
    Keys { group: GroupId, keys: Box<[Key]> },
    /// On one shard, addressed by its leaf's name.
    Leaf(ShardId),
    /// On all nodes that hold the group, their answers merged exactly.
    Every { group: GroupId, merge: Merge },
    /// On the home node: local tables, functions.
    Home,
    /// On whichever node a connection is held to; touches no table.
    Any,
    /// DDL of what is on all nodes.
    Ddl(Ddl),
    /// Several statements, one after the other: they have no place in common, or what a later one means
    /// is known only when those before it have been carried out.
    Apart,
    /// Not at all.
    Refused(Box<Report>),
}

/// How DDL of what is on all nodes is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ddl {
    /// By pgshunt, outside of transaction blocks (`catalog::ddl`).
    Alone,
    /// By each node, as a statement of the client's transaction.
    Each(Box<OnEach>),
    /// Within a transaction by each node, else by pgshunt.
    Either(Box<OnEach>),
    /// By each node for itself: VACUUM and its kin.
    Maintain(Box<Maintain>),
}

/// What changes neither rows nor definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintain {
    pub text: String,
    /// Not within a transaction block, and what PostgreSQL calls it when it says so.
    pub alone: Option<&'static str>,
}

/// What each node is sent of a DDL statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnEach {
    /// Statements, and which of them is the client's: the others are pgshunt's own.
    pub texts: Vec<String>,
    pub own: usize,
    /// So many characters of the client's statement stand before the word ONLY, which is not its own.
    pub only: Option<usize>,
    /// What the others are sent in its place, when the home node has carried it out.
    pub others: Option<String>,
    pub shards: Shards,
    pub outcome: Outcome,
}

/// What a DDL statement does to distributed tables, as far as others go by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// None becomes another one.
    Same,
    /// One is changed: the last of the texts tells what it is now.
    Changed(TableId, GroupId),
    /// One is made, on the home node first: the last of the texts tells what it is. It gets its shards by
    /// this statement.
    Made {
        shards: String,
    },
    Dropped(Box<[TableId]>),
}

/// What a DDL statement asks of the shards of its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shards {
    /// Those of these groups must not move until the transaction has ended.
    Stay(Box<[GroupId]>),
    /// Those of this group are used, as by a query.
    Used(GroupId),
}

impl Kind {
    /// Only the home node knows all tables that it names.
    pub fn names_local(&self) -> bool {
        match self {
            Self::Home => true,
            Self::Every { merge: Merge::Collect(collect), .. } => collect.at_home,
            _ => false,
        }
    }
}

impl Ddl {
    /// Carried out by each node, within transaction blocks and without; `None`: it cannot be.
    #[must_use]
    pub fn on_each(self) -> Option<Self> {
        match self {
            Self::Alone => None,
            Self::Maintain(maintain) => Some(Self::Maintain(maintain)),
            Self::Each(each) | Self::Either(each) => Some(Self::Each(each)),
        }
    }

    /// What each node is sent within a transaction.
    pub fn each(&self) -> Option<&OnEach> {
        match self {
            Self::Alone | Self::Maintain(_) => None,
            Self::Each(each) | Self::Either(each) => Some(each),
        }
    }
}

/// What a statement does to rows. The later ones of several count: a text that reads and writes writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Effect {
    /// Changes nothing, and calls nothing that could: another node that has the same rows may answer it.
    #[default]
    Reads,
    /// Locks rows or tables for the transaction, and changes nothing.
    Locks,
    /// Changes rows; triggers and functions behind that may do more.
    Writes,
    /// Not proven to be any of these.
    Unknown,
}

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
    /// EXPLAIN (ROUTE), which a node answers by carrying out this instead.
    Route {
        sql: String,
    },
}

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
            Self::Set(name) | Self::Reset(name) => super::reading::READING.contains(&name.as_str()),
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

/// One statement of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub control: Control,
    /// Byte range in the text.
    pub span: (usize, usize),
}

/// The plan of a whole text: one statement, or several that share one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub kind: Kind,
    pub effect: Effect,
    pub statements: Vec<Statement>,
    /// The tables and views it uses, by their own names.
    pub tables: Box<[String]>,
    /// It may draw values from sequences.
    pub draws: bool,
    /// It asks for those that the session has drawn.
    pub asks: bool,
    /// The process ids, constants and parameters, that it signals.
    pub signals: Box<[KeySource]>,
    /// It takes data of the client's: it is COPY FROM STDIN, or has one.
    pub copies_in: bool,
    /// It is an INSERT of several rows, and nothing else.
    pub rows: Option<SeveralRows>,
    /// It is an INSERT, refused as it is, which can be carried out when this is computed.
    pub computed: Option<Arc<Wanted>>,
    /// It is a query that tells the transaction's time.
    pub times: Option<TimesTold>,
    /// What the server reads in place of parts of the text.
    pub instead: Vec<Instead>,
}

/// What stands in place of a part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instead {
    pub at: usize,
    pub end: usize,
    pub text: String,
}

impl Plan {
    /// Whether it holds for other texts that differ in their literals only.
    pub fn is_of_shape(&self) -> bool {
        !matches!(
            &self.kind,
            Kind::Every { merge: Merge::Ordered(_) | Merge::Combine(_) | Merge::Collect(_), .. }
        )
    }

    /// The control of the only statement, when there is exactly one.
    pub fn single(&self) -> Option<&Control> {
        match self.statements.as_slice() {
            [one] => Some(&one.control),
            _ => None,
        }
    }

    /// About what it takes of the memory, in bytes.
    pub fn weight(&self) -> usize {
        let keys = match &self.kind {
            Kind::Keys { keys, .. } => keys.iter().map(|k| size_of_val(&**k) + 32).sum(),
            Kind::Ddl(ddl) => ddl.each().map_or(0, |e| e.texts.iter().map(|t| t.len() + 128).sum()),
            Kind::Every { merge: Merge::Combine(c), .. } => c.partial.len() + c.last.len(),
            Kind::Every { merge: Merge::Collect(c), .. } => c.weight(),
            Kind::Every { merge, .. } => merge.text().map_or(0, str::len),
            _ => 0,
        };
        let tables: usize = self.tables.iter().map(|t| t.len() + 40).sum();
        let instead: usize = self.instead.iter().map(|i| i.text.len() + 48).sum();
        let rest = size_of_val(self.statements.as_slice()) + size_of_val(&*self.signals) + instead;
        size_of::<Self>() + rest + keys + tables
    }

    /// Of a text of which nothing is known.
    pub fn nothing() -> Self {
        Self {
            kind: Kind::Any,
            effect: Effect::Unknown,
            statements: Vec::new(),
            tables: Box::default(),
            draws: false,
            asks: false,
            signals: Box::default(),
            copies_in: false,
            rows: None,
            computed: None,
            times: None,
            instead: Vec::new(),
        }
    }

    pub fn refused(report: Report) -> Self {
        let kind = Kind::Refused(Box::new(report));
        Self { kind, ..Self::nothing() }
    }
}
