//! The peers that this member dials, their URLs, and their answers.
//!
//! This member dials:
//! - the members of its table;
//! - the members from which the cluster forms;
//! - members that claim a binding above the applied index;
//! - while this member is empty, the members on its list. The list comes from the command line, or from a member that
//!   was asked to add this member.
//!
//! A peer may have several URLs: the URL in the table, and the URL that the peer itself has named, because it has moved
//! or is not in the table. While no leader is known or the cluster forms, the URL on this member's list is dialled too.
//! Leaders that the answers of other members name are dialled too. An empty member dials the leader because the leader
//! needs the empty member's identity to add the member. A member that was away may have moved, and may not know the
//! member that leads now. If it did not dial this leader, neither of the two would find the other.

use super::handshake::{About, Trust};
use super::link::Link;
use super::queue::LaneQueue;
use super::round_trip::RoundTrip;
use crate::identity::{self, Claims, Reason, Standing, View};
use crate::peer_url::PeerUrl;
use crate::{limits, metrics};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Claims by member id and kind.
pub(super) type Claimed = BTreeMap<(u64, ClaimKind), Claims>;

/// The kinds of claims that are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimKind {
    /// Claims of a bound member.
    Bound,
    /// Claims of a member whose binding lies above the applied index.
    Ahead,
}

impl ClaimKind {
    /// Returns `None` for a peer that is still waiting to be bound.
    pub(super) fn of(standing: Standing) -> Option<ClaimKind> {
        match standing {
            Standing::Bound => Some(ClaimKind::Bound),
            Standing::Ahead => Some(ClaimKind::Ahead),
            Standing::Waiting => None,
        }
    }
}

#[derive(Default)]
pub(super) struct Peers {
    pub by_id: HashMap<u64, Peer>,
    /// The newest accepted claims of each peer and kind.
    pub claimed: Claimed,
    /// The URLs that the command line, or a member that was asked to add this member, has named.
    pub list: BTreeMap<u64, PeerUrl>,
    pub closed: bool,
}

/// A peer to which messages can be sent.
pub(super) struct Peer {
    /// The index of the entry that added the peer, or 0 while the peer is not in the table.
    pub added_index: u64,
    pub places: Vec<PeerPlace>,
    /// The peer's answers, one for the connection of each lane.
    pub answers: [Option<DialledAnswer>; 2],
    /// Connected, but no message may pass yet.
    pub waits: bool,
    pub queues: [Arc<LaneQueue>; 2],
    tasks: Vec<JoinHandle<()>>,
    /// True ends the tasks, once the queues are empty or a short time has passed.
    pub retired: watch::Sender<bool>,
    pub snapshots: Arc<SnapshotLane>,
    pub round_trip: Arc<RoundTrip>,
    pub link: Arc<Link>,
    /// What the peer said about itself when it was last connected.
    pub about: About,
    /// Dropped with the peer, which ends the metrics of the peer.
    _metrics: metrics::PeerMetrics,
}

/// Limits the snapshot transfers to one peer to one at a time.
#[derive(Default)]
pub(super) struct SnapshotLane {
    busy: AtomicBool,
    trouble: Mutex<Trouble>,
}

/// The result of the previous transfers.
#[derive(Default)]
pub(super) struct Trouble {
    /// The pause after the last failure. Zero after a success.
    pub pause: Duration,
    /// The last failure that was logged.
    pub logged: Option<String>,
}

impl SnapshotLane {
    /// Takes the only slot for a transfer. Returns false if the slot is taken.
    pub(super) fn take(&self) -> bool {
        !self.busy.swap(true, Ordering::AcqRel)
    }

    /// Frees the slot.
    pub(super) fn leave(&self) {
        self.busy.store(false, Ordering::Release);
    }

    /// The result of the previous transfers.
    pub(super) fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock()
    }
}

/// A place where a peer may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerPlace {
    pub url: PeerUrl,
    pub trust: Trust,
}

/// The answer of a peer.
#[derive(Debug, Clone)]
pub(super) struct DialledAnswer {
    pub said: identity::PeerAnswer,
    /// The URL at which the peer was dialled.
    pub url: PeerUrl,
    /// What the peer says about itself.
    pub about: About,
}

impl DialledAnswer {
    pub(super) fn bound_index(&self) -> u64 {
        match &self.said {
            identity::PeerAnswer::Claims(claims, _) => claims.bound_index,
            identity::PeerAnswer::Greeting(_) => 0,
        }
    }

    /// Whether the answer has claims, and is no greeting.
    pub(super) fn is_of_a_member(&self) -> bool {
        matches!(self.said, identity::PeerAnswer::Claims(..))
    }

    /// The leader that the answer names.
    pub(super) fn leader(&self) -> Option<&identity::Leader> {
        self.said.leader()
    }
}

impl Peer {
    /// A peer without any URL yet, with its queues and the tasks that write them.
    pub(super) fn new(
        queues: [Arc<LaneQueue>; 2],
        tasks: Vec<JoinHandle<()>>,
        retired: watch::Sender<bool>,
        round_trip: Arc<RoundTrip>,
        link: Arc<Link>,
        metrics: metrics::PeerMetrics,
    ) -> Peer {
        Peer {
            added_index: 0,
            places: Vec::new(),
            answers: [None, None],
            waits: false,
            queues,
            tasks,
            retired,
            snapshots: Arc::default(),
            round_trip,
            link,
            about: About::default(),
            _metrics: metrics,
        }
    }

