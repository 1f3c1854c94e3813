//! Which directories are used, and which certificates are accepted: the reason of each refusal, word for word.

mod again;

use super::client::ClientTls;
use super::credentials::{Files, read_roots};
use super::verify::{Accepts, Authority, ClientCertificates, MemberCertificates};
use super::{Credentials, TlsError, explain};
use crate::certificates::{
    Ca, Folder, KeyFingerprint, Name, Order, Role, Subject, Tag, Validity, folder, pem,
};
use crate::certificates::{ca, facts};
use crate::config::{ClientFiles, TlsOptions};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, RootCertStore};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TAG: Tag = Tag(7);

/// The directory of a CA with members 1 and 2 and the client ops.
struct Made(TempDir);

impl Made {
    fn new() -> Made {
        let made = Made(TempDir::new().unwrap());
        let client = Order {
            subject: ops(),
            hosts: Vec::new(),
        };
        let orders = [Order::member(1, []), Order::member(2, []), client];
        let now = SystemTime::now();
        folder::create(&made.ca(), TAG, &orders, now, Validity::days(now, 90)).unwrap();
        made
    }

    fn ca(&self) -> PathBuf {
        self.0.path().join("ca")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.ca().join("member-1").join(file)
    }

    fn load(&self) -> Result<Credentials, TlsError> {
        Credentials::load(&self.options())
    }

    fn options(&self) -> TlsOptions {
        TlsOptions {
            dir: self.ca().join("member-1"),
            member: 1,
            allows_tls12: false,
        }
    }

    /// The fingerprint of the key of the certificate in this file.
    fn print(&self, file: &str) -> KeyFingerprint {
        facts(&self.certificate(file)).unwrap().fingerprint
    }

    /// The directory fails with this text, in which DIR stands for its path.
    #[track_caller]
    fn assert_refused(&self, text: &str) {
        let dir = self.ca().join("member-1").display().to_string();
        let error = self.load().unwrap_err().to_string();
        assert_eq!(error.replace(&dir, "DIR"), text);
    }

    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.ca().join(from), self.path(to)).unwrap();
    }

    /// Puts another certificate for the key of member 1 in the place of the first.
    fn reissue(&self, validity: Validity) {
        let folder = Folder::open(&self.ca()).unwrap();
        let mut owners = folder.owners().unwrap().found;
        folder.renew(&mut owners[0], validity).unwrap();
    }

    fn certificate(&self, file: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.ca().join(file)).unwrap()
    }

    fn authority(&self) -> Arc<Authority> {
        let files = Files::read(&self.ca().join("member-1"), "member").unwrap();
        files.authority()
    }

    /// A certificate of this CA with any names.
    fn issue(&self, names: Vec<SanType>) -> CertificateDer<'static> {
        let key = fs::read_to_string(self.ca().join("ca.key")).unwrap();
        let ca = self.certificate("ca.pem");
        let issuer = Issuer::from_ca_cert_der(&ca, KeyPair::from_pem(&key).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let issued = params.signed_by(&KeyPair::generate().unwrap(), &issuer);
        issued.unwrap().der().clone()
    }
}

fn ops() -> Subject {
    Subject::Client {
        name: "ops".to_owned(),
        role: Role::Admin,
    }
}

fn uri(tag: Tag, subject: Subject) -> SanType {
    let name = Name { tag, subject };
    SanType::URI(name.to_string().try_into().unwrap())
}

#[test]
fn a_good_directory_is_used_and_each_bad_one_is_refused_with_its_reason() {
    let made = Made::new();
    let loaded = made.load().unwrap();
    assert_eq!(loaded.own().name.subject, Subject::Member(1));
    assert_eq!((loaded.own().name.tag, loaded.revoked().len()), (TAG, 0));
    let left = loaded.left(SystemTime::now()).unwrap();
    assert!(left > 89 * DAY && left <= 90 * DAY, "{left:?}");
    assert_eq!(loaded.left(loaded.own().not_after + DAY), None);

    made.copy("member-2/member.key", "member.key");
    made.assert_refused(
        "DIR/member.key is not the key of DIR/member.pem; copy both again from where `raftkvd cert` made them",
    );
    made.copy("member-2/member.pem", "member.pem");
    made.assert_refused(
        "DIR/member.pem is the certificate of member 2, and this is member 1; give the directory of member 1 to --tls",
    );
    made.copy("ops/client.pem", "member.pem");
    made.copy("ops/client.key", "member.key");
    made.assert_refused(
        "DIR/member.pem is the certificate of client ops, and this is member 1; give the directory of member 1 to --tls",
    );
    fs::write(made.path("member.key"), "no key").unwrap();
    made.assert_refused("DIR/member.key holds no private key in PEM form");
    fs::write(made.path("member.pem"), "no certificate").unwrap();
    made.assert_refused("DIR/member.pem holds no certificate in PEM form");
    fs::write(made.path("ca.pem"), vec![b'x'; (1 << 20) + 1]).unwrap();
    made.assert_refused(
        "can't read DIR/ca.pem: it is too large for a file of certificates; `raftkvd cert --help` says how the files are made",
    );
    fs::remove_file(made.path("ca.pem")).unwrap();
    made.assert_refused(
        "can't read DIR/ca.pem: No such file or directory (os error 2); `raftkvd cert --help` says how the files are made",
    );
    fs::create_dir(made.path("ca.pem")).unwrap();
    made.assert_refused(
        "can't read DIR/ca.pem: it is no regular file; `raftkvd cert --help` says how the files are made",
    );
}

