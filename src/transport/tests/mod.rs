//! Transports in one process, over real sockets.

mod crowds;
mod identity;
mod intruders;
mod membership;
mod places;
mod snapshots;
mod streams;

use super::*;
use crate::channels::inbox::Held;
use crate::channels::notice::Met;
use crate::identity::{PeerRefusal, Reason, View};
use crate::limits;
use crate::members::Member;
use crate::storage::SnapshotMeta;
use slog::o;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The time after which a waiting test fails.
const PATIENCE: Duration = Duration::from_secs(20);

const CLUSTER: u64 = 0xc1;

/// A data directory in memory.
#[derive(Debug, Default)]
struct Memory {
    member: u64,
    incarnation: u64,
    cluster: AtomicU64,
    /// Any write fails the test.
    read_only: AtomicBool,
}

impl IdentityStore for Memory {
    fn member(&self) -> u64 {
        self.member
    }
    fn cluster(&self) -> u64 {
        self.cluster.load(Ordering::SeqCst)
    }
    fn pin_cluster(&self, cluster: u64) -> Result<(), FileError> {
        assert!(!self.read_only.load(Ordering::SeqCst), "it was written");
        self.cluster.store(cluster, Ordering::SeqCst);
        Ok(())
    }
}

/// One running transport.
struct TestPeer {
    transport: Transport,
    inbox: Arc<Inbox>,
    memory: Arc<Memory>,
    files: Arc<snapshots::Files>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    messages: Vec<Message>,
    /// For each message, whether its sender was bound.
    bound: Vec<bool>,
    notices: Vec<Notice>,
}

fn limits() -> TransportLimits {
    TransportLimits {
        handshake_timeout: Duration::from_secs(2),
        snapshot_stall: Duration::from_millis(500),
        snapshot_pause: Duration::from_millis(20),
        ..TransportLimits::default()
    }
}

impl TestPeer {
    async fn start(id: u64) -> TestPeer {
        TestPeer::start_with(id, id * 100, CLUSTER, "127.0.0.1:0", limits()).await
    }

    /// A member that no table binds yet.
    async fn start_empty(id: u64) -> TestPeer {
        TestPeer::start_with(id, id * 100, 0, "127.0.0.1:0", limits()).await
    }

    async fn start_with(
        id: u64,
        incarnation: u64,
        cluster: u64,
        address: &str,
        limits: TransportLimits,
    ) -> TestPeer {
        let listener = TcpListener::bind(address).await.unwrap();
        TestPeer::start_on(id, incarnation, cluster, listener, limits)
    }