    pub(super) fn retire(self) -> Vec<JoinHandle<()>> {
        for queue in &self.queues {
            queue.close();
        }
        self.retired.send_replace(true);
        self.tasks
    }

    pub(super) fn redial(&self) {
        for queue in &self.queues {
            queue.redial.notify_one();
        }
    }
}

impl Peer {
    /// The URL where the peer is connected, or otherwise the URL that is dialled first.
    pub(super) fn url(&self, listed: Option<&PeerUrl>) -> Option<PeerUrl> {
        let connected = self.answers.iter().flatten().map(|answer| &answer.url);
        let mut urls = connected.chain(self.places.iter().map(|place| &place.url));
        urls.next().or(listed).cloned()
    }

    /// Judges the peer's answers again, and sets `waits`.
    pub(super) fn settle(&mut self, claimed: &Claimed, view: &View, applied: u64) {
        self.waits = self.answers.iter().flatten().any(|answer| {
            let standing = judge_answer(answer, claimed, view, applied);
            standing == Ok(Standing::Waiting)
        });
    }
}

pub(super) fn judge_answer(
    answer: &DialledAnswer,
    claimed: &Claimed,
    view: &View,
    applied: u64,
) -> Result<Standing, Reason> {
    let DialledAnswer { said, url, .. } = answer;
    let come = claimed.range((said.from(), ClaimKind::Bound)..=(said.from(), ClaimKind::Ahead));
    let come = come.map(|(_, claims)| claims);
    identity::judge_answer(said, url, come, view, applied)
}

/// All peers that this member should dial, each with the index of its addition and with its places.
pub(super) fn wanted(
    view: &View,
    peers: &Peers,
    applied: u64,
    leaderless: bool,
) -> BTreeMap<u64, (u64, Vec<PeerPlace>)> {
    let mut wanted: BTreeMap<u64, (u64, Vec<PeerPlace>)> = BTreeMap::new();
    for (id, member) in &view.members.members {
        let (added_index, places) = wanted.entry(*id).or_default();
        *added_index = member.added_index;
        add(places, &member.url, Trust::Known);
    }
    for (id, url) in &view.members.forming {
        let (_, places) = wanted.entry(*id).or_default();
        if places.is_empty() {
            add(places, url, Trust::Known);
        }
    }
    for ((id, kind), claims) in &peers.claimed {
        // If a bound member has the id, other claims to the same id are ignored.
        let is_bound = peers.claimed.contains_key(&(*id, ClaimKind::Bound));
        let trust = match kind {
            ClaimKind::Bound => Trust::Known,
            ClaimKind::Ahead if is_bound => continue,
            ClaimKind::Ahead => Trust::Claimed,
        };
        add(&mut wanted.entry(*id).or_default().1, &claims.url, trust);
    }
    if view.is_empty() {
        for id in peers.list.keys() {
            wanted.entry(*id).or_default();
        }
    }
    let trust = match view.is_empty() {
        true => Trust::Known,
        // The answer may be older than the table.
        false => Trust::Claimed,
    };
    for (id, url) in peers.named_leaders(view, applied, leaderless) {
        add(&mut wanted.entry(*id).or_default().1, url, trust);
    }
    wanted
}

impl Peers {
    /// The leaders that answers name, and that this member has to dial. Once this member has a table, an answer counts
    /// only while this member has no leader, and only if the answer is that of a member. A leader counts only if the
    /// table does not know it, because an answer overrules neither the URLs nor the removals in the table.
    fn named_leaders(
        &self,
        view: &View,
        applied: u64,
        leaderless: bool,
    ) -> impl Iterator<Item = &identity::Leader> {
        let counts = move |answer: &&DialledAnswer| {
            let is_member = || {
                let standing = judge_answer(answer, &self.claimed, view, applied);
                answer.is_of_a_member() && standing == Ok(Standing::Bound)
            };
            view.is_empty() || (leaderless && is_member())
        };
        let is_unknown = |(id, _): &&identity::Leader| {
            !view.members.members.contains_key(id) && view.members.removed_at(*id, 0).is_none()
        };
        let named = self.answers().filter(counts);
        let named = named.filter_map(DialledAnswer::leader).filter(is_unknown);
        let named: BTreeMap<_, _> = named.map(|leader| (leader, ())).collect();
        named.into_keys().take(limits::PEERS_AHEAD_MAX)
    }

    /// The answers of all peers.
    pub(super) fn answers(&self) -> impl Iterator<Item = &DialledAnswer> {
        let answers = self.by_id.values().flat_map(|peer| &peer.answers);
        answers.flatten()
    }
}

/// Adds a place. If the URL is there already, keeps the higher trust.
pub(super) fn add(places: &mut Vec<PeerPlace>, url: &PeerUrl, trust: Trust) {
    match places.iter_mut().find(|place| place.url == *url) {
        Some(place) => place.trust = place.trust.max(trust),
        None => places.push(PeerPlace {
            url: url.clone(),
            trust,
        }),
    }
}
