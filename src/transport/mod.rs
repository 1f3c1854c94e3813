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
//! - A message reaches the inbox only from a peer whose handshake was accepted, which it names as its sender, and
//!   only while the view of the members allows that peer. raft-rs itself checks none of this.
//! - What the transport learns about a peer for good (the cluster, an incarnation) is durable before it is relied on.
//!
//! The transport knows messages and members, not the node. It reports what happens as [`Notice`]s and decides
//! nothing, least of all whether this member has been removed.

mod dial;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod handshake;
mod inbound;
mod link;
mod outbound;
mod round_trip;
mod snapshot;
#[cfg(test)]
mod tests;

use crate::config;
use crate::inbox::{Inbox, Notice};
use crate::members::{Members, PeerUrl};
use crate::metrics::{self, Metrics};
use crate::storage::{Pin, SnapshotMeta};
use handshake::{Accepted, Claims, Known, Lane};
use link::Link;
use outbound::{Outbound, Queue};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use round_trip::RoundTrip;
use slog::{Logger, debug, o, warn};
use snapshot::SnapshotLane;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

/// An error of a file, which whoever implements the trait knows in detail.
pub type FileError = Box<dyn std::error::Error + Send + Sync>;

/// What this member is, and what it remembers of its peers over restarts. Called where blocking is allowed.
///
/// When a setter fails the connection at hand is given up, nothing more: an implementation whose disk has failed has
/// to see to the end of the process itself.
pub trait Directory: Send + Sync + 'static {
    /// This member's id.
    fn member(&self) -> u64;
    /// The cluster's id, 0 on a joiner that was not told yet.
    fn cluster(&self) -> u64;
    /// The incarnation of this data directory.
    fn incarnation(&self) -> u64;
    /// What is remembered of a peer.
    fn pinned(&self, peer: u64) -> Option<Pin>;
    /// Remembers the cluster's id; durable on return.
    fn pin_cluster(&self, cluster: u64) -> Result<(), FileError>;
    /// Remembers a peer in place of what was remembered before; durable on return.
    fn pin(&self, peer: u64, pin: Pin) -> Result<(), FileError>;
}

/// Snapshot files, as the transport needs them. Called where blocking is allowed.
pub trait SnapshotFiles: Send + Sync + 'static {
    /// Opens a snapshot to send it.
    fn open(&self, index: u64, term: u64) -> Result<Box<dyn SnapshotSource>, FileError>;
    /// Begins a file for a snapshot of this cluster that is being received.
    fn receive(&self, cluster: u64) -> Result<Box<dyn SnapshotSink>, FileError>;
}

/// A snapshot file that is being sent.
pub trait SnapshotSource: Send + 'static {
    /// Its length.
    fn bytes(&self) -> u64;
    /// Reads on; 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A snapshot file that is being received. Dropped unfinished it leaves nothing behind.
pub trait SnapshotSink: Send + 'static {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError>;
    /// Checks all of it, and that it is the snapshot that its message promised (index, term and state), and puts it
    /// durably into its final place.
    fn finish(self: Box<Self>, promised: &SnapshotMeta) -> Result<(), FileError>;
}

/// What a transport works with.
pub struct Settings {
    /// This member's identity and memory.
    pub directory: Arc<dyn Directory>,
    /// The snapshot files.
    pub snapshots: Arc<dyn SnapshotFiles>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Its limits.
    pub limits: Limits,
}

/// The limits that tests make smaller.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections that the peer port holds at one time.
    pub connections: usize,
    /// Time to send the head of a request.
    pub header_timeout: Duration,
    /// Time to answer a handshake.
    pub handshake_timeout: Duration,
    /// A snapshot transfer that takes longer than this for one piece is given up.
    pub snapshot_stall: Duration,
    /// A failed snapshot transfer is reported, and so tried again, after this pause.
    pub snapshot_pause: Duration,
    /// Bytes of a snapshot that are sent in a second, at most.
    pub snapshot_pace: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: config::PEER_CONNECTIONS_MAX,
            header_timeout: config::HEADER_TIMEOUT,
            handshake_timeout: config::PEER_HANDSHAKE_TIMEOUT,
            snapshot_stall: config::SNAPSHOT_STALL_TIMEOUT,
            snapshot_pause: config::PEER_BACKOFF_MAX,
            snapshot_pace: config::SNAPSHOT_BYTES_PER_SECOND,
        }
    }
}

/// The connections to all peers. A handle: clones share them.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