    fn start_on(
        id: u64,
        incarnation: u64,
        cluster: u64,
        listener: TcpListener,
        limits: TransportLimits,
    ) -> TestPeer {
        static RUN: AtomicU64 = AtomicU64::new(1);
        let memory = Arc::new(Memory {
            member: id,
            incarnation,
            cluster: AtomicU64::new(cluster),
            ..Memory::default()
        });
        let files = Arc::new(snapshots::Files::default());
        let address = listener.local_addr().unwrap();
        let settings = TransportSettings {
            tls: None,
            directory: memory.clone(),
            snapshots: Arc::new(snapshots::Shelf(files.clone())),
            metrics: Arc::default(),
            limits,
            view: View {
                url_given: true,
                me: id,
                incarnation,
                run: RUN.fetch_add(1, Ordering::Relaxed),
                url: format!("http://{address}").parse().unwrap(),
                cluster,
                members: Members::default(),
                bound_index: 0,
            },
            about: About::default(),
            applied: 0,
            list: BTreeMap::new(),
        };
        let inbox = Arc::new(Inbox::default());
        let runtime = tokio::runtime::Handle::current();
        let logger = Logger::root(slog::Discard, o!());
        let transport = Transport::new(settings, inbox.clone(), runtime, logger);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn({
            let transport = transport.clone();
            async move {
                let stopped = async move { drop(stopped.await) };
                transport.serve(listener, stopped).await;
            }
        });
        TestPeer {
            transport,
            inbox,
            memory,
            files,
            address,
            stop: Some(stop),
            serving,
            messages: Vec::new(),
            bound: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn url(&self) -> PeerUrl {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// Stops the transport as a stop of the process does.
    async fn stop(mut self) -> SocketAddr {
        self.transport.close().await;
        drop(self.stop.take());
        self.serving.await.unwrap();
        self.address
    }

    /// Takes from the inbox until the condition holds.
    async fn until(&mut self, what: &str, mut condition: impl FnMut(&TestPeer) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "not in time: {what}; {} messages, {:?}",
                self.messages.len(),
                self.notices
            );
            let inbox = self.inbox.clone();
            let events = tokio::task::spawn_blocking(move || {
                inbox.take(Instant::now() + Duration::from_millis(20), Held::default())
            });
            let events = events.await.unwrap();
            for received in events.messages {
                self.messages.push(received.message);
                self.bound.push(received.bound.is_some());
            }
            self.notices.extend(events.notices);
        }
    }

    fn unreachable(&self, id: u64) -> bool {
        self.failures(id) > 0
    }

    fn failures(&self, id: u64) -> usize {
        let is = |notice: &&Notice| matches!(notice, Notice::Unreachable(peer) if *peer == id);
        self.notices.iter().filter(is).count()
    }

    fn found_gone(&self, id: u64) -> usize {
        let is = |notice: &&Notice| matches!(notice, Notice::Gone(peer) if *peer == id);
        self.notices.iter().filter(is).count()
    }

    fn reached(&self, id: u64) -> bool {
        let is = |notice: &Notice| matches!(notice, Notice::Connected(peer) if *peer == id);
        self.notices.iter().any(is)
    }

    /// How often this member has met a peer that it dialled.
    fn met_dialled(&self, id: u64) -> usize {
        self.met(|met| met.id == id && met.dialled)
    }

    /// How often this member has met a peer that dialled it.
    fn met_caller(&self, id: u64) -> usize {
        self.met(|met| met.id == id && !met.dialled)
    }

    fn met(&self, is: impl Fn(&Met) -> bool) -> usize {
        let met = |notice: &&Notice| matches!(notice, Notice::Met(met) if is(met));
        self.notices.iter().filter(met).count()
    }

    /// Whether an empty member has answered without stating its incarnation.
    fn greeted_by_empty(&self, id: u64) -> bool {
        let is = |notice: &Notice| matches!(notice, Notice::Greeted { id: by, empty: true } if *by == id);
        self.notices.iter().any(is)
    }

    /// Whether a member has answered without stating its incarnation.
    fn greeted_by_member(&self, id: u64) -> bool {
        let is = |notice: &Notice| matches!(notice, Notice::Greeted { id: by, empty: false } if *by == id);
        self.notices.iter().any(is)
    }

    /// Waits for a refusal of this member by a peer at the peer's known URL.
    async fn until_refused(&mut self, by: u64, reason: Reason) {
        self.until_told(by, reason, |refusal| refusal.dialled).await;
    }

    /// Waits for a refusal of this member by a peer that may be a stranger.
    async fn until_told_by_stranger(&mut self, by: u64, reason: Reason) {
        self.until_told(by, reason, |refusal| !refusal.dialled)
            .await;
    }

    async fn until_told(
        &mut self,
        by: u64,
        reason: Reason,
        is_such: impl Fn(&PeerRefusal) -> bool,
    ) {
        let told = |refusal: &PeerRefusal| {
            (refusal.by, refusal.reason) == (by, reason) && is_such(refusal)
        };
        let is = |notice: &Notice| matches!(notice, Notice::Refused(refusal) if told(refusal));
        let what = format!("{reason:?} by {by}");
        self.until(&what, |peer| peer.notices.iter().any(is)).await;
    }

    fn list(&self, peers: &[&TestPeer]) {
        let listed = peers.iter().map(|peer| (peer.memory.member, peer.url()));
        self.transport.set_list(listed.collect());
    }
}

fn members(list: &[(u64, &TestPeer, u64)]) -> Members {
    let mut members = Members::default();
    for (id, peer, added_index) in list {
        let member = Member {
            url: peer.url(),
            // A member that was added is not a voter before it has its first state.
            learner: *added_index > 1,
            added_index: *added_index,
            incarnation: peer.memory.incarnation,
            bound_index: *added_index,
            description: Default::default(),
        };
        members.members.insert(*id, member);
    }
    members
}

/// A member at a URL where no process listens.
fn absent(incarnation: u64) -> Member {
    Member {
        url: "http://127.0.0.1:1".parse().unwrap(),
        learner: false,
        added_index: 1,
        incarnation,
        bound_index: 1,
        description: Default::default(),
    }
}

/// The number of connections that a peer has made to another peer.
fn connections(peer: &TestPeer, to: u64) -> u64 {
    let peers = peer.transport.shared.peers();
    let queues = &peers.by_id[&to].queues;
    queues.iter().map(|queue| queue.connections()).sum()
}

/// Two members of one cluster that know each other.
async fn pair() -> (TestPeer, TestPeer) {
    let (one, two) = (TestPeer::start(1).await, TestPeer::start(2).await);
    let members = members(&[(1, &one, 1), (2, &two, 1)]);
    one.transport.set_members(CLUSTER, &members);
    two.transport.set_members(CLUSTER, &members);
    (one, two)
}

fn message(kind: MessageType, from: u64, to: u64, index: u64) -> Message {
    let mut message = Message {
        from,
        to,
        index,
        ..Message::default()
    };
    message.set_msg_type(kind);
    message
}

fn heartbeat(from: u64, to: u64, index: u64) -> Message {
    message(MessageType::MsgHeartbeat, from, to, index)
}

/// Waits until messages from `one` reach `two` on both lanes. Messages are repeated, as raft would repeat them.
async fn until_connected(one: &TestPeer, two: &mut TestPeer) {
    let (from, to) = (one.memory.member, two.memory.member);
    let before = two.messages.len();
    let transport = one.transport.clone();
    let kinds = [MessageType::MsgHeartbeat, MessageType::MsgAppend];
    two.until("connected", |two| {
        transport.send(kinds.map(|kind| message(kind, from, to, 0)).into());
        let new = &two.messages[before..];
        kinds.map(|kind| new.iter().any(|m| m.get_msg_type() == kind)) == [true; 2]
    })
    .await;
}

/// Waits as [`until_connected`], and until `one` is bound in the table of `two`.
async fn until_bound(one: &TestPeer, two: &mut TestPeer) {
    let (from, to) = (one.memory.member, two.memory.member);
    let transport = one.transport.clone();
    two.until("bound", |two| {
        transport.send(vec![heartbeat(from, to, 0)]);
        two.bound.last() == Some(&true)
    })
    .await;
}
