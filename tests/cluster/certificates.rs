//! Certificates of a cluster: those that `raftkvd cert` makes, and others that a member has to refuse.

use crate::process::{daemon, run_to_end};
use raftkvd::certificates::{
    Ca, Folder, KeyFingerprint, Name, Order, Role, Subject, Tag, Validity, ca, folder, pem,
};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The directory of a CA.
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes a CA in this directory, with certificates for the members at these URLs and for an administrator.
    #[track_caller]
    pub fn make(directory: &Path, urls: &[String]) -> Certificates {
        let certificates = Certificates {
            directory: directory.join("certs"),
        };
        match urls {
            [] => {
                let tag = ca::new_tag().expect("a tag");
                let (now, days) = (SystemTime::now(), validity(90));
                let made = folder::create(&certificates.directory, tag, &[], now, days);
                made.expect("a CA");
                certificates.run(&["client", "admin"]);
            }
            urls => certificates.run(&["--cluster", &urls.join(",")]),
        }
        certificates
    }

    /// Runs `raftkvd cert` on the directory. The words are a subcommand with its arguments, or options.
    #[track_caller]
    pub fn run(&self, words: &[&str]) {
        let (subcommand, options) = match words {
            [first, rest @ ..] if !first.starts_with("--") => (vec![*first], rest),
            options => (Vec::new(), options),
        };
        let parent = self.directory.parent().expect("a parent");
        let mut command = daemon(parent);
        command.arg("cert").args(&subcommand);
        // The name of a client comes before the directory.
        let (name, options) = match (subcommand.first(), options) {
            (Some(&"client"), [name, rest @ ..]) => (Some(*name), rest),
            _ => (None, options),
        };
        command.args(name).arg(&self.directory).args(options);
        let ended = run_to_end(&mut command);
        assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    pub fn of_member(&self, id: u64) -> PathBuf {
        self.directory.join(format!("member-{id}"))
    }

    pub fn of_client(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes the certificate of a member, if there is none.
    #[track_caller]
    pub fn add_member(&self, id: u64) {
        if !self.of_member(id).exists() {
            self.run(&["member", "--id", &id.to_string()]);
        }
    }

    /// Makes a certificate with a new key for a member: the removal of a member revokes its key.
    #[track_caller]
    pub fn replace_member(&self, id: u64) {
        let directory = self.of_member(id);
        let old = (1..).map(|number| directory.with_extension(format!("{number}.old")));
        let old = old.into_iter().find(|old| !old.exists());
        fs::rename(&directory, old.expect("a free name")).expect("move the old certificate away");
        self.add_member(id);
    }

    /// The fingerprint of the key of the member or client with this directory.
    pub fn fingerprint(&self, directory: &Path) -> KeyFingerprint {
        let folder = Folder::open(&self.directory).expect("the CA");
        let owners = folder.owners().expect("the owners").found;
        let mut owners = owners.iter();
        let owner = owners.find(|owner| owner.directory == directory);
        owner.expect("there is one").facts.fingerprint
    }

    /// Issues another certificate for the key of a member or a client, into its directory.
    #[track_caller]
    pub fn reissue(&self, directory: &Path, validity: Validity) {
        let folder = Folder::open(&self.directory).expect("the CA");
        let owners = folder.owners().expect("the owners");
        let mut owners = owners.found.into_iter();
        let owner = owners.find(|owner| owner.directory == directory);
        let renewed = folder.renew(&mut owner.expect("there is one"), validity);
        renewed.expect("a renewed certificate");
    }

    /// The certificates with which the administrator dials.
    pub fn admin(&self) -> Arc<ClientConfig> {
        client_config(&self.of_client("admin"), Some("client"))
    }

    /// The settings of a client without a certificate.
    pub fn nobody(&self) -> Arc<ClientConfig> {
        client_config(&self.of_client("admin"), None)
    }

    /// The certificates with which this member dials.
    pub fn member(&self, id: u64) -> Arc<ClientConfig> {
        client_config(&self.of_member(id), Some("member"))
    }
}

/// A validity that has started an hour ago and ends in this number of days.
pub fn validity(days: u32) -> Validity {
    Validity::days(SystemTime::now(), days)
}

/// A validity that has ended a day ago.
pub fn expired() -> Validity {
    let now = SystemTime::now();
    Validity {
        not_before: now - 9 * DAY,
        not_after: now - DAY,
    }
}

/// A validity that starts in a day.
pub fn future() -> Validity {
    let now = SystemTime::now();
    Validity {
        not_before: now + DAY,
        not_after: now + 9 * DAY,
    }
}

/// An administrator.
pub fn client(name: &str) -> Order {
    Order {
        subject: Subject::Client {
            name: name.to_owned(),
            role: Role::Admin,
        },
        hosts: Vec::new(),
    }
}

impl Certificates {
    /// Makes a directory with files of this CA for the owner of the order, beside the directories of the CA.
    pub fn issue(&self, order: &Order, validity: Validity) -> PathBuf {
        let folder = Folder::open(&self.directory).expect("the CA");
        let key = ca::new_key().expect("a key");
        let issued = folder.ca().issue(order, &key, validity);
        self.write(order, &issued.expect("a certificate"), &key)
    }

    /// The same with the signature of another CA, which has the same name and tag.
    pub fn forge(&self, order: &Order) -> PathBuf {
        let tag = self.tag();
        let [key, other_key] = [(); 2].map(|()| ca::new_key().expect("a key"));
        let other = Ca::make(tag, other_key, SystemTime::now()).expect("another CA");
        let issued = other.issue(order, &key, validity(9));
        self.write(order, &issued.expect("a certificate"), &key)
    }

    /// The same with the signature of this CA and the tag of another cluster.
    pub fn issue_with_tag(&self, tag: Tag, subject: Subject) -> PathBuf {
        let key = ca::new_key().expect("a key");
        let mut params = CertificateParams::default();
        let uri = Name {
            tag,
            subject: subject.clone(),
        };
        let uri = uri.to_string().try_into().expect("a URI is ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        let ca_key = fs::read_to_string(self.directory.join("ca.key")).expect("the key of the CA");
        let ca_key = KeyPair::from_pem(&ca_key).expect("the key of the CA");
        let ca = read(&self.directory.join("ca.pem")).remove(0);
        let issuer = Issuer::from_ca_cert_der(&ca, ca_key).expect("the CA");
        let issued = params.signed_by(&key, &issuer).expect("a certificate");
        let order = Order {
            subject,
            hosts: Vec::new(),
        };
        self.write(&order, issued.der(), &key)
    }

    /// The tag of the cluster.
    pub fn tag(&self) -> Tag {
        let folder = Folder::open(&self.directory).expect("the CA");
        folder.ca().facts().tag
    }

    fn write(&self, order: &Order, certificate: &[u8], key: &KeyPair) -> PathBuf {
        let (file, key_file) = order.subject.files();
        // Outside of the directory, in which only `raftkvd cert` makes files.
        let beside = self.directory.with_file_name("other-certs");
        fs::create_dir_all(&beside).expect("create a directory");
        let number = fs::read_dir(&beside).expect("list a directory").count();
        let to = beside.join(number.to_string());
        fs::create_dir(&to).expect("create a directory");
        fs::copy(self.directory.join("ca.pem"), to.join("ca.pem")).expect("copy ca.pem");
        fs::write(to.join(file), pem::write_certificate(certificate)).expect("write a file");
        fs::write(to.join(key_file), key.serialize_pem()).expect("write a file");
        to
    }
}

/// The settings of a client with the files of this directory: `<name>.pem` and `<name>.key`, or no certificate. The client
/// checks the hosts of members, as curl does.
pub fn client_config(directory: &Path, name: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in read(&directory.join("ca.pem")) {
        roots.add(certificate).expect("a CA");
    }
    let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let verifier: Arc<dyn ServerCertVerifier> = roots.build().expect("a verifier");
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(name) = name else {
        return Arc::new(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key")));
    let chain = read(&directory.join(format!("{name}.pem")));
    let config = builder.with_client_auth_cert(chain, key.expect("a key"));
    Arc::new(config.expect("a certificate with its key"))
}

fn read(path: &Path) -> Vec<CertificateDer<'static>> {
    let read = CertificateDer::pem_file_iter(path).expect("a file in PEM form");
    read.map(|certificate| certificate.expect("a certificate"))
        .collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
