//! The journey of one shard, as a machine without IO.
//!
//! It decides what comes next; [`super::executor`] does it and tells how it went. Two rules hold in
//! every script below: what is about to be done is recorded before it is done, and after the
//! journal's commit (`║`) there is no way back, only ROLLBACK MOVE, which is a move of its own.

use std::fmt;

/// Where a move is.
///
/// ```text
///                                     ┌──Blocked, Lost──┐       the journal's commit
///                                     ▼                 │                ║
///  Planned ─► Preparing ─► Copying ─► CatchingUp ─► Ready ─► Cutover ────╫─► Switched ─► Soaking ─► Cleaning ─► Done
///     │           │           │           │           │ ▲       │        ║                 │
///     │           │           │           │           │ └Blocked┘        ║                 └─► (ROLLBACK MOVE takes over)
///     └───────────┴───────────┴───────────┴─Failed────┴─────────┘        ║
///                             │          Cancelled                       ║
///                             ▼
///                          Undoing ─► Failed
/// ```
///
/// A rollback takes the same way in fewer steps: the copy is there already, and nothing soaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Planned,
    Preparing,
    Copying,
    CatchingUp,
    Ready,
    Cutover,
    Switched,
    Soaking,
    Cleaning,
    Done,
    Undoing,
    Failed,
}

impl State {
    pub const ALL: [Self; 12] = [
        Self::Planned,
        Self::Preparing,
        Self::Copying,
        Self::CatchingUp,
        Self::Ready,
        Self::Cutover,
        Self::Switched,
        Self::Soaking,
        Self::Cleaning,
        Self::Done,
        Self::Undoing,
        Self::Failed,
    ];

    /// As SHOW MOVES and the catalog write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::CatchingUp => "catching up",
            Self::Ready => "ready",
            Self::Cutover => "cutover",
            Self::Switched => "switched",
            Self::Soaking => "soaking",
            Self::Cleaning => "cleaning",
            Self::Done => "done",
            Self::Undoing => "undoing",
            Self::Failed => "failed",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The move is over, one way or the other.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    /// The source still serves and everything can be undone.
    pub fn can_be_undone(self) -> bool {
        match self {
            Self::Planned | Self::Preparing | Self::Copying | Self::CatchingUp => true,
            Self::Ready | Self::Cutover => true,
            Self::Switched | Self::Soaking | Self::Cleaning | Self::Done => false,
            Self::Undoing | Self::Failed => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One piece of work: idempotent, and done again from its start after a crash.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

steps! {
    /// What an earlier beginning of this move has made on the nodes is removed; nothing at the first.
    Discard = "discard",
    /// Both nodes are looked at and judged (`check`).
    Preflight = "preflight",
    /// Shard schema, leaves with their keys, and marker tables; nothing is attached.
    CreateLeaves = "create_leaves",
    /// Publication and slot on the source.
    Publish = "publish",
    /// Subscription on the target.
    Subscribe = "subscribe",
    /// Until every leaf is copied and in step.
    Copy = "copy",
    /// What the copy was quicker without.
    BuildIndexes = "build_indexes",
    AddForeignKeys = "add_foreign_keys",
    /// Publication and slot on the target, a subscription that sleeps on the source. Here, because
    /// making a slot waits for every open transaction.
    PrepareReverse = "prepare_reverse",
    /// A rollback's preflight.
    Recheck = "recheck",
    /// Until the lag is small, a marker's way is short and nobody is known to block.
    AwaitReady = "await_ready",
    /// The held phase, see [`HoldStep`].
    Cutover = "cutover",
    /// What a crash may have left of the held phase after the journal's commit.
    Settle = "settle",
    DropForward = "drop_forward",
    /// The second phase of DETACH, which waits for old transactions. An older snapshot may still
    /// change the leaves through their parents until then.
    FinishDetach = "finish_detach",
    /// A CHECK on the retired leaves, so that ROLLBACK MOVE attaches them without a scan.
    KeepAttachable = "keep_attachable",
    /// From here on the retired leaves follow the serving ones.
    StartReverse = "start_reverse",
    Soak = "soak",
    DropReverse = "drop_reverse",
    /// The retired shard's schema.
    DropRetired = "drop_retired",
    /// CHECKs, marker tables, journal.
    DropScaffold = "drop_scaffold",
    Unfence = "unfence",
    /// Whatever the cleanup records promise to remove.
    DropObjects = "drop_objects",
}

impl Step {
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }
}

/// The steps of the held phase. They are recorded as one (`cutover`), because a write to the
/// catalog between them would lengthen the hold; what a crash left is read from the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldStep {
    Drain,
    Fence,
    CatchUp,
    Attach,
    Detach,
    Catalog,
    Open,
}

impl HoldStep {
    pub const ALL: [Self; 7] = [
        Self::Drain,
        Self::Fence,
        Self::CatchUp,
        Self::Attach,
        Self::Detach,
        Self::Catalog,
        Self::Open,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Fence => "fence",
            Self::CatchUp => "catch_up",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Catalog => "catalog",
            Self::Open => "open",
        }
    }
}