#[test]
fn a_certificate_that_others_would_refuse_is_refused_by_its_owner() {
    let made = Made::new();
    let now = SystemTime::now();
    let date = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        explain::date(since.as_secs())
    };
    let (before, after) = (now - 9 * DAY, now - DAY);
    made.reissue(Validity {
        not_before: before,
        not_after: after,
    });
    made.assert_refused(&format!(
        "DIR/member.pem is not valid: it expired on {}; renew it with `raftkvd cert renew` where the CA is, and copy it here",
        date(after)
    ));
    made.reissue(Validity {
        not_before: now + DAY,
        not_after: now + 9 * DAY,
    });
    let error = made.load().unwrap_err().to_string();
    let start = format!(
        "is not valid: it is valid from {} on, and the clock of this machine says ",
        date(now + DAY)
    );
    assert!(error.contains(&start), "{error}");
    assert!(
        error.ends_with("; is the clock of this machine right?"),
        "{error}"
    );

    made.reissue(Validity::days(now, 9));
    let other = Ca::make(TAG, ca::new_key().unwrap(), now).unwrap();
    fs::write(
        made.path("ca.pem"),
        pem::write_certificate(other.certificate()),
    )
    .unwrap();
    made.assert_refused(
        "DIR/member.pem is not valid: no CA in ca.pem has signed it; copy all files again from where `raftkvd cert` made them",
    );
    // Both CAs, as during a rotation.
    let both = pem::write_certificate(other.certificate())
        + &fs::read_to_string(made.ca().join("ca.pem")).unwrap();
    fs::write(made.path("ca.pem"), both).unwrap();
    made.load().unwrap();
}

#[test]
fn only_the_certificate_of_a_ca_is_trusted_as_one() {
    let made = Made::new();
    let ca = made.path("ca.pem");
    let leaf = fs::read_to_string(made.path("member.pem")).unwrap();
    let both = fs::read_to_string(&ca).unwrap() + &leaf;
    fs::write(&ca, both).unwrap();
    made.assert_refused("DIR/ca.pem holds a certificate that is not of a CA; take it out");
    let error = ClientTls::load(&ClientFiles::Files { ca, own: None }).unwrap_err();
    let why = "holds a certificate that is not of a CA; take it out";
    assert!(error.to_string().ends_with(why), "{error}");
}

#[test]
fn a_pipe_in_the_place_of_a_file_holds_nothing_up() {
    let made = Made::new();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    for file in ["revoked", "ca.pem"] {
        let _ = fs::remove_file(made.path(file));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            made.path(file),
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .unwrap();
        let error = made.load().unwrap_err().to_string();
        assert!(error.contains("it is no regular file"), "{error}");
        fs::remove_file(made.path(file)).unwrap();
    }
}

#[test]
fn a_long_chain_is_refused_before_it_is_checked() {
    let made = Made::new();
    let member = made.certificate("member-2/member.pem");
    let ca = made.certificate("ca.pem");
    let name = ServerName::try_from("any.example").unwrap();
    let authority = made.authority();
    let accepting = ClientCertificates::new(&authority, Accepts::AnybodyOrKnown);
    let dialling = MemberCertificates::new(&authority);
    for (count, expected) in [(3, None), (4, Some("it comes with 4 certificates of CAs"))] {
        let chain = vec![ca.clone(); count];
        let now = UnixTime::now();
        let accepted = accepting.verify_client_cert(&member, &chain, now);
        let dialled = dialling.verify_server_cert(&member, &chain, &name, &[], now);
        for error in [accepted.err(), dialled.err()] {
            let line = error.as_ref().map(explain::line);
            match expected {
                Some(why) => assert!(
                    line.as_ref().is_some_and(|line| line.contains(why)),
                    "{line:?}"
                ),
                None => assert_eq!(line, None),
            }
        }
    }
}

