//! Moves on real nodes, with direct connections as the application.

mod blockers;
mod crash;
mod journeys;
mod ledger;
mod traffic;
mod world;
