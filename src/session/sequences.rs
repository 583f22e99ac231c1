//! `currval()` and `lastval()`: what a session has drawn is known to the server connection that it
//! drew on, and to no other.
//!
//! Each connection bears the mark of who may have drawn on it since it was last made to forget
//! (`DISCARD SEQUENCES`), and each session that of its last draw. Where both marks are the same the
//! answer is the session's own. Where the session has drawn nothing the connection is made to forget
//! first, so that the server says so itself. Everything else is refused.
//!
//! Nobody pays who does not ask. The first question in a database turns following on there
//! ([`Followed`]): from then on a session keeps the connection that it has drawn on, until it
//! discards its sequences or ends. What it drew elsewhere before that is not known, so where the
//! server says that there is no value it is told that pgshunt does not know.
//!
//! In a database with distributed tables nobody keeps a connection for this: the session's next
//! statement may need another node. There the answer is right within the transaction that drew.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::link::{Expect, Undo};
use super::{Env, Io, Session};
use crate::router::plan::{Control, Plan};
use crate::wire::backend::{Report, Status, report_field};

/// What SHOW CLIENTS calls it.
pub const SEQUENCES: &str = "a sequence's value";

/// Whether a database's clients ask for the values they have drawn.
#[derive(Debug, Clone, Default)]
pub struct Followed(Arc<AtomicBool>);

/// Who may have drawn on a connection since it was made to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Drawn {
    #[default]
    Nobody,
    /// The session that bears the same mark, and nobody else.
    By(u64),
    Several,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Sequences {
    /// The mark of what it drew last; `None`: it has drawn nothing.
    last: Option<u64>,
    /// It may have drawn on another connection before that.
    elsewhere: bool,
    /// It has a PREPARE of SQL that asks.
    pub prepares_question: bool,
    /// The connection is kept for what was drawn on it.
    pub kept: bool,
    /// It may be: no statement needs another node.
    keeps: bool,
}

impl Sequences {
    fn knows(&self, drawn: Drawn) -> bool {
        self.last.is_some_and(|mark| drawn == Drawn::By(mark))
    }
}

/// One that no other draw has, nor had in a process before this one.
fn new_mark() -> u64 {
    static MARKS: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(())));
    MARKS.fetch_add(1, Ordering::Relaxed)
}

fn unknown() -> Report {
    Report::error("0A000", "the sequence's last value in this session is not known")
        .detail("It was drawn, if at all, on a server connection that the session no longer has.")
        .hint(
            "Ask in the transaction that draws, or use RETURNING. Outside of a sharded database \
             it will be known of what is drawn from now on.",
        )
}

impl Session {
    fn asks_for_values(&self, plan: &Plan) -> bool {
        let by_name = |s: &crate::router::plan::Statement| match &s.control {
            Control::Leaves(t) if t.executes.is_some() => {
                self.sequences.prepares_question
                    || self.named_by_execute(&s.control).is_some_and(|(_, s)| s.plan.asks)
            }
            _ => false,
        };
        plan.asks || plan.statements.iter().any(by_name)
    }

    /// Why the text cannot be carried out on the link that there is, if it asks for what is not
    /// known there.
    pub(super) fn refuses_question(&mut self, plan: &Plan, env: &Env<'_>) -> Option<Report> {
        if !plan.draws && !self.asks_for_values(plan) {
            return None;
        }
        self.sequences.keeps = env.routes.tables().next().is_none();
        let facts = &self.link.as_ref()?.facts;
        if !self.asks_for_values(plan) {
            return None;
        }
        facts.followed.0.store(true, Ordering::Relaxed);
        let s = &self.sequences;
        // What it draws itself it may ask for; the rest the server does not know either.
        let known = s.last.is_none() || s.knows(facts.drawn) || plan.draws;
        (!known).then(unknown)
    }

    /// Whether the connection must forget what was drawn on it before the text is sent.
    pub(super) fn must_forget(&self, plan: &Plan) -> bool {
        let Some(link) = &self.link else { return false };
        let facts = &link.facts;
        let strange = facts.drawn != Drawn::Nobody && !self.sequences.knows(facts.drawn);
        let asks = || self.sequences.last.is_none() && self.asks_for_values(plan);
        let draws = || plan.draws && facts.followed.0.load(Ordering::Relaxed);
        strange && link.status != Status::Failed && (draws() || asks())
    }

    /// Before a text that draws, or asks, is written.
    pub(super) fn before_sequences(&mut self, plan: &Plan, io: &mut Io<'_>) {
        if !plan.draws && !self.asks_for_values(plan) {
            return;
        }
        if self.must_forget(plan) {
            let undo = self.link.as_ref().map(|l| l.facts.drawn);
            self.put_own_behind("DISCARD SEQUENCES", io);
            if let Some(link) = &mut self.link {
                link.facts.drawn = Drawn::Nobody;
                if let Some(Expect { undo: Undo { drawn, .. }, .. }) = link.expects.back_mut() {
                    *drawn = undo;
                }
            }
        }
        let asks = self.asks_for_values(plan);
        let Some(link) = &mut self.link else { return };
        let s = &mut self.sequences;
        if plan.draws && !s.knows(link.facts.drawn) {
            let mark = new_mark();
            s.elsewhere |= s.last.replace(mark).is_some();
            link.facts.drawn = match link.facts.drawn {
                Drawn::Nobody => Drawn::By(mark),
                Drawn::By(_) | Drawn::Several => Drawn::Several,
            };
        }
        let followed = link.facts.followed.0.load(Ordering::Relaxed);
        s.kept |= s.keeps && followed && s.knows(link.facts.drawn) && (plan.draws || asks);
    }

    /// Code was run of which nothing is known.
    pub(super) fn may_have_drawn(&mut self) {
        let Some(link) = &mut self.link else { return };
        if !self.sequences.knows(link.facts.drawn) {
            link.facts.drawn = Drawn::Several;
            self.sequences.last = Some(new_mark());
            self.sequences.elsewhere = true;
        }
    }

    /// DISCARD SEQUENCES has gone through, which no ROLLBACK takes back.
    pub(super) fn sequences_discarded(&mut self) {
        self.sequences = Sequences {
            prepares_question: self.sequences.prepares_question,
            ..Sequences::default()
        };
        if let Some(link) = &mut self.link {
            link.facts.drawn = Drawn::Nobody;
        }
    }

    /// The server says that the session has drawn nothing from a sequence, and it may have done so
    /// elsewhere. The error is told by the function that raises it: its text may be translated.
    pub(super) fn unknown_value(&self, error: &[u8]) -> Option<Report> {
        let raised = matches!(report_field(error, b'R'), Some(b"currval_oid" | b"lastval"));
        let none = report_field(error, b'C') == Some(b"55000");
        (raised && none && self.sequences.elsewhere).then(unknown)
    }
}
