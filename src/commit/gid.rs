//! The name of a participant's prepared transaction.

use std::fmt;
use std::str::FromStr;

use crate::topology::NodeId;

/// What the names of all of them begin with.
pub const PREFIX: &str = "pgshunt_tx_";

/// A prepared transaction whose fate is the decider's: `pgshunt_tx_<decider>_<xid>_<node>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gid {
    /// The node whose transaction decides.
    pub decider: NodeId,
    /// That transaction, as `pg_current_xact_id()` gives it.
    pub xid: u64,
    /// The node that has prepared its part: several nodes may be databases of one server.
    pub node: NodeId,
}

impl Gid {
    /// It is the decider's own: ending it is the decision.
    pub fn is_deciders(&self) -> bool {
        self.node == self.decider
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_{}_{}", self.decider.0, self.xid, self.node.0)
    }
}

/// It is none of pgshunt's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign;

impl FromStr for Gid {
    type Err = Foreign;

    fn from_str(s: &str) -> Result<Self, Foreign> {
        let mut parts = s.strip_prefix(PREFIX).ok_or(Foreign)?.split('_');
        let (Some(decider), Some(xid), Some(node), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Foreign);
        };
        let id = |s: &str| s.parse().map(NodeId).map_err(|_| Foreign);
        let gid =
            Self { decider: id(decider)?, xid: xid.parse().map_err(|_| Foreign)?, node: id(node)? };
        // Written as it would be: no plus signs, no zeros in front.
        if gid.to_string() == s { Ok(gid) } else { Err(Foreign) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_no_others() {
        let gid = Gid { decider: NodeId(3), xid: u64::MAX, node: NodeId(12) };
        assert_eq!(gid.to_string().parse(), Ok(gid));
        for other in ["pgshunt_tx_1_2", "pgshunt_tx_1_2_3_4", "pgshunt_tx_1_+2_3", "x_1_2_3", ""] {
            assert_eq!(other.parse::<Gid>(), Err(Foreign), "{other}");
        }
    }
}
