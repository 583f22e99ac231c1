//! Reading SCRAM messages: attributes `x=value` joined by commas.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::AuthError;

/// PostgreSQL refuses SASL messages from clients above this size, and so do we.
pub(super) const MAX_CLIENT_MESSAGE: usize = 1024;
/// A server's messages carry a salt of its choice, else nothing long.
pub(super) const MAX_SERVER_MESSAGE: usize = 8192;

pub(super) fn check_length(message: &[u8], max: usize) -> Result<(), AuthError> {
    if message.len() > max { Err(AuthError::TooLong(message.len())) } else { Ok(()) }
}

/// A cursor over the attributes of one message.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    /// `None` behind the last attribute, so that `a=b` and `a=b,` differ.
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: Some(message) }
    }

    /// The next attribute, whatever its name.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, AuthError> {
        let Some(rest) = self.rest else { return Ok(None) };
        let (attribute, rest) = match memchr::memchr(b',', rest) {
            Some(at) => {
                let (head, tail) = rest.split_at(at);
                (head, tail.get(1..))
            }
            None => (rest, None),
        };
        self.rest = rest;
        match attribute {
            [name, b'=', value @ ..] if name.is_ascii_alphabetic() => Ok(Some((*name, value))),
            _ => Err(AuthError::Malformed("expected an attribute")),
        }
    }

    /// The value of the next attribute, which must have this name.
    pub(super) fn expect(&mut self, name: u8) -> Result<&'a [u8], AuthError> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            Some((b'm', _)) => Err(AuthError::Unsupported("mandatory extension")),
            Some(_) => Err(AuthError::Malformed("unexpected attribute")),
            None => Err(AuthError::Malformed("an attribute is missing")),
        }
    }

    /// Passes over extensions we do not know, which may be ignored.
    pub(super) fn skip_extensions(&mut self) -> Result<(), AuthError> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

/// A nonce is printable ASCII without comma, and not empty.
pub(super) fn check_nonce(nonce: &[u8]) -> Result<(), AuthError> {
    let printable = |b: &u8| matches!(b, 0x21..=0x2b | 0x2d..=0x7e);
    if !nonce.is_empty() && nonce.iter().all(printable) {
        Ok(())
    } else {
        Err(AuthError::Malformed("non-printable characters in the nonce"))
    }
}

pub(super) fn base64(value: &[u8]) -> Result<Vec<u8>, AuthError> {
    STANDARD.decode(value).map_err(|_| AuthError::Malformed("invalid base64"))
}

pub(super) fn base64_key(value: &[u8]) -> Result<[u8; 32], AuthError> {
    base64(value)?.try_into().map_err(|_| AuthError::Malformed("a key is not 32 bytes long"))
}

/// A positive decimal number without sign, blanks or overflow.
pub(super) fn iterations(value: &[u8]) -> Result<u32, AuthError> {
    let text = std::str::from_utf8(value).unwrap_or("");
    match text.parse::<u32>() {
        Ok(n) if n > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        Ok(_) | Err(_) => Err(AuthError::Malformed("invalid iteration count")),
    }
}
