//! Whom a client's certificate names: the common name of its subject.

use super::end_point::{OID, SEQUENCE, element};

const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
/// `[0]`, the version; absent in certificates of version 1.
const VERSION: u8 = 0xa0;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The first common name of a certificate in DER. As with PostgreSQL a name with a zero byte in it
/// is none.
pub fn common_name(certificate: &[u8]) -> Option<&str> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE { [0] version, serialNumber, signature,
    //   issuer, validity, subject, ... }, ... }
    let (inner, _) = element(certificate, SEQUENCE)?;
    let (tbs, _) = element(inner, SEQUENCE)?;
    let mut rest = tbs;
    if rest.first() == Some(&VERSION) {
        rest = skip(rest)?;
    }
    for _ in ["serialNumber", "signature", "issuer", "validity"] {
        rest = skip(rest)?;
    }
    let (mut subject, _) = element(rest, SEQUENCE)?;
    while !subject.is_empty() {
        let (mut set, more) = element(subject, SET)?;
        subject = more;
        while !set.is_empty() {
            let (attribute, more) = element(set, SEQUENCE)?;
            set = more;
            let (kind, value) = element(attribute, OID)?;
            if kind == COMMON_NAME {
                return text(value);
            }
        }
    }
    None
}

fn text(value: &[u8]) -> Option<&str> {
    let tag = *value.first()?;
    let known = [UTF8_STRING, PRINTABLE_STRING, TELETEX_STRING, IA5_STRING].contains(&tag);
    let (bytes, _) = element(value, tag)?;
    let fit = known && !bytes.contains(&0) && (tag == UTF8_STRING || bytes.is_ascii());
    std::str::from_utf8(bytes).ok().filter(|_| fit)
}

/// What follows the first element, whatever that is.
fn skip(der: &[u8]) -> Option<&[u8]> {
    element(der, *der.first()?).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn name_of(parts: &[(DnType, DnValue)]) -> Option<String> {
        let mut params = CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        common_name(&der).map(str::to_owned)
    }

    #[test]
    fn the_common_name_is_found_among_others() {
        let organisation = (DnType::OrganizationName, DnValue::from("ann"));
        let name = |text: &str| (DnType::CommonName, DnValue::from(text));
        assert_eq!(name_of(&[organisation.clone(), name("bob")]).as_deref(), Some("bob"));
        assert_eq!(name_of(&[name("jürgen")]).as_deref(), Some("jürgen"));
        let printable = DnValue::PrintableString("carl".try_into().unwrap());
        assert_eq!(name_of(&[(DnType::CommonName, printable)]).as_deref(), Some("carl"));
        assert_eq!(name_of(&[organisation]), None);
        assert_eq!(name_of(&[name("postgres\0.example")]), None);
    }

    #[test]
    fn broken_certificates_have_none() {
        for der in [&[][..], &[0x30], &[0x30, 2, 0x30, 0], &[0x30, 4, 0x30, 2, 0xa0, 0]] {
            assert_eq!(common_name(der), None, "{der:?}");
        }
    }
}
