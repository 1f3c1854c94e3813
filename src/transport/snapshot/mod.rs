//! Snapshot transfers: `POST /raft/snapshot`, whose body is one frame with the MsgSnapshot, and then the file.
//!
//! Neither side ever holds the file: a few pieces wait between it and the network. Files are read and written by
//! threads for blocking calls. A transfer that fails begins again when raft asks again.
//!
//! An empty member takes the cluster of its first snapshot, for good, if the state in it lets this very member in.

pub(super) mod receive;
pub(super) mod send;
