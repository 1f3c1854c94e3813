//! Carries raft messages between members: the only module that opens peer connections.
//!
//! ```text
//!  raft thread ─┐ send   ┌─ control queue ─ task ─ POST /raft/stream ─┐        ┌────────┐
//!  wal thread  ─┴───────►┼─ append queue ── task ─ POST /raft/stream ─┼─► peer │ serve  │─► its Inbox
//!                        └─ one snapshot ── task ─ POST /raft/snapshot┘        └────────┘
//! ```
//!
//! Heartbeats, votes and every answer have a connection of their own, so that no append, however large, and no
//! snapshot delays them. Connections are used in one direction: what comes back from a peer comes on the connections
//! that it opened.
//!
//! Invariants:
//! - [`Transport::send`] never blocks and never waits for the network. Queues are bounded in count and bytes; what
//!   does not fit is dropped and reported, as is everything queued for a connection that fails. No message is sent
//!   twice: raft resends.
//! - A snapshot's transfer is reported exactly once, however it ends; a failure after a pause, since raft answers it
//!   with the next attempt.
//! - A message reaches the inbox only from a peer whose claims are believed, which it names as its sender, and only
//!   while the view of the members allows that peer. raft-rs itself checks none of this.
//! - Nothing durable comes of a claim. The one thing that is remembered for good, the cluster of an empty member, comes
//!   with its first state, which has to bind it.
//!
//! The transport knows messages and members, not the node. It reports what happens as [`Notice`]s and decides
//! nothing, least of all whether this member has been removed.

mod admission;
mod dial;
mod files;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod inbound;
mod link;
mod outbound;
mod peers;
mod queue;
mod registry;
mod round_trip;
mod settings;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use crate::channels::inbox::Inbox;
use crate::channels::notice::Notice;
use crate::members::Members;
use crate::peer_url::PeerUrl;
pub use files::{FileError, IdentityStore, IncomingSnapshot, OutgoingSnapshot, SnapshotStore};
use handshake::Lane;
use parking_lot::Mutex;
use peers::{Peer, Peers};
use raft::eraftpb::{Message, MessageType};
use registry::Registry;
pub use settings::{TransportLimits, TransportSettings};
use slog::{Logger, debug};
use snapshot::send::{SnapshotTransfer, TransferReport};
use state::TransportState;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// The connections to all peers. A handle: clones share them.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<TransportState>,
}

impl Transport {
    /// A transport that dials whom the view and the list name; [`Transport::serve`] lets them in.
    pub fn new(
        settings: TransportSettings,
        inbox: Arc<Inbox>,
        runtime: tokio::runtime::Handle,
        logger: Logger,
    ) -> Transport {
        let me = settings.directory.member();
        assert_eq!(me, settings.view.me, "the view is another member's");
        let transport = Transport {
            shared: Arc::new(TransportState {
                me,
                directory: settings.directory,
                snapshots: settings.snapshots,
                metrics: settings.metrics,
                limits: settings.limits,
                inbox,
                runtime,
                logger,
                leader: AtomicU64::new(0),
                view: watch::Sender::new(Arc::new(settings.view)),
                applied: AtomicU64::new(settings.applied),
                ahead: AtomicU64::new(u64::MAX),
                peers: Mutex::default(),
                start_peer: outbound::start_peer,
                inbound: Registry::default(),
                receiving: Arc::new(Semaphore::new(1)),
            }),
        };
        transport.set_list(settings.list);
        transport
    }

    /// Sends each message to its `to`, on the lane of its type. From any thread; never blocks.
    pub fn send(&self, messages: Vec<Message>) {
        let peers = self.shared.peers();
        for message in messages {
            let to = message.to;
            if message.get_msg_type() == MessageType::MsgSnapshot {
                if !self.send_snapshot(&peers, message) {
                    let ok = false;
                    self.shared.inbox.notice(Notice::SnapshotSent { to, ok });
                }
                continue;
            }
            let lane = match message.get_msg_type() {
                MessageType::MsgAppend | MessageType::MsgPropose => Lane::Append,
                _ => Lane::Control,
            };
            let peer = peers.by_id.get(&to).filter(|peer| !peer.waits);
            let sent = peer.is_some_and(|peer| {
                peer.round_trip.sending(&message);
                let queued = peer.queues[lane as usize].push(message);
                if !queued {
                    peer.round_trip.forget();
                }
                queued
            });
            if !sent {
                self.shared.inbox.notice(Notice::Unreachable(to));
            }
        }
    }

    /// Begins a transfer. False: none can begin.
    fn send_snapshot(&self, peers: &Peers, message: Message) -> bool {
        let to = message.to;
        let peer = peers.by_id.get(&to).filter(|peer| !peer.waits);
        let url = peer.and_then(|peer| peer.url(peers.list.get(&to)));
        let (Some(peer), Some(url)) = (peer, url) else {
            return false;
        };
        if !peer.snapshots.take() {
            return false;
        }
        let transfer = SnapshotTransfer {
            report: TransferReport::new(&self.shared, to, &peer.snapshots),
            url,
            retired: peer.retired.subscribe(),
            message,
        };
        self.shared.runtime.spawn(transfer.run(self.shared.clone()));
        true
    }

    /// Sets whom to talk and to listen to, before [`Transport::set_applied`] with the index of the change.
    ///
    /// What is queued for a removed peer is still written, within a short time; then it is cut off in both directions.
    pub fn set_members(&self, cluster: u64, members: &Members) {
        let shared = &self.shared;
        // Held while the view changes, so that a peer that goes with it is retired before its tasks see it.
        let mut peers = shared.peers();
        let view = shared.view().next(cluster, members);
        shared.view.send_replace(Arc::new(view));
        shared.reconcile(&mut peers);
    }

    /// Everything up to this index is applied, and what it did to the members is set.
    pub fn set_applied(&self, index: u64) {
        let shared = &self.shared;
        shared.applied.store(index, Ordering::Release);
        if index >= shared.ahead.load(Ordering::Relaxed) {
            shared.reconcile(&mut shared.peers());
            shared.judge_all();
        }
    }

    /// Sets where to dial while no leader is known, and while this member is empty.
    pub fn set_list(&self, list: BTreeMap<u64, PeerUrl>) {
        let mut peers = self.shared.peers();
        peers.list = list;
        self.shared.reconcile(&mut peers);
    }

    /// This member has no table yet.
    pub fn is_empty(&self) -> bool {
        self.shared.view().is_empty()
    }

    /// Sets who leads, 0 for nobody known.
    pub fn set_leader(&self, leader: u64) {
        self.shared.leader.store(leader, Ordering::Relaxed);
    }

    /// Lets peers in, until `shutdown` is done; then all their connections are closed.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        inbound::serve(self.shared.clone(), listener, shutdown).await;
    }

    /// Writes what is queued, within a short time, and ends all outgoing connections for good.
    pub async fn close(&self) {
        let retired: Vec<Peer> = {
            let mut peers = self.shared.peers();
            peers.closed = true;
            peers.by_id.drain().map(|(_, peer)| peer).collect()
        };
        // All are told before the first is waited for, so that they flush at the same time. Each is bounded by itself.
        let tasks: Vec<_> = retired.into_iter().flat_map(Peer::retire).collect();
        for task in tasks {
            if let Err(error) = task.await {
                debug!(self.shared.logger, "a peer's task did not end well"; "error" => %error);
            }
        }
    }
}
