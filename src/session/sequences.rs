//! `currval()` and `lastval()`: what a session has drawn is known to the server connection that it
//! drew on, and to no other.
//!
//! Each connection bears the mark of who may have drawn on it since it was last made to forget
//! (`DISCARD SEQUENCES`), and each session that of its last draw. A question is sent on the connection
//! that bears the session's mark, if that idles. Any other is made to forget first, so that the server
//! says so itself: where the session has drawn nothing that is the answer, and else it is told that
//! pgshunt does not know.
//!
//! Nobody pays who does not ask. The first question in a database turns following on there
//! ([`Followed`]), also for the processes that come after this one (`catalog::asking`): from then on a
//! session keeps the connection that it has drawn on, until it discards its sequences or ends.
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

impl Followed {
    /// `asked`: they have asked before, perhaps of an earlier process.
    pub fn new(asked: bool) -> Self {
        Self(Arc::new(AtomicBool::new(asked)))
    }

    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

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
    /// The connection it has drawn on may be kept: no statement needs another node.
    keeps: bool,
    /// The mark of the connection that the text under way would like to have.
    #[serde(skip)]
    wanted: Option<u64>,
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

    /// A text is about to get its connection. What asks wants the one that the session drew on.
    pub(super) fn looks_for_drawn(&mut self, plan: &Plan, env: &Env<'_>) {
        self.sequences.keeps = env.routes.tables().next().is_none();
        self.sequences.wanted = None;
        if self.sequences.last.is_some() && self.asks_for_values(plan) {
            self.sequences.wanted = self.sequences.last;
        }
    }

    /// The mark of the connection that is wanted before all others of its pool.
    pub fn wants_drawn(&self) -> Option<u64> {
        self.sequences.wanted
    }

    /// Whether the connection must forget what was drawn on it before the text is sent. Then the server
    /// itself says that it knows no value, or that there is no such sequence.
    pub(super) fn must_forget(&self, plan: &Plan) -> bool {
        let Some(link) = &self.link else { return false };
        let facts = &link.facts;
        let strange = facts.drawn != Drawn::Nobody && !self.sequences.knows(facts.drawn);
        let draws = || plan.draws && facts.followed.is_on();
        strange && link.status != Status::Failed && (draws() || self.asks_for_values(plan))
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
        if asks {
            link.facts.followed.0.store(true, Ordering::Relaxed);
            s.elsewhere |= s.last.is_some() && !s.knows(link.facts.drawn);
        }
        if plan.draws && !s.knows(link.facts.drawn) {
            let mark = new_mark();
            s.elsewhere |= s.last.replace(mark).is_some();
            link.facts.drawn = match link.facts.drawn {
                Drawn::Nobody => Drawn::By(mark),
                Drawn::By(_) | Drawn::Several => Drawn::Several,
            };
        }
        let followed = link.facts.followed.is_on();
        link.residue.kept |=
            s.keeps && followed && s.knows(link.facts.drawn) && (plan.draws || asks);
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
            link.residue.kept = false;
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
