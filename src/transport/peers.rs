//! Whom this member dials, and where; and what the dialled have answered.
//!
//! Dialled are the members of the table, those that the cluster forms of, those that claim a binding beyond what is
//! applied, and, while this member is empty, those that it was told of. A peer may be reached at several places: the
//! table's, the one that it named itself (it has moved, or the table does not know it), and while no leader is known the
//! one that this member was told on its command line. An empty member also dials the leaders that those name which it was
//! told of: whoever leads adds it, and has to hear from it who it is.

use super::Shared;
use super::handshake::Lane;
use super::link::Link;
use super::outbound::Outbound;
use super::queue::Queue;
use super::round_trip::RoundTrip;
use super::snapshot::SnapshotLane;
use crate::identity::{self, Claims, Reason, Standing, State, View};
use crate::peer_url::PeerUrl;
use crate::{limits, metrics};
use slog::{o, warn};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Default)]
pub(super) struct Peers {
    pub by_id: HashMap<u64, Peer>,
    /// The newest claims of each peer that were accepted: as those of a member that is bound (false), and of one that is
    /// ahead (true).
    claimed: BTreeMap<(u64, bool), Claims>,
    /// Where this member was told to dial.
    pub list: BTreeMap<u64, PeerUrl>,
    pub closed: bool,
}

/// A peer that messages can be sent to.
pub(super) struct Peer {
    /// Its life in the table, 0 while it is not there.
    added_index: u64,
    places: Vec<Place>,
    /// What it has answered on the connection of each lane.
    answers: [Option<Answer>; 2],
    /// It is connected, and no message may pass.
    pub waits: bool,
    pub queues: [Arc<Queue>; 2],
    tasks: Vec<JoinHandle<()>>,
    /// True ends the tasks, once the queues are empty or a short time is over.
    pub retired: watch::Sender<bool>,
    pub snapshots: Arc<SnapshotLane>,
    pub round_trip: Arc<RoundTrip>,
    /// Its series end with the peer.
    _metrics: metrics::Peer,
}

/// Where a peer may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub url: PeerUrl,
    /// It is not just the word of somebody who can't be judged yet.
    pub known: bool,
}

/// What a peer has answered.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub said: identity::Answer,
    /// Where it was dialled.
    pub url: PeerUrl,
}

impl Answer {
    fn bound_index(&self) -> u64 {
        match &self.said {
            identity::Answer::Claims(claims) => claims.bound_index,
            identity::Answer::Greeting(_) => 0,
        }
    }

    /// The leader that it names.
    fn leader(&self) -> Option<&(u64, PeerUrl)> {
        match &self.said {
            identity::Answer::Greeting(greeting) => match &greeting.state {
                State::Member(leader) => leader.as_ref(),
                State::Empty(_) => None,
            },
            identity::Answer::Claims(_) => None,
        }
    }
}

impl Peer {
    pub(super) fn retire(self) -> Vec<JoinHandle<()>> {
        for queue in &self.queues {
            queue.close();
        }
        self.retired.send_replace(true);
        self.tasks
    }

    fn redial(&self) {
        for queue in &self.queues {
            queue.redial.notify_one();
        }
    }
}

impl Shared {
    /// Starts and stops peers so that they match the view, the list and what was claimed, and judges all of them again.
    pub(super) fn reconcile(self: &Arc<Shared>, peers: &mut Peers) {
        if peers.closed {
            return;
        }
        let (view, applied) = self.now();
        // One that has caught up with is bound now, or refused.
        for (_, claims) in std::mem::take(&mut peers.claimed) {
            if let Ok(standing @ (Standing::Bound | Standing::Ahead)) =
                identity::judge(&claims, &view, applied)
            {
                peers
                    .claimed
                    .insert((claims.from, standing == Standing::Ahead), claims);
            }
        }
        let mut wanted = wanted(&view, peers);
        wanted.remove(&self.me);
        // A member that was removed and added again since the last view starts from nothing, also at the same place:
        // what is queued for its earlier life speaks of a log that it does not have.
        let kept = |id: &u64, peer: &Peer| {
            let wanted = wanted.get(id);
            wanted.is_some_and(|(added, _)| peer.added_index == 0 || *added == peer.added_index)
        };
        let gone = peers.by_id.extract_if(|id, peer| !kept(id, peer));
        for (_, peer) in gone.collect::<Vec<_>>() {
            peer.retire();
        }
        for (id, (added_index, places)) in wanted {
            let peer = peers.by_id.entry(id);
            let peer = peer.or_insert_with(|| self.start_peer(id));
            peer.added_index = added_index;
            if peer.places != places {
                peer.places = places;
                peer.redial();
            }
            peer.settle(&peers.claimed, &view, applied);
        }
        self.look_ahead(peers, applied);
    }

