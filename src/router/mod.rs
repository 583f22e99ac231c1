//! Routing: from a statement's text to the place where it runs.
//!
//! [`Planner::plan`] gives the [`plan::Plan`] of a text, from its cache or by parsing it with
//! PostgreSQL's own grammar ([`planner`]); [`place::place`] finds nodes and shards for the values at
//! hand. The cache is keyed by the statement's shape, literals taken out, so that a new literal is
//! no new plan.
//!
//! Invariant: a plan is a proof. A statement goes to one shard only if every row it can see or
//! touch must have that shard's key; whatever cannot be proven takes a dearer way or is refused.

mod among;
pub mod analysis;
mod analyze;
mod built_in;
mod cache;
mod catalogs;
mod collect;
mod combine;
mod computed;
mod constant;
mod context;
mod copying;
mod cursor;
mod ddl;
mod defaults;
mod draws;
mod effect;
mod everywhere;
mod facts;
mod filters;
mod functions;
mod hidden;
mod maintain;
mod make;
mod mark;
mod mention;
mod named;
mod node_bound;
mod objects;
mod path;
pub mod place;
pub mod plan;
mod proof;
mod query;
mod reading;
mod reference;
mod rewrite;
mod rights;
mod route;
mod scope;
mod set_config;
mod shared;
mod signals;
mod silent;
mod steady;
mod tables;
mod traces;
mod unordered;
mod utility;
mod whole_rows;
mod writes;

pub use crate::sql::answer::{Answer, Value, Written};
pub use crate::sql::rows::Rows;
pub use crate::sql::times;
pub use crate::sql::wanted::{Wanted, parameters};
pub use cache::{Literals, Planned, Planner};
pub use functions::{
    Function, Functions, Harmless, function_changes, functions_changed, table_changes,
    tables_changed,
};
pub use mark::{Conversion, MARK as REFERENCE_MARK, converted};
pub use objects::only_restarts;
pub use place::{blank_ended, unreadable};
pub use reading::{READING, changes_reading, reads_alike};
pub use scope::{Sees, Speech};
pub use signals::place_of;
pub use silent::parameters_of_silent;
pub use traces::{mentions_last_value, mentions_prepared};
pub use utility::first_word;
