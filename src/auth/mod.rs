//! Who must prove what, and how: the rules of pg_hba.conf, and SCRAM-SHA-256 (RFC 5802, RFC 7677),
//! md5 and clear passwords as PostgreSQL checks them, on both legs of the proxy.
//!
//! [`ScramServer`] checks a client against the verifier PostgreSQL keeps in `pg_authid.rolpassword`;
//! no clear-text password is ever needed. What it learns from a successful exchange, the client's
//! keys, lets [`ScramClient`] log in to a node *as that client* (pass-through): the nodes keep
//! doing the authorization. Both are machines without IO: bytes in, bytes out. Everything a peer
//! sends is bounded and may be arbitrary bytes.

mod asked;
mod client;
mod crypto;
mod message;
mod rules;
mod server;
mod stored;
mod verifier;

pub use asked::{NodeTrust, Unsafe, check_server_first};
pub use client::{ClientSecret, ScramClient};
pub use crypto::Nonce;
pub use rules::{Connection, Origin, look_at_groups, method};
pub use server::{Account, MockSecret, ScramServer, ScramSuccess};
pub use stored::{Md5Secret, StoredSecret};
pub use verifier::{ClientKeys, Verifier};

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism that binds the exchange to the TLS server certificate.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Why an exchange ended without a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The proof is wrong, or the role is unknown: the two must look the same.
    #[error("password authentication failed")]
    WrongPassword,
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("SCRAM message of {0} bytes is too long")]
    TooLong(usize),
    #[error("unsupported SCRAM feature: {0}")]
    Unsupported(&'static str),
    #[error("the client selected an invalid SASL mechanism")]
    UnknownMechanism,
    #[error("the server offers no SASL mechanism that pgshunt supports")]
    NoMechanism,
    /// The client can bind channels but believes the server cannot, although it was offered:
    /// someone in between took the offer out.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    #[error("SCRAM channel binding check failed")]
    BindingMismatch,
    /// The stored password is not a SCRAM verifier (md5, or none at all).
    #[error("the role has no SCRAM-SHA-256 secret")]
    NotScram,
    /// Pass-through only: the node's verifier was made with another salt or iteration count than
    /// the one the client was checked against, so the client's keys cannot fit.
    #[error("the node keeps another SCRAM secret for this role")]
    VerifierDiffers,
    /// The node's signature is wrong: it does not know the role's secret.
    #[error("the server could not prove that it knows the role's secret")]
    ServerNotGenuine,
    #[error("the server ended the exchange: {0}")]
    ServerError(String),
    #[error("SCRAM message out of order")]
    OutOfOrder,
}

impl AuthError {
    /// The SQLSTATE PostgreSQL itself answers in this case.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::WrongPassword | Self::NotScram | Self::VerifierDiffers => "28P01",
            Self::Downgrade
            | Self::BindingMismatch
            | Self::ServerNotGenuine
            | Self::ServerError(_)
            | Self::NoMechanism => "28000",
            Self::Malformed(_) | Self::TooLong(_) | Self::UnknownMechanism | Self::OutOfOrder => {
                "08P01"
            }
            Self::Unsupported(_) => "0A000",
        }
    }
}

#[cfg(test)]
mod tests;
