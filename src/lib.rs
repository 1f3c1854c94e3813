//! raftkvd: a small replicated key-value store.
//!
//! # Follow the data
//!
//! ```text
//!  client                                                        peers
//!    │ HTTP                                                       ▲ │
//!  ┌─▼───┐  proposals (inbox)  ┌───────────┐      messages      ┌─┴─▼───────┐
//!  │ api ├────────────────────►│ raft_loop │◄──────────────────►│ transport │
//!  └─▲─┬─┘                     │  (node)   │                    └───────────┘
//!    │ │ read                  └─┬───────▲─┘
//!    │ │          commit channel │  jobs │ persisted
//!  ┌─┴─▼───┐  ┌───────┐          │   ┌───▼────┐
//!  │ store │◄─┤ apply │◄─────────┘   │ writer │  storage: WAL, snapshots, meta
//!  └───────┘  └───────┘              └────────┘
//! ```
//!
//! A request becomes a [`proposal::Proposal`] that carries the sending half of its reply. The [`raft_loop`] takes what
//! waits in the [`inbox`] and gives it to the [`node`], which puts many commands into one entry and drives raft. The
//! [`writer`] makes entries durable, one sync for all that wait. Committed entries go down the [`commit`] channel,
//! each command with its reply; [`apply`] changes the [`store`] and answers.
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
//! main -> [`cli`], [`logging`], [`server`], [`backup`], [`restore`], [`inspect`] -> [`api`], [`raft_loop`], [`writer`],
//! [`read_back`], [`apply`], [`transport`], [`systemd`] -> [`node`], [`store`], [`history`], [`inbox`] -> [`storage`],
//! [`identity`], [`members`], [`proposal`], [`commit`], [`status`], [`command`], [`progress`], [`http_client`] -> [`metrics`], [`config`],
//! [`peer_url`], [`mutants`]

#![warn(missing_docs)]

// The tests here share files with those in tests/, where this crate goes by its name.
#[cfg(test)]
extern crate self as raftkvd;

pub mod api;
pub mod apply;
pub mod backup;
pub mod cli;
pub mod command;
pub mod commit;
pub mod config;
pub mod history;
pub mod http_client;
pub mod identity;
pub mod inbox;
pub mod inspect;
pub mod join;
pub mod logging;
pub mod members;
pub mod metrics;
pub mod mutants;
pub mod node;
pub mod peer_url;
pub mod progress;
pub mod proposal;
pub mod raft_loop;
pub mod read_back;
pub mod restore;
pub mod server;
pub mod status;
pub mod storage;
pub mod store;
pub mod systemd;
pub mod transport;
pub mod version;
pub mod writer;
