//! Whom this member dials, and where; and what the dialled have answered.
//!
//! Dialled are the members of the table, those that the cluster forms of, those that claim a binding beyond what is
//! applied, and, while this member is empty, those that it was told of. A peer may be reached at several places: the
//! table's, the one that it named itself (it has moved, or the table does not know it), and while no leader is known the
//! one that this member was told on its command line. An empty member also dials the leaders that those name which it was
//! told of: whoever leads adds it, and has to hear from it who it is.

use super::handshake::Trust;
use super::queue::LaneQueue;
use super::round_trip::RoundTrip;
use crate::identity::{self, Claims, GreetingState, Reason, Standing, View};
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

/// Claims that have power, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimKind {
    /// Those of a member that is bound.
    Bound,
    /// Those of a member that is ahead.
    Ahead,
}

impl ClaimKind {
    /// `None`: claims of this standing have no power.
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
    /// The newest claims of each peer and kind that were accepted.
    pub claimed: Claimed,
    /// Where this member was told to dial.
    pub list: BTreeMap<u64, PeerUrl>,
    pub closed: bool,
}

/// A peer that messages can be sent to.
pub(super) struct Peer {
    /// Its life in the table, 0 while it is not there.
    pub added_index: u64,
    pub places: Vec<PeerPlace>,
    /// What it has answered on the connection of each lane.
    pub answers: [Option<DialledAnswer>; 2],
    /// It is connected, and no message may pass.
    pub waits: bool,
    pub queues: [Arc<LaneQueue>; 2],
    tasks: Vec<JoinHandle<()>>,
    /// True ends the tasks, once the queues are empty or a short time is over.
    pub retired: watch::Sender<bool>,
    pub snapshots: Arc<SnapshotLane>,
    pub round_trip: Arc<RoundTrip>,
    /// Its series end with the peer.
    _metrics: metrics::PeerMetrics,
}

/// The transfers to one peer: one at a time.
#[derive(Default)]
pub(super) struct SnapshotLane {
    busy: AtomicBool,
    trouble: Mutex<Trouble>,
}

/// What came of the transfers so far.
#[derive(Default)]
pub(super) struct Trouble {
    /// The pause after the last failure, zero after a success.
    pub pause: Duration,
    /// The failure that was logged last.
    pub logged: Option<String>,
}

impl SnapshotLane {
    /// Takes the place of the one transfer. False: there is one already.
    pub(super) fn take(&self) -> bool {
        !self.busy.swap(true, Ordering::AcqRel)
    }

    /// Gives that place back.
    pub(super) fn leave(&self) {
        self.busy.store(false, Ordering::Release);
    }

    /// What came of the transfers so far.
    pub(super) fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock()
    }
}

/// Where a peer may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerPlace {
    pub url: PeerUrl,
    pub trust: Trust,
}

/// What a peer has answered.
#[derive(Debug, Clone)]
pub(super) struct DialledAnswer {
    pub said: identity::PeerAnswer,
    /// Where it was dialled.
    pub url: PeerUrl,
}

impl DialledAnswer {
    pub(super) fn bound_index(&self) -> u64 {
        match &self.said {
            identity::PeerAnswer::Claims(claims) => claims.bound_index,
            identity::PeerAnswer::Greeting(_) => 0,
        }
    }

    /// The leader that it names.
    pub(super) fn leader(&self) -> Option<&(u64, PeerUrl)> {
        match &self.said {
            identity::PeerAnswer::Greeting(greeting) => match &greeting.state {
                GreetingState::Member(leader) => leader.as_ref(),
                GreetingState::Empty(_) => None,
            },
            identity::PeerAnswer::Claims(_) => None,
        }
    }
}

impl Peer {
    /// One that is dialled nowhere yet, with its queues and the tasks that write them.
    pub(super) fn new(
        queues: [Arc<LaneQueue>; 2],
        tasks: Vec<JoinHandle<()>>,
        retired: watch::Sender<bool>,
        round_trip: Arc<RoundTrip>,
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
    /// Where it is connected, or otherwise is dialled first.
    pub(super) fn url(&self, listed: Option<&PeerUrl>) -> Option<PeerUrl> {
        let connected = self.answers.iter().flatten().map(|answer| &answer.url);
        let mut urls = connected.chain(self.places.iter().map(|place| &place.url));
        urls.next().or(listed).cloned()
    }

    /// Judges again what it has answered.
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
    let DialledAnswer { said, url } = answer;
    let come = claimed.range((said.from(), ClaimKind::Bound)..=(said.from(), ClaimKind::Ahead));
    let come = come.map(|(_, claims)| claims);
    identity::judge_answer(said, url, come, view, applied)
}

/// All peers that are to be dialled: when each was added, and where it is.
pub(super) fn wanted(view: &View, peers: &Peers) -> BTreeMap<u64, (u64, Vec<PeerPlace>)> {
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
        // Next to one that is bound, whoever else has that id is nobody.
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
        let leaders = peers.answers().filter_map(DialledAnswer::leader);
        for (id, url) in leaders.take(limits::PEERS_AHEAD_MAX) {
            add(&mut wanted.entry(*id).or_default().1, url, Trust::Known);
        }
    }
    wanted
}

impl Peers {
    /// What all peers have answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = &DialledAnswer> {
        let answers = self.by_id.values().flat_map(|peer| &peer.answers);
        answers.flatten()
    }
}

/// Adds a place, unless it is there.
pub(super) fn add(places: &mut Vec<PeerPlace>, url: &PeerUrl, trust: Trust) {
    match places.iter_mut().find(|place| place.url == *url) {
        Some(place) => place.trust = place.trust.max(trust),
        None => places.push(PeerPlace {
            url: url.clone(),
            trust,
        }),
    }
}
