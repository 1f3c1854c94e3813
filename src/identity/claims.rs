//! What the two ends of a connection claim about themselves.

use crate::peer_url::PeerUrl;

/// What an end of a connection says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Its cluster, 0: it is empty and belongs to none.
    pub cluster: u64,
    /// Its member id.
    pub from: u64,
    /// The id it means to talk to.
    pub to: u64,
    /// The incarnation of its data directory.
    pub incarnation: u64,
    /// The index of the entry that bound it, in its own table; 0: no table binds it.
    pub bound_index: u64,
    /// A random number of this start of its process.
    pub run: u64,
    /// Where it is reached.
    pub url: PeerUrl,
    /// It was told so itself. Otherwise that is where its table says, which may be an old one, and no word of a move.
    pub url_given: bool,
    /// The command version that its build knows.
    pub version: u64,
    /// What its table says of the receiver, if it has a bound one.
    pub receiver: Option<Receiver>,
}

/// What a claimant's table says of the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// The incarnation that is bound, never 0.
    pub incarnation: u64,
    /// The claimant's cluster has formed.
    pub formed: bool,
    /// It is bound at the very place where the claimant dialled.
    pub same_url: bool,
}
