//! What a session cannot do itself and asks its shell for.

use crate::router::analysis::Order;
use crate::sight::Held;
use crate::topology::{GroupId, NodeId, TableId};

#[derive(Debug)]
pub enum Need {
    /// A server connection to this node: then [`super::Session::linked`].
    Lease(NodeId),
    /// The gate is closed for what the message touches.
    Gate,
    /// Everything outstanding must be answered first.
    Quiet,
    /// The text is too long to be analysed here: then [`super::Session::analysed`].
    Analysis(Box<Order>),
    /// The connection to this node, which rests, must be taken in hand: [`super::Session::turn_to`].
    Turn(NodeId),
    /// DDL that changes all nodes, carried out outside of the session: then [`super::Session::ddl_done`].
    Ddl(Box<Ddl>),
    /// The shards of these groups must not move until the transaction has ended, in which these tables may be
    /// dropped: then [`super::Session::stays`].
    Stay(Vec<GroupId>, Vec<TableId>),
    /// What the last transaction has changed must be what everybody goes by: then [`super::Session::published`].
    Publish,
    /// The shared connection must listen to these: then [`super::Session::listening`].
    Listen(Vec<String>),
    /// All notifications sent so far must have been posted: then [`super::Session::fenced`].
    Fence,
    /// A commit and a read over several nodes take turns.
    Sight(Held),
}

/// DDL that changes all nodes.
#[derive(Debug)]
pub struct Ddl {
    pub sql: String,
    /// What answers the client's messages before the command tag, and behind it.
    pub before: Vec<u8>,
    pub behind: Vec<u8>,
}
