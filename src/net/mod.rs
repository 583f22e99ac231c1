//! Sockets: TCP and Unix, in clear or under TLS, and those that listen for clients.

pub mod duplex;
pub mod files;
pub mod listen;
pub mod passing;
pub mod pump;
pub mod socket;
pub mod stream;
pub mod tls;

pub use socket::Socket;
pub use stream::{Out, Stream};
