//! PEM: the text form of certificates and keys in files.

use super::files::FILE_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Characters of base64 in a line.
const LINE: usize = 64;

/// One certificate as PEM.
pub fn write_certificate(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let encoded = STANDARD.encode(der);
    for at in (0..encoded.len()).step_by(LINE) {
        let end = encoded.len().min(at + LINE);
        text.push_str(&encoded[at..end]);
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// All certificates in a text, in their order. At least one; anything else in the text is skipped.
pub fn read_certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if text.len() > FILE_BYTES_MAX {
        return Err("it is too large for a file of certificates".to_owned());
    }
    let read = CertificateDer::pem_slice_iter(text)
        .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
        .collect::<Result<Vec<_>, _>>();
    match read {
        Ok(found) if found.is_empty() => Err("it holds no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("it is not valid PEM ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_as_they_are_written() {
        for bytes in [0, 1, 47, 48, 49, 700] {
            let first = vec![7; bytes];
            let text = write_certificate(&first) + "# a note\n" + &write_certificate(b"second");
            let read = read_certificates(text.as_bytes()).unwrap();
            assert_eq!(read, [first, b"second".to_vec()]);
            assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
        }
    }

    #[test]
    fn a_text_without_a_certificate_is_refused() {
        for text in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            let why = read_certificates(text.as_bytes()).unwrap_err();
            assert!(why.starts_with("it ") && !why.contains('\n'), "{why}");
        }
    }
}
