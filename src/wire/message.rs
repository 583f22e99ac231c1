//! Messages that are seldom built are pgwire's types; here they are written behind what a buffer holds.
//!
//! What goes with a statement is written in place by [`super::backend`], without texts of its own and a
//! buffer between. A DataRow is written there for the console too: pgwire's holds values that somebody
//! else has encoded. Nothing is read by pgwire, which takes what is not UTF8 for something else; its
//! relay and its TLS are not built in.

use bytes::BytesMut;
use pgwire::messages::Message;

/// Writes a message. One that pgwire does not write, a cancel key of a length that no server gives, is
/// left out. Its limits of whole messages are not asked for: a SASL message may be longer.
pub fn put<M: Message>(out: &mut Vec<u8>, message: &M) {
    let mut body = BytesMut::with_capacity(message.message_length());
    if message.encode_body(&mut body).is_err() {
        return;
    }
    out.extend(M::message_type());
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&body);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
    use pgwire::messages::startup::{
        Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey, SslRequest,
    };

    use super::*;

    fn written(message: &impl Message) -> Vec<u8> {
        let mut out = b"before".to_vec();
        put(&mut out, message);
        out.split_off(6)
    }

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(written(&ReadyForQuery::new(TransactionStatus::Error)), b"Z\0\0\0\x05E");
        assert_eq!(written(&SslRequest::new()), b"\0\0\0\x08\x04\xd2\x16\x2f");
        let negotiate = NegotiateProtocolVersion::new(3 << 16 | 2, vec!["_pq_.a".into()]);
        assert_eq!(written(&negotiate), b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.a\0");
        let scram = Authentication::SASL(vec!["SCRAM-SHA-256".into()]);
        assert_eq!(written(&scram), b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
        let key = |len| BackendKeyData::new(7, SecretKey::Bytes(vec![1; len].into()));
        assert_eq!(written(&key(4)), b"K\0\0\0\x0c\0\0\0\x07\x01\x01\x01\x01");
        assert_eq!(written(&key(300)), b"", "no server gives one of that length");
    }

    #[test]
    fn a_sasl_message_may_be_longer_than_others() {
        let long = Authentication::SASLContinue(Bytes::from(vec![b'r'; 60_000]));
        assert_eq!(written(&long).len(), 5 + 4 + 60_000);
    }
}
