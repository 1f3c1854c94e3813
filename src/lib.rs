//! raftkvd: a small replicated key-value store.

#![warn(missing_docs)]

pub mod api;
pub mod apply;
pub mod cli;
pub mod command;
pub mod commit;
pub mod config;
pub mod inbox;
pub mod logging;
pub mod members;
pub mod node;
pub mod proposal;
pub mod raft_loop;
pub mod server;
pub mod status;
pub mod storage;
pub mod store;
pub mod transport;
pub mod writer;
