//! Certificates: what one says, and how the private CA of a cluster is made and used.
//!
//! A certificate names its owner by one URI among its subject alternative names ([`name`]): a member by its id, or a
//! client by its name and role. The URI starts with the tag of the cluster's CA, a random number, so two clusters never
//! take each other's certificates for their own. [`facts`] reads a certificate that a file or a peer has sent.
//!
//! Invariants:
//! - Nothing here decides whether a certificate is trusted: the TLS library checks its signature and its times first.
//! - A text or a certificate that is taken has exactly one spelling: what is read and written again is the same.
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
