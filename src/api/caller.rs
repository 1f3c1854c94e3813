//! Who makes a request, as far as the connection tells. [`super::access`] says what follows from that.

use crate::certificates::Facts;
use std::sync::Arc;

/// What a client has proved about itself.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Nothing, because this member has no TLS.
    Anybody,
    /// Nothing: it has shown no certificate.
    Stranger,
    /// What its certificate says.
    Known(Arc<Facts>),
}
