//! raftkvd: a small replicated key-value store.
//!
//! # Follow the data
//!
//! ```text
//!  client                                                        peers
//!    │ HTTP                                                       ▲ │
//!  ┌─▼───┐  proposals (inbox)  ┌────────────┐     messages      ┌─┴─▼───────┐
//!  │ api ├────────────────────►│ raft (node)│◄─────────────────►│ transport │
//!  └─▲─┬─┘                     └─┬───────▲──┘                   └───────────┘
//!    │ │ read                    │       │
//!    │ │          commit channel │  jobs │ persisted
//!  ┌─┴─▼───┐  ┌───────┐          │   ┌───▼────┐
//!  │ store │◄─┤ apply │◄─────────┘   │  wal   │  storage: WAL, snapshots, meta
//!  └───────┘  └───────┘              └────────┘
//! ```
//!
//! A request becomes a [`Proposal`](command::proposal::Proposal) that carries the sending half of its reply. The
//! [`raft`](threads::raft) thread takes what waits in the [`inbox`](channels::inbox) and gives it to the [`node`], which
//! puts many commands into one entry and drives raft. The [`wal`](threads::wal) thread makes entries durable, one sync for
//! all that wait. Committed entries go down the [`commit`](channels::commit) channel, each command with its reply;
//! [`apply`](threads::apply) changes the [state machine](store::state_machine), which is the map with its newest changes, and
//! answers.
//!
//! Four rules keep it one-way: the reply travels with the data; a snapshot or a read is a marker in the commit channel,
//! whose position is its index; the node does no waiting and owns no clock, thread, socket or file; one place writes
//! the store, one batch at a time.
//!
//! # Words and watermarks
//!
//! A *proposal* is a client's wish, an *entry* a record of the log. *Committed* means durable on a majority,
//! *published* handed to the commit channel, *applied* in the map. On every node, always:
//!
//! `compacted <= snapshot <= applied <= published <= committed <= last`
//!
//! # Dependencies point down
//!
//! A room uses rooms below it and none above; the floors, from the top:
//!
//! ```text
//! main
//! cli
//! server
//! threads
//! api, transport
//! node
//! channels
//! store
//! storage
//! identity
//! members
//! command
//! logging
//! metrics
//! config
//! peer_url, limits, numbers, mutants
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

// The tests here share files with those in tests/, where this crate goes by its name.
#[cfg(test)]
extern crate self as raftkvd;

pub mod api;
pub mod channels;
pub mod cli;
pub mod command;
pub mod config;
pub mod identity;
pub mod limits;
pub mod logging;
pub mod members;
pub mod metrics;
pub mod mutants;
pub mod node;
pub mod numbers;
pub mod peer_url;
pub mod server;
pub mod storage;
pub mod store;
pub mod threads;
pub mod transport;