/// Whom this member knows, as of some index.
#[derive(Debug, Default)]
pub struct View {
    members: Members,
    /// `members` come from the command line: they say where to dial, and not who belongs to the cluster.
    joining: bool,
    /// When this member itself was added, 0 while joining. Kept when it is removed: it still is who it was.
    own_added_index: u64,
    own_url: Option<PeerUrl>,
}

impl View {
    /// The view of member `me` that follows this one.
    pub fn next(&self, me: u64, members: &Members, joining: bool) -> View {
        let own = members.members.get(&me).filter(|_| !joining);
        View {
            members: members.clone(),
            joining,
            own_added_index: own.map_or(self.own_added_index, |own| own.added_index),
            own_url: own.map(|own| own.url.clone()).or(self.own_url.clone()),
        }
    }

    /// What member `me` with this view claims towards a peer.
    pub fn claims(&self, me: u64, to: u64, cluster: u64, incarnation: u64) -> Claims {
        Claims {
            cluster,
            from: me,
            to,
            incarnation,
            added_index: self.own_added_index,
            url: self.own_url.clone(),
        }
    }

    /// Where a member is reached.
    pub fn url(&self, id: u64) -> Option<&PeerUrl> {
        self.members.members.get(&id).map(|member| &member.url)
    }

    fn known(&self, id: u64) -> Known {
        if self.joining {
            return Known::Never;
        }
        match (self.members.members.get(&id), self.members.removed.get(&id)) {
            (Some(member), _) => Known::Added(member.added_index),
            (None, Some(index)) if *index == self.members.unsettled_removal => {
                Known::Leaving(*index)
            }
            (None, Some(index)) => Known::Removed(*index),
            (None, None) => Known::Never,
        }
    }

    /// Whether a life of `id` that begins at `added_index` is later than everything that is known here. The lives of
    /// the first members begin at 1, and every view but that of an empty joiner knows those.
    pub fn is_news(&self, id: u64, added_index: u64) -> bool {
        added_index > self.known(id).index().max(u64::from(!self.joining))
    }
}

/// What the tasks share.
struct Shared {
    me: u64,
    incarnation: u64,
    /// What the directory knows, where it may not be asked because that could block.
    cluster: AtomicU64,
    directory: Arc<dyn Directory>,
    snapshots: Arc<dyn SnapshotFiles>,
    metrics: Arc<Metrics>,
    limits: Limits,
    inbox: Arc<Inbox>,
    runtime: tokio::runtime::Handle,
    logger: Logger,
    leader: AtomicU64,
    view: watch::Sender<Arc<View>>,
    peers: Mutex<Peers>,
    /// Held while a peer's claims are judged and remembered, so that two of them can't both be the first.
    admission: Mutex<()>,
    inbound: inbound::Registry,
    /// One snapshot is received at a time.
    receiving: Arc<Semaphore>,
}

#[derive(Default)]
struct Peers {
    by_id: HashMap<u64, Peer>,
    /// Peers that were added later than the view knows, and what they said of themselves: where, and when added.
    newcomers: BTreeMap<u64, (PeerUrl, u64)>,
    closed: bool,
}

/// A peer that messages can be sent to.
struct Peer {
    url: PeerUrl,
    /// Its life.
    added_index: u64,
    queues: [Arc<Queue>; 2],
    tasks: Vec<JoinHandle<()>>,
    /// True ends the tasks, once the queues are empty or a short time is over.
    retired: watch::Sender<bool>,
    snapshots: Arc<SnapshotLane>,
    round_trip: Arc<RoundTrip>,
    /// Its series end with the peer.
    _metrics: metrics::Peer,
}

impl Peer {
    fn retire(self) -> Vec<JoinHandle<()>> {
        for queue in &self.queues {
            queue.close();
        }
        self.retired.send_replace(true);
        self.tasks
    }
}

impl Transport {
    /// A transport without peers: [`Transport::set_members`] brings them, [`Transport::serve`] lets them in.
    pub fn new(
        settings: Settings,
        inbox: Arc<Inbox>,
        runtime: tokio::runtime::Handle,
        logger: Logger,
    ) -> Transport {
        let me = settings.directory.member();
        Transport {
            shared: Arc::new(Shared {
                me,
                incarnation: settings.directory.incarnation(),
                cluster: AtomicU64::new(settings.directory.cluster()),
                directory: settings.directory,
                snapshots: settings.snapshots,
                metrics: settings.metrics,
                limits: settings.limits,
                inbox,
                runtime,
                logger,
                leader: AtomicU64::new(0),
                // Until the first view comes nobody is let in: nothing is known, and nothing is being joined.
                view: watch::Sender::new(Arc::default()),
                peers: Mutex::default(),
                admission: Mutex::default(),
                inbound: inbound::Registry::default(),
                receiving: Arc::new(Semaphore::new(1)),
            }),
        }
    }

