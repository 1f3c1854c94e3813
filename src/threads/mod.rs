//! The main loops of the threads. Each file has the loop of the thread with the same name.
//!
//! Once the data directory is loaded, only `raft` accesses the node, only `wal` writes the log, and only `apply` writes
//! the store. The lone-request paths of `wal` and `apply` run on the raft thread.

pub mod apply;
pub mod raft;
pub mod read_back;
pub mod remove;
pub mod snapshot;
pub mod wal;
