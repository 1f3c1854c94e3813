//! The directory of `--tls`: its files, and the TLS configurations that follow from them.
//!
//! ```text
//! ca.pem                      one CA, or two while one takes the place of the other
//! member.pem, member.key      the certificate of a member and its key
//! client.pem, client.key      the certificate of a client and its key, in the place of those of a member
//! revoked                     fingerprints of revoked keys, one a line; may be absent
//! ```
//!
//! All files are checked before one is used, so a directory in which only some files are replaced changes nothing.

use super::shown::Side;
use super::verify::{Accepts, Authority, ClientCertificates, MemberCertificates, provider};
use crate::certificates::ca::is_ca;
use crate::certificates::files;
use crate::certificates::{Facts, FactsError, KeyFingerprint, Subject, Tag, facts};
use crate::config::TlsOptions;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// Plaintext that one connection may hold before it is encrypted, in bytes. The encrypted bytes are limited by the same
/// number.
pub(super) const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Why a directory can't be used. Each text is one line and names the file.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is missing or can't be read.
    #[error("can't read {}: {error}; `raftkvd cert --help` says how the files are made", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A file has the wrong contents.
    #[error("{} {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("{} is not the key of {}; copy both again from where `raftkvd cert` made them", key.display(), certificate.display())]
    OtherKey {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// The certificate is that of another member, or of a client.
    #[error("{} is the certificate of {actual}, and this is member {expected}; give the directory of member {expected} to --tls", path.display())]
    OtherOwner {
        /// The certificate.
        path: PathBuf,
        /// The owner, in words.
        actual: String,
        /// The id of this member.
        expected: u64,
    },
    /// The other members would not accept the certificate.
    #[error("{} is not valid: {why}", path.display())]
    NotTrusted {
        /// The certificate.
        path: PathBuf,
        /// What to do about it.
        why: String,
    },
    /// The certificates are those of another cluster than the one that this member runs in.
    #[error("the certificates in {} are of another cluster (tag {actual}); restart with them if that is meant", dir.display())]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// The tag of the other cluster.
        actual: Tag,
    },
}

/// The credentials of a member, checked.
#[derive(Debug)]
pub struct Credentials {
    files: Files,
    allows_tls12: bool,
    of_clients: Arc<ClientCertificates>,
    of_peers: Arc<ClientCertificates>,
    of_dialled: Arc<MemberCertificates>,
    pub(super) for_clients: Arc<ServerConfig>,
    pub(super) for_peers: Arc<ServerConfig>,
    pub(super) dialling: Arc<ClientConfig>,
}

impl Credentials {
    /// Reads and checks the directory of a member.
    pub fn load(options: &TlsOptions) -> Result<Credentials, TlsError> {
        let files = Files::read(&options.dir, "member")?;
        let Subject::Member(id) = files.own.name.subject else {
            return Err(files.other_owner(options.member));
        };
        if id != options.member {
            return Err(files.other_owner(options.member));
        }
        files.check_own()?;
        Credentials::of(files, options.allows_tls12)
    }

    fn of(files: Files, allows_tls12: bool) -> Result<Credentials, TlsError> {
        let authority = files.authority();
        let accepting = |accepts| Arc::new(ClientCertificates::new(&authority, accepts));
        let (of_clients, of_peers) = (
            accepting(Accepts::AnybodyOrKnown),
            accepting(Accepts::Members),
        );
        let of_dialled = Arc::new(MemberCertificates::new(&authority));
        let client_versions: &[_] = match allows_tls12 {
            true => &[&rustls::version::TLS13, &rustls::version::TLS12],
            false => &[&rustls::version::TLS13],
        };
        let mut for_clients = files.server_config(of_clients.clone(), client_versions)?;
        for_clients.alpn_protocols = vec![b"http/1.1".to_vec()];
        let for_peers = files.server_config(of_peers.clone(), &[&rustls::version::TLS13])?;
        Ok(Credentials {
            dialling: Arc::new(files.client_config(of_dialled.clone())?),
            for_clients: Arc::new(for_clients),
            for_peers: Arc::new(for_peers),
            of_clients,
            of_peers,
            of_dialled,
            files,
            allows_tls12,
        })
    }

