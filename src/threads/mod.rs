//! The main loops of the threads, one file for each. The name of a thread is the name of its file.
//!
//! Only `raft` accesses the node, only `wal` writes the log, and only `apply` writes the store. The lone-request paths
//! of `wal` and `apply` run on the raft thread.

pub mod apply;
pub mod raft;
pub mod read_back;
pub mod snapshot;
pub mod wal;
