//! raftkvd.

#![warn(missing_docs)]

pub mod command;
pub mod commit;
pub mod config;
pub mod inbox;
pub mod members;
pub mod node;
pub mod proposal;
pub mod status;
pub mod storage;
pub mod transport;
