//! Which participant's time is that of the open transaction ([`super::timing`]).

use crate::topology::NodeId;
use crate::wire::backend::Report;

/// The clock of the open transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// The participant that began first; `None`: none has begun yet.
    pub node: Option<NodeId>,
    /// Its time, once it has been asked.
    pub time: Option<String>,
    /// Why it could not be asked, for the statement that waits for the answer.
    pub failed: Option<Report>,
}

impl Clock {
    pub fn of(node: NodeId) -> Self {
        Self { node: Some(node), ..Self::default() }
    }
}
