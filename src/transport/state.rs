//! The shared state of a transport's tasks, and its changes: the peers, their URLs, and their answers.

use super::files::{IdentityStore, SnapshotStore};
use super::handshake::{About, Lane, Trust};
use super::peers::{ClaimKind, DialledAnswer, Peer, PeerPlace, Peers, add, judge_answer, wanted};
use super::queue::LaneQueue;
use super::registry::Registry;
use super::settings::TransportLimits;
use crate::certificates::KeyFingerprint;
use crate::channels::inbox::Inbox;
use crate::identity::{self, Claims, GreetingState, Reason, Standing, View};
use crate::limits;
use crate::metrics::Metrics;
use crate::peer_url::PeerUrl;
use crate::tls::{NoLonger, Shown, Tls};
use parking_lot::{Mutex, MutexGuard};
use slog::{Logger, warn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Semaphore, watch};

/// The shared state of the tasks.
pub(super) struct TransportState {
    pub me: u64,
    pub directory: Arc<dyn IdentityStore>,
    pub snapshots: Arc<dyn SnapshotStore>,
    pub metrics: Arc<Metrics>,
    pub limits: TransportLimits,
    pub inbox: Arc<Inbox>,
    pub runtime: tokio::runtime::Handle,
    pub logger: Logger,
    pub leader: AtomicU64,
    /// The certificates of this member. `None`: without TLS.
    pub tls: Option<Tls>,
    /// What this member says about itself.
    pub about: About,
    /// The view of the members. The tasks of connections wait for a change, and then judge their peers again.
    pub view: watch::Sender<Arc<View>>,
    /// The view is applied at least up to this index.
    pub applied: AtomicU64,
    /// The lowest binding above `applied` that a peer claims. The peer can be judged once this index is applied.
    pub ahead: AtomicU64,
    pub peers: Mutex<Peers>,
    /// Starts the tasks of a peer. This is a function pointer because the tasks depend on this module, and not the
    /// reverse.
    pub start_peer: fn(&Arc<TransportState>, u64) -> Peer,
    pub inbound: Registry,
    /// Bytes of the frames that are arriving.
    pub frame_bytes: AtomicUsize,
    /// Limits the snapshots that are received to one at a time.
    pub receiving: Arc<Semaphore>,
}

impl TransportState {
    pub(super) fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock()
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Whether the key with which a peer has proved itself is revoked.
    pub(super) fn is_revoked(&self, key: Option<KeyFingerprint>) -> bool {
        let (Some(tls), Some(key)) = (&self.tls, key) else {
            return false;
        };
        tls.credentials().revokes(key) || self.view.borrow().members.is_revoked(&key)
    }

    /// Whether the certificate that a peer has shown is still accepted.
    pub(super) fn check_shown(&self, shown: Option<&Arc<Shown>>) -> Result<(), NoLonger> {
        let (Some(tls), Some(shown)) = (&self.tls, shown) else {
            return Ok(());
        };
        match self.view.borrow().members.is_revoked(&shown.key()) {
            true => Err(NoLonger::Revoked),
            false => shown.check(tls),
        }
    }

    /// The key with which this member proves itself. `None`: without TLS.
    pub(super) fn own_key(&self) -> Option<KeyFingerprint> {
        let tls = self.tls.as_ref()?;
        Some(tls.credentials().own().fingerprint)
    }

    /// Makes every connection judge its peer again.
    pub(super) fn judge_all(&self) {
        self.view.send_modify(|_| ());
    }

    /// The view, with an index up to which the view is certainly applied.
    pub(super) fn now(&self) -> (Arc<View>, u64) {
        // The index must be read before the view. In the other order the index could be newer than the view, and the
        // view would count as applied up to an index that it does not include.
        let applied = self.applied.load(Ordering::Acquire);
        (self.view(), applied)
    }