/// MOVE SHARD, or ROLLBACK MOVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Forward,
    Rollback,
}

const FORWARD: &[(State, Step)] = &[
    (State::Preparing, Step::Discard),
    (State::Preparing, Step::Preflight),
    (State::Preparing, Step::CreateLeaves),
    (State::Preparing, Step::Publish),
    (State::Preparing, Step::Subscribe),
    (State::Copying, Step::Copy),
    (State::Copying, Step::BuildIndexes),
    (State::CatchingUp, Step::AddForeignKeys),
    (State::CatchingUp, Step::PrepareReverse),
    (State::Ready, Step::AwaitReady),
    (State::Cutover, Step::Cutover),
    (State::Switched, Step::Settle),
    (State::Switched, Step::DropForward),
    (State::Switched, Step::FinishDetach),
    (State::Switched, Step::KeepAttachable),
    (State::Switched, Step::StartReverse),
    (State::Soaking, Step::Soak),
    (State::Cleaning, Step::DropReverse),
    (State::Cleaning, Step::DropRetired),
    (State::Cleaning, Step::DropScaffold),
];

const ROLLBACK: &[(State, Step)] = &[
    (State::Preparing, Step::Recheck),
    (State::Ready, Step::AwaitReady),
    (State::Cutover, Step::Cutover),
    (State::Switched, Step::Settle),
    (State::Switched, Step::DropReverse),
    (State::Switched, Step::FinishDetach),
    (State::Cleaning, Step::DropRetired),
    (State::Cleaning, Step::DropScaffold),
];

const UNDO_FORWARD: &[(State, Step)] =
    &[(State::Undoing, Step::Unfence), (State::Undoing, Step::DropObjects)];

/// The copy belongs to the move that soaks, so there is nothing to drop.
const UNDO_ROLLBACK: &[(State, Step)] = &[(State::Undoing, Step::Unfence)];

impl Kind {
    fn way(self) -> &'static [(State, Step)] {
        match self {
            Self::Forward => FORWARD,
            Self::Rollback => ROLLBACK,
        }
    }

    fn way_back(self) -> &'static [(State, Step)] {
        match self {
            Self::Forward => UNDO_FORWARD,
            Self::Rollback => UNDO_ROLLBACK,
        }
    }
}

/// How often a move that is stuck is begun anew before it is given up.
const BEGINNINGS: u32 = 3;

/// Why a move is undone that nothing was wrong with.
pub const CANCELLED: &str = "cancelled by CANCEL MOVE";

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Begin,
    /// The step is done; for the cutover: the journal is committed.
    Done,
    /// The cutover, or the wait for it, met somebody in the way. The source serves, unfenced.
    Blocked(String),
    /// A node did not answer, or something else that may pass.
    Lost(String),
    /// It cannot work.
    Failed(String),
    /// The copy, or what follows it, fails for ever as it is; begun anew it may work.
    Stuck(String),
    /// CANCEL MOVE, seen between two steps or in an interruptible one.
    Cancelled,
    /// ROLLBACK MOVE takes the objects of a soaking move over.
    HandOver,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Commit this to the catalog before anything else.
    Record {
        state: State,
        step: Option<Step>,
        error: Option<String>,
        blocker: Option<String>,
    },
    /// Wait a little, longer the more often it has been tried.
    Pause {
        tried: u32,
    },
    Run(Step),
    /// Nothing is left to do.
    Stop,
}

/// What the nodes say about a move whose coordinator died. Only the journal decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The target's journal has the move: it serves, go forward.
    Journal,
    /// It has not: the source serves, and its fence is gone again.
    NoJournal,
}

#[derive(Debug)]
pub struct Machine {
    kind: Kind,
    way: &'static [(State, Step)],
    at: usize,
    /// Repeats of the present step.
    tried: u32,
    /// How often the move was begun anew.
    begun_anew: u32,
    error: Option<String>,
    over: Option<State>,
}

impl Machine {
    pub fn new(kind: Kind) -> Self {
        Self { kind, way: kind.way(), at: 0, tried: 0, begun_anew: 0, error: None, over: None }
    }

