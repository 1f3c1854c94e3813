//! Snapshot transfers: `POST /raft/snapshot`. The body is one frame with the MsgSnapshot, followed by the file.
//!
//! Neither side holds the whole file in memory: only a few pieces wait between the file and the network. Blocking
//! threads read and write the files. A failed transfer starts again from the beginning when raft asks for it.
//!
//! An empty member adopts the cluster id of its first snapshot for good, if the state in the snapshot binds this very
//! member.

pub(super) mod receive;
pub(super) mod send;
