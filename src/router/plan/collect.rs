//! What is known of a statement whose rows are collected on one node.

use crate::topology::GroupId;

/// A statement that one node carries out over the rows that it can need, which all nodes send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collect {
    /// Its distributed tables, each once.
    pub tables: Box<[Collected]>,
    /// What each node is sent: a query of the rows of all these tables. Of several tables its first column
    /// is the number of the row's table, from 1 on, and then come the columns of each.
    pub partial: String,
    /// `partial` has the client's parameters in it.
    pub takes_parameters: bool,
    /// The client's own text, cut where it names a distributed table.
    pub last: Box<[Piece]>,
    /// It reads local tables as well, so it is the home node that carries it out.
    pub at_home: bool,
    /// The colocation groups of its tables besides the first.
    pub others: Box<[GroupId]>,
}

/// A distributed table whose rows are collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    pub name: String,
    /// How many of its columns are sent.
    pub columns: usize,
    /// A query of these columns that has no rows.
    pub nothing: String,
}

/// A piece of a statement's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The rows of this one of [`Collect::tables`] stand here.
    Table(usize),
}

impl Collect {
    /// The client's statement as one reads it: the tables by their names, in braces.
    pub fn statement(&self) -> String {
        let piece = |p: &Piece| match p {
            Piece::Text(text) => text.clone(),
            Piece::Table(at) => {
                format!("{{{}}}", self.tables.get(*at).map_or("", |t| t.name.as_str()))
            }
        };
        self.last.iter().map(piece).collect()
    }

    /// About what it takes of the memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        let tables: usize = self.tables.iter().map(|t| t.name.len() + t.nothing.len() + 64).sum();
        let piece = |p: &Piece| match p {
            Piece::Text(text) => text.len() + 32,
            Piece::Table(_) => 32,
        };
        self.partial.len() + tables + self.last.iter().map(piece).sum::<usize>()
    }
}
