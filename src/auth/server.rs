//! The server's side of SCRAM-SHA-256, towards clients.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::crypto::{Key, hash, hmac, xor};
use super::message::{self, Attributes};
use super::{AuthError, ClientKeys, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Verifier};

/// Whom the client claims to be.
#[derive(Debug, Clone, Copy)]
pub enum Account<'a> {
    Known(&'a Verifier),
    /// A role that does not exist or has no SCRAM secret. The exchange runs to its end and fails
    /// there, with a salt that stays the same for the same name, so that nobody can tell.
    Unknown {
        user: &'a [u8],
        secret: &'a MockSecret,
    },
}

/// What the salts of unknown users are derived from: drawn once per process.
#[derive(Clone)]
pub struct MockSecret {
    key: Key,
    iterations: u32,
}

impl MockSecret {
    /// `iterations` should be what the nodes use (their `scram_iterations`, 4096 by default), or
    /// it tells unknown users from known ones.
    pub fn random(iterations: u32) -> Self {
        Self { key: rand::random(), iterations }
    }

    /// The same salts, with another count.
    pub fn with_iterations(&self, iterations: u32) -> Self {
        Self { key: self.key, iterations }
    }

    /// What an unknown user is checked against: nothing fits it.
    pub fn verifier(&self, user: &[u8]) -> Verifier {
        let seed = hmac(&self.key, &[b"salt", user]);
        Verifier {
            iterations: self.iterations,
            // PostgreSQL's salts are 16 bytes long.
            salt: seed.iter().copied().take(16).collect(),
            stored_key: hmac(&self.key, &[b"stored key", user]),
            server_key: hmac(&self.key, &[b"server key", user]),
        }
    }
}

impl fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockSecret(..)")
    }
}

/// One client's exchange.
pub struct ScramServer {
    pub(super) verifier: Verifier,
    /// The user is unknown: do the same work and fail.
    doomed: bool,
    nonce: Nonce,
    /// The hash of our leaf certificate, when the connection is TLS and the hash is defined.
    binding: Option<Vec<u8>>,
    state: State,
}

enum State {
    Initial,
    Challenged {
        client_first_bare: Vec<u8>,
        server_first: Vec<u8>,
        nonce: Vec<u8>,
        /// What `c=` must hold, in base64.
        binding_input: String,
    },
    Over,
}

/// The client proved that it knows the password.
#[derive(Debug)]
pub struct ScramSuccess {
    /// The body of AuthenticationSASLFinal.
    pub server_final: Vec<u8>,
    /// What logs in to the nodes as this client.
    pub keys: ClientKeys,
}

impl ScramServer {
    pub fn new(account: Account<'_>, nonce: Nonce, channel_binding: Option<Vec<u8>>) -> Self {
        let (verifier, doomed) = match account {
            Account::Known(verifier) => (verifier.clone(), false),
            Account::Unknown { user, secret } => (secret.verifier(user), true),
        };
        Self { verifier, doomed, nonce, binding: channel_binding, state: State::Initial }
    }