    /// Sends each message to its `to`, on the lane of its type. From any thread; never blocks.
    pub fn send(&self, messages: Vec<Message>) {
        let peers = self.shared.peers();
        for message in messages {
            let to = message.to;
            if message.get_msg_type() == MessageType::MsgSnapshot {
                match peers.by_id.get(&to) {
                    Some(peer) if peer.snapshots.take() => {
                        let transfer = snapshot::Transfer {
                            report: snapshot::Report::new(&self.shared, to, &peer.snapshots),
                            url: peer.url.clone(),
                            retired: peer.retired.subscribe(),
                            message,
                        };
                        self.shared.runtime.spawn(transfer.run(self.shared.clone()));
                    }
                    _ => {
                        let ok = false;
                        self.shared.inbox.notice(Notice::SnapshotSent { to, ok });
                    }
                }
                continue;
            }
            let lane = match message.get_msg_type() {
                MessageType::MsgAppend | MessageType::MsgPropose => Lane::Append,
                _ => Lane::Control,
            };
            let sent = peers.by_id.get(&to).is_some_and(|peer| {
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

    /// Sets whom to talk and to listen to. With `joining` the members are those of the command line: they are dialed,
    /// and since nothing is known of the cluster yet, everybody who claims to belong to it is believed.
    ///
    /// What is queued for a removed peer is still written, within a short time; then it is cut off in both directions.
    pub fn set_members(&self, members: &Members, joining: bool) {
        let shared = &self.shared;
        let mut peers = shared.peers();
        let before = shared.view.borrow().clone();
        let view = before.next(shared.me, members, joining);
        if view.own_added_index != before.own_added_index {
            // A joiner that has just been let in had nothing to say of itself when it connected, not even where it
            // is. Whoever joins beside it has to hear that, or could never answer it.
            for (_, peer) in peers.by_id.drain() {
                peer.retire();
            }
        }
        shared.view.send_replace(Arc::new(view));
        shared.reconcile(&mut peers);
    }

    /// This member knows nothing of the cluster that it joins, but where to dial.
    pub fn is_joining(&self) -> bool {
        self.shared.view.borrow().joining
    }

    /// Says where to dial, while this member is joining; later it knows better.
    pub fn set_members_to_dial(&self, members: &Members) {
        let shared = &self.shared;
        // Held by whoever sets the view.
        let mut peers = shared.peers();
        let before = shared.view.borrow().clone();
        if before.joining {
            let view = before.next(shared.me, members, true);
            shared.view.send_replace(Arc::new(view));
            shared.reconcile(&mut peers);
        }
    }

    /// Sets who leads, 0 for nobody known: a refusal says whether it comes from the leader.
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

impl Shared {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers
            .lock()
            .expect("a thread panicked while it held the peers")
    }

    fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    fn cluster(&self) -> u64 {
        self.cluster.load(Ordering::Acquire)
    }

    fn is_leader(&self) -> bool {
        self.leader.load(Ordering::Relaxed) == self.me
    }

    /// Starts and stops peers so that they match the view and the newcomers.
    fn reconcile(self: &Arc<Shared>, peers: &mut Peers) {
        if peers.closed {
            return;
        }
        let view = self.view();
        peers
            .newcomers
            .retain(|id, (_, added_index)| view.is_news(*id, *added_index));
        let mut wanted: HashMap<u64, (&PeerUrl, u64)> = HashMap::new();
        let members = view.members.members.iter();
        wanted.extend(members.map(|(id, m)| (*id, (&m.url, m.added_index))));
        // A newcomer of a known id has moved, as far as the view can tell.
        let newcomers = peers.newcomers.iter();
        wanted.extend(newcomers.map(|(id, (url, added_index))| (*id, (url, *added_index))));
        wanted.remove(&self.me);

        // A member that was removed and added again since the last view starts from nothing, also at the same place:
        // what is queued for its earlier life speaks of a log that it does not have.
        let kept = |id: &u64, peer: &mut Peer| {
            wanted
                .get(id)
                .is_some_and(|wanted| *wanted == (&peer.url, peer.added_index))
        };
        let gone = peers.by_id.extract_if(|id, peer| !kept(id, peer));
        for (_, peer) in gone.collect::<Vec<_>>() {
            peer.retire();
        }
        for (id, (url, added_index)) in wanted {
            peers
                .by_id
                .entry(id)
                .or_insert_with(|| self.start_peer(id, url, added_index));
        }
    }

    fn start_peer(self: &Arc<Shared>, id: u64, url: &PeerUrl, added_index: u64) -> Peer {
        let retired = watch::Sender::new(false);
        let metrics = self.metrics.peers.add(id, Lane::ALL.map(Lane::name));
        let round_trip = Arc::new(RoundTrip::new(metrics.round_trips.clone()));
        let queues =
            Lane::ALL.map(|lane| Arc::new(Queue::new(metrics.lanes[lane as usize].clone())));
        let logger = self.logger.new(o!("peer" => id, "url" => url.to_string()));
        let link = Arc::new(Link::new(logger.clone()));
        let tasks = Lane::ALL.map(|lane| {
            let outbound = Outbound {
                shared: self.clone(),
                peer: id,
                url: url.clone(),
                lane,
                queue: queues[lane as usize].clone(),
                round_trip: round_trip.clone(),
                retired: retired.subscribe(),
                link: link.clone(),
                logger: logger.clone(),
            };
            self.runtime.spawn(outbound.run())
        });
        Peer {
            url: url.clone(),
            added_index,
            queues,
            tasks: tasks.into(),
            retired,
            snapshots: Arc::default(),
            round_trip,
            _metrics: metrics,
        }
    }

    /// What this member claims towards a peer.
    fn claims(&self, to: u64) -> Claims {
        self.view()
            .claims(self.me, to, self.cluster(), self.incarnation)
    }

    /// Judges what a peer claims. On return everything that was learned from it is durable.
    async fn admit(self: &Arc<Shared>, claims: &Claims) -> Result<Accepted, Denied> {
        let (shared, claims) = (self.clone(), claims.clone());
        let judged = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = shared
                .admission
                .lock()
                .expect("a thread panicked while it admitted a peer");
            let accepted = shared.judge(&claims)?;
            if let Some(cluster) = accepted.pin_cluster {
                shared
                    .directory
                    .pin_cluster(cluster)
                    .map_err(Denied::File)?;
                shared.cluster.store(cluster, Ordering::Release);
            }
            if let Some(pin) = accepted.pin {
                shared
                    .directory
                    .pin(claims.from, pin)
                    .map_err(Denied::File)?;
            }
            Ok(accepted)
        });
        judged
            .await
            .unwrap_or_else(|error| Err(Denied::File(error.into())))
    }

    /// [`handshake::check`] against the state of this moment.
    fn judge(&self, claims: &Claims) -> Result<Accepted, Denied> {
        let pin = self.directory.pinned(claims.from);
        handshake::check(claims, self.me, self.cluster(), &self.view(), pin).map_err(Denied::Reason)
    }

    /// A peer was let in: it is up, so it is dialed now and not after a pause, and if it is a newcomer, at the
    /// place it names.
    fn welcome(self: &Arc<Shared>, claims: &Claims, accepted: &Accepted) {
        let mut peers = self.peers();
        if let (true, Some(url)) = (accepted.newcomer, &claims.url) {
            let known = peers.newcomers.get(&claims.from);
            let news = known.is_none_or(|(_, added_index)| *added_index < claims.added_index);
            if news && known.is_none() && peers.newcomers.len() >= config::PEER_NEWCOMERS_MAX {
                warn!(self.logger, "too many members are unknown here, this one gets no answers until \
                    this member has caught up"; "peer" => claims.from);
            } else if news {
                let newcomer = (url.clone(), claims.added_index);
                peers.newcomers.insert(claims.from, newcomer);
                self.reconcile(&mut peers);
            }
        }
        if let Some(peer) = peers.by_id.get(&claims.from) {
            for queue in &peer.queues {
                queue.redial.notify_one();
            }
        }
    }
}

/// Why a peer was not accepted.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("{0}")]
    Reason(crate::inbox::Reason),
    #[error("what it said could not be remembered: {0}")]
    File(FileError),
}

/// The encoded size of a message.
fn encoded(message: &Message) -> usize {
    message.compute_size() as usize
}
