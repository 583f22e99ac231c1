//! What a role that may log in, and no more, tries against pgshunt and the nodes; and what somebody tries who
//! stands in a node's place.

use crate::support::*;

mod casts;
mod completed;
mod consoles;
mod converted;
mod floods;
mod identity;
mod lying;
mod moves;
mod names;
mod owners;
mod planted;
mod proxies;
mod secured;
mod strangers;
