//! Sockets: streams in clear or under TLS, listeners that share a port between workers.

pub mod listen;
pub mod passing;
pub mod stream;
pub mod tls;

pub use stream::{Out, Stream};
