//! What PostgreSQL stores of a password, and what a proven client lets us know of it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::crypto::{Key, hash, hmac, prepare_password, salted_password};
use super::{AuthError, message};

/// A SCRAM verifier: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in
/// `pg_authid.rolpassword`. It can check a client, but not log in as one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl Verifier {
    /// The verifier PostgreSQL would make of this password.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let (client_key, server_key) = derive(&prepare_password(password), salt, iterations);
        Self { iterations, salt: salt.to_vec(), stored_key: hash(&client_key), server_key }
    }

    /// Whether it was made of this password.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let (_, server_key) = derive(&prepare_password(password), &self.salt, self.iterations);
        bool::from(server_key.ct_eq(&self.server_key))
    }

    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

/// `(ClientKey, ServerKey)` of a prepared password.
pub(super) fn derive(prepared: &[u8], salt: &[u8], iterations: u32) -> (Key, Key) {
    let salted = salted_password(prepared, salt, iterations);
    (hmac(&salted, &[b"Client Key"]), hmac(&salted, &[b"Server Key"]))
}

impl FromStr for Verifier {
    type Err = AuthError;

    fn from_str(stored: &str) -> Result<Self, AuthError> {
        let body = stored.strip_prefix("SCRAM-SHA-256$").ok_or(AuthError::NotScram)?;
        let parts = body.split_once('$').and_then(|(head, keys)| {
            let (iterations, salt) = head.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            Some((iterations, salt, stored_key, server_key))
        });
        let Some((iterations, salt, stored_key, server_key)) = parts else {
            return Err(AuthError::NotScram);
        };
        let read = || -> Result<Self, AuthError> {
            Ok(Self {
                iterations: message::iterations(iterations.as_bytes())?,
                salt: message::base64(salt.as_bytes())?,
                stored_key: message::base64_key(stored_key.as_bytes())?,
                server_key: message::base64_key(server_key.as_bytes())?,
            })
        };
        // PostgreSQL, too, treats a secret it cannot read as none.
        read().map_err(|_| AuthError::NotScram)
    }
}

/// The stored form again. This is the secret itself: for SQL, never for logs.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What a successful exchange reveals: enough to log in as the client wherever the same verifier
/// is stored, without its password. Kept in memory only.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClientKeys {
    pub(super) client_key: Key,
    pub(super) server_key: Key,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

impl ClientKeys {
    /// Whether these keys open a login for which `verifier` is stored.
    pub fn fit(&self, verifier: &Verifier) -> bool {
        hash(&self.client_key) == verifier.stored_key && self.server_key == verifier.server_key
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys(..)")
    }
}
