//! The certificates of a cluster with TLS, made as users make them, and what a client does with them.

use crate::daemons::BINARY;
use crate::stream;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, StreamOwned};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Runs `raftkvd cert` for the members of these peer URLs.
    pub fn make(dir: PathBuf, urls: &[String]) -> Certificates {
        let mut command = Command::new(BINARY);
        command.arg("cert").arg(&dir).arg("--cluster");
        let output = command.arg(urls.join(",")).env_clear().output();
        let output = output.expect("run raftkvd cert");
        assert!(output.status.success(), "{output:?}");
        Certificates { dir }
    }

    /// For `--tls` of this member.
    pub fn of_member(&self, id: usize) -> PathBuf {
        self.dir.join(format!("member-{id}"))
    }

    /// TLS with the certificate of the administrator.
    pub fn of_client(&self) -> Arc<ClientConfig> {
        let dir = self.dir.join("admin");
        let mut roots = RootCertStore::empty();
        for root in certificates(&dir.join("ca.pem")) {
            roots.add(root).expect("take the CA");
        }
        let key = PrivateKeyDer::from_pem_file(dir.join("client.key")).expect("read the key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("speak TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&dir.join("client.pem")), key);
        Arc::new(config.expect("take the certificate of the client"))
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let certificates = CertificateDer::pem_file_iter(path).expect("read certificates");
    certificates
        .collect::<Result<_, _>>()
        .expect("read certificates")
}

/// The status and the body of the answer to a GET, on a connection of its own.
pub fn get(address: SocketAddr, path: &str, tls: &Arc<ClientConfig>) -> io::Result<(u16, Vec<u8>)> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // The request follows the last message of the handshake, and must not wait until that is acknowledged.
    socket.set_nodelay(true)?;
    let mut stream = StreamOwned::new(stream::session(address, tls)?, socket);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let status = answer
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
    match (status, end) {
        (Some(status), Some(end)) => Ok((status, answer.split_off(end + 4))),
        _ => Err(io::Error::other(format!("no answer: {answer:?}"))),
    }
}
