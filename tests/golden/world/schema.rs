//! What the shell does for DDL within a transaction.

use pgshunt::session::Need;
use pgshunt::topology::{GroupId, TableId};

use super::World;

impl World {
    /// Meets what DDL within a transaction asks for, if it asks.
    pub(super) fn meets_ddl(&mut self, need: &Option<Need>) -> bool {
        if let Some(Need::Stay(groups, drops)) = need {
            self.say(&format!("the shards of {groups:?} stay, {drops:?} may go"));
            self.client().session.stays(groups.clone(), drops.clone());
            return true;
        }
        if let Some(table) = self.client().session.announces() {
            self.say(&format!("announced {}.{}", table.schema, table.name));
            let entry = Ok(Some((TableId(9), GroupId(1))));
            self.with_session(|session, _, io| session.announced(entry, io));
            return true;
        }
        let publishes = need.is_none() && self.client().session.publishes();
        if publishes || matches!(need, Some(Need::Publish)) {
            self.say("published");
            self.with_session(|session, _, io| session.published(io));
            return true;
        }
        false
    }
}
