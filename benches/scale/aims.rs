//! What the daemon is to reach with a large state.

/// The p99 of a PUT while a snapshot is being written, as a multiple of that without one.
pub const SNAPSHOT_P99: f64 = 2.0;
/// The longest PUT that met a snapshot.
pub const LONGEST_PUT_MS: f64 = 250.0;
/// Bytes of the log and of snapshots that were written while the keys were loaded, for each byte of keys and values.
pub const WRITTEN_PER_BYTE: f64 = 4.0;

/// Resident bytes at rest: so many for each byte of keys and values, and so many beside them.
pub const RESIDENT_PER_BYTE: f64 = 1.7;
pub const RESIDENT_BESIDE: f64 = 100.0 * 1024.0 * 1024.0;
/// The peak during a snapshot under overwrites, as a multiple of what is resident at rest.
pub const RESIDENT_PEAK: f64 = 1.35;

/// From exec to `/-/ready`.
pub const KEYS_PER_SECOND: f64 = 1e6;

/// The stream of a snapshot to a new member, while nobody writes, from its first byte until it is checked and durable.
pub const CATCHUP_MB_PER_SECOND: f64 = 200.0;
/// PUTs meanwhile, as a share of those before.
pub const CATCHUP_PUTS: f64 = 0.70;

/// PUTs with all keys present, as a share of those with the fewest.
pub const GROWTH_PUTS: f64 = 0.80;
/// Time for a key, of a restart and of a snapshot, with all keys present as a multiple of that with a tenth of them.
pub const GROWTH_TIME: f64 = 1.3;
