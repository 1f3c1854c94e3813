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
//! A change becomes a [`Proposal`](command::proposal::Proposal) that carries the sending half of its reply channel. The
//! [`raft`](threads::raft) thread takes all proposals that wait in the [`inbox`](channels::inbox) and gives them to the
//! [`node`], which puts many commands into one entry and drives raft. The [`wal`](threads::wal) thread makes entries
//! durable, with one sync for all waiting entries. Committed entries go down the [`commit`](channels::commit) channel,
//! each command with its reply channel. The [`apply`](threads::apply) thread changes the [state
//! machine](store::state_machine), which is the map, its newest changes and the progress of the replay after a start.
//! Then it answers the client.
//!
//! Four rules keep the data going one way:
//! - The reply channel travels with the command.
//! - A snapshot or a read is a marker in the commit channel. The marker's place in the channel determines its index.
//! - The node does not wait, and owns no clock, thread, socket or file.
//! - One place writes the store, one batch at a time.
//!
//! # Words and watermarks
//!
//! A *proposal* is a change that a client requests. An *entry* is a record of the log. An entry is *committed* when it
//! is durable on a majority and can no longer be replaced. It is *published* when the node has sent it into the commit
//! channel, and *applied* when its commands are in the map. On every node, except while a snapshot from the leader is
//! loaded (`compacted` and `snapshot` are then ahead of `applied`):
//!
//! `compacted <= snapshot <= applied <= published <= committed <= last`
//!
//! # Dependencies point down
//!
//! A room is a top-level module. A room uses only rooms below it. The order from the top, with rooms of equal height in
//! one line:
//!
//! ```text
//! main, docs
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
//! tls
//! logging
//! metrics
//! workers
//! config, connect
//! certificates
//! exit_code, peer_url, limits, numbers, mutants
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

// The unit tests share files with the tests in `tests/`, which refer to this crate by its name.
#[cfg(test)]
extern crate self as raftkvd;

pub mod api;
pub mod certificates;
pub mod channels;
pub mod cli;
pub mod command;
pub mod config;
pub mod connect;
pub mod docs;
pub mod exit_code;
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
pub mod tls;
pub mod transport;
pub mod workers;
