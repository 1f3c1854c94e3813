//! Decides which certificates are accepted.
//!
//! A certificate must be signed by one of the CAs in `ca.pem` and be within its times. Its URI must have the tag of this
//! cluster, and its key must not be in the file `revoked`. Names and addresses of hosts are not checked, so no answer of
//! a DNS server can make one member pass for another one.

use super::explain;
use crate::certificates::{Facts, FactsError, KeyFingerprint, Subject, Tag, facts};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Certificates of CAs that may come with a certificate. The other side may be a stranger, and each of these certificates
/// costs a check of a signature. The CA of raftkvd needs none.
const INTERMEDIATES_MAX: usize = 3;

/// The cryptography of every handshake.
pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Why a certificate that a CA has signed is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("{0}")]
    NoFacts(FactsError),
    #[error(
        "the certificate belongs to another cluster: its tag is {actual}, and the tag of this cluster is {own}"
    )]
    OtherCluster { actual: Tag, own: Tag },
    #[error("it is the certificate of a client, and only members are accepted here")]
    Client,
    #[error("no CA in ca.pem is usable")]
    NoCa,
    #[error("it comes with {0} certificates of CAs, and {INTERMEDIATES_MAX} are allowed")]
    LongChain(usize),
}

impl From<NotTaken> for Error {
    fn from(reason: NotTaken) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
    }
}

/// Refuses a chain that would take long to check.
fn check_length(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    match intermediates.len() > INTERMEDIATES_MAX {
        true => Err(NotTaken::LongChain(intermediates.len()).into()),
        false => Ok(()),
    }
}

/// The CAs, the tag of the cluster, and the revoked keys.
#[derive(Debug)]
pub(super) struct Authority {
    roots: Arc<RootCertStore>,
    /// `None`: every tag is accepted.
    tag: Option<Tag>,
    revoked: BTreeSet<KeyFingerprint>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Authority {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        tag: Option<Tag>,
        revoked: BTreeSet<KeyFingerprint>,
    ) -> Authority {
        Authority {
            roots,
            tag,
            revoked,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    /// Checks that the other members would accept the own certificate. The error says what to do.
    pub(super) fn check_own(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), String> {
        check_length(intermediates).map_err(|error| explain::own(&error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider());
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        let chain = verifier.verify_client_cert(own, intermediates, UnixTime::now());
        chain.map_err(|error| explain::own(&error))?;
        self.take(own).map_err(|error| explain::own(&error))?;
        Ok(())
    }

    /// Reads a certificate whose chain and times were checked, and checks its tag and its key.
    fn take(&self, certificate: &CertificateDer<'_>) -> Result<Facts, Error> {
        let facts = facts(certificate).map_err(NotTaken::NoFacts)?;
        if let Some(own) = self.tag
            && own != facts.name.tag
        {
            let actual = facts.name.tag;
            return Err(NotTaken::OtherCluster { actual, own }.into());
        }
        match self.revoked.contains(&facts.fingerprint) {
            true => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            false => Ok(facts),
        }
    }
}

/// The processes that a port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepts {
    /// Members only.
    Members,
    /// Members, clients, and processes without a certificate.
    AnybodyOrKnown,
}

/// Checks the certificates of processes that dial this member.
#[derive(Debug)]
pub(super) struct ClientCertificates {
    authority: Arc<Authority>,
    /// `None`: no CA is usable, so no certificate is accepted.
    chains: Option<Arc<dyn ClientCertVerifier>>,
    accepts: Accepts,
}

impl ClientCertificates {
    pub(super) fn new(authority: &Arc<Authority>, accepts: Accepts) -> ClientCertificates {
        let chains =
            WebPkiClientVerifier::builder_with_provider(authority.roots.clone(), provider());
        ClientCertificates {
            authority: authority.clone(),
            chains: chains.build().ok(),
            accepts,
        }
    }
}

impl ClientCertificates {
    /// Checks a certificate that was accepted before.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let (own, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify_client_cert(own, intermediates, UnixTime::now())?;
        Ok(())
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn client_auth_mandatory(&self) -> bool {
        self.accepts == Accepts::Members
    }

    /// Empty, because a stranger must not learn the names of the CAs. A client has only one certificate to choose anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_length(intermediates)?;
        let chains = self.chains.as_ref().ok_or(NotTaken::NoCa)?;
        let verified = chains.verify_client_cert(certificate, intermediates, now)?;
        let facts = self.authority.take(certificate)?;
        let is_member = matches!(facts.name.subject, Subject::Member(_));
        match self.accepts == Accepts::Members && !is_member {
            true => Err(NotTaken::Client.into()),
            false => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.authority.algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.authority.algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.algorithms.supported_schemes()
    }
}

/// Checks the certificate of a member that this process dials.
#[derive(Debug)]
pub(super) struct MemberCertificates {
    authority: Arc<Authority>,
    /// Whether the certificate of a proxy in front of a member is accepted: one without a name of raftkvd that is valid for
    /// the host.
    takes_hosts: bool,
}

impl MemberCertificates {
    pub(super) fn new(authority: &Arc<Authority>) -> MemberCertificates {
        MemberCertificates {
            authority: authority.clone(),
            takes_hosts: false,
        }
    }

    /// Also accepts the certificate of a proxy that is valid for its host.
    pub(super) fn or_of_host(authority: Authority) -> MemberCertificates {
        MemberCertificates {
            authority: Arc::new(authority),
            takes_hosts: true,
        }
    }
}

impl MemberCertificates {
    /// Checks a certificate that was accepted before.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let (own, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        // Only the certificates of proxies are checked against a host.
        let host = ServerName::try_from("raftkvd.invalid").expect("it is a name");
        self.verify_server_cert(own, intermediates, &host, &[], UnixTime::now())?;
        Ok(())
    }
}

impl ServerCertVerifier for MemberCertificates {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_length(intermediates)?;
        let parsed = ParsedCertificate::try_from(certificate)?;
        let Authority {
            roots, algorithms, ..
        } = &*self.authority;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            roots,
            intermediates,
            now,
            algorithms.all,
        )?;
        if self.takes_hosts && facts(certificate) == Err(FactsError::NoName) {
            verify_server_name(&parsed, host)?;
            return Ok(ServerCertVerified::assertion());
        }
        match self.authority.take(certificate)?.name.subject {
            Subject::Member(_) => Ok(ServerCertVerified::assertion()),
            Subject::Client { .. } => Err(NotTaken::Client.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.authority.algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.authority.algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authority.algorithms.supported_schemes()
    }
}