#[test]
fn the_list_of_revoked_keys_is_read_as_people_write_it() {
    let made = Made::new();
    let print = facts(&made.certificate("member-2/member.pem"))
        .unwrap()
        .fingerprint;
    let text = print.to_string();
    let upper = text.to_uppercase();
    fs::write(
        made.path("revoked"),
        format!("# lost\r\n\r\n  {upper} # member 2\r\n{text}"),
    )
    .unwrap();
    let loaded = made.load().unwrap();
    assert!(loaded.revokes(print) && loaded.revoked().len() == 1);
    assert!(!loaded.revokes(loaded.own().fingerprint));

    for (list, line) in [
        ("abc", 1),
        ("\n# x\nabc", 3),
        (&*format!("{text}\n{text}0"), 2),
    ] {
        fs::write(made.path("revoked"), list).unwrap();
        let error = made.load().unwrap_err().to_string();
        let start = format!(
            "{} has an error in line {line}: ",
            made.path("revoked").display()
        );
        assert!(
            error.starts_with(&start) && !error.contains('\n'),
            "{error}"
        );
    }
    let own = loaded.own().fingerprint;
    fs::write(made.path("revoked"), own.to_string()).unwrap();
    made.assert_refused(
        "DIR/member.pem is not valid: its key is revoked; make a new one with `raftkvd cert`",
    );
    fs::remove_file(made.path("revoked")).unwrap();
    fs::create_dir(made.path("revoked")).unwrap();
    made.assert_refused(
        "can't read DIR/revoked: it is no regular file; `raftkvd cert --help` says how the files are made",
    );
}

#[test]
fn a_command_takes_the_directory_of_a_client_or_a_member_or_single_files() {
    let made = Made::new();
    for directory in ["ops", "member-2"] {
        ClientTls::load(&ClientFiles::Dir(made.ca().join(directory))).unwrap();
    }
    let (ca, file) = (made.ca().join("ca.pem"), |file| {
        made.ca().join("ops").join(file)
    });
    let own = Some((file("client.pem"), file("client.key")));
    ClientTls::load(&ClientFiles::Files {
        ca: ca.clone(),
        own,
    })
    .unwrap();
    ClientTls::load(&ClientFiles::Files { ca, own: None }).unwrap();
    let mixed = Some((file("client.pem"), made.path("member.key")));
    let ca = made.ca().join("ca.pem");
    let error = ClientTls::load(&ClientFiles::Files { ca, own: mixed }).unwrap_err();
    assert!(matches!(error, TlsError::OtherKey { .. }), "{error}");
    let nowhere = made.ca().join("nowhere");
    let error = ClientTls::load(&ClientFiles::Dir(nowhere)).unwrap_err();
    assert!(matches!(error, TlsError::Unreadable { .. }), "{error}");
}

/// The result of a handshake with this certificate, at a port that accepts these processes.
fn dialled_by(
    made: &Made,
    accepts: Accepts,
    certificate: &CertificateDer<'_>,
) -> Result<(), String> {
    let verifier = ClientCertificates::new(&made.authority(), accepts);
    let verified = verifier.verify_client_cert(certificate, &[], UnixTime::now());
    verified.map(|_| ()).map_err(|error| explain::line(&error))
}

#[test]
fn the_ports_take_certificates_for_what_their_names_say() {
    let made = Made::new();
    let member = made.certificate("member-2/member.pem");
    let client = made.certificate("ops/client.pem");
    for accepts in [Accepts::Members, Accepts::AnybodyOrKnown] {
        assert_eq!(dialled_by(&made, accepts, &member), Ok(()));
        let other = made.issue(vec![uri(Tag(8), Subject::Member(2))]);
        let why = format!(
            "its certificate is not accepted: the certificate belongs to another cluster: its tag is {}, and the tag of this cluster is {TAG}",
            Tag(8)
        );
        assert_eq!(dialled_by(&made, accepts, &other), Err(why));
        let nameless = made.issue(vec![SanType::DnsName("localhost".try_into().unwrap())]);
        let why = "its certificate is not accepted: it names no member or client of raftkvd: no alternative name starts with \
                   raftkvd://";
        assert_eq!(dialled_by(&made, accepts, &nameless), Err(why.to_owned()));
        let two = made.issue(vec![
            uri(TAG, Subject::Member(2)),
            uri(TAG, Subject::Member(3)),
        ]);
        let why = "its certificate is not accepted: it has more than one name that starts with raftkvd://";
        assert_eq!(dialled_by(&made, accepts, &two), Err(why.to_owned()));
    }
    assert_eq!(dialled_by(&made, Accepts::AnybodyOrKnown, &client), Ok(()));
    let why = "its certificate is not accepted: it is the certificate of a client, and only members are accepted here";
    assert_eq!(
        dialled_by(&made, Accepts::Members, &client),
        Err(why.to_owned())
    );

    let print = facts(&member).unwrap().fingerprint;
    fs::write(made.path("revoked"), print.to_string()).unwrap();
    let why = "its certificate is not accepted: its key is revoked".to_owned();
    assert_eq!(dialled_by(&made, Accepts::Members, &member), Err(why));
}

