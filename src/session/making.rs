//! What DDL over nodes does to distributed tables, and the steps by which it makes one.
//!
//! ```text
//!   home: CREATE TABLE ─► announced (Session::announces) ─► others: CREATE TABLE ─► all: its shards
//! ```
//!
//! Every other statement is over with its first step.

use super::places::PutIn;
use super::told::{self, Told};
use crate::router::plan::{OnEach, Outcome};
use crate::topology::{GroupId, NewTable, NodeId, TableId};

/// How far CREATE TABLE has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    First,
    /// It is to have its entry in the catalog.
    Announced,
    Others,
    Shards,
}

/// What comes behind a step.
pub(super) enum Next {
    Nothing,
    /// The table is to be announced.
    Waits,
    /// These carry out this text.
    Runs(Vec<NodeId>, String),
}

#[derive(Debug)]
pub(super) struct Making {
    outcome: Outcome,
    /// What each is sent besides the client's own words.
    pub put_in: PutIn,
    /// What the first participant has told of the table.
    pub told: Vec<Told>,
    /// Those that follow when the table is announced, or the first has carried its statement out.
    pub others: Vec<NodeId>,
    /// What they are sent then, if not what the first was.
    for_others: Option<String>,
    /// Those that have the table.
    have: Vec<NodeId>,
    step: Step,
    made: Option<(TableId, GroupId)>,
}

impl Making {
    /// `others`: follow when the first has carried it out.
    pub fn new(each: &OnEach, put_in: PutIn, others: Vec<NodeId>) -> Self {
        Self {
            outcome: each.outcome.clone(),
            put_in,
            told: Vec::new(),
            others,
            for_others: each.others.clone(),
            have: Vec::new(),
            step: Step::First,
            made: None,
        }
    }

    /// Whether what a participant says is of interest: all others say the same as the first.
    pub fn listens(&self, heard: usize) -> bool {
        heard == 0 && self.step == Step::First
    }

    /// All have carried out their step: what the next one is.
    pub fn next(&mut self) -> Next {
        match (self.step, &self.outcome) {
            (Step::First, Outcome::Same) if !self.others.is_empty() => {
                self.step = Step::Others;
                let text = self.for_others.take().unwrap_or_default();
                Next::Runs(std::mem::take(&mut self.others), text)
            }
            (Step::First, Outcome::Made { .. }) if told::new_table(&self.told).is_some() => {
                self.step = Step::Announced;
                Next::Waits
            }
            (Step::Others, Outcome::Made { shards }) => {
                self.step = Step::Shards;
                Next::Runs(std::mem::take(&mut self.have), shards.clone())
            }
            _ => Next::Nothing,
        }
    }

    /// The table has its entry, and `first` have it. Gives those that are to make it too.
    pub fn announced(&mut self, table: (TableId, GroupId), first: &[NodeId]) -> Vec<NodeId> {
        self.step = Step::Others;
        self.made = Some(table);
        self.have = [first, &self.others].concat();
        std::mem::take(&mut self.others)
    }

    /// What has become of the tables, when all is done.
    pub fn outcome(&self) -> Outcome {
        match self.made {
            Some((table, group)) => Outcome::Changed(table, group),
            None => self.outcome.clone(),
        }
    }

    /// The table that the first participant has made, and that is not announced yet.
    pub fn announces(&self) -> Option<NewTable> {
        if self.step == Step::Announced { told::new_table(&self.told) } else { None }
    }
}
