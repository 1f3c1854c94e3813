//! The reasons why a connection to the peer port did not become a stream of a peer, as labels.

/// The handshake was not complete in time.
pub const LATE: &str = "late";
/// There was no room: a newcomer was closed for a new connection, or the new connection was closed.
pub const CROWDED: &str = "crowded";
/// The request does not belong to the protocol between peers.
pub const FOREIGN: &str = "foreign";
/// The claims were refused.
pub const REFUSED: &str = "refused";

/// All reasons.
pub(super) const REASONS: &[&str] = &[LATE, CROWDED, FOREIGN, REFUSED];
