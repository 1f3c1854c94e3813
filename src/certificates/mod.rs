//! Certificates: reading one, and the private CA of a cluster that issues them.
//!
//! A certificate names its owner by one URI among its subject alternative names ([`name`]): a member by its id, or a
//! client by its name and role. The URI starts with the tag of the cluster's CA, a random number, so one cluster never
//! accepts the certificates of another one. [`mod@facts`] reads a certificate that a file or a peer has sent.
//!
//! Invariants:
//! - Nothing here decides whether a certificate is trusted: the TLS library checks its signature and its times first.
//! - Each name has one spelling: a name that is read and written again is the same text.
//! - No input makes a function here panic.

pub mod ca;
pub mod facts;
pub mod files;
pub mod folder;
pub mod name;
pub mod order;
pub mod pem;
mod random;
mod rotation;

pub use ca::{Ca, CaError, CaFacts, ca_facts};
pub use facts::{Facts, FactsError, KeyFingerprint, facts};
pub use folder::{Folder, FolderError, Owner, Owners};
pub use name::{Name, NameError, Role, Subject, Tag};
pub use order::{AltHost, Order, Validity};
