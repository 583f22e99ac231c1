//! What the planner says about a statement: where it may run and what it does to the session.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::copy::Form;
use crate::sql::defaults::Defaults;
use crate::sql::wanted::Wanted;
use crate::topology::{GroupId, ShardId, TableId};
use crate::wire::backend::Report;

mod among;
mod collect;
mod control;

pub use among::Among;
pub use collect::{Collect, Collected, Piece};
pub use control::{Control, NODES, PREPARE, Traces};

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
    /// COPY TO STDOUT of rows that one node makes of those of all.
    CopyRows(Arc<CopyRows>),
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

/// COPY TO STDOUT of a query whose answer one node makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRows {
    /// How: [`Merge::Combine`] or [`Merge::Collect`].
    pub rows: Merge,
    /// The client's own query, which tells the columns.
    pub query: String,
    /// A COPY of no rows with the client's options: PostgreSQL judges those, and writes the line of names.
    pub head: String,
    pub look: Look,
}

/// How the data of COPY TO STDOUT is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Text {
        delimiter: u8,
        null: Vec<u8>,
    },
    Csv {
        delimiter: u8,
        null: Vec<u8>,
        quote: u8,
        escape: u8,
        /// FORCE_QUOTE: these columns, or all if none is named.
        quoted: Option<Vec<String>>,
    },
    Binary,
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
    /// It is a cursor's.
    pub cursor: Option<Declared>,
}

/// DECLARE of a cursor over what one node makes of the rows of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Up to the query.
    pub head: String,
    /// The client's own query, which tells the columns' names.
    pub query: String,
}

impl Combine {
    /// About what it takes of the memory, in bytes.
    fn weight(&self) -> usize {
        let cursor = self.cursor.as_ref().map_or(0, |c| c.head.len() + c.query.len());
        self.partial.len() + self.last.len() + cursor
    }
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
            Self::CopyRows(copy) => copy.rows.others(),
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
            | Self::CopyRows(_)
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
            Self::Every { merge, .. } => match merge {
                Merge::Collect(collect) => collect.at_home,
                Merge::CopyRows(copy) => {
                    matches!(&copy.rows, Merge::Collect(collect) if collect.at_home)
                }
                _ => false,
            },
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
    /// It goes to every node, but only rows of these keys count.
    pub among: Option<Arc<Among>>,
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

    /// The cursor that its only statement declares.
    pub fn declares(&self) -> Option<&str> {
        match self.single() {
            Some(Control::Leaves(traces)) => traces.declares.as_deref(),
            _ => None,
        }
    }

    /// About what it takes of the memory, in bytes.
    pub fn weight(&self) -> usize {
        let keys = match &self.kind {
            Kind::Keys { keys, .. } => keys.iter().map(|k| size_of_val(&**k) + 32).sum(),
            Kind::Ddl(ddl) => ddl.each().map_or(0, |e| e.texts.iter().map(|t| t.len() + 128).sum()),
            Kind::Every { merge: Merge::Combine(c), .. } => c.weight(),
            Kind::Every { merge: Merge::Collect(c), .. } => c.weight(),
            Kind::Every { merge, .. } => merge.text().map_or(0, str::len),
            _ => 0,
        };
        let tables: usize = self.tables.iter().map(|t| t.len() + 40).sum();
        let instead: usize = self.instead.iter().map(|i| i.text.len() + 48).sum();
        let rest = size_of_val(self.statements.as_slice()) + size_of_val(&*self.signals) + instead;
        let among = self.among.as_ref().map_or(0, |a| a.weight());
        size_of::<Self>() + rest + keys + tables + among
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
            among: None,
            times: None,
            instead: Vec::new(),
        }
    }

    pub fn refused(report: Report) -> Self {
        let kind = Kind::Refused(Box::new(report));
        Self { kind, ..Self::nothing() }
    }
}
