//! The private CA of a cluster: makes its own certificate, and those of members and clients.

use super::facts::{FactsError, KeyFingerprint, parse, system_time};
use super::name::{Name, Subject, Tag};
use super::order::{AltHost, DAYS_MAX, Order, Validity};
use super::random::random_bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use std::io;
use std::time::SystemTime;
use thiserror::Error;

/// The subject of a CA starts with this; its tag follows.
const CA_NAME: &str = "raftkvd CA ";

/// A CA with its key.
#[derive(Debug)]
pub struct Ca {
    facts: CaFacts,
    certificate: Vec<u8>,
    key: KeyPair,
}

/// What the certificate of a CA says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaFacts {
    /// The tag of its cluster.
    pub tag: Tag,
    /// The time in which it is valid.
    pub validity: Validity,
    /// The fingerprint of its key.
    pub fingerprint: KeyFingerprint,
}

/// Why a CA can't be used, or can't issue a certificate.
#[derive(Debug, Error)]
pub enum CaError {
    /// The certificate can't be read.
    #[error("{0}")]
    Facts(#[from] FactsError),
    /// The certificate is none of a CA of raftkvd.
    #[error("it is not the certificate of a CA that raftkvd cert has made")]
    NotACa,
    /// The CA ends before a new certificate starts.
    #[error("the CA is not valid any more; make a new one with raftkvd cert rotate")]
    Expired,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] io::Error),
    /// The library refused a key or a certificate.
    #[error("{0}")]
    Library(#[from] rcgen::Error),
}

/// Reads the certificate of a CA.
pub fn ca_facts(der: &[u8]) -> Result<CaFacts, CaError> {
    let certificate = parse(der)?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok());
    let tag = name.and_then(|name| name.strip_prefix(CA_NAME)?.parse().ok());
    match tag {
        Some(tag) if certificate.is_ca() && names.next().is_none() => Ok(CaFacts {
            tag,
            validity: Validity {
                not_before: system_time(certificate.validity().not_before)?,
                not_after: system_time(certificate.validity().not_after)?,
            },
            fingerprint: KeyFingerprint::of(certificate.public_key().raw),
        }),
        _ => Err(CaError::NotACa),
    }
}

/// Whether a certificate is that of a CA, made by raftkvd or by another program.
pub fn is_ca(der: &[u8]) -> bool {
    parse(der).is_ok_and(|certificate| certificate.is_ca())
}

/// Whether the key of this CA has signed the certificate.
pub fn has_issued(ca_der: &[u8], der: &[u8]) -> bool {
    let (Ok(ca), Ok(certificate)) = (parse(ca_der), parse(der)) else {
        return false;
    };
    certificate.verify_signature(Some(ca.public_key())).is_ok()
}

/// Makes a tag for a new cluster.
pub fn new_tag() -> Result<Tag, CaError> {
    Ok(Tag(u128::from_le_bytes(random_bytes()?)))
}

/// Makes a key: ECDSA with the curve P-256, which all TLS libraries know.
pub fn new_key() -> Result<KeyPair, CaError> {
    Ok(KeyPair::generate()?)
}

/// The public key of a certificate, to issue another one for the same key.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CaError> {
    let certificate = parse(der)?;
    Ok(SubjectPublicKeyInfo::from_der(
        certificate.public_key().raw,
    )?)
}

impl Ca {
    /// Makes a CA with this key, valid for [`DAYS_MAX`] days.
    pub fn make(tag: Tag, key: KeyPair, now: SystemTime) -> Result<Ca, CaError> {
        let validity = Validity::days(now, DAYS_MAX);
        let mut params = params(&format!("{CA_NAME}{tag}"), &validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Ca {
            facts: ca_facts(&certificate)?,
            certificate,
            key,
        })
    }

    /// The CA of this certificate and this key. `None`: the certificate has another key.
    pub fn load(certificate: &[u8], key: KeyPair) -> Result<Option<Ca>, CaError> {
        let facts = ca_facts(certificate)?;
        if facts.fingerprint != KeyFingerprint::of(&key.subject_public_key_info()) {
            return Ok(None);
        }
        Ok(Some(Ca {
            facts,
            certificate: certificate.to_owned(),
            key,
        }))
    }

    /// What its certificate says.
    pub fn facts(&self) -> &CaFacts {
        &self.facts
    }

