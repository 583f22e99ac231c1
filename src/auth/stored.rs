//! Secrets of all kinds that PostgreSQL and PgBouncer store, and the older ways to check a password
//! against them: md5, and in clear.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::Verifier;
use super::crypto::hash;

/// What is known of a role's password.
#[derive(Clone, PartialEq, Eq)]
pub enum StoredSecret {
    Scram(Verifier),
    Md5(Md5Secret),
    /// Only a user file has these.
    Clear(String),
}

impl StoredSecret {
    /// What `pg_authid.rolpassword` says. PostgreSQL, too, treats a secret it cannot read as none.
    pub fn of_role(stored: &str) -> Option<Self> {
        Md5Secret::parse(stored).map(Self::Md5).or_else(|| stored.parse().ok().map(Self::Scram))
    }

    /// What a user file says: a secret, or the password itself. Nothing is no password, as for
    /// PgBouncer: such a user is in the file for methods that ask for none.
    pub fn of_file(text: &str) -> Option<Self> {
        let clear = || (!text.is_empty()).then(|| Self::Clear(text.to_owned()));
        Self::of_role(text).or_else(clear)
    }

    /// Whether this is the password. Takes as long as hashing it does.
    pub fn is_password(&self, user: &str, password: &[u8]) -> bool {
        match self {
            Self::Scram(verifier) => verifier.is_of(password),
            Self::Md5(stored) => {
                bool::from(Md5Secret::of(user, password).0.as_bytes().ct_eq(stored.0.as_bytes()))
            }
            // The hashes have the same length, whatever the passwords have.
            Self::Clear(stored) => bool::from(hash(stored.as_bytes()).ct_eq(&hash(password))),
        }
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scram(_) => "Scram(..)",
            Self::Md5(_) => "Md5(..)",
            Self::Clear(_) => "Clear(..)",
        })
    }
}

/// `md5(password || user)` in 32 hexadecimal digits: all that a login by md5 needs, on either side.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Md5Secret(String);

impl Md5Secret {
    /// As stored: `md5` and the digits.
    fn parse(stored: &str) -> Option<Self> {
        let digits = stored.strip_prefix("md5")?;
        let hex = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| Self(digits.to_ascii_lowercase()))
    }

    pub fn of(user: &str, password: &[u8]) -> Self {
        Self(md5(&[password, user.as_bytes()]))
    }

    /// What answers AuthenticationMD5Password with this salt.
    pub fn answer(&self, salt: [u8; 4]) -> String {
        format!("md5{}", md5(&[self.0.as_bytes(), &salt]))
    }

    /// Whether a client's answer is the right one.
    pub fn is_answered(&self, salt: [u8; 4], answer: &[u8]) -> bool {
        bool::from(self.answer(salt).as_bytes().ct_eq(answer))
    }
}

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret(..)")
    }
}

fn md5(parts: &[&[u8]]) -> String {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_what_libpq_sends() {
        // Recorded; the same vector as postgres-protocol's.
        let secret = Md5Secret::of("md5_user", b"password");
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        assert_eq!(secret.answer(salt), "md562af4dd09bbb41884907a838a3233294");
        assert!(secret.is_answered(salt, b"md562af4dd09bbb41884907a838a3233294"));
        assert!(!secret.is_answered([0; 4], b"md562af4dd09bbb41884907a838a3233294"));
        assert!(!secret.is_answered(salt, b""));
    }

    #[test]
    fn each_kind_is_told_from_the_others() {
        // SELECT 'md5' || md5('pencil' || 'ann')
        let md5 = format!("md5{}", super::md5(&[b"pencil", b"ann"]));
        let scram = Verifier::from_password(b"pencil", b"0123456789abcdef", 16).to_string();
        for (text, kind) in [(md5.as_str(), "Md5(..)"), (&scram, "Scram(..)")] {
            let secret = StoredSecret::of_role(text).unwrap();
            assert_eq!(format!("{secret:?}"), kind);
            assert!(secret.is_password("ann", b"pencil"));
            assert!(!secret.is_password("ann", b"pen"));
            assert_eq!(StoredSecret::of_file(text), Some(secret));
        }
        assert!(!StoredSecret::of_role(&md5).unwrap().is_password("bob", b"pencil"));
        assert_eq!((StoredSecret::of_role(""), StoredSecret::of_file("")), (None, None));
        for odd in
            ["md5", "md5zz", md5.get(..34).unwrap(), "SCRAM-SHA-256$x", "SCRAM-SHA-256$0:a$b:c"]
        {
            assert_eq!(StoredSecret::of_role(odd), None, "{odd}");
            let secret = StoredSecret::of_file(odd).unwrap();
            assert_eq!(secret, StoredSecret::Clear(odd.to_owned()));
            assert!(secret.is_password("ann", odd.as_bytes()));
            assert!(!secret.is_password("ann", b"pencil"));
        }
    }
}
