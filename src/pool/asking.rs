//! Whose clients ask for the values that they have drawn from sequences (`session::sequences`): by database
//! and role, over all nodes.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::{PoolKey, Pools};
use crate::session::Followed;

/// A database and a role.
pub type Whose = (String, String);

/// What earlier processes knew.
#[derive(Debug, Default)]
pub(super) struct Asking(Mutex<HashSet<Whose>>);

impl Asking {
    pub fn followed(&self, key: &PoolKey) -> Followed {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Followed::new(before.contains(&(key.database.to_string(), key.user.to_string())))
    }
}

impl Pools {
    /// Clients of these have asked an earlier process. Pools that are there already do not learn it.
    pub fn asked_before(&self, whose: HashSet<Whose>) {
        *self.asking.0.lock().unwrap_or_else(PoisonError::into_inner) = whose;
    }

    /// Those whose clients have asked this process or an earlier one, as far as they have pools.
    pub fn asking(&self) -> HashSet<Whose> {
        let all = self.all();
        let asking = all.iter().filter(|p| p.followed.is_on());
        asking.map(|p| (p.key.database.to_string(), p.key.user.to_string())).collect()
    }
}
