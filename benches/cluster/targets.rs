//! What the daemon is to reach: see `verdicts.rs` for whether it does.

use crate::request::Kind;

/// Which members a load goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    Leader,
    Follower,
    All,
}

#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// At least this share of the ceiling's rate.
    Share(f64),
    /// The p50 is at most that of the ceiling, so many fdatasyncs and so many microseconds.
    P50 { syncs: f64, extra_us: f64 },
}

/// The target of one figure of the load, if it has one. What is asked of three members is asked of the leader unless
/// it says otherwise.
pub fn of_load(kind: Kind, connections: usize, nodes: usize, through: Through) -> Option<Target> {
    use Through::{Follower, Leader};
    Some(match (kind, connections, nodes, through) {
        (Kind::Put, 256, 1, Leader) => Target::Share(0.70),
        (Kind::Put, 256, 3, Leader) => Target::Share(0.50),
        (Kind::Put, 64, 1, Leader) => Target::Share(0.60),
        (Kind::Put, 64, 3, Leader) => Target::Share(0.40),
        (Kind::Put, 1, 1, Leader) => Target::P50 {
            syncs: 1.3,
            extra_us: 0.0,
        },
        (Kind::Put, 1, 3, Leader) => Target::P50 {
            syncs: 2.2,
            extra_us: 100.0,
        },
        (Kind::Get, 256, 1, Leader) => Target::Share(0.85),
        (Kind::Get, 256, 3, Leader) => Target::Share(0.75),
        (Kind::Get, 256, 3, Follower) => Target::Share(0.60),
        (Kind::Stale, 256, 1, Leader) => Target::Share(0.95),
        (Kind::Stale, 256, 3, Leader) => Target::Share(0.90),
        _ => return None,
    })
}

/// Share of the rate without TLS.
pub fn of_tls(kind: Kind, connections: usize, nodes: usize) -> Option<f64> {
    match (kind, connections, nodes) {
        (Kind::Put, 256, 3) => Some(0.80),
        (Kind::Get, 256, 3) => Some(0.75),
        _ => None,
    }
}

/// Share of the disk's bandwidth with values of 1 MiB.
pub fn of_values(nodes: usize) -> f64 {
    if nodes == 1 { 0.6 } else { 0.3 }
}

/// From kill -9 of the leader to the next acknowledged write, median.
pub const KILL_MS: f64 = 300.0;
/// Longest gap between acknowledged writes when the leader gets a SIGTERM, median.
pub const HANDOVER_MS: f64 = 100.0;

/// From exec to the first acknowledged write; with three members from that of the last one.
pub fn of_start(nodes: usize) -> f64 {
    if nodes == 1 { 50.0 } else { 300.0 }
}
