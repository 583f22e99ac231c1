//! The PostgreSQL wire protocol, as far as a relay needs it.
//!
//! A relay looks at the header of each frame and passes the rest on. So there is no message
//! type per frame here: [`frame`] finds frames in a buffer, [`frontend`] gives borrowed views of
//! the few client messages that decide where a statement goes, [`backend`] writes the few server
//! messages that go with a statement, [`message`] those that are seldom built, [`startup`] reads what comes before the first frame.
//! Source: the PostgreSQL manual, "Message Formats".

pub mod backend;
pub mod base64;
pub mod blame;
pub mod frame;
pub mod frontend;
pub mod message;
pub mod startup;

/// SQLSTATE of the fence's error: the shard has moved, ask the catalog and try again.
pub const FENCED: &str = "PS001";

/// The process ids that pgshunt gives its clients begin here, above all that a system gives (Linux:
/// `PID_MAX_LIMIT`), so that none is a server's.
pub const FIRST_OWN_PID: i32 = (4 << 20) + 1;

/// A malformed message: SQLSTATE 08P01, and the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProtocolError(pub &'static str);
