//! TLS on both ports (`--tls DIR`): what the directory holds, the handshakes, and what they prove.
//!
//! ```text
//!  DIR ── Credentials::load ──► Tls ──► accept   api, transport: a Stream and the Facts of the other side
//!   ▲            ▲               │ └──► dial     transport, joins
//!   └── reload, each second ─────┘
//! ```
//!
//! - [`credentials`] reads a directory and checks it as a whole.
//! - `verify` decides which certificates are taken: the chain, the times, the tag of the cluster, and the file `revoked`.
//! - `handshake` accepts and dials; `explain` turns a failure into one line.
//! - [`reload`] replaces the credentials when a file changes. Connections that exist keep theirs.
//! - [`stream`] is a connection with TLS or without, so the ports need not know which.
//!
//! Invariants:
//! - Without valid credentials there is no TLS: a directory that fails a check is not used, neither at the start nor later.
//! - A certificate is trusted for what its URI says and for nothing else: no name or address of a host counts. The only
//!   exception is a client that dials through a proxy with a certificate of another CA, see [`client`].
//! - Nothing here knows the table of members. Who was removed is judged where that is known, in transport and api.

pub mod client;
pub mod credentials;
mod explain;
mod handshake;
pub mod reload;
pub mod stream;
mod verify;

#[cfg(test)]
mod tests;

pub use crate::certificates::Facts;
pub use credentials::{Credentials, TlsError};
pub use handshake::{AcceptError, is_tls};
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

    /// Sees each replacement of the credentials.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Credentials>> {
        self.current.subscribe()
    }
}
