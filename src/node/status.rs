//! What a node reports about itself: its status, what it holds, and its place according to the members table.

use super::Node;
use crate::channels::inbox::Held;
use crate::channels::status::{MemberStatus, PeerSeen, Position, Progress, Status};
use crate::peer_url::PeerUrl;
use raft::StateRole;
use slog::warn;

impl Node {
    /// The status of this node. The caller fills in the cluster id, the WAL counters, and what connections show.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let position = self.position();
        let learner = self
            .members
            .members
            .get(&self.settings.id)
            .map(|m| m.learner);
        let members = self.members.members.iter().map(|(id, member)| {
            let known = raft.prs().get(*id).filter(|_| self.is_leader());
            let own = *id == self.settings.id;
            // Raft-rs counts a new member as active before it was reached.
            let is_known = |p: &raft::Progress| p.matched > 0 || self.leadership.heard.contains(id);
            MemberStatus {
                id: *id,
                url: member.url.clone(),
                learner: !self.members.is_settled_voter(*id),
                progress: known.map(|p| Progress {
                    matched: p.matched,
                    active: own || (p.recent_active && is_known(p)),
                }),
                behind: self.behind(*id),
                seen: PeerSeen::default(),
            }
        });
        Status {
            id: self.settings.id,
            version: env!("CARGO_PKG_VERSION"),
            cluster: 0,
            formed: !self.is_empty() && self.members.is_formed(),
            role: match (raft.state, learner) {
                (_, None) => "joining",
                (_, Some(true)) => "learner",
                (StateRole::Leader, _) => "leader",
                (StateRole::Follower, _) => "follower",
                (StateRole::Candidate | StateRole::PreCandidate, _) => "candidate",
            },
            leader: position.leader,
            term: position.term,
            committed: position.committed,
            last: position.last,
            applied: position.applied,
            snapshot: position.snapshot,
            wal_syncs: 0,
            wal_bytes: 0,
            members: members.collect(),
        }
    }

    /// How far this node has come: the part of [`Node::status`] that costs nothing.
    pub fn position(&self) -> Position {
        let raft = &self.raw.raft;
        Position {
            term: raft.term,
            leader: raft.leader_id,
            last: raft.raft_log.last_index(),
            committed: raft.raft_log.committed,
            applied: self.watermarks.applied,
            snapshot: self.raw.store().snapshot_index(),
        }
    }

    /// What this node holds of clients' requests.
    pub fn held(&self) -> Held {
        Held {
            reads: self.reads.held(),
            writing: self.is_leader() && !self.durability.jobs.is_empty(),
            reading: self.reads.is_asking(),
            ahead: self.is_ahead_of_the_map(),
            ..self.pending.held()
        }
    }

    /// The place of this member according to the members table, if it has changed since it was last reported.
    pub(super) fn tell_place(&mut self) -> Option<PeerUrl> {
        // A replayed row may be older than what was reported in an earlier start. It was reported when it was committed,
        // and the log does not have to know of that yet.
        if self.watermarks.published < self.found_last {
            return None;
        }
        let row = self.members.members.get(&self.settings.id)?;
        let own = row.incarnation == self.settings.incarnation;
        if !own || self.membership.place_told.as_ref() == Some(&row.url) {
            return None;
        }
        self.membership.place_told = Some(row.url.clone());
        if let Some((url, served)) = self.misplaced() {
            warn!(
                self.logger,
                "the other members know this member at {url}, but it listens for peers at {served}: start it again, so that it \
                 listens on the port of {url}, or, if that URL is wrong: curl -X PUT -d {served} http://CLIENT_ADDRESS/-/members/{id}",
                id = self.settings.id
            );
        }
        self.membership.place_told.clone()
    }

    /// The peer URL that the members table has for this node, and the peer URL of this start, if this node does not listen
    /// on the port that the table names. `None` for a node with a URL on its command line: the others move it there.
    pub(super) fn misplaced(&self) -> Option<(&PeerUrl, &PeerUrl)> {
        let row = self.members.members.get(&self.settings.id)?;
        let served = self.settings.served_at.as_ref()?;
        let is_other = self.settings.url.is_none() && row.url.port() != served.port();
        is_other.then_some((&row.url, served))
    }
}

pub(super) fn role_name(role: StateRole) -> &'static str {
    match role {
        StateRole::Leader => "leader",
        StateRole::Follower => "follower",
        StateRole::Candidate => "candidate",
        StateRole::PreCandidate => "pre-candidate",
    }
}
