//! The four formulas SCRAM is made of, and its nonces.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

pub(super) type Key = [u8; 32];

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "a key's length is all it could object to")]
    let made = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
    made
}

/// `HMAC(key, parts joined)`.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// `H(data)`.
pub(super) fn hash(data: &[u8]) -> Key {
    Sha256::digest(data).into()
}

/// `Hi(password, salt, iterations)`: PBKDF2 with one block. The keyed state is prepared once and
/// copied, which halves the work of every iteration.
pub(super) fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let keyed = keyed(password);
    let mut mac = keyed.clone();
    mac.update(salt);
    mac.update(&1u32.to_be_bytes());
    let mut last: Key = mac.finalize().into_bytes().into();
    let mut sum = last;
    for _ in 1..iterations {
        let mut mac = keyed.clone();
        mac.update(&last);
        last = mac.finalize().into_bytes().into();
        sum = xor(sum, last);
    }
    sum
}

pub(super) fn xor(mut a: Key, b: Key) -> Key {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
    a
}

/// SASLprep as PostgreSQL does it: a password that is not valid UTF-8, or that the profile
/// prohibits, is taken as the bytes it is.
pub(super) fn prepare_password(password: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(password).map(stringprep::saslprep) {
        Ok(Ok(prepared)) => prepared.into_owned().into_bytes(),
        Ok(Err(_)) | Err(_) => password.to_vec(),
    }
}

/// One side's half of the nonce: 144 random bits as 24 printable characters, as libpq makes it.
#[derive(Clone)]
pub struct Nonce(String);

impl Nonce {
    /// A nonce from the operating system's seeded generator of this thread.
    pub fn random() -> Self {
        Self::from_bytes(rand::random())
    }

    /// A nonce from given bytes, so that an exchange can be replayed.
    pub fn from_bytes(bytes: [u8; 18]) -> Self {
        Self(STANDARD.encode(bytes))
    }

    #[cfg(test)]
    pub(super) fn literal(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}