    /// The same credentials with further revoked keys. The own key may be one of them: the member keeps serving then, and
    /// the other members decide.
    pub(super) fn also_revoking(
        &self,
        keys: &BTreeSet<KeyFingerprint>,
    ) -> Result<Credentials, TlsError> {
        let mut files = self.files.copy();
        files.revoked.extend(keys);
        Credentials::of(files, self.allows_tls12)
    }

    /// The facts of the own certificate.
    pub fn own(&self) -> &Facts {
        &self.files.own
    }

    /// Whether both prove the identity of this member by the same certificate.
    pub(super) fn has_same_certificate(&self, other: &Credentials) -> bool {
        self.files.chain == other.files.chain
    }

    /// Checks a certificate that the other side of a connection has shown earlier.
    pub(super) fn check(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        match side {
            Side::Client => self.of_clients.check(chain),
            Side::Peer => self.of_peers.check(chain),
            Side::Dialled => self.of_dialled.check(chain),
        }
    }

    /// The keys that the file `revoked` names.
    pub fn revoked(&self) -> &BTreeSet<KeyFingerprint> {
        &self.files.revoked
    }

    /// Whether the file revokes this key.
    pub fn revokes(&self, key: KeyFingerprint) -> bool {
        self.files.revoked.contains(&key)
    }

    /// How long the certificate of this process stays valid. `None`: it has expired.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        self.own().not_after.duration_since(now).ok()
    }
}

/// The files of a directory. Each is well-formed, and the key belongs to the certificate.
#[derive(Debug)]
pub(super) struct Files {
    certificate_path: PathBuf,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub(super) own: Facts,
    revoked: BTreeSet<KeyFingerprint>,
}

impl Files {
    /// Reads `ca.pem`, the certificate `<name>.pem` and its key `<name>.key`, and `revoked` if that file is there.
    pub(super) fn read(dir: &Path, name: &str) -> Result<Files, TlsError> {
        let certificate = dir.join(format!("{name}.pem"));
        let key = dir.join(format!("{name}.key"));
        let revoked = read_revoked(dir)?;
        Files::of(&dir.join("ca.pem"), &certificate, &key, revoked)
    }

    /// Reads the files at these paths.
    pub(super) fn of(
        ca: &Path,
        certificate: &Path,
        key_path: &Path,
        revoked: BTreeSet<KeyFingerprint>,
    ) -> Result<Files, TlsError> {
        let roots = read_roots(ca)?;
        let chain = read_certificates(certificate)?;
        let key = read_key(key_path)?;
        let own = facts(&chain[0]).map_err(|error: FactsError| {
            malformed(
                certificate,
                format!("can't be used: {error}; make it with `raftkvd cert`"),
            )
        })?;
        let files = Files {
            certificate_path: certificate.to_owned(),
            roots: Arc::new(roots),
            chain,
            key,
            own,
            revoked,
        };
        files.with_own_key(key_path)
    }

    /// Checks that the key belongs to the certificate.
    fn with_own_key(self, key_path: &Path) -> Result<Files, TlsError> {
        let signing = provider()
            .key_provider
            .load_private_key(self.key.clone_key());
        let signing = signing.map_err(|error| {
            malformed(key_path, format!("holds no key that can be used: {error}"))
        })?;
        let public = signing
            .public_key()
            .map(|public| KeyFingerprint::of(&public));
        if public != Some(self.own.fingerprint) {
            return Err(TlsError::OtherKey {
                key: key_path.to_owned(),
                certificate: self.certificate_path,
            });
        }
        Ok(self)
    }

    fn other_owner(&self, expected: u64) -> TlsError {
        let actual = match &self.own.name.subject {
            Subject::Member(id) => format!("member {id}"),
            Subject::Client { name, .. } => format!("client {name}"),
        };
        let path = self.certificate_path.clone();
        TlsError::OtherOwner {
            path,
            actual,
            expected,
        }
    }

