//! What the two ends of a connection claim about themselves.

use crate::peer_url::PeerUrl;

/// What one end of a connection claims about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The cluster id of the claimant, or 0 if it is empty and belongs to no cluster.
    pub cluster: u64,
    /// The member id of the claimant.
    pub from: u64,
    /// The member id that the claimant wants to talk to.
    pub to: u64,
    /// The incarnation of the claimant's data directory.
    pub incarnation: u64,
    /// The index at which the claimant's own table binds it, or 0 if no table does.
    pub bound_index: u64,
    /// A random number of this start of the claimant's process.
    pub run: u64,
    /// The peer URL of the claimant.
    pub url: PeerUrl,
    /// Whether `url` was given to the claimant by its options. Otherwise `url` comes from its table, may be out of
    /// date, and does not announce a move.
    pub url_given: bool,
    /// The command version that the claimant's build knows.
    pub version: u64,
    /// The row of the receiver in the claimant's table, if that row is bound.
    pub receiver: Option<Receiver>,
    /// Whether the claimant's cluster, which has formed, has added the receiver's id at the URL that the claimant has just
    /// dialled, and waits for an empty data directory there.
    pub awaits: bool,
}

/// What the claimant's table says about the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// The incarnation that the receiver's id is bound to, never 0.
    pub incarnation: u64,
    /// Whether the claimant's cluster has formed.
    pub formed: bool,
    /// Whether the row has the URL that the claimant has just dialled.
    pub same_url: bool,
}
