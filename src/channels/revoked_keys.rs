//! The keys of removed members, for the parts that check certificates: a certificate with such a key is refused.
//!
//! The raft loop writes the keys when the table of members changes. The API and the transport read them at each
//! handshake and request.

use crate::certificates::KeyFingerprint;
use crate::members::Members;
use parking_lot::RwLock;
use std::collections::BTreeSet;

/// The revoked keys of the applied table of members. Empty until the first table is set.
#[derive(Debug, Default)]
pub struct RevokedKeys {
    keys: RwLock<BTreeSet<KeyFingerprint>>,
}

impl RevokedKeys {
    /// Replaces the keys by those that this table revokes.
    pub fn set(&self, members: &Members) {
        let keys = members.revoked_keys().collect();
        *self.keys.write() = keys;
    }

    /// Whether the key is revoked.
    pub fn contains(&self, key: &KeyFingerprint) -> bool {
        self.keys.read().contains(key)
    }
}
