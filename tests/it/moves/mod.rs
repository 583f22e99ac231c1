//! Moves on real nodes, with direct connections as the application.

mod blockers;
mod bystanders;
mod child;
mod crash;
mod journeys;
mod ledger;
mod scene;
mod traffic;
mod world;
