//! How a new cluster comes to be, from the list of its first members: by the first of them, which adds the others.
//!
//! The first begins alone and *unformed*: it leads, and serves no client. It waits until every other listed member has
//! answered on a connection that it dialled, with an empty directory; then it adds them one after the other, each with the
//! incarnation that answered, and makes them voters. When all are, and have stored the last promotion, it proposes
//! `Formed`. A member serves clients once it has applied that.
//!
//! So there is no second way to become a voter, and nobody who is empty has any power: an emptied member can do no harm,
//! whomever it meets. What breaks without a step: without the wait a first whose disk was lost could begin a second time
//! beside members of the first cluster; without `Formed` on the log of all, a person who finds a lost disk could not tell
//! whether anything was ever served.

use super::ready::members_of;
use super::{Node, NodeSettings};
use crate::channels::notice::{Met, Received};
use crate::channels::status::{Closed, ClosedKind};
use crate::command::{Command, Kind};
use crate::identity::{Reason, Standing};
use crate::limits;
use crate::members::{Decision, to_listed};
use crate::mutants::{Mutant, is_planted};
use crate::numbers::{NodeId, Ticks};
use crate::peer_url::PeerUrl;
use raft::eraftpb::{Message, MessageType, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// How far this member, or its cluster, is from serving clients.
#[derive(Debug, Default)]
pub(super) struct Formation {
    /// While this node is empty: members that have let it in where it dialled them.
    pub let_in: BTreeSet<u64>,
    /// While it is empty: since when it is told that it was replaced.
    pub replaced_since: Option<u64>,
    /// Listed members that have answered where they were dialled.
    pub greeting: BTreeSet<u64>,
    /// What keeps whom from being let in, or this node: by peer, for people.
    pub troubles: BTreeMap<u64, String>,
    /// Messages of a node that is empty, which raft knows nothing of.
    pub answers: Vec<Message>,
    /// A joiner has said that it waits to be added.
    pub waiting_told: bool,
    /// Why no clients are served, as it was told.
    pub closed_told: Option<Arc<Closed>>,
    /// Tick at which another cluster was last heard to know this sole member with another directory, and by whom.
    pub other_life_heard: Option<(Ticks, NodeId)>,
}

impl Node {
    /// The next step of the leader of a cluster that forms.
    pub(super) fn next_of_formation(&self) -> Option<Command> {
        if self.members.is_formed() {
            return None;
        }
        let correction = self.correction();
        if correction.is_some() {
            return correction;
        }
        let is_in = |id: &u64| self.members.members.contains_key(id);
        let mut missing = self.members.forming.iter().filter(|(id, _)| !is_in(id));
        let empty = |(id, url): &(&u64, &PeerUrl)| {
            let met = self.membership.answered.get(id);
            met.filter(|met| met.empty && met.url == **url)
        };
        let begins = self.members.members.len() == 1;
        if begins && !missing.clone().all(|m| empty(&m).is_some()) {
            return None;
        }
        if let Some((listed, met)) = missing.find_map(|listed| Some((listed, empty(&listed)?))) {
            let mut command = Command::new();
            command.kind = Kind::AddMember;
            command.member_id = *listed.0;
            command.member_url = listed.1.to_string();
            command.member_incarnation = met.incarnation;
            let changes = matches!(self.members.decide(&command), Ok(Decision::Change(_)));
            return changes.then_some(command);
        }
        let is_voter = |id: &u64| self.members.is_settled_voter(*id);
        let has_stored = |id: &u64| {
            let progress = self.raw.raft.prs().get(*id);
            let has = progress.is_some_and(|p| p.matched >= self.watermarks.published);
            *id == self.settings.id || has || is_planted(Mutant::FormedWithoutAll)
        };
        let mut listed = self.members.forming.keys();
        listed.all(|id| is_voter(id) && has_stored(id)).then(|| {
            let mut command = Command::new();
            command.kind = Kind::Formed;
            command
        })
    }

    /// The first of the list was started with another one, and has added nobody: it forms a cluster of those. The other
    /// list stands in `meta` already.
    fn correction(&self) -> Option<Command> {
        let list = &self.settings.list;
        let may = self.members.has_only(self.settings.id);
        if list.is_empty() || !may || *list == self.members.forming {
            return None;
        }
        let mut command = Command::new();
        command.kind = Kind::CorrectList;
        command.listed = to_listed(list);
        let changes = matches!(self.members.decide(&command), Ok(Decision::Change(_)));
        changes.then_some(command)
    }

    /// A peer was met. What is kept of it is of members and of listed ones, and of few that the members here don't know yet.
    pub fn met(&mut self, met: Met) {
        let id = met.id;
        if met.dialled {
            self.greeted(id, met.empty);
        }
        self.note_version(&met);
        if self.is_empty() {
            if !met.dialled {
                self.note_other_place(&met);
            }
            return;
        }
        let row = self.members.members.get(&id);
        if row.is_some_and(|row| ![0, met.incarnation].contains(&row.incarnation)) {
            return;
        }
        let known = row.is_some() || self.members.forming.contains_key(&id);
        let few =
            self.membership.claimed.len() < self.members.members.len() + limits::PEERS_AHEAD_MAX;
        if !known && (met.dialled || !few) {
            return;
        }
        let kept = match met.dialled || is_planted(Mutant::BoundAnywhere) {
            true => &mut self.membership.answered,
            false => &mut self.membership.claimed,
        };
        if kept.insert(id, met.clone()).as_ref() != Some(&met) {
            self.warn_of_taken_place(&met);
            self.note_care();
        }
    }

    /// A peer with this id has answered where it was dialled, and has not refused this node.
    pub fn greeted(&mut self, id: u64, empty: bool) {
        self.formation.troubles.remove(&id);
        if !self.is_empty() {
            if self.members.forming.contains_key(&id) {
                self.formation.greeting.insert(id);
            }
        } else if !empty {
            self.formation.let_in.insert(id);
            self.formation.replaced_since = None;
        }
    }

    /// A listed member that is not in yet can't be reached. It may come back with another directory: what it has answered
    /// counts no more.
    pub(super) fn gone_while_forming(&mut self, id: u64) {
        let is_listed = self.members.forming.contains_key(&id);
        if is_listed && !self.members.members.contains_key(&id) {
            self.membership.answered.remove(&id);
            self.formation.greeting.remove(&id);
        }
    }

    /// It has no table: it was never let in. So it has no power.
    pub(super) fn is_empty(&self) -> bool {
        self.members.members.is_empty()
    }

    /// Takes a message while this node is empty: only a first state that lets it in changes anything. Whoever leads learns
    /// from the answers that this node is there and has no log; they confirm nothing, and nothing is kept.
    pub(super) fn step_empty(&mut self, received: Received) {
        let Received { message, .. } = received;
        // No term far above 0: the answers would carry it to the leader.
        if !self.is_plausible(&message, Standing::Ahead) {
            return;
        }
        let kind = match message.get_msg_type() {
            MessageType::MsgSnapshot
                if self.is_from_later(message.get_snapshot(), Standing::Ahead) =>
            {
                return;
            }
            MessageType::MsgSnapshot if self.is_first_state(message.get_snapshot()) => {
                // An error here means that the message is of no use.
                let _ = self.raw.step(message);
                return;
            }
            MessageType::MsgAppend => MessageType::MsgAppendResponse,
            MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResponse,
            _ => return,
        };
        let mut answer = Message::default();
        answer.set_msg_type(kind);
        answer.to = message.from;
        answer.from = self.settings.id;
        answer.term = message.term;
        answer.index = message.index;
        answer.reject = kind == MessageType::MsgAppendResponse;
        if self.formation.answers.len() < limits::EMPTY_ANSWERS_MAX {
            self.formation.answers.push(answer);
        }
    }

    /// The state in a snapshot makes sense, and lets this node in.
    fn is_first_state(&self, snapshot: &Snapshot) -> bool {
        let NodeSettings {
            id, incarnation, ..
        } = self.settings;
        members_of(snapshot).is_some_and(|members| members.lets_in(id, incarnation))
    }

    /// The state in a snapshot makes sense, and binds this node's id to its incarnation.
    pub(super) fn is_for_this_node(&self, snapshot: &Snapshot) -> bool {
        let row = members_of(snapshot).and_then(|members| {
            let row = members.members.get(&self.settings.id);
            row.cloned()
        });
        row.is_some_and(|row| row.incarnation == self.settings.incarnation)
    }

    // ---- what clients are told ----

    /// Why this member serves no clients, if it does not.
    pub fn closed(&self) -> Option<std::sync::Arc<Closed>> {
        if is_planted(Mutant::UnformedServes) && !self.is_empty() {
            return None;
        }
        let (kind, why) = if self.is_empty() {
            match self.settings.list.is_empty() {
                true => (ClosedKind::Joining, self.why_joining()),
                false => (ClosedKind::Forming, self.why_empty()),
            }
        } else if !self.members.is_formed() {
            (ClosedKind::Forming, self.why_forming())
        } else if self.watermarks.applied < self.watermarks.first_state {
            let why = "joining: the first state from the leader is being loaded".to_owned();
            (ClosedKind::Joining, why)
        } else {
            let by = self.other_life()?;
            (ClosedKind::OtherLife, self.why_other_life(by))
        };
        Some(std::sync::Arc::new(Closed { kind, why }))
    }

    fn why_joining(&self) -> String {
        let id = self.settings.id;
        let trouble = self.formation.troubles.values().next();
        match trouble {
            Some(trouble) => format!("joining: {trouble}"),
            None => format!(
                "joining: member {id} waits to be added; with --join it asks for that itself, otherwise POST /{id} to \
                 any member"
            ),
        }
    }

    fn why_empty(&self) -> String {
        let id = self.settings.id;
        let (first, url) = self.settings.list.first_key_value().expect("it has a list");
        let mut why = format!(
            "forming: member {id} waits for member {first} ({url}), which begins the cluster and adds it"
        );
        for trouble in self.formation.troubles.values() {
            let _ = write!(why, "; {trouble}");
        }
        why
    }

    fn why_forming(&self) -> String {
        let forming = &self.members.forming;
        let is_in = |id: &&u64| self.members.is_settled_voter(**id);
        let (count, all) = (forming.keys().filter(is_in).count(), forming.len());
        if count == all && self.raw.raft.leader_id == 0 {
            let id = self.settings.id;
            let others = forming.iter().filter(|(other, _)| **other != id);
            let others = others.map(|(other, url)| format!("start member {other} ({url})"));
            let others: Vec<_> = others.collect();
            return format!(
                "forming: all {all} members are voters, and no leader is known here, which has to confirm that: {}",
                others.join("; ")
            );
        }
        if count == all {
            return format!("forming: all {all} members are voters; that is being stored");
        }
        let mut why = format!("forming: {count} of {all} members are in");
        for (id, url) in forming.iter().filter(|(id, _)| !is_in(id)) {
            let _ = match (
                self.formation.troubles.get(id),
                self.membership.answered.get(id),
            ) {
                (Some(trouble), _) => write!(why, "; {trouble}"),
                (None, None) if self.is_leader() && self.formation.greeting.contains(id) => write!(
                    why,
                    "; member {id} ({url}) answers, and has to reach this one too: compare its --cluster"
                ),
                (None, None) if self.is_leader() => write!(why, "; start member {id} ({url})"),
                _ => write!(why, "; member {id} ({url}) is being added"),
            };
        }
        why
    }

    fn why_other_life(&self, by: u64) -> String {
        let id = self.settings.id;
        format!(
            "other life: member {by} of another cluster knows member {id} at this peer URL with another data directory, \
             so this one was emptied or replaced, and began a cluster of its own; nothing is served while that is heard: \
             stop this process, keep its directory aside, then at the other cluster DELETE /{id}, and start with --join"
        )
    }

    /// Whoever answers where a peer was dialled is not that peer.
    pub fn unfit(&mut self, id: u64, reason: Reason) {
        let Some(url) = self.members.forming.get(&id) else {
            return;
        };
        let trouble =
            format!("the process at {url} is not the member {id} of this cluster: {reason}");
        self.keep_trouble(id, trouble);
    }

    /// What a listed member, or one that this node waits for, has answered instead of letting it in.
    pub(super) fn note_trouble(&mut self, by: u64, reason: Reason) {
        let at = self
            .members
            .forming
            .get(&by)
            .or(self.settings.list.get(&by));
        let at = at.map_or(String::new(), |url| format!(" ({url})"));
        let trouble = match reason {
            Reason::WrongCluster { .. } => {
                format!(
                    "member {by}{at} belongs to another cluster; see raftkvd inspect of both directories"
                )
            }
            Reason::NotAMember => format!(
                "member {by}{at} is in a cluster that has formed without this one: POST /{} to it",
                self.settings.id
            ),
            Reason::Removed { .. } if self.is_empty() => format!(
                "member {by}{at} says that this one was removed: POST /{} to it adds it again",
                self.settings.id
            ),
            reason => format!("member {by}{at} refuses this one: {reason}"),
        };
        self.keep_trouble(by, trouble);
    }

    /// An empty node says who it is only where it was told to dial. One that has come from another place may be a stranger.
    fn note_other_place(&mut self, met: &Met) {
        let (id, url) = (met.id, &met.url);
        let listed = self.settings.list.get(&id);
        if let Some(listed) =
            listed.filter(|listed| *listed != url && !self.formation.let_in.contains(&id))
        {
            let trouble = format!(
                "a process that calls itself member {id} (anybody can) has come from {url}, and --cluster has it at \
                 {listed}: correct --cluster if it has moved there"
            );
            self.keep_trouble(id, trouble);
        }
    }

    fn keep_trouble(&mut self, by: u64, trouble: String) {
        // Of peers that were dialled, so there is no more of it than there are members; but a list may be long.
        if self.formation.troubles.len() < limits::TROUBLES_MAX
            || self.formation.troubles.contains_key(&by)
        {
            self.formation.troubles.insert(by, trouble);
        }
    }
}
