//! The certificate that the other side of a connection has shown. A connection may outlive it: the certificate can end, its
//! CA can leave `ca.pem`, and its key can be revoked. So [`Shown::check`] is called again while the connection is open.

use super::{Credentials, Tls, explain};
use crate::certificates::{Facts, KeyFingerprint};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};
use std::sync::Arc;
use std::time::SystemTime;

/// The other side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A client that has connected.
    Client,
    /// A peer that has connected.
    Peer,
    /// A member that this one has dialled.
    Dialled,
}

/// The certificate that the other side of a connection has shown.
#[derive(Debug)]
pub struct Shown {
    /// What it says.
    pub facts: Facts,
    side: Side,
    /// The certificate, and the intermediates that came with it.
    chain: Vec<CertificateDer<'static>>,
    /// The credentials of this member in the handshake.
    own: Arc<Credentials>,
    /// The newest credentials that accept the certificate. A check is needed only when there are newer ones.
    accepted_by: Mutex<Arc<Credentials>>,
}

/// Why a certificate is not accepted any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLonger {
    /// The file `revoked` names its key.
    #[error("the key of its certificate is revoked")]
    Revoked,
    /// It has ended, or its CA is not trusted any more. The text says which.
    #[error("its certificate is not accepted any more: {0}")]
    Invalid(String),
}

impl Shown {
    pub(super) fn new(
        facts: Facts,
        side: Side,
        chain: Vec<CertificateDer<'static>>,
        own: Arc<Credentials>,
    ) -> Shown {
        Shown {
            facts,
            side,
            chain,
            accepted_by: Mutex::new(own.clone()),
            own,
        }
    }

    /// The key of the other side.
    pub fn key(&self) -> KeyFingerprint {
        self.facts.fingerprint
    }

    /// The key with which this member has proved its own identity on the connection.
    pub fn own_key(&self) -> KeyFingerprint {
        self.own.own().fingerprint
    }

    /// Whether this member has another certificate now than on the connection.
    pub fn is_renewed(&self, tls: &Tls) -> bool {
        !self.own.has_same_certificate(&tls.credentials())
    }

    /// Whether the certificate is still accepted. Cheap unless the credentials have changed.
    pub fn check(&self, tls: &Tls) -> Result<(), NoLonger> {
        let invalid = |error: &Error| NoLonger::Invalid(explain::of_certificate(error));
        if SystemTime::now() > self.facts.not_after {
            let expired = Error::InvalidCertificate(CertificateError::Expired);
            return Err(invalid(&expired));
        }
        let current = tls.credentials();
        let mut accepted_by = self.accepted_by.lock();
        if Arc::ptr_eq(&accepted_by, &current) {
            return Ok(());
        }
        match current.check(self.side, &self.chain) {
            Ok(()) => {
                *accepted_by = current;
                Ok(())
            }
            Err(Error::InvalidCertificate(CertificateError::Revoked)) => Err(NoLonger::Revoked),
            Err(error) => Err(invalid(&error)),
        }
    }
}
