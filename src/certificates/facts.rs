//! Reads a certificate: its owner, its times, and the fingerprint of its key.
//!
//! The bytes can come from a stranger, during a TLS handshake. The TLS library checks the signature before the
//! rest of the process relies on the facts.

use super::name::{Name, NameError};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

/// The largest certificate that is read, in bytes. Those of raftkvd have about 700.
pub const CERTIFICATE_BYTES_MAX: usize = 64 << 10;

const SCHEME: &str = "raftkvd:";

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The owner.
    pub name: Name,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// The fingerprint of the owner's key. A renewed certificate has the same key.
    pub fingerprint: KeyFingerprint,
}

/// SHA-256 of a public key, in its DER form (SubjectPublicKeyInfo).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyFingerprint(pub [u8; 32]);

/// Why a certificate says nothing that raftkvd can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FactsError {
    /// The bytes are not one certificate.
    #[error("it is not an X.509 certificate")]
    NotACertificate,
    /// The certificate is larger than [`CERTIFICATE_BYTES_MAX`].
    #[error("it is larger than any certificate of raftkvd")]
    TooLarge,
    /// No URI names an owner.
    #[error("it names no member or client of raftkvd: no alternative name starts with raftkvd://")]
    NoName,
    /// More than one URI names an owner.
    #[error("it has more than one name that starts with raftkvd://")]
    ManyNames,
    /// The URI is not valid.
    #[error("its name is not valid: {0}")]
    BadName(#[from] NameError),
    /// A time can't be represented.
    #[error("a time of its validity is out of range")]
    BadTime,
}

/// Reads a certificate in its DER form.
pub fn facts(der: &[u8]) -> Result<Facts, FactsError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok(Facts {
        name: owner(&certificate)?,
        not_before: system_time(validity.not_before)?,
        not_after: system_time(validity.not_after)?,
        fingerprint: KeyFingerprint::of(certificate.public_key().raw),
    })
}

/// Reads all bytes as one certificate.
pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, FactsError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(FactsError::TooLarge);
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(FactsError::NotACertificate),
    }
}

fn owner(certificate: &X509Certificate<'_>) -> Result<Name, FactsError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| FactsError::NotACertificate)?
        .ok_or(FactsError::NoName)?;
    let mut found = None;
    for name in &names.value.general_names {
        let uri = match name {
            GeneralName::URI(uri) => *uri,
            GeneralName::Invalid(..) => return Err(FactsError::NotACertificate),
            _ => continue,
        };
        // A name with another spelling of the scheme must not be skipped: it is a name of raftkvd that is not valid.
        let scheme = uri.as_bytes().get(..SCHEME.len());
        if !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME.as_bytes())) {
            continue;
        }
        if found.replace(uri).is_some() {
            return Err(FactsError::ManyNames);
        }
    }
    Ok(found.ok_or(FactsError::NoName)?.parse()?)
}

pub(super) fn system_time(time: ASN1Time) -> Result<SystemTime, FactsError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(distance),
        false => SystemTime::UNIX_EPOCH.checked_add(distance),
    };
    time.ok_or(FactsError::BadTime)
}

impl KeyFingerprint {
    /// The fingerprint of a public key in its DER form (SubjectPublicKeyInfo).
    pub fn of(public_key_der: &[u8]) -> KeyFingerprint {
        KeyFingerprint(Sha256::digest(public_key_der).into())
    }
}

/// 64 hexadecimal digits in lower case.
impl fmt::Display for KeyFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for KeyFingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<KeyFingerprint, String> {
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(is_digit) {
            return Err(
                "the fingerprint of a key is 64 hexadecimal digits in lower case".to_owned(),
            );
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => digit - b'0',
            _ => digit - b'a' + 10,
        };
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (value(digits[0]) << 4) | value(digits[1]);
        }
        Ok(KeyFingerprint(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::{Subject, Tag};
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, SanType, date_time_ymd};

    const MEMBER: &str = "raftkvd://0123456789abcdef0123456789abcdef/member/7";

    fn certificate(
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
        params.subject_alt_names = names.iter().map(uri).collect();
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().to_vec();
        (der, key)
    }

    #[test]
    fn a_certificate_says_its_owner_times_and_key() {
        let (der, key) = certificate(&["spiffe://a/b", MEMBER], |params| {
            params.not_before = date_time_ymd(1969, 12, 31);
            params.not_after = date_time_ymd(2100, 1, 1);
        });
        let read = facts(&der).unwrap();
        assert_eq!(read.name.subject, Subject::Member(7));
        assert_eq!(
            read.name.tag,
            Tag(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)
        );
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(read.not_before, SystemTime::UNIX_EPOCH - day);
        assert_eq!(read.not_after, SystemTime::UNIX_EPOCH + 47_482 * day);
        let der_of_key = key.subject_public_key_info();
        assert_eq!(read.fingerprint, KeyFingerprint::of(&der_of_key));
        let text = read.fingerprint.to_string();
        assert_eq!(text.parse(), Ok(read.fingerprint));
        text.to_uppercase().parse::<KeyFingerprint>().unwrap_err();
        text[1..].parse::<KeyFingerprint>().unwrap_err();
    }

    #[test]
    fn exactly_one_name_is_taken() {
        let read = |names: &[&str]| facts(&certificate(names, |_| {}).0).unwrap_err();
        assert_eq!(read(&[]), FactsError::NoName);
        assert_eq!(read(&["http://a"]), FactsError::NoName);
        assert_eq!(read(&[MEMBER, MEMBER]), FactsError::ManyNames);
        let shouted = MEMBER.replace("raftkvd:", "RAFTKVD:");
        assert_eq!(read(&[MEMBER, &shouted]), FactsError::ManyNames);
        assert_eq!(read(&[&shouted]), FactsError::BadName(NameError::Scheme));
        let root = MEMBER.replace("member/7", "client/a?role=root");
        assert_eq!(read(&[&root]), FactsError::BadName(NameError::Role));
    }

    #[test]
    fn what_is_not_one_certificate_is_refused() {
        let (der, _) = certificate(&[MEMBER], |_| {});
        for bytes in [
            &[][..],
            b"hello",
            &der[1..],
            &der[..der.len() - 1],
            &[&der[..], b"x"].concat(),
        ] {
            assert_eq!(facts(bytes), Err(FactsError::NotACertificate));
        }
        let large = vec![0x30; CERTIFICATE_BYTES_MAX + 1];
        assert_eq!(facts(&large), Err(FactsError::TooLarge));
    }
}