#[test]
fn without_a_usable_ca_nobody_is_taken() {
    let made = Made::new();
    let none = Arc::new(RootCertStore::empty());
    let authority = Arc::new(Authority::new(none, Some(TAG), BTreeSet::new()));
    let verifier = ClientCertificates::new(&authority, Accepts::AnybodyOrKnown);
    let member = made.certificate("member-2/member.pem");
    let refused = verifier.verify_client_cert(&member, &[], UnixTime::now());
    let line = explain::line(&refused.unwrap_err());
    assert_eq!(
        line,
        "its certificate is not accepted: no CA in ca.pem is usable"
    );
}

#[test]
fn a_dialled_member_is_known_by_its_name_and_a_proxy_by_its_host() {
    let made = Made::new();
    let verify = |verifier: &MemberCertificates, certificate: &CertificateDer<'_>, host: &str| {
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let verified = verifier.verify_server_cert(certificate, &[], &host, &[], UnixTime::now());
        verified.map(|_| ()).map_err(|error| explain::line(&error))
    };
    let of_member = MemberCertificates::new(&made.authority());
    let member = made.certificate("member-2/member.pem");
    assert_eq!(verify(&of_member, &member, "any.example"), Ok(()));
    let client = made.certificate("ops/client.pem");
    let why = "its certificate is not accepted: it is for another purpose".to_owned();
    assert_eq!(verify(&of_member, &client, "any.example"), Err(why));
    let proxy = made.issue(vec![SanType::DnsName("kv.example".try_into().unwrap())]);
    assert!(verify(&of_member, &proxy, "kv.example").is_err());

    let roots = Arc::new(read_roots(&made.path("ca.pem")).unwrap());
    let authority = || Authority::new(roots.clone(), None, BTreeSet::new());
    let of_host = MemberCertificates::or_of_host(authority());
    assert_eq!(verify(&of_host, &proxy, "kv.example"), Ok(()));
    assert!(verify(&of_host, &proxy, "other.example").is_err());
    assert_eq!(verify(&of_host, &member, "any.example"), Ok(()));
    let client = made.issue(vec![uri(TAG, ops())]);
    let why = "its certificate is not accepted: it is the certificate of a client, and only members are accepted here";
    assert_eq!(verify(&of_host, &client, "kv.example"), Err(why.to_owned()));
}

#[test]
fn a_failure_becomes_one_line() {
    let said = |alert| explain::line(&Error::AlertReceived(alert));
    for (line, expected) in [
        (
            said(AlertDescription::CertificateRequired),
            "it refuses this side: it asks for a certificate, and this side has none",
        ),
        (
            said(AlertDescription::UnknownCA),
            "it refuses this side: none of the CAs that it trusts has signed our certificate",
        ),
        (
            said(AlertDescription::DecryptError),
            "it refuses this side: none of the CAs that it trusts has signed our certificate",
        ),
        (
            said(AlertDescription::CertificateExpired),
            "it refuses this side: our certificate is not valid at its time: it has expired, or one of the two clocks is wrong",
        ),
        (
            said(AlertDescription::CertificateRevoked),
            "it refuses this side: the key of our certificate is revoked there",
        ),
        (
            said(AlertDescription::BadCertificate),
            "it refuses this side: it does not accept our certificate: its log says why",
        ),
        (
            said(AlertDescription::ProtocolVersion),
            "it refuses this side: it speaks another version of TLS",
        ),
        (
            said(AlertDescription::InternalError),
            "it ended the handshake (InternalError)",
        ),
        (
            explain::line(&Error::NoCertificatesPresented),
            "it has no certificate, and this port needs that of a member",
        ),
        (
            explain::line(&Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOfferedOrEnabled,
            )),
            "it speaks an older version of TLS only",
        ),
        (
            explain::line(&Error::InvalidCertificate(CertificateError::Expired)),
            "its certificate is not accepted: it has expired",
        ),
        (
            explain::line(&Error::InvalidCertificate(CertificateError::NotValidYet)),
            "its certificate is not accepted: it is not valid yet",
        ),
        (
            explain::line(&Error::InvalidCertificate(CertificateError::BadSignature)),
            "its certificate is not accepted: no CA in ca.pem has signed it",
        ),
        (explain::date(0), "1970-01-01 00:00:00 UTC"),
        (explain::date(u64::MAX), "a time that can't be shown"),
    ] {
        assert_eq!(line, expected);
    }
    let lines = [
        AlertDescription::HandshakeFailure,
        AlertDescription::Unknown(77),
    ]
    .map(said);
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
    let other = explain::readable(std::io::Error::other("a\u{fc}"));
    assert_eq!(other.to_string(), "a\u{fc}");
}
