//! TLS on both ports (`--tls DIR`): the files of the directory, the handshakes, and what a handshake proves.
//!
//! ```text
//!  DIR ── Credentials::load ──► Tls ──► accept   api, transport: a Stream and what the other side has Shown
//!   ▲            ▲               │ └──► dial     transport, joins
//!   └── reload, each second ─────┘
//! ```
//!
//! - [`credentials`] reads a directory and checks it as a whole.
//! - `verify` decides which certificates are accepted: it checks the chain, the times, the tag of the cluster, and the
//!   file `revoked`.
//! - `handshake` accepts and dials; `explain` turns a failure into one line.
//! - [`reload`] replaces the credentials when a file changes.
//! - [`shown`] checks again, while a connection is open, the certificate that the other side has shown.
//! - [`stream`] is a connection with TLS or without, so the code of the ports is the same for both.
//!
//! Invariants:
//! - Without valid credentials there is no TLS: a directory that fails a check is not used, neither at the start nor later.
//! - Only the URI in a certificate says who its owner is. Names and addresses of hosts are not used. The only exception
//!   is a command that dials a proxy with a certificate of another CA: see [`client`].
//! - Nothing here knows the table of members. Transport and api, which know the table, refuse the keys of removed members.

pub mod client;
pub mod credentials;
mod explain;
mod handshake;
pub mod reload;
pub mod shown;
pub mod stream;
mod verify;

#[cfg(test)]
mod tests;

pub use crate::certificates::Facts;
pub use credentials::{Credentials, TlsError};
pub use handshake::{AcceptError, is_tls};
pub use shown::{NoLonger, Shown};
pub use stream::Stream;

use crate::config::TlsOptions;
use std::sync::Arc;
use tokio::sync::watch;

/// The credentials of a member, which [`reload`] may replace at any time. Clones share them.
#[derive(Debug, Clone)]
pub struct Tls {
    options: Arc<TlsOptions>,
    /// The state of the files before they were read for the first time.
    first: reload::Stamps,
    current: Arc<watch::Sender<Arc<Credentials>>>,
}

impl Tls {
    /// Loads the directory of the options.
    pub fn load(options: TlsOptions) -> Result<Tls, TlsError> {
        // Taken first, so that a change while the files are read is seen later.
        let first = reload::stamps(&options.dir);
        let credentials = Credentials::load(&options)?;
        Ok(Tls {
            options: Arc::new(options),
            first,
            current: Arc::new(watch::Sender::new(Arc::new(credentials))),
        })
    }

    /// The newest credentials.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.current.borrow().clone()
    }

    /// A receiver that sees each replacement of the credentials.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.current.subscribe()
    }
}
