//! One-way hashes of an incarnation: the cluster id, and a fingerprint that strangers may know.

use sha2::{Digest as _, Sha256};

/// The id of the cluster that this data directory starts. Never 0, which means "none yet".
pub fn cluster_id(incarnation: u64) -> u64 {
    digest(b"cluster", incarnation).max(1)
}

/// The fingerprint of an incarnation. It may be shown to any peer.
pub fn fingerprint(incarnation: u64) -> u64 {
    digest(b"fingerprint", incarnation)
}

/// The first 8 bytes of SHA-256, as a little-endian number. Only members may know the incarnation, so the hash must not
/// be reversible, as FNV or a CRC would be.
fn digest(purpose: &[u8], incarnation: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(purpose);
    hash.update(incarnation.to_le_bytes());
    let first = hash.finalize().first_chunk().copied();
    u64::from_le_bytes(first.expect("SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_is_not_the_incarnation_that_it_comes_from() {
        let ids: std::collections::BTreeSet<u64> = (0..100).map(cluster_id).collect();
        assert_eq!(ids.len(), 100);
        assert!((0..100).all(|incarnation| cluster_id(incarnation) != incarnation));
    }
}
