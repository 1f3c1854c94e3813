//! Transports in one process, over real sockets.

mod intruders;
mod membership;
mod snapshots;
mod streams;

use super::*;
use crate::inbox::{Held, Reason, Verdict};
use crate::members::Member;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::sync::oneshot;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

const CLUSTER: u64 = 0xc1;

/// A memory of the peers that forgets at the end of the test.
#[derive(Debug, Default)]
struct Memory {
    member: u64,
    incarnation: u64,
    cluster: Mutex<u64>,
    pins: Mutex<HashMap<u64, Pin>>,
}

impl Directory for Memory {
    fn member(&self) -> u64 {
        self.member
    }
    fn cluster(&self) -> u64 {
        *self.cluster.lock().unwrap()
    }
    fn incarnation(&self) -> u64 {
        self.incarnation
    }
    fn pinned(&self, peer: u64) -> Option<Pin> {
        self.pins.lock().unwrap().get(&peer).copied()
    }
    fn pin_cluster(&self, cluster: u64) -> Result<(), FileError> {
        *self.cluster.lock().unwrap() = cluster;
        Ok(())
    }
    fn pin(&self, peer: u64, pin: Pin) -> Result<(), FileError> {
        self.pins.lock().unwrap().insert(peer, pin);
        Ok(())
    }
}

/// One running transport.
struct Peer {
    transport: Transport,
    inbox: Arc<Inbox>,
    memory: Arc<Memory>,
    files: Arc<snapshots::Files>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    messages: Vec<Message>,
    notices: Vec<Notice>,
}

fn limits() -> Limits {
    Limits {
        handshake_timeout: Duration::from_secs(2),
        snapshot_stall: Duration::from_millis(500),
        snapshot_pause: Duration::from_millis(20),
        ..Limits::default()
    }
}

impl Peer {
    async fn start(id: u64) -> Peer {
        Peer::start_with(id, id * 100, CLUSTER, "127.0.0.1:0", limits()).await
    }

    async fn start_with(
        id: u64,
        incarnation: u64,
        cluster: u64,
        address: &str,
        limits: Limits,
    ) -> Peer {
        let listener = TcpListener::bind(address).await.unwrap();
        Peer::start_on(id, incarnation, cluster, listener, limits)
    }

    fn start_on(
        id: u64,
        incarnation: u64,
        cluster: u64,
        listener: TcpListener,
        limits: Limits,
    ) -> Peer {
        let memory = Arc::new(Memory {
            member: id,
            incarnation,
            cluster: Mutex::new(cluster),
            ..Memory::default()
        });
        let files = Arc::new(snapshots::Files::default());
        let settings = Settings {
            directory: memory.clone(),
            snapshots: Arc::new(snapshots::Shelf(files.clone())),
            metrics: Arc::default(),
            limits,
        };
        let inbox = Arc::new(Inbox::default());
        let runtime = tokio::runtime::Handle::current();
        let logger = Logger::root(slog::Discard, o!());
        let transport = Transport::new(settings, inbox.clone(), runtime, logger);
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn({
            let transport = transport.clone();
            async move {
                let stopped = async move { drop(stopped.await) };
                transport.serve(listener, stopped).await;
            }
        });
        Peer {
            transport,
            inbox,
            memory,
            files,
            address,
            stop: Some(stop),
            serving,
            messages: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn url(&self) -> PeerUrl {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// Ends it as a stop of the process does.
    async fn stop(mut self) -> SocketAddr {
        self.transport.close().await;
        drop(self.stop.take());
        self.serving.await.unwrap();
        self.address
    }

    /// Takes from the inbox until the condition holds.
    async fn until(&mut self, what: &str, mut condition: impl FnMut(&Peer) -> bool) {
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
            self.messages.extend(events.messages);
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

    fn refused(&self, wanted: &Verdict) -> bool {
        let is = |notice: &Notice| matches!(notice, Notice::Refused(verdict) if verdict == wanted);
        self.notices.iter().any(is)
    }

    /// Waits until it has accepted a peer.
    async fn until_pinned(&mut self, id: u64) {
        let memory = self.memory.clone();
        self.until("pinned", |_| memory.pinned(id).is_some()).await;
    }

    async fn until_refused(&mut self, by: u64, by_leader: bool, reason: Reason) {
        let verdict = Verdict {
            by,
            by_leader,
            reason,
        };
        self.until(&format!("{verdict:?}"), |peer| peer.refused(&verdict))
            .await;
    }
}

fn members(list: &[(u64, &Peer, u64)]) -> Members {
    let mut members = Members::default();
    for (id, peer, added_index) in list {
        let member = Member {
            url: peer.url(),
            learner: false,
            added_index: *added_index,
        };
        members.members.insert(*id, member);
    }
    members
}

/// Two members of one cluster who know each other.
async fn pair() -> (Peer, Peer) {
    let (one, two) = (Peer::start(1).await, Peer::start(2).await);
    let members = members(&[(1, &one, 1), (2, &two, 1)]);
    one.transport.set_members(&members, false);
    two.transport.set_members(&members, false);
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

/// Waits until messages from one get to two, on both lanes: they are repeated, as raft would.
async fn until_connected(one: &Peer, two: &mut Peer) {
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
