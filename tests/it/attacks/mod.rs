//! What a role that may log in, and no more, tries against pgshunt and the nodes.

use crate::support::*;

mod identity;
