//! Texts that are too long to be analysed where clients are served.
//!
//! Parsing a long text takes milliseconds to seconds, and memory by the hundred megabytes. The session
//! asks for it ([`Order`]); the shell has it done on a thread of its own when there is memory to spare,
//! and gives back what came out ([`Analysed`]). A text for which there is never enough is not read.

use std::sync::Arc;

use super::constant::{Literals, Slot};
use super::functions::Functions;
use super::make::{make, unread};
use super::plan::Plan;
use super::scope::{Sees, Speech};
use crate::sql::size::{self, Size};
use crate::topology::{RoutingTable, Schema, SchemaEpoch};
use crate::wire::backend::Report;

/// Longer texts, in bytes, are analysed elsewhere, and their plans are not kept for others.
const LONG: usize = 16 << 10;

/// Whether a text is analysed elsewhere.
pub fn is_long(text: &[u8]) -> bool {
    text.len() > LONG
}

/// What a plan holds under, besides its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Under {
    schema: SchemaEpoch,
    /// It is another database, in which nothing is distributed.
    plain: bool,
    path: Option<String>,
    temporary: bool,
    foreign_text: bool,
    local_code: bool,
    sees: Sees,
}

impl Under {
    pub fn new(routes: &RoutingTable, speech: Speech<'_>) -> Self {
        Self {
            schema: routes.schema().epoch().clone(),
            plain: routes.schema().is_plain(),
            path: speech.path.map(str::to_owned),
            temporary: speech.temporary,
            foreign_text: speech.foreign_text,
            local_code: speech.local_code,
            sees: speech.sees,
        }
    }
}

/// A text that is to be analysed.
#[derive(Debug)]
pub struct Order {
    text: Vec<u8>,
    under: Under,
    schema: Arc<Schema>,
    functions: Functions,
}

/// A text that has been analysed.
#[derive(Debug)]
pub struct Analysed {
    text: Vec<u8>,
    pub under: Under,
    pub plan: Arc<Plan>,
}

impl Analysed {
    /// Whether it is of this text, and holds now.
    pub fn is_of(&self, text: &[u8], under: &Under) -> bool {
        self.under == *under && self.text == text
    }
}

/// A text that is planned for itself alone.
pub(super) struct Unlexed;

impl Literals for Unlexed {
    fn at(&self, _: usize) -> Slot {
        Slot::Fixed
    }
}

impl Order {
    pub fn new(
        text: &[u8],
        routes: &RoutingTable,
        functions: &Functions,
        speech: Speech<'_>,
    ) -> Self {
        let under = Under::new(routes, speech);
        let schema = routes.schema().clone();
        Self { text: text.to_vec(), under, schema, functions: functions.clone() }
    }

    /// How large its tree can become. Looks through the whole text.
    pub fn size(&self) -> Size {
        size::of(&self.text)
    }

    /// Parses and plans. Takes as long as the text is.
    pub fn carry_out(self) -> Analysed {
        let under = &self.under;
        let speech = Speech {
            path: under.path.as_deref(),
            temporary: under.temporary,
            foreign_text: under.foreign_text,
            local_code: under.local_code,
            sees: under.sees,
        };
        let (plan, _) = make(&self.text, &self.schema, &self.functions, speech, &Unlexed);
        Analysed { text: self.text, under: self.under, plan: Arc::new(plan) }
    }

    /// The text is not read: its tree would take more memory than all texts together may.
    pub fn is_too_large(self, allowed: usize) -> Analysed {
        let report = Report::error("54000", "statement is too large to be analysed")
            .detail(format!(
                "{} bytes of text, in so many words that limits.analysis_memory ({allowed} bytes) does not suffice.",
                self.text.len()
            ))
            .hint("Send it in parts, or use COPY or parameters for the data in it.");
        let plan = Arc::new(unread(&self.text, &self.schema, report));
        Analysed { text: self.text, under: self.under, plan }
    }
}
