//! What a node is told of a password, by how it asks for it and by what is known of who asks.
//!
//! Whoever answers at a node's address may be somebody else, until a certificate or SCRAM has shown
//! otherwise. A password in clear makes him a present of it, one by md5 nearly so; SCRAM tells him
//! nothing that he could use elsewhere.

use super::{AuthError, SCRAM_SHA_256_PLUS, message};
use crate::config::PasswordMethod;

/// Whoever answers chooses the iteration count and we do the work, so it is bounded: a thread must
/// not be stalled. PostgreSQL's default is 4096.
pub(super) const MAX_ITERATIONS: u32 = 100_000;

/// What is known of a node before it is told anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTrust {
    /// What SCRAM-SHA-256-PLUS binds to: the connection is TLS and the hash is defined.
    pub binding: Option<Vec<u8>>,
    /// Nothing but that shows whose certificate it was.
    pub must_bind: bool,
    /// The least safe way in which it may ask.
    pub weakest: PasswordMethod,
}

/// Why a node that asks is told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    #[error("it asks for the password in clear, and has not shown that it is the node")]
    Clear,
    #[error("it asks for the password by md5, and has not shown that it is the node")]
    Md5,
    #[error("it does not bind SCRAM to its certificate, which nobody has checked")]
    Unbound,
    #[error("it asks for more than 100000 iterations of SCRAM")]
    Iterations,
    #[error("its SCRAM message is malformed")]
    Malformed,
}

impl Unsafe {
    pub fn hint(self) -> &'static str {
        match self {
            Self::Clear => {
                "Set scram-sha-256 in the node's pg_hba.conf. What an impostor would be told is \
                 decided by tls.nodes and tls.node_auth."
            }
            Self::Md5 => {
                "Set password_encryption = 'scram-sha-256' on the node and the role's password anew, or \
                 allow it: tls.nodes and tls.node_auth."
            }
            Self::Unbound => {
                "If what stands between pgshunt and the node ends TLS, check its certificate: \
                 tls.nodes = \"verify-full\"."
            }
            Self::Iterations | Self::Malformed => "Is this PostgreSQL, and the right one?",
        }
    }
}

impl NodeTrust {
    /// Looks at an authentication request, its code and what follows, before it is answered.
    pub fn check(&self, code: i32, payload: &[u8]) -> Result<(), Unsafe> {
        match code {
            3 if self.weakest < PasswordMethod::Password => Err(Unsafe::Clear),
            5 if self.weakest < PasswordMethod::Md5 => Err(Unsafe::Md5),
            10 => {
                let binds = payload.split(|b| *b == 0).any(|m| m == SCRAM_SHA_256_PLUS.as_bytes());
                if self.must_bind && !binds { Err(Unsafe::Unbound) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

/// Looks at the first message of a SCRAM server, before its work is done.
pub fn check_server_first(payload: &[u8]) -> Result<(), Unsafe> {
    let iterations = || -> Result<u32, AuthError> {
        message::check_length(payload, message::MAX_SERVER_MESSAGE)?;
        let mut attributes = message::Attributes::new(payload);
        attributes.expect(b'r')?;
        attributes.expect(b's')?;
        message::iterations(attributes.expect(b'i')?)
    };
    match iterations() {
        Ok(n) if n <= MAX_ITERATIONS => Ok(()),
        Ok(_) => Err(Unsafe::Iterations),
        Err(_) => Err(Unsafe::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_has_shown_nothing_is_told_nothing_but_scram() {
        let mut trust =
            NodeTrust { binding: None, must_bind: false, weakest: PasswordMethod::ScramSha256 };
        let scram = b"SCRAM-SHA-256\0\0";
        assert_eq!(trust.check(3, b""), Err(Unsafe::Clear));
        assert_eq!(trust.check(5, b"salt"), Err(Unsafe::Md5));
        assert_eq!((trust.check(10, scram), trust.check(0, b"")), (Ok(()), Ok(())));
        trust.weakest = PasswordMethod::Md5;
        assert_eq!((trust.check(3, b""), trust.check(5, b"salt")), (Err(Unsafe::Clear), Ok(())));
        trust.weakest = PasswordMethod::Password;
        assert_eq!(trust.check(3, b""), Ok(()));
        trust.must_bind = true;
        assert_eq!(trust.check(10, scram), Err(Unsafe::Unbound));
        assert_eq!(trust.check(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), Ok(()));
    }

    #[test]
    fn a_server_does_not_choose_how_long_we_work() {
        assert_eq!(check_server_first(b"r=abc,s=c2FsdA==,i=4096"), Ok(()));
        assert_eq!(check_server_first(b"r=abc,s=c2FsdA==,i=100001"), Err(Unsafe::Iterations));
        for bad in [&b"r=abc,s=c2FsdA==,i=4294967296"[..], b"", b"i=1", b"m=x,r=a,s=b,i=1"] {
            assert_eq!(check_server_first(bad), Err(Unsafe::Malformed));
        }
    }
}
