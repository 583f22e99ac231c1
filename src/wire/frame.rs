//! Frames: one tag byte, a big-endian i32 length that counts itself, a body.

use super::ProtocolError;

/// Bytes of tag and length.
pub const HEADER: usize = 5;

/// PostgreSQL's own limit of a message (`PQ_LARGE_MESSAGE_LIMIT`, MaxAllocSize - 1).
pub const MAX_FRAME: usize = 0x3fff_ffff;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Length of the whole frame, header included.
    pub len: usize,
}

/// Reads the header at the start of `buf`; `None` when it is not whole yet.
///
/// # Errors
/// A length below 4 or above [`MAX_FRAME`].
pub fn header(buf: &[u8]) -> Result<Option<Header>, ProtocolError> {
    let [tag, a, b, c, d, ..] = *buf else { return Ok(None) };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=MAX_FRAME).contains(&len) {
        return Err(ProtocolError("invalid message length"));
    }
    Ok(Some(Header { tag, len: len + 1 }))
}

/// Appends a frame whose body `write` appends.
pub fn put(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(header(b"Z\0\0\0"), Ok(None));
        assert_eq!(header(b"Z\0\0\0\x05I"), Ok(Some(Header { tag: b'Z', len: 6 })));
        assert!(header(b"Z\0\0\0\x03").is_err());
        assert!(header(b"Z\xff\xff\xff\xff").is_err());
        assert!(header(b"Z\x7f\xff\xff\xff").is_err());
    }
}