    /// The list for AuthenticationSASL, the preferred one first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.binding {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        }
    }

    /// Takes SASLInitialResponse; gives the body of AuthenticationSASLContinue.
    pub fn on_initial(&mut self, mechanism: &[u8], data: &[u8]) -> Result<Vec<u8>, AuthError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Initial => {}
            State::Challenged { .. } | State::Over => return Err(AuthError::OutOfOrder),
        }
        message::check_length(data, message::MAX_CLIENT_MESSAGE)?;
        let plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes() && self.binding.is_some();
        if !plus && mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(AuthError::UnknownMechanism);
        }

        let (binding_input, bare) = self.read_gs2(plus, data)?;
        let mut attributes = Attributes::new(bare);
        // The name is ignored, as PostgreSQL does: the startup message said who it is.
        attributes.expect(b'n')?;
        let client_nonce = attributes.expect(b'r')?;
        message::check_nonce(client_nonce)?;
        attributes.skip_extensions()?;

        let nonce = [client_nonce, self.nonce.as_bytes()].concat();
        let salt = STANDARD.encode(&self.verifier.salt);
        let mut server_first = b"r=".to_vec();
        server_first.extend_from_slice(&nonce);
        server_first
            .extend_from_slice(format!(",s={salt},i={}", self.verifier.iterations).as_bytes());
        self.state = State::Challenged {
            client_first_bare: bare.to_vec(),
            server_first: server_first.clone(),
            nonce,
            binding_input,
        };
        Ok(server_first)
    }

    /// Reads the GS2 header: what the client thinks of channel binding, and (never) another
    /// identity. Gives what `c=` must repeat later, and the rest of the message.
    fn read_gs2<'a>(&self, plus: bool, data: &'a [u8]) -> Result<(String, &'a [u8]), AuthError> {
        const TYPE: &[u8] = b"p=tls-server-end-point,,";
        let (header, binding): (&[u8], &[u8]) = match data.first() {
            Some(b'n') if plus => {
                return Err(AuthError::Malformed("SCRAM-SHA-256-PLUS without channel binding"));
            }
            Some(b'n') => (b"n,,", b""),
            Some(b'y') if plus => {
                return Err(AuthError::Malformed("SCRAM-SHA-256-PLUS without channel binding"));
            }
            // It supports channel binding and did not see our offer: somebody removed it.
            Some(b'y') if self.binding.is_some() => return Err(AuthError::Downgrade),
            Some(b'y') => (b"y,,", b""),
            Some(b'p') if !plus => {
                return Err(AuthError::Malformed("channel binding without SCRAM-SHA-256-PLUS"));
            }
            Some(b'p') if !data.starts_with(b"p=tls-server-end-point,") => {
                return Err(AuthError::Unsupported("channel binding type"));
            }
            Some(b'p') => (TYPE, self.binding.as_deref().unwrap_or_default()),
            Some(_) | None => return Err(AuthError::Malformed("unexpected channel binding flag")),
        };
        let Some(bare) = data.strip_prefix(header) else {
            let authzid = header.get(..header.len() - 1).unwrap_or_default();
            return Err(if data.strip_prefix(authzid).is_some_and(|r| r.starts_with(b"a=")) {
                AuthError::Unsupported("authorization identity")
            } else {
                AuthError::Malformed("invalid GS2 header")
            });
        };
        Ok((STANDARD.encode([header, binding].concat()), bare))
    }

    /// Takes SASLResponse; gives the body of AuthenticationSASLFinal and the client's keys.
    pub fn on_final(&mut self, data: &[u8]) -> Result<ScramSuccess, AuthError> {
        let (client_first_bare, server_first, nonce, binding_input) =
            match std::mem::replace(&mut self.state, State::Over) {
                State::Challenged { client_first_bare, server_first, nonce, binding_input } => {
                    (client_first_bare, server_first, nonce, binding_input)
                }
                State::Initial | State::Over => return Err(AuthError::OutOfOrder),
            };
        message::check_length(data, message::MAX_CLIENT_MESSAGE)?;

        // The proof is the last attribute; a comma cannot be part of it.
        let at = memchr::memmem::rfind(data, b",p=")
            .ok_or(AuthError::Malformed("no proof in the final message"))?;
        let (without_proof, proof) = data.split_at(at);
        let proof = message::base64_key(proof.get(3..).unwrap_or_default())?;

        let mut attributes = Attributes::new(without_proof);
        let binding = attributes.expect(b'c')?;
        let echoed = attributes.expect(b'r')?;
        attributes.skip_extensions()?;
        if !bool::from(binding.ct_eq(binding_input.as_bytes())) {
            return Err(AuthError::BindingMismatch);
        }
        if !bool::from(echoed.ct_eq(&nonce)) {
            return Err(AuthError::Malformed("nonce does not match"));
        }

        let auth_message: [&[u8]; 5] =
            [&client_first_bare, b",", &server_first, b",", without_proof];
        let signature = hmac(&self.verifier.stored_key, &auth_message);
        let client_key = xor(proof, signature);
        let genuine = hash(&client_key).ct_eq(&self.verifier.stored_key);
        let server_signature = hmac(&self.verifier.server_key, &auth_message);
        if self.doomed || !bool::from(genuine) {
            return Err(AuthError::WrongPassword);
        }

        let mut server_final = b"v=".to_vec();
        server_final.extend_from_slice(STANDARD.encode(server_signature).as_bytes());
        let keys = ClientKeys {
            client_key,
            server_key: self.verifier.server_key,
            salt: self.verifier.salt.clone(),
            iterations: self.verifier.iterations,
        };
        Ok(ScramSuccess { server_final, keys })
    }
}

impl fmt::Debug for ScramServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Initial => "initial",
            State::Challenged { .. } => "challenged",
            State::Over => "over",
        };
        f.debug_struct("ScramServer").field("state", &state).finish_non_exhaustive()
    }
}
