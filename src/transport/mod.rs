//! Carries raft messages between members: the only module that opens peer connections.
//!
//! ```text
//!  raft thread ─┐ send   ┌─ control queue ─ task ─ POST /raft/stream ─┐        ┌────────┐
//!  wal thread  ─┴───────►┼─ append queue ── task ─ POST /raft/stream ─┼─► peer │ serve  │─► its Inbox
//!                        └─ one snapshot ── task ─ POST /raft/snapshot┘        └────────┘
//! ```
//!
//! Heartbeats, votes and every answer have a connection of their own, so that no append, however large, and no snapshot
//! delays them. Each connection carries messages in one direction. A peer's messages arrive on the connections that the
//! peer opened.
//!
//! Invariants:
//! - [`Transport::send`] never blocks and never waits for the network. Queues are bounded in count and bytes. A message
//!   that does not fit is dropped and reported, and so are all messages queued for a connection that fails. The
//!   transport sends no message twice, because raft itself resends.
//! - The end of a snapshot transfer is reported exactly once, however the transfer ends. A failure is reported after a
//!   pause, because raft answers the report with the next attempt.
//! - A message reaches the inbox only if it names the connected peer as its sender, if the peer's claims are believed,
//!   and if the current view of the members allows the peer. raft-rs itself checks none of this.
//! - A claim changes nothing durable. Besides snapshot files, the transport stores only the cluster id of an empty
//!   member. The id arrives with the member's first state, which must bind this member.
//!
//! The transport knows messages and members, not the node. It reports events as [`Notice`]s and decides nothing, and
//! above all it never decides whether this member was removed.

mod admission;
mod dial;
mod files;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod inbound;
mod link;
mod newcomers;
mod outbound;
mod peers;
mod queue;
mod registry;
mod round_trip;
mod secure;
mod settings;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

use crate::channels::inbox::Inbox;
use crate::channels::notice::Notice;
use crate::channels::status::PeerSeen;
use crate::members::Members;
use crate::peer_url::PeerUrl;
pub use files::{FileError, IdentityStore, IncomingSnapshot, OutgoingSnapshot, SnapshotStore};
pub use handshake::About;
use handshake::Lane;
pub use inbound::PEERS_ONLY;
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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// A handle to the connections to all peers. Clones share the connections.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<TransportState>,
}

impl Transport {
    /// A transport that dials the members of the view and of the list. [`Transport::serve`] accepts their connections.
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
                tls: settings.tls,
                about: settings.about,
                view: watch::Sender::new(Arc::new(settings.view)),
                applied: AtomicU64::new(settings.applied),
                ahead: AtomicU64::new(u64::MAX),
                peers: Mutex::default(),
                start_peer: outbound::start_peer,
                inbound: Registry::default(),
                frame_bytes: AtomicUsize::new(0),
                receiving: Arc::new(Semaphore::new(1)),
            }),
        };
        transport.set_list(settings.list);
        transport
    }

    /// Sends each message to its `to`, on the lane of its type. Callable from any thread. Never blocks.
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

    /// Starts a snapshot transfer. Returns false if no transfer can start.
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

    /// Sets the members with which this member communicates. Must be called before [`Transport::set_applied`] with the
    /// index of the change.
    ///
    /// Messages that are queued for a removed peer are still written, within a short time. Then the peer is
    /// disconnected in both directions.
    pub fn set_members(&self, cluster: u64, members: &Members) {
        let shared = &self.shared;
        // The lock is held while the view changes, so that a removed peer is retired before its tasks see the new view.
        let mut peers = shared.peers();
        let view = shared.view().next(cluster, members);
        shared.view.send_replace(Arc::new(view));
        shared.reconcile(&mut peers);
    }

    /// Sets the applied index. The changes of members up to this index must be set already.
    pub fn set_applied(&self, index: u64) {
        let shared = &self.shared;
        shared.applied.store(index, Ordering::Release);
        if index >= shared.ahead.load(Ordering::Relaxed) {
            shared.reconcile(&mut shared.peers());
            shared.judge_all();
        }
    }

    /// Sets the URLs to dial while no leader is known, while the cluster forms, and while this member is empty.
    pub fn set_list(&self, list: BTreeMap<u64, PeerUrl>) {
        let mut peers = self.shared.peers();
        peers.list = list;
        self.shared.reconcile(&mut peers);
    }

    /// Whether this member has no table of members yet.
    pub fn is_empty(&self) -> bool {
        self.shared.view().is_empty()
    }

    /// Sets the leader's id, or 0 if no leader is known.
    pub fn set_leader(&self, leader: u64) {
        let before = self.shared.leader.swap(leader, Ordering::Relaxed);
        if (before == 0) != (leader == 0) {
            // While this member has a leader, the leaders that others name do not count.
            self.shared.reconcile(&mut self.shared.peers());
        }
    }

    /// What the connections show of the members, this member included.
    pub fn members_seen(&self) -> BTreeMap<u64, PeerSeen> {
        let own = self.shared.about.clone();
        let seen_of = |about: About, state: Option<(bool, SystemTime)>| PeerSeen {
            reachable: state.map(|(up, _)| up),
            since: state.map(|(_, since)| since),
            client_url: about.client_url,
            version: about.version,
        };
        let peers = self.shared.peers();
        let seen = peers.by_id.iter();
        let mut seen: BTreeMap<u64, PeerSeen> = seen
            .map(|(id, peer)| (*id, seen_of(peer.about.clone(), peer.link.seen())))
            .collect();
        let own = seen_of(own, None);
        seen.insert(
            self.shared.me,
            PeerSeen {
                reachable: Some(true),
                ..own
            },
        );
        seen
    }

    /// Accepts peers until `shutdown` completes, then closes all their connections.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        inbound::serve(self.shared.clone(), listener, shutdown).await;
    }

    /// Writes the queued messages, within a short time, and ends all outgoing connections for good.
    pub async fn close(&self) {
        let retired: Vec<Peer> = {
            let mut peers = self.shared.peers();
            peers.closed = true;
            peers.by_id.drain().map(|(_, peer)| peer).collect()
        };
        // All tasks are asked to stop before the first is awaited, so that they flush at the same time. Each task
        // limits its own time.
        let tasks: Vec<_> = retired.into_iter().flat_map(Peer::retire).collect();
        for task in tasks {
            if let Err(error) = task.await {
                debug!(self.shared.logger, "a peer's task did not end well"; "error" => %error);
            }
        }
    }
}
