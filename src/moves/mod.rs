//! Moves: a shard goes to another node under live traffic.
//!
//! PostgreSQL's own locks and catalogs make a move safe; the gates make it unnoticed. The parts:
//!
//! - [`machine`] decides what comes next, without IO; [`check`] judges whether a move can work at
//!   all. Both are pure.
//! - [`mover`] is what the console talks to; it runs one task per move, in [`executor`].
//! - The steps: [`facts`], [`harmless`], [`leaves`], [`replication`] with [`replica_role`], [`ready`], then the held phase in
//!   [`cutover`] with [`fence`], [`marker`], [`journal`] and [`detach`], then [`cleanup`].
//!
//! Three things on the nodes carry the safety, and each is one commit:
//!
//! - the **fence** on the source: after it nobody writes to the leaves there;
//! - the **marker** behind it: where it shows on the target, every write has been applied;
//! - the **journal** row on the target, in the transaction that attaches the leaves: that is the
//!   move. Found after a crash, the move goes forward; not found, it goes back.
//!
//! What is not here: several proxies acknowledging a closed gate, and moves between databases.

mod cleanup;
mod ctx;
mod cutover;
mod detach;
mod error;
mod executor;
mod facts;
mod failures;
mod fence;
mod harmless;
mod journal;
mod leaves;
mod link;
mod making_way;
mod marker;
mod mover;
mod node;
mod plan;
mod progress;
mod ready;
mod replica_role;
mod replication;
mod request;
mod sql;
mod task;
mod throttle;

pub mod check;
pub mod machine;

pub use cleanup::leftovers;
pub use machine::{HoldStep, State, Step};
pub use making_way::{announce, execute as execute_ddl, stay};
pub use mover::{MoveError, Mover};
pub use node::ensure_node_schema;
pub use progress::{HoldTimes, Progress};

/// All failpoints of a move, for the crash matrix.
pub fn failpoints() -> Vec<String> {
    let steps = Step::ALL.iter().map(|s| s.name());
    let held = HoldStep::ALL.iter().map(|s| s.name());
    steps
        .chain(held)
        .flat_map(|name| [format!("move.{name}.before"), format!("move.{name}.after")])
        .collect()
}
