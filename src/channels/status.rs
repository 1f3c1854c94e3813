//! The status of a node, which `GET /-/status` shows.

use crate::logging::timestamp;
use crate::peer_url::PeerUrl;
use serde::{Serialize, Serializer};
use std::fmt::Display;
use std::time::SystemTime;

/// Why a member serves no clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The kind of reason, from which the API makes the error code.
    pub kind: ClosedKind,
    /// The reason in one line, which says what the member waits for or what to do.
    pub why: String,
}

/// The kinds of a [`Closed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedKind {
    /// Not all first members of the cluster have joined.
    Forming,
    /// This member was not added to a cluster yet.
    Joining,
    /// Another cluster knows this member with another data directory.
    OtherLife,
}

/// A member of a formed cluster that has had no leader for a while. It serves neither writes nor linearizable reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What the member waits for, in one line that says what to do.
    pub why: String,
    /// There has been no leader for several election timeouts, so clients should go to another member.
    pub is_long: bool,
}

/// What a member learns about another member from its connection to that member. `None`: not known since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerSeen {
    /// Whether messages reach the member. `false`: no connection to the member can be made.
    pub reachable: Option<bool>,
    /// The time of the last change of `reachable`.
    #[serde(serialize_with = "time_or_null")]
    pub since: Option<SystemTime>,
    /// The URL at which the member serves clients.
    pub client_url: Option<String>,
    /// The version of the member's build.
    pub version: Option<String>,
}

/// A consistent view of the raft loop, taken between two passes. The order of the fields is that of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The id of this member.
    pub id: u64,
    /// The version of this build.
    pub version: &'static str,
    /// The cluster id, or 0 (in JSON null) while a joiner has not learned it.
    #[serde(serialize_with = "hex_or_null")]
    pub cluster: u64,
    /// Whether the cluster has formed.
    pub formed: bool,
    /// `leader`, `follower`, `candidate`, `learner` or `joining`.
    pub role: &'static str,
    /// The id of the leader, or 0 (in JSON null) if none is known.
    #[serde(serialize_with = "number_or_null")]
    pub leader: u64,
    /// The current term.
    pub term: u64,
    /// The highest index known to be committed.
    pub committed: u64,
    /// The last index of the log.
    #[serde(skip)]
    pub last: u64,
    /// The highest index in the map.
    pub applied: u64,
    /// Index of the newest snapshot.
    #[serde(rename = "snapshot_index")]
    pub snapshot: u64,
    /// Batches that the WAL has written and synced since the process started.
    pub wal_syncs: u64,
    /// Bytes of those batches.
    pub wal_bytes: u64,
    /// The members as of `applied`.
    pub members: Vec<MemberStatus>,
}

/// How far a node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The current term.
    pub term: u64,
    /// The id of the leader, or 0 if none is known.
    pub leader: u64,
    /// The last index of the log.
    pub last: u64,
    /// The highest index known to be committed.
    pub committed: u64,
    /// The highest index in the map.
    pub applied: u64,
    /// Index of the newest snapshot.
    pub snapshot: u64,
}

/// One member, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// The id of the member.
    pub id: u64,
    /// The peer URL of the member.
    #[serde(serialize_with = "text")]
    pub url: PeerUrl,
    /// Whether the member replicates without a vote, or its promotion to a voter is not settled.
    #[serde(rename = "role", serialize_with = "member_role")]
    pub learner: bool,
    /// On the leader only: how far the member's log is known to match, and whether the member is active.
    #[serde(flatten)]
    pub progress: Option<Progress>,
    /// The number of committed entries that the member's log is not known to hold. `None` without a leader.
    pub behind: Option<u64>,
    /// What the connection to the member shows.
    #[serde(flatten)]
    pub seen: PeerSeen,
}

/// What a leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The highest index known to be on the member's disk.
    #[serde(rename = "match_index")]
    pub matched: u64,
    /// Whether the member answered within the last election timeout.
    pub active: bool,
}

fn hex_or_null<S: Serializer>(id: &u64, out: S) -> Result<S::Ok, S::Error> {
    let known = (*id != 0).then(|| format!("{id:016x}"));
    known.serialize(out)
}

fn number_or_null<S: Serializer>(id: &u64, out: S) -> Result<S::Ok, S::Error> {
    let known = Some(id).filter(|id| **id != 0);
    known.serialize(out)
}

fn time_or_null<S: Serializer>(time: &Option<SystemTime>, out: S) -> Result<S::Ok, S::Error> {
    time.map(timestamp).serialize(out)
}

fn text<S: Serializer>(value: &impl Display, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(value)
}

fn member_role<S: Serializer>(learner: &bool, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(if *learner { "learner" } else { "voter" })
}
