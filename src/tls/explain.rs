//! Explains a failure of TLS in one line for a person.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use std::io;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

const TIME: StaticFormatDescription =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");

/// Makes the text of an error of rustls readable. The kind stays.
pub(super) fn readable(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner.map(line) {
        Some(line) => io::Error::new(error.kind(), line),
        None => error,
    }
}

/// The same for an error of a handshake.
pub(super) fn handshake(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(
            error.kind(),
            "it closed the connection during the TLS handshake",
        ),
        _ => readable(error),
    }
}

/// Explains an error of a connection. `it` is the other side.
pub(super) fn line(error: &Error) -> String {
    match error {
        Error::AlertReceived(alert) => said(*alert),
        Error::InvalidCertificate(error) => {
            format!("its certificate is not accepted: {}", wrong(error))
        }
        Error::NoCertificatesPresented => {
            "it has no certificate, and this port needs that of a member".to_owned()
        }
        // The first byte of an answer in HTTP.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS: start it with --tls too, or this side without".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => "it speaks an older version of TLS only".to_owned(),
        error => error.to_string(),
    }
}

/// Explains what is wrong with the certificate of the other side.
pub(super) fn of_certificate(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => wrong(error),
        error => line(error),
    }
}

/// Explains what is wrong with the own certificate, and what to do about it.
pub(super) fn own(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => {
            let hint = match error {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "; renew it with `raftkvd cert renew` where the CA is, and copy it here"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "; is the clock of this machine right?"
                }
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "; copy all files again from where `raftkvd cert` made them"
                }
                CertificateError::Revoked => "; make a new one with `raftkvd cert`",
                _ => "",
            };
            format!("{}{hint}", wrong(error))
        }
        error => error.to_string(),
    }
}

/// Explains what is wrong with a certificate.
fn wrong(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired on {}", date(not_after.as_secs()))
        }
        CertificateError::NotValidYet => "it is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, time } => format!(
            "it is valid from {} on, and the clock of this machine says {}",
            date(not_before.as_secs()),
            date(time.as_secs())
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no CA in ca.pem has signed it".to_owned()
        }
        CertificateError::Revoked => "its key is revoked".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is for another purpose".to_owned()
        }
        CertificateError::Other(reason) => reason.to_string(),
        error => error.to_string(),
    }
}

/// Explains an alert that the other side has sent.
fn said(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::CertificateRequired => {
            "it asks for a certificate, and this side has none"
        }
        // The second alert comes if the other side trusts a CA with the name of this CA and another key, as in a rotation.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "none of the CAs that it trusts has signed our certificate"
        }
        AlertDescription::CertificateExpired => {
            "our certificate is not valid at its time: it has expired, or one of the two clocks is wrong"
        }
        AlertDescription::CertificateRevoked => "the key of our certificate is revoked there",
        AlertDescription::CertificateUnknown | AlertDescription::BadCertificate => {
            "it does not accept our certificate: its log says why"
        }
        AlertDescription::ProtocolVersion => "it speaks another version of TLS",
        alert => return format!("it ended the handshake ({alert:?})"),
    };
    format!("it refuses this side: {what}")
}

/// A time in seconds since 1970.
pub(super) fn date(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let time = time.and_then(|_| i64::try_from(seconds).ok());
    let time = time.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let text = time.and_then(|time| time.format(TIME).ok());
    text.unwrap_or_else(|| "a time that can't be shown".to_owned())
}