    fn copy(&self) -> Files {
        Files {
            certificate_path: self.certificate_path.clone(),
            roots: self.roots.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            own: self.own.clone(),
            revoked: self.revoked.clone(),
        }
    }

    /// Decides which certificates of other processes are accepted.
    pub(super) fn authority(&self) -> Arc<Authority> {
        let tag = self.own.name.tag;
        let authority = Authority::new(self.roots.clone(), Some(tag), self.revoked.clone());
        Arc::new(authority)
    }

    /// Checks that the own certificate would be accepted.
    pub(super) fn check_own(&self) -> Result<(), TlsError> {
        let own = self.authority().check_own(&self.chain[0], &self.chain[1..]);
        own.map_err(|why| TlsError::NotTrusted {
            path: self.certificate_path.clone(),
            why,
        })
    }

    /// The same for a command, which may dial a proxy with a certificate of another CA. It accepts any tag.
    pub(super) fn any_authority(&self) -> Authority {
        Authority::new(self.roots.clone(), None, self.revoked.clone())
    }

    fn server_config(
        &self,
        verifier: Arc<ClientCertificates>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ServerConfig, TlsError> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(self.chain.clone(), self.key.clone_key())
            });
        let mut config = config.map_err(|error| self.unusable(&error))?;
        // A resumed session would skip the check of the certificate, which may have been revoked since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    pub(super) fn client_config(
        &self,
        verifier: Arc<MemberCertificates>,
    ) -> Result<ClientConfig, TlsError> {
        let config = dialling_builder(verifier)
            .and_then(|builder| {
                builder.with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|error| self.unusable(&error))?;
        Ok(without_resumption(config))
    }

    fn unusable(&self, error: &rustls::Error) -> TlsError {
        malformed(&self.certificate_path, format!("can't be used: {error}"))
    }
}

type DiallingBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

/// The start of a configuration for dialling. Members speak TLS 1.3. A proxy in front of a member may speak TLS 1.2 only.
pub(super) fn dialling_builder(
    verifier: Arc<MemberCertificates>,
) -> Result<DiallingBuilder, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

pub(super) fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = rustls::client::Resumption::disabled();
    config
}

pub(super) fn malformed(path: &Path, why: impl Into<String>) -> TlsError {
    TlsError::Malformed {
        path: path.to_owned(),
        why: why.into(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    files::read(path).map_err(|error| TlsError::Unreadable {
        path: path.to_owned(),
        error: error.into_source(),
    })
}

/// Reads the certificates in a file. There is at least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(malformed(path, "holds no certificate in PEM form")),
        Err(error) => Err(malformed(path, format!("is not in PEM form: {error}"))),
    }
}

/// Reads the CAs that are trusted.
pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        // The TLS library takes every certificate for a CA that is given to it as one. The owner of its key could then
        // issue certificates for any name.
        if !is_ca(&certificate) {
            return Err(malformed(
                path,
                "holds a certificate that is not of a CA; take it out",
            ));
        }
        let added = roots.add(certificate);
        added
            .map_err(|error| malformed(path, format!("holds a CA that can't be used: {error}")))?;
    }
    Ok(roots)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    // The error must not quote the file.
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| malformed(path, "holds no private key in PEM form"))
}

/// Reads the fingerprints of revoked keys. Empty lines are skipped, and so are comments after a `#`.
pub(super) fn read_revoked(dir: &Path) -> Result<BTreeSet<KeyFingerprint>, TlsError> {
    let path = &dir.join("revoked");
    let bytes = match read(path) {
        Err(TlsError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(BTreeSet::new());
        }
        read => read?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut revoked = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let key = line.to_ascii_lowercase().parse();
        revoked.insert(key.map_err(|why: String| {
            malformed(path, format!("has an error in line {}: {why}", number + 1))
        })?);
    }
    Ok(revoked)
}