    /// Its certificate, in the DER form.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Issues a certificate for a public key, in the DER form. The certificate ends no later than that of the CA.
    pub fn issue(
        &self,
        order: &Order,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<Vec<u8>, CaError> {
        let not_after = validity.not_after.min(self.facts.validity.not_after);
        if not_after <= validity.not_before {
            return Err(CaError::Expired);
        }
        let validity = Validity {
            not_after,
            ..validity
        };
        let mut params = params(&format!("raftkvd {}", order.subject), &validity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match order.subject {
            // A member dials other members too.
            Subject::Member(_) => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Subject::Client { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let name = Name {
            tag: self.facts.tag,
            subject: order.subject.clone(),
        };
        params
            .subject_alt_names
            .push(SanType::URI(name.to_string().try_into()?));
        for host in &order.hosts {
            params.subject_alt_names.push(match host {
                AltHost::Name(name) => SanType::DnsName(name.as_str().try_into()?),
                AltHost::Address(address) => SanType::IpAddress(*address),
            });
        }
        let ca = CertificateDer::from(&*self.certificate);
        let issuer = Issuer::from_ca_cert_der(&ca, &self.key)?;
        let der = params.signed_by(key, &issuer)?.der().to_vec();
        let read = super::facts::facts(&der)?;
        assert_eq!(read.name, name, "the certificate says another name");
        Ok(der)
    }
}

fn params(common_name: &str, validity: &Validity) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    // The default number is derived from the key, so a renewal would repeat it. Some clients refuse two certificates of
    // one CA with the same number.
    let mut serial = random_bytes::<16>()?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::facts::facts;
    use crate::certificates::name::Role;
    use crate::certificates::order::hosts;
    use std::time::Duration;

    fn new_ca() -> Ca {
        let tag = new_tag().unwrap();
        Ca::make(tag, new_key().unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn a_ca_issues_certificates_that_say_what_was_ordered() {
        let ca = new_ca();
        let now = SystemTime::now();
        let order = Order::member(
            3,
            ["kv.example.com", "10.0.0.3"].map(|h| h.parse().unwrap()),
        );
        let key = new_key().unwrap();
        let der = ca.issue(&order, &key, Validity::days(now, 90)).unwrap();
        let read = facts(&der).unwrap();
        assert_eq!(read.name.subject, order.subject);
        assert_eq!(read.name.tag, ca.facts().tag);
        assert_eq!(hosts(&der).unwrap(), order.hosts);
        let public = key.subject_public_key_info();
        assert_eq!(read.fingerprint, KeyFingerprint::of(&public));
        assert!(has_issued(ca.certificate(), &der));
        assert!(!has_issued(new_ca().certificate(), &der));
        // Again for the same key, without the private key.
        let renewed = ca.issue(&order, &public_key(&der).unwrap(), Validity::days(now, 91));
        let renewed = renewed.unwrap();
        let read_again = facts(&renewed).unwrap();
        assert_eq!(read_again.fingerprint, read.fingerprint);
        assert_eq!(
            read_again.not_after,
            read.not_after + Duration::from_secs(24 * 60 * 60)
        );
        let serial = |der: &[u8]| parse(der).unwrap().serial.clone();
        assert_ne!(serial(&renewed), serial(&der));
    }

    #[test]
    fn a_client_is_no_server_and_a_ca_signs_no_other_ca() {
        let ca = new_ca();
        let subject = Subject::Client {
            name: "admin".into(),
            role: Role::Admin,
        };
        let order = Order {
            subject,
            hosts: Vec::new(),
        };
        let validity = Validity::days(SystemTime::now(), 1);
        let der = ca.issue(&order, &new_key().unwrap(), validity).unwrap();
        let certificate = parse(&der).unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(!certificate.is_ca());
        let own = parse(ca.certificate()).unwrap();
        let constraints = own.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = own.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    }

    #[test]
    fn a_ca_is_known_by_its_certificate_and_its_key() {
        let ca = new_ca();
        let key = KeyPair::from_pem(&ca.key.serialize_pem()).unwrap();
        let loaded = Ca::load(&ca.certificate, key).unwrap().unwrap();
        assert_eq!(loaded.facts(), ca.facts());
        let other = Ca::load(&ca.certificate, new_key().unwrap());
        assert!(other.unwrap().is_none());
        let order = Order::member(1, []);
        let validity = Validity::days(SystemTime::now(), 1);
        let member = ca.issue(&order, &ca.key, validity).unwrap();
        let error = Ca::load(&member, new_key().unwrap()).unwrap_err();
        assert!(matches!(error, CaError::NotACa), "{error}");
    }

    #[test]
    fn no_certificate_outlives_its_ca() {
        let ca = new_ca();
        let end = ca.facts().validity.not_after;
        let order = Order::member(1, []);
        let issue = |now| {
            let issued = ca.issue(&order, &ca.key, Validity::days(now, 90));
            issued.map(|der| facts(&der).unwrap().not_after)
        };
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(issue(end - day).unwrap(), end);
        let error = issue(end + day).unwrap_err();
        assert!(matches!(error, CaError::Expired), "{error}");
    }
}
