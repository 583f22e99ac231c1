//! Why a message of the client's is not taken.

use super::Need;
use crate::wire::ProtocolError;
use crate::wire::backend::Report;

/// It must wait, or it is refused.
pub(super) enum Stop {
    Wait(Need),
    Refuse(Box<Report>),
}

impl From<ProtocolError> for Stop {
    fn from(malformed: ProtocolError) -> Self {
        Report::from(malformed).into()
    }
}

impl From<Report> for Stop {
    fn from(r: Report) -> Self {
        Self::Refuse(Box::new(r))
    }
}

impl From<Need> for Stop {
    fn from(need: Need) -> Self {
        Self::Wait(need)
    }
}