    /// Sees to it that all are judged again once the next binding that somebody claims is applied.
    fn look_ahead(&self, peers: &Peers, applied: u64) {
        let answered = peers.answers().map(Answer::bound_index);
        let claimed = peers.claimed.values().map(|claims| claims.bound_index);
        let indexes = claimed.chain(answered);
        let next = indexes.filter(|index| *index > applied).min();
        self.ahead
            .store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn start_peer(self: &Arc<Shared>, id: u64) -> Peer {
        let retired = watch::Sender::new(false);
        let metrics = self.metrics.peers.add(id, Lane::ALL.map(Lane::name));
        let round_trip = Arc::new(RoundTrip::new(metrics.round_trips.clone()));
        let queues =
            Lane::ALL.map(|lane| Arc::new(Queue::new(metrics.lanes[lane as usize].clone())));
        let logger = self.logger.new(o!("peer" => id));
        let link = Arc::new(Link::new(logger.clone()));
        let tasks = Lane::ALL.map(|lane| {
            let outbound = Outbound {
                shared: self.clone(),
                peer: id,
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
            added_index: 0,
            places: Vec::new(),
            answers: [None, None],
            waits: false,
            queues,
            tasks: tasks.into(),
            retired,
            snapshots: Arc::default(),
            round_trip,
            _metrics: metrics,
        }
    }

    /// A peer was let in: it is up, so it is dialled now and not after a pause; and its claims are remembered, unless it
    /// has no power yet.
    pub(super) fn welcome(self: &Arc<Shared>, claims: &Claims, standing: Standing) {
        let mut peers = self.peers();
        if standing != Standing::Waiting {
            self.remember(&mut peers, claims, standing == Standing::Ahead);
        }
        if let Some(peer) = peers.by_id.get(&claims.from) {
            peer.redial();
        }
    }

    fn remember(self: &Arc<Shared>, peers: &mut Peers, claims: &Claims, ahead: bool) {
        let key = (claims.from, ahead);
        let known = peers.claimed.get(&key);
        if known == Some(claims) {
            return;
        }
        let members = &self.view().members.members;
        let stranger = |id: &u64| !members.contains_key(id);
        let strangers = peers.claimed.keys().filter(|(id, _)| stranger(id)).count();
        if known.is_none() && stranger(&claims.from) && strangers >= limits::PEERS_AHEAD_MAX {
            warn!(self.logger, "too many members are unknown here, this one gets no answers until \
                this member has caught up"; "peer" => claims.from);
            return;
        }
        peers.claimed.insert(key, claims.clone());
        self.reconcile(peers);
        // A peer that had answered before it was bound may get messages now.
        self.judge_all();
    }

    /// A member's claims were refused, so they say no more where it is.
    pub(super) fn forget(self: &Arc<Shared>, claims: &Claims) {
        let mut peers = self.peers();
        let before = peers.claimed.len();
        let ends = |claims: &Claims| (claims.from, claims.incarnation, claims.to);
        peers.claimed.retain(|_, other| ends(other) != ends(claims));
        if peers.claimed.len() != before {
            self.reconcile(&mut peers);
        }
    }

    /// Where to dial a peer, in the order of the attempts. Empty: it was retired.
    pub(super) fn places(&self, id: u64) -> Vec<Place> {
        let peers = self.peers();
        let Some(peer) = peers.by_id.get(&id) else {
            return Vec::new();
        };
        let mut places = peer.places.clone();
        // The first member leads from its start, and may have been told of other places since.
        let is_lost = self.leader.load(Ordering::Relaxed) == 0 || !self.view().members.is_formed();
        if let Some(url) = peers.list.get(&id)
            && (is_lost || places.is_empty())
        {
            add(&mut places, url, true);
        }
        places
    }

    /// A lane was connected and has this answer, or (`None`) is no longer connected. What was queued for a peer that has
    /// no power is dropped: false.
    pub(super) fn answered(
        self: &Arc<Shared>,
        id: u64,
        lane: Lane,
        queue: &Arc<Queue>,
        answer: Option<Answer>,
    ) -> bool {
        let mut peers = self.peers();
        let Peers { by_id, claimed, .. } = &mut *peers;
        let own = |peer: &&mut Peer| Arc::ptr_eq(&peer.queues[lane as usize], queue);
        let Some(peer) = by_id.get_mut(&id).filter(own) else {
            return true;
        };
        let names_leader = answer.as_ref().is_some_and(|a| a.leader().is_some());
        peer.answers[lane as usize] = answer;
        let (view, applied) = self.now();
        peer.settle(claimed, &view, applied);
        let dropped = peer.waits && queue.clear();
        self.look_ahead(&peers, applied);
        if names_leader && view.is_empty() {
            self.reconcile(&mut peers);
        }
        !dropped
    }

    /// The fingerprint that was answered where an id was dialled, and where that was.
    pub(super) fn greeted(&self, id: u64) -> Option<(u64, PeerUrl)> {
        let peers = self.peers();
        let answer = peers.by_id.get(&id)?.answers[Lane::Control as usize].as_ref()?;
        match &answer.said {
            identity::Answer::Greeting(greeting) => match greeting.state {
                State::Empty(fingerprint) => Some((fingerprint, answer.url.clone())),
                State::Member(_) => None,
            },
            identity::Answer::Claims(_) => None,
        }
    }

    /// Judges the answer of a peer.
    pub(super) fn judge_answer(&self, answer: &Answer) -> Result<Standing, Reason> {
        let peers = self.peers();
        let (view, applied) = self.now();
        judge_answer(answer, &peers.claimed, &view, applied)
    }

    /// How things stand with the peer that a lane is connected to, and whether that place still is one of its. `None`: it
    /// was retired.
    pub(super) fn standing(
        &self,
        id: u64,
        lane: Lane,
        queue: &Arc<Queue>,
    ) -> Option<(Result<Standing, Reason>, bool)> {
        let peers = self.peers();
        let own = |peer: &&Peer| Arc::ptr_eq(&peer.queues[lane as usize], queue);
        let peer = peers.by_id.get(&id).filter(own)?;
        let answer = peer.answers[lane as usize].as_ref()?;
        let (view, applied) = self.now();
        let standing = judge_answer(answer, &peers.claimed, &view, applied);
        let listed = peers.list.get(&id) == Some(&answer.url);
        let placed = peer.places.iter().any(|place| place.url == answer.url);
        Some((standing, listed || placed))
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
    fn settle(&mut self, claimed: &BTreeMap<(u64, bool), Claims>, view: &View, applied: u64) {
        self.waits = self.answers.iter().flatten().any(|answer| {
            let standing = judge_answer(answer, claimed, view, applied);
            standing == Ok(Standing::Waiting)
        });
    }
}

fn judge_answer(
    answer: &Answer,
    claimed: &BTreeMap<(u64, bool), Claims>,
    view: &View,
    applied: u64,
) -> Result<Standing, Reason> {
    let Answer { said, url } = answer;
    let come = claimed.range((said.from(), false)..=(said.from(), true));
    let come = come.map(|(_, claims)| claims);
    identity::judge_answer(said, url, come, view, applied)
}

/// All peers that are to be dialled: when each was added, and where it is.
fn wanted(view: &View, peers: &Peers) -> BTreeMap<u64, (u64, Vec<Place>)> {
    let mut wanted: BTreeMap<u64, (u64, Vec<Place>)> = BTreeMap::new();
    for (id, member) in &view.members.members {
        let (added_index, places) = wanted.entry(*id).or_default();
        *added_index = member.added_index;
        add(places, &member.url, true);
    }
    for (id, url) in &view.members.forming {
        let (_, places) = wanted.entry(*id).or_default();
        if places.is_empty() {
            add(places, url, true);
        }
    }
    for ((id, ahead), claims) in &peers.claimed {
        // Next to one that is bound, whoever else has that id is nobody.
        if *ahead && peers.claimed.contains_key(&(*id, false)) {
            continue;
        }
        add(&mut wanted.entry(*id).or_default().1, &claims.url, !ahead);
    }
    if view.is_empty() {
        for id in peers.list.keys() {
            wanted.entry(*id).or_default();
        }
        let leaders = peers.answers().filter_map(Answer::leader);
        for (id, url) in leaders.take(limits::PEERS_AHEAD_MAX) {
            add(&mut wanted.entry(*id).or_default().1, url, true);
        }
    }
    wanted
}

impl Peers {
    /// What all peers have answered.
    fn answers(&self) -> impl Iterator<Item = &Answer> {
        let answers = self.by_id.values().flat_map(|peer| &peer.answers);
        answers.flatten()
    }
}

fn add(places: &mut Vec<Place>, url: &PeerUrl, known: bool) {
    match places.iter_mut().find(|place| place.url == *url) {
        Some(place) => place.known |= known,
        None => places.push(Place {
            url: url.clone(),
            known,
        }),
    }
}
