//! How things stand on this node: what `GET /-/status` shows.

use crate::peer_url::PeerUrl;
use serde::{Serialize, Serializer};
use std::fmt::Display;

/// Why a member serves no clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The kind of reason.
    pub kind: ClosedKind,
    /// The reason, in one line that says whom it waits for or what to do.
    pub why: String,
}

/// The kinds of a [`Closed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedKind {
    /// Not all first members of the cluster are in.
    Forming,
    /// It was not added to a cluster yet.
    Joining,
    /// Another cluster knows another data directory as this member.
    OtherLife,
}

/// A consistent view of the raft loop, taken between two passes. In JSON the fields have an order that reads well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// This member.
    pub id: u64,
    /// Cluster id, 0 while a joiner has not learned it.
    #[serde(serialize_with = "hex_or_null")]
    pub cluster: u64,
    /// All first members of the cluster are in.
    pub formed: bool,
    /// `leader`, `follower`, `candidate`, `learner`.
    pub role: &'static str,
    /// The leader this node knows of, 0 for none.
    #[serde(serialize_with = "number_or_null")]
    pub leader: u64,
    /// Current term.
    pub term: u64,
    /// Highest index known to be committed.
    pub committed: u64,
    /// Highest index in the log.
    #[serde(skip)]
    pub last: u64,
    /// Highest index in the map.
    pub applied: u64,
    /// Index of the newest snapshot.
    #[serde(rename = "snapshot_index")]
    pub snapshot: u64,
    /// Batches that the WAL has written and synced since the start of the process.
    pub wal_syncs: u64,
    /// Their bytes.
    pub wal_bytes: u64,
    /// The members as of `applied`.
    pub members: Vec<MemberStatus>,
}

/// How far a node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Current term.
    pub term: u64,
    /// Its leader, 0 while none is known.
    pub leader: u64,
    /// Index of the last entry of the log.
    pub last: u64,
    /// Highest index known to be committed.
    pub committed: u64,
    /// Highest index in the map.
    pub applied: u64,
    /// Index of the newest snapshot.
    pub snapshot: u64,
}

/// One member, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Its peer URL.
    #[serde(serialize_with = "text")]
    pub url: PeerUrl,
    /// It replicates and does not vote yet, or that it votes is not settled.
    #[serde(rename = "role", serialize_with = "member_role")]
    pub learner: bool,
    /// On the leader: up to where its log is known to match, and whether it was heard within the last election
    /// timeout.
    #[serde(flatten)]
    pub progress: Option<Progress>,
}

/// What a leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Highest index known to be on its disk.
    #[serde(rename = "match_index")]
    pub matched: u64,
    /// It answered lately.
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

fn text<S: Serializer>(value: &impl Display, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(value)
}

fn member_role<S: Serializer>(learner: &bool, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(if *learner { "learner" } else { "voter" })
}
