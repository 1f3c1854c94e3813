//! The loops that wait, a file each; the name of the thread is the name of the file.
//!
//! `raft` is the only one that touches the node, `wal` the only one that writes the log, `apply` the only one that
//! writes the store.

pub mod apply;
pub mod raft;
pub mod read_back;
pub mod snapshot;
pub mod wal;