    /// Starts and stops peers so that they match the view, the list and the claims. Then judges all peers again.
    pub(super) fn reconcile(self: &Arc<TransportState>, peers: &mut Peers) {
        if peers.closed {
            return;
        }
        let (view, applied) = self.now();
        // A claim whose binding was applied meanwhile is now bound or refused.
        for (_, claims) in std::mem::take(&mut peers.claimed) {
            let standing = identity::judge(&claims, &view, applied);
            if let Some(kind) = standing.ok().and_then(ClaimKind::of) {
                peers.claimed.insert((claims.from, kind), claims);
            }
        }
        let leaderless = self.leader.load(Ordering::Relaxed) == 0;
        let mut wanted = wanted(&view, peers, applied, leaderless);
        wanted.remove(&self.me);
        // A member that was removed and added again since the last view starts with empty queues, even at the same URL.
        // Messages queued for its earlier life refer to a log that it does not have.
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
            let peer = peer.or_insert_with(|| (self.start_peer)(self, id));
            peer.added_index = added_index;
            if peer.places != places {
                peer.places = places;
                peer.redial();
            }
            peer.settle(&peers.claimed, &view, applied);
        }
        self.look_ahead(peers, applied);
    }

    /// Schedules a new judgement of all peers for when the next claimed binding is applied.
    fn look_ahead(&self, peers: &Peers, applied: u64) {
        let answered = peers.answers().map(DialledAnswer::bound_index);
        let claimed = peers.claimed.values().map(|claims| claims.bound_index);
        let indexes = claimed.chain(answered);
        let next = indexes.filter(|index| *index > applied).min();
        self.ahead
            .store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Handles an accepted peer. The peer is up, so it is dialled now and not after a pause. Its claims are remembered,
    /// unless the peer is still waiting to be bound.
    pub(super) fn welcome(self: &Arc<TransportState>, claims: &Claims, standing: Standing) {
        let mut peers = self.peers();
        if let Some(kind) = ClaimKind::of(standing) {
            self.remember(&mut peers, claims, kind);
        }
        if let Some(peer) = peers.by_id.get(&claims.from) {
            peer.redial();
        }
    }

    fn remember(self: &Arc<TransportState>, peers: &mut Peers, claims: &Claims, kind: ClaimKind) {
        let key = (claims.from, kind);
        let known = peers.claimed.get(&key);
        if known == Some(claims) {
            return;
        }
        let members = &self.view().members.members;
        let stranger = |id: &u64| !members.contains_key(id);
        let strangers = peers.claimed.keys().filter(|(id, _)| stranger(id)).count();
        if known.is_none() && stranger(&claims.from) && strangers >= limits::PEERS_AHEAD_MAX {
            warn!(self.logger, "too many unknown members: this peer gets no answers until \
                this member has caught up"; "member" => claims.from);
            return;
        }
        peers.claimed.insert(key, claims.clone());
        self.reconcile(peers);
        // A peer that had answered before it was bound may get messages now.
        self.judge_all();
    }

    /// Drops a member's claims, which were refused, and with them the URL that they name. Claims with a newer binding
    /// stay: a copy of a data directory from before the member was added is refused while the member itself is
    /// accepted.
    pub(super) fn forget(self: &Arc<TransportState>, claims: &Claims) {
        let mut peers = self.peers();
        let before = peers.claimed.len();
        let ends = |claims: &Claims| (claims.from, claims.incarnation, claims.to);
        let is_newer = |other: &Claims| other.bound_index > claims.bound_index;
        (peers.claimed).retain(|_, other| ends(other) != ends(claims) || is_newer(other));
        if peers.claimed.len() != before {
            self.reconcile(&mut peers);
        }
    }

    /// The places to dial a peer at, in the order of the attempts. Empty if the peer was retired.
    pub(super) fn places(&self, id: u64) -> Vec<PeerPlace> {
        let peers = self.peers();
        let Some(peer) = peers.by_id.get(&id) else {
            return Vec::new();
        };
        let mut places = peer.places.clone();
        // While the cluster forms, the first member leads from its start, but the command line may name newer URLs than
        // the table.
        let is_lost = self.leader.load(Ordering::Relaxed) == 0 || !self.view().members.is_formed();
        if let Some(url) = peers.list.get(&id)
            && (is_lost || places.is_empty())
        {
            add(&mut places, url, Trust::Known);
        }
        places
    }

    /// The claims with which this member dials a peer at this URL. They are whole also for an open id if a peer with this
    /// id has connected here and its claims were believed, or if this member has had no leader for long: this member may
    /// lag, the id may be bound meanwhile, and that peer may be the only one that can tell this member of its removal.
    pub(super) fn claims_to_dial(&self, id: u64, url: &PeerUrl) -> Claims {
        let kinds = (id, ClaimKind::Bound)..=(id, ClaimKind::Ahead);
        let has_come = self.peers().claimed.range(kinds).next().is_some();
        let whole = has_come || self.is_leaderless_for_long();
        self.view().claims_to_dial(id, url, whole)
    }

    /// Whether this member has had no leader for long.
    pub(super) fn is_leaderless_for_long(&self) -> bool {
        let waiting = self.inbox.waiting();
        let waiting = waiting.borrow();
        waiting.as_ref().is_some_and(|waiting| waiting.is_long)
    }

    /// Records the answer of a lane that was connected, or `None` for a lane that is no longer connected. Returns false
    /// if queued messages were dropped because the peer is still waiting to be bound.
    pub(super) fn answered(
        self: &Arc<TransportState>,
        id: u64,
        lane: Lane,
        queue: &Arc<LaneQueue>,
        answer: Option<DialledAnswer>,
    ) -> bool {
        let mut peers = self.peers();
        let Peers { by_id, claimed, .. } = &mut *peers;
        let own = |peer: &&mut Peer| Arc::ptr_eq(&peer.queues[lane as usize], queue);
        let Some(peer) = by_id.get_mut(&id).filter(own) else {
            return true;
        };
        let (view, applied) = self.now();
        let is_bound = |answer: &DialledAnswer| {
            let standing = judge_answer(answer, claimed, &view, applied);
            answer.is_of_a_member() && standing == Ok(Standing::Bound)
        };
        if let Some(answer) = answer.as_ref().filter(|answer| is_bound(answer)) {
            peer.about = answer.about.clone();
        }
        let before = peer.answers[lane as usize].as_ref();
        let before = before.and_then(|answer| answer.leader().cloned());
        let names_another = before.as_ref() != answer.as_ref().and_then(DialledAnswer::leader);
        peer.answers[lane as usize] = answer;
        peer.settle(claimed, &view, applied);
        let dropped = peer.waits && queue.clear();
        self.look_ahead(&peers, applied);
        if names_another {
            self.reconcile(&mut peers);
        }
        !dropped
    }

    /// The fingerprint that an empty member answered where this id was dialled, and the URL.
    pub(super) fn greeted(&self, id: u64) -> Option<(u64, PeerUrl)> {
        let peers = self.peers();
        let answer = peers.by_id.get(&id)?.answers[Lane::Control as usize].as_ref()?;
        match &answer.said {
            identity::PeerAnswer::Greeting(greeting) => match greeting.state {
                GreetingState::Empty(fingerprint) => Some((fingerprint, answer.url.clone())),
                GreetingState::Member(_) => None,
            },
            identity::PeerAnswer::Claims(..) => None,
        }
    }

    pub(super) fn judge_answer(&self, answer: &DialledAnswer) -> Result<Standing, Reason> {
        let peers = self.peers();
        let (view, applied) = self.now();
        judge_answer(answer, &peers.claimed, &view, applied)
    }

    /// The standing of the peer to which a lane is connected, and whether the URL of the connection is still one of the
    /// peer's URLs. Returns `None` if the peer was retired.
    pub(super) fn standing(
        &self,
        id: u64,
        lane: Lane,
        queue: &Arc<LaneQueue>,
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
