//! TLS of a command that asks a member: `backup`, and a start with `--join`.

use super::credentials::{Files, TlsError, dialling_builder, read_roots, without_resumption};
use super::handshake;
use super::verify::{Authority, MemberCertificates};
use super::{Stream, Tls};
use crate::certificates::Facts;
use crate::config::ClientFiles;
use rustls::ClientConfig;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;

/// The files with which a command dials a member.
#[derive(Debug, Clone)]
pub struct ClientTls {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Fixed(Arc<ClientConfig>),
    /// The newest credentials of this member.
    Member(Tls),
}

impl ClientTls {
    /// Reads and checks the files.
    pub fn load(files: &ClientFiles) -> Result<ClientTls, TlsError> {
        let config = match files {
            ClientFiles::Dir(dir) => {
                let name = match dir.join("client.pem").exists() {
                    true => "client",
                    false => "member",
                };
                let files = Files::read(dir, name)?;
                files.check_own()?;
                files.client_config(Arc::new(MemberCertificates::new(&files.authority())))?
            }
            ClientFiles::Files { ca, own } => of_files(ca, own.as_ref())?,
        };
        Ok(ClientTls {
            source: Source::Fixed(Arc::new(config)),
        })
    }

    /// Completes a connection to a member. The error is one line.
    pub async fn dial(
        &self,
        socket: TcpStream,
        host: &str,
    ) -> Result<(Stream, Option<Facts>), String> {
        let config = match &self.source {
            Source::Fixed(config) => config.clone(),
            Source::Member(tls) => tls.credentials().dialling.clone(),
        };
        let (stream, chain) = handshake::dial(socket, host, config).await?;
        Ok((stream, handshake::facts_of(&chain)))
    }
}

impl From<Tls> for ClientTls {
    fn from(tls: Tls) -> ClientTls {
        ClientTls {
            source: Source::Member(tls),
        }
    }
}

/// The CA may be that of a proxy in front of the member, and not that of the cluster.
fn of_files(ca: &Path, own: Option<&(PathBuf, PathBuf)>) -> Result<ClientConfig, TlsError> {
    match own {
        Some((certificate, key)) => {
            let files = Files::of(ca, certificate, key, BTreeSet::new())?;
            let verifier = MemberCertificates::or_of_host(files.any_authority());
            files.client_config(Arc::new(verifier))
        }
        None => {
            let roots = Arc::new(read_roots(ca)?);
            let authority = Authority::new(roots, None, BTreeSet::new());
            let builder = dialling_builder(Arc::new(MemberCertificates::or_of_host(authority)));
            let builder = builder.map_err(|error| TlsError::Malformed {
                path: ca.to_owned(),
                why: format!("can't be used: {error}"),
            })?;
            Ok(without_resumption(builder.with_no_client_auth()))
        }
    }
}