    /// The machine of a move found in the catalog. `found` is asked for in the states where the
    /// catalog alone does not know who serves; `None` from the catalog's `step` means its first.
    /// `error` is why a move is being undone.
    pub fn resume(
        kind: Kind,
        state: State,
        step: Option<&str>,
        found: Found,
        error: Option<String>,
    ) -> Self {
        let mut m = Self::new(kind);
        let step = step.and_then(Step::from_name);
        match state {
            State::Planned => {}
            State::Preparing | State::Copying | State::CatchingUp | State::Ready => {
                m.go_to(state, step);
            }
            State::Cutover => match found {
                Found::Journal => m.go_to(State::Switched, None),
                Found::NoJournal => m.go_to(State::Ready, None),
            },
            State::Switched | State::Soaking | State::Cleaning => m.go_to(state, step),
            State::Undoing => {
                m.way = kind.way_back();
                m.error = error;
                m.go_to(state, step);
            }
            State::Done | State::Failed => m.over = Some(state),
        }
        m
    }

    fn go_to(&mut self, state: State, step: Option<Step>) {
        let exact = self.way.iter().position(|&(s, p)| s == state && Some(p) == step);
        let first = self.way.iter().position(|&(s, _)| s >= state);
        self.at = exact.or(first).unwrap_or(0);
    }

    pub fn state(&self) -> State {
        match self.over {
            Some(over) => over,
            None => self.way[self.at].0,
        }
    }

    pub fn step(&self) -> Option<Step> {
        match self.over {
            Some(_) => None,
            None => Some(self.way[self.at].1),
        }
    }

    /// Whether CANCEL MOVE still means something.
    pub fn can_cancel(&self) -> bool {
        self.state().can_be_undone()
    }

    pub fn handle(&mut self, input: Input, effects: &mut Vec<Effect>) {
        if self.over.is_some() {
            effects.push(Effect::Stop);
            return;
        }
        match input {
            Input::Begin => self.run(None, effects),
            Input::Done => {
                // Whoever blocks the cutover passes the wait before it each time.
                if self.step() != Some(Step::AwaitReady) {
                    self.tried = 0;
                }
                if !self.undoing() {
                    self.error = None;
                }
                self.at += 1;
                if self.at < self.way.len() {
                    self.run(None, effects);
                } else {
                    self.end(effects);
                }
            }
            Input::Blocked(who) => {
                self.tried += 1;
                if matches!(self.state(), State::Ready | State::Cutover) {
                    // The wait for readiness is repeated too: it may be gone.
                    let tried = self.tried;
                    self.go_to(State::Ready, None);
                    self.tried = tried;
                }
                self.pause(Some(who), effects);
            }
            Input::Lost(why) => {
                self.tried += 1;
                self.pause(Some(why), effects);
            }
            Input::Stuck(why) if self.may_begin_anew() => {
                self.begun_anew += 1;
                self.at = 0;
                self.tried = self.begun_anew;
                let n = self.begun_anew;
                self.pause(Some(format!("{why}; begun anew, {n} of {BEGINNINGS} times")), effects);
            }
            Input::Failed(why) | Input::Stuck(why) if self.can_cancel() => self.undo(why, effects),
            // The way back is closed or is the way we are on: what should be done stays to be done.
            Input::Failed(why) | Input::Stuck(why) => {
                self.tried += 1;
                self.error = Some(why);
                self.pause(None, effects);
            }
            Input::Cancelled if self.can_cancel() => {
                self.undo(CANCELLED.into(), effects);
            }
            Input::Cancelled => self.run(None, effects),
            Input::HandOver => effects.push(Effect::Stop),
        }
    }

    /// Whether the whole copy can be thrown away, and is worth another one.
    fn may_begin_anew(&self) -> bool {
        self.kind == Kind::Forward && self.can_cancel() && self.begun_anew < BEGINNINGS
    }

    fn run(&mut self, blocker: Option<String>, effects: &mut Vec<Effect>) {
        let (state, step) = self.way[self.at];
        effects.push(Effect::Record {
            state,
            step: Some(step),
            error: self.error.clone(),
            blocker,
        });
        effects.push(Effect::Run(step));
    }

    fn pause(&mut self, blocker: Option<String>, effects: &mut Vec<Effect>) {
        let (state, step) = self.way[self.at];
        effects.push(Effect::Record {
            state,
            step: Some(step),
            error: self.error.clone(),
            blocker,
        });
        effects.push(Effect::Pause { tried: self.tried });
        effects.push(Effect::Run(step));
    }

    fn undo(&mut self, why: String, effects: &mut Vec<Effect>) {
        self.way = self.kind.way_back();
        self.at = 0;
        self.tried = 0;
        self.error = Some(why);
        self.run(None, effects);
    }

    fn undoing(&self) -> bool {
        self.way.first().is_some_and(|&(s, _)| s == State::Undoing)
    }

    fn end(&mut self, effects: &mut Vec<Effect>) {
        let state = if self.undoing() { State::Failed } else { State::Done };
        self.over = Some(state);
        effects.push(Effect::Record {
            state,
            step: None,
            error: self.error.clone(),
            blocker: None,
        });
        effects.push(Effect::Stop);
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
