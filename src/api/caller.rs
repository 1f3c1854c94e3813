//! What the connection of a request proves about the client. [`super::access`] decides what the client may do.

use crate::tls::Shown;
use std::sync::Arc;

/// What a client has proved about itself.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Nothing, because this member has no TLS.
    Anybody,
    /// Nothing, because the client has shown no certificate.
    Stranger,
    /// What this certificate says.
    Known(Arc<Shown>),
}
