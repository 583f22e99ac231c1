//! `tls-server-end-point` (RFC 5929): the hash of the server's certificate, made with the hash
//! function of the certificate's own signature.
//!
//! Where that signature has no single hash function (Ed25519), the binding is not defined and must
//! not be offered. For MD5 and SHA-1 the RFC says SHA-256.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// The hash of a certificate in DER, if it is defined for it.
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    let (inner, _) = element(certificate, SEQUENCE)?;
    let (_tbs, rest) = element(inner, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    Some(match signature_hash(algorithm)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const OID: u8 = 0x06;
/// `[0]`, explicitly tagged.
const FIRST: u8 = 0xa0;

/// 1.2.840.113549.1.1: the RSA signatures.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4: the ECDSA signatures.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 1.3.14.3.2.26
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// 2.16.840.1.101.3.4.2: the SHA-2 hashes.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The hash of an AlgorithmIdentifier's contents.
fn signature_hash(algorithm: &[u8]) -> Option<Hash> {
    let (oid, parameters) = element(algorithm, OID)?;
    if let Some(rsa) = oid.strip_prefix(RSA) {
        return match rsa {
            [4 | 5 | 11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [14] => Some(Hash::Sha224),
            [10] => pss_hash(parameters),
            _ => None,
        };
    }
    match oid.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 1] => Some(Hash::Sha224),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in the parameters: `SEQUENCE { [0] hashAlgorithm DEFAULT sha1, ... }`.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (parameters, _) = element(parameters, SEQUENCE)?;
    if parameters.first() != Some(&FIRST) {
        return Some(Hash::Sha256);
    }
    let (algorithm, _) = element(element(parameters, FIRST)?.0, SEQUENCE)?;
    let (oid, _) = element(algorithm, OID)?;
    if oid == SHA1 {
        return Some(Hash::Sha256);
    }
    match oid.strip_prefix(SHA2)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        [4] => Some(Hash::Sha224),
        _ => None,
    }
}

/// Reads one DER element of this tag: its contents, and what follows it.
pub(super) fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn algorithm(hex: &str) -> Vec<u8> {
        let digit = |c: &u8| char::from(*c).to_digit(16).unwrap() as u8;
        hex.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
    }

    #[test]
    fn the_signatures_hash_is_found() {
        for (hex, hash) in [
            ("06092a864886f70d0101040500", Some(Hash::Sha256)), // md5WithRSAEncryption
            ("06092a864886f70d0101050500", Some(Hash::Sha256)), // sha1WithRSAEncryption
            ("06092a864886f70d01010b0500", Some(Hash::Sha256)),
            ("06092a864886f70d01010c0500", Some(Hash::Sha384)),
            ("06092a864886f70d01010d0500", Some(Hash::Sha512)),
            ("06092a864886f70d01010e0500", Some(Hash::Sha224)),
            ("06072a8648ce3d0401", Some(Hash::Sha256)), // ecdsa-with-SHA1
            ("06082a8648ce3d040302", Some(Hash::Sha256)),
            ("06082a8648ce3d040303", Some(Hash::Sha384)),
            ("06082a8648ce3d040304", Some(Hash::Sha512)),
            ("06032b6570", None), // Ed25519
            // RSASSA-PSS as OpenSSL writes it, with SHA-384; and with every default.
            (
                "06092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f7\
                 0d010108300d06096086480165030402020500a203020130",
                Some(Hash::Sha384),
            ),
            ("06092a864886f70d01010a3000", Some(Hash::Sha256)),
            ("06092a864886f70d01010a", None),
            ("", None),
        ] {
            assert_eq!(signature_hash(&algorithm(&hex.replace(' ', ""))), hash, "{hex}");
        }
    }

    #[test]
    fn broken_certificates_have_none() {
        for der in [&[][..], &[0x30], &[0x30, 0x84], &[0x30, 0x80, 0, 0], &[0x30, 3, 0x30, 5, 0]] {
            assert_eq!(end_point_hash(der), None, "{der:?}");
        }
    }
}
