//! Moves on real nodes: through a whole pgshunt (`scene`, `traffic`, `child`), and the mover alone with
//! writers that have no gate and meet the fence (`world`).

mod blockers;
mod bystanders;
mod chaos;
pub mod child;
mod commands;
mod crash;
mod ddl;
mod endings;
mod journeys;
mod keys;
mod ledger;
mod lifting;
mod node_killed;
mod order;
mod plans;
mod promises;
pub mod scene;
mod stale;
mod traffic;
mod world;
