//! The client's side of SCRAM-SHA-256, towards nodes.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::asked::MAX_ITERATIONS;
use super::crypto::{Key, hash, hmac, prepare_password, xor};
use super::message::{self, Attributes};
use super::verifier::derive;
use super::{AuthError, ClientKeys, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};

/// What we log in with.
#[derive(Clone)]
pub enum ClientSecret {
    Password(Vec<u8>),
    /// Keys a client left with us when it logged in (pass-through).
    Keys(ClientKeys),
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Keys(_) => "Keys(..)",
        })
    }
}

/// One login to a node.
pub struct ScramClient {
    secret: ClientSecret,
    nonce: Nonce,
    mechanism: &'static str,
    gs2_header: &'static [u8],
    binding: Vec<u8>,
    state: State,
}

enum State {
    Start,
    Sent,
    Proved {
        server_signature: Key,
    },
    /// The node has shown that it knows the role's secret.
    Genuine,
    /// After a failure.
    Over,
}

impl ScramClient {
    /// `offered` is what follows the code in AuthenticationSASL: names, each ended by a zero byte,
    /// and an empty one. `channel_binding` is the hash of the node's certificate, when the
    /// connection is TLS and the hash is defined for it.
    pub fn new(
        secret: ClientSecret,
        offered: &[u8],
        channel_binding: Option<Vec<u8>>,
        nonce: Nonce,
    ) -> Result<Self, AuthError> {
        let offers = |name: &str| offered.split(|b| *b == 0).any(|offer| offer == name.as_bytes());
        let (mechanism, gs2_header, binding): (_, &'static [u8], _) = match channel_binding {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, b"p=tls-server-end-point,,", hash)
            }
            // "y": we could have, and you did not offer. The node fails if it did.
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, b"y,,", Vec::new()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, b"n,,", Vec::new()),
            Some(_) | None => return Err(AuthError::NoMechanism),
        };
        Ok(Self { secret, nonce, mechanism, gs2_header, binding, state: State::Start })
    }

    /// The mechanism and data of SASLInitialResponse. PostgreSQL takes the user's name from the
    /// startup message, so it is left empty here.
    pub fn initial(&mut self) -> (&'static str, Vec<u8>) {
        self.state = State::Sent;
        (self.mechanism, [self.gs2_header, &self.first_bare()].concat())
    }

    fn first_bare(&self) -> Vec<u8> {
        [b"n=,r=", self.nonce.as_bytes()].concat()
    }

    #[cfg(test)]
    pub(super) fn first_bare_nonce(&self) -> Vec<u8> {
        self.nonce.as_bytes().to_vec()
    }

    /// Takes the body of AuthenticationSASLContinue; gives the data of SASLResponse.
    pub fn on_continue(&mut self, server_first: &[u8]) -> Result<Vec<u8>, AuthError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Sent => {}
            State::Start | State::Proved { .. } | State::Genuine | State::Over => {
                return Err(AuthError::OutOfOrder);
            }
        }
        message::check_length(server_first, message::MAX_SERVER_MESSAGE)?;
        let mut attributes = Attributes::new(server_first);
        let nonce = attributes.expect(b'r')?;
        let salt = message::base64(attributes.expect(b's')?)?;
        let iterations = message::iterations(attributes.expect(b'i')?)?;
        attributes.skip_extensions()?;
        message::check_nonce(nonce)?;
        // It must contain ours and add something, or an old exchange could be replayed to us.
        match nonce.strip_prefix(self.nonce.as_bytes()) {
            Some(theirs) if !theirs.is_empty() => {}
            Some(_) | None => return Err(AuthError::Malformed("nonce does not match")),
        }

        let (client_key, server_key) = match &self.secret {
            ClientSecret::Password(_) if iterations > MAX_ITERATIONS => {
                return Err(AuthError::Unsupported("iteration count above 100000"));
            }
            ClientSecret::Password(password) => {
                derive(&prepare_password(password), &salt, iterations)
            }
            ClientSecret::Keys(keys) if keys.salt != salt || keys.iterations != iterations => {
                return Err(AuthError::VerifierDiffers);
            }
            ClientSecret::Keys(keys) => (keys.client_key, keys.server_key),
        };

        let binding_input = STANDARD.encode([self.gs2_header, &self.binding].concat());
        let mut response = [b"c=", binding_input.as_bytes(), b",r=", nonce].concat();
        let auth_message: [&[u8]; 5] =
            [&self.first_bare(), b",", server_first, b",", &response.clone()];
        let proof = xor(client_key, hmac(&hash(&client_key), &auth_message));
        let server_signature = hmac(&server_key, &auth_message);
        response.extend_from_slice(b",p=");
        response.extend_from_slice(STANDARD.encode(proof).as_bytes());
        self.state = State::Proved { server_signature };
        Ok(response)
    }

    /// Takes the body of AuthenticationSASLFinal. The node is to be trusted only if this is `Ok`.
    pub fn on_final(&mut self, server_final: &[u8]) -> Result<(), AuthError> {
        let expected = match std::mem::replace(&mut self.state, State::Over) {
            State::Proved { server_signature } => server_signature,
            State::Start | State::Sent | State::Genuine | State::Over => {
                return Err(AuthError::OutOfOrder);
            }
        };
        message::check_length(server_final, message::MAX_SERVER_MESSAGE)?;
        let mut attributes = Attributes::new(server_final);
        let signature = match attributes.next()? {
            Some((b'v', value)) => message::base64_key(value)?,
            Some((b'e', error)) => {
                return Err(AuthError::ServerError(String::from_utf8_lossy(error).into_owned()));
            }
            Some(_) | None => return Err(AuthError::Malformed("no server signature")),
        };
        attributes.skip_extensions()?;
        if bool::from(signature.ct_eq(&expected)) {
            self.state = State::Genuine;
            Ok(())
        } else {
            Err(AuthError::ServerNotGenuine)
        }
    }
}

impl ScramClient {
    /// Whether the node has shown that it knows the role's secret: until then it may not say that the
    /// login is done.
    pub fn is_genuine(&self) -> bool {
        matches!(self.state, State::Genuine)
    }
}

impl fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Start => "start",
            State::Sent => "sent",
            State::Proved { .. } => "proved",
            State::Genuine => "genuine",
            State::Over => "over",
        };
        f.debug_struct("ScramClient")
            .field("mechanism", &self.mechanism)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
