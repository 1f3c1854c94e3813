//! Formation: the first listed member creates the cluster and adds the others.
//!
//! The first starts alone and *unformed*: it leads, and serves no clients. It waits until every other listed member has
//! answered, with an empty directory, on a connection that the first dialled. Then it adds the others one by one, each
//! with the incarnation that answered, and promotes them to voters. When all are voters and have stored the last
//! promotion, it proposes `Formed`. A member serves clients once it has published `Formed`.
//!
//! Invariants:
//! - Every voter except the first was added as a learner and then promoted, as in a formed cluster.
//! - An empty member has no power, so an emptied member can do no harm, whatever members it meets.
//!
//! What breaks without a step:
//! - without the wait, a first whose disk was lost could start a second cluster beside members of the old one;
//! - without `Formed` in every log, a person who finds a lost disk could not know whether the cluster had served
//!   anything.

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
    /// While this node is empty: members that let it in when it dialled them.
    pub let_in: BTreeSet<u64>,
    /// While this node is empty: the tick since which peers say that it was replaced.
    pub replaced_since: Option<u64>,
    /// Listed members that answered when this node dialled them.
    pub greeting: BTreeSet<u64>,
    /// By peer: why that peer, or this node, is not let in. Text for people.
    pub troubles: BTreeMap<u64, String>,
    /// Peers whose cluster has formed without this node.
    pub formed_without: BTreeSet<u64>,
    /// Answers of an empty node. Raft does not know of them.
    pub answers: Vec<Message>,
    /// Whether this joiner has logged that it waits to be added.
    pub waiting_told: bool,
    /// The reason for serving no clients that was last reported.
    pub closed_told: Option<Arc<Closed>>,
    /// The tick at which another cluster last claimed to know this sole member with another directory, and the id of
    /// the member that said so.
    pub other_life_heard: Option<(Ticks, NodeId)>,
    /// While this node is empty and asks members to add it: how far that has come, and whether the log has it.
    pub joining: Option<String>,
    /// The snapshot that this start has found is the first one of a new cluster, without any key.
    pub is_new: bool,
    /// The log behind that snapshot has a write of a client or a change of members. What the leader proposes by itself,
    /// such as the description of a member, does not count.
    pub is_used: bool,
    /// Whether this node has logged that another cluster waits for an empty data directory here.
    pub awaited_told: bool,
}

impl Node {
    /// The next command that the leader of an unformed cluster proposes.
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
            met.filter(|met| met.is_empty() && met.url == **url)
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

    /// The command that replaces the list, if the first was restarted with another list before it added any member.
    /// `meta` already holds the new list.
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

    /// Takes what a peer has said about itself. This is kept for members and listed members, and for a limited number
    /// of peers that are not in the members table yet.
    pub fn met(&mut self, met: Met) {
        let id = met.id;
        if met.dialled {
            self.greeted(id, met.is_empty());
        }
        self.note_statement(&met);
        if self.is_empty() {
            if !met.dialled {
                self.note_other_place(id, &met.url);
            }
            return;
        }
        if !self.may_be_member(&met) {
            return;
        }
        let row = self.members.members.get(&id);
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
        // A claim that can't be judged yet does not push out one that the table confirms.
        let is_bound = |met: &Met| row.is_some_and(|row| row.incarnation == met.incarnation);
        if kept.get(&id).is_some_and(is_bound) && !is_bound(&met) {
            return;
        }
        if kept.insert(id, met.clone()).as_ref() != Some(&met) {
            self.warn_of_taken_place(&met);
            self.note_care();
        }
    }

    /// Whether the row of this id, if there is one, is or may become that of this peer. The published table can't tell
    /// yet if the peer was bound later: this node replays its log, or lags.
    pub(super) fn may_be_member(&self, met: &Met) -> bool {
        let row = self.members.members.get(&met.id);
        let is_other = row.is_some_and(|row| ![0, met.incarnation].contains(&row.incarnation));
        !is_other || met.bound_index > self.watermarks.published
    }

    /// A peer with this id answered where this node dialled it, and did not refuse this node.
    pub fn greeted(&mut self, id: u64, empty: bool) {
        self.formation.troubles.remove(&id);
        self.formation.formed_without.remove(&id);
        if !self.is_empty() {
            if self.members.forming.contains_key(&id) {
                self.formation.greeting.insert(id);
            }
        } else if !empty {
            self.formation.let_in.insert(id);
            self.formation.replaced_since = None;
        }
    }

    /// A listed member that was not added yet can't be reached. It may come back with another directory, so its earlier
    /// answer no longer counts.
    pub(super) fn gone_while_forming(&mut self, id: u64) {
        let is_listed = self.members.forming.contains_key(&id);
        if is_listed && !self.members.members.contains_key(&id) {
            self.membership.answered.remove(&id);
            self.formation.greeting.remove(&id);
        }
    }

    /// Whether this node has no members table: it was never let in, and has no power.
    pub(super) fn is_empty(&self) -> bool {
        self.members.members.is_empty()
    }

    /// Handles a message while this node is empty. Only a first state that lets this node in changes anything. The
    /// answers tell the leader that this node is running and has no log. They confirm nothing, and this node stores
    /// nothing.
    pub(super) fn step_empty(&mut self, received: Received) {
        let Received { message, .. } = received;
        // A term far above 0 is refused: the answers would carry it to the leader.
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

    /// Whether a snapshot holds a valid state that lets this node in.
    fn is_first_state(&self, snapshot: &Snapshot) -> bool {
        let NodeSettings {
            id, incarnation, ..
        } = self.settings;
        members_of(snapshot).is_some_and(|members| members.lets_in(id, incarnation))
    }

    /// Whether a snapshot holds a valid state that binds this node's id to its incarnation.
    pub(super) fn is_for_this_node(&self, snapshot: &Snapshot) -> bool {
        let row = members_of(snapshot).and_then(|members| {
            let row = members.members.get(&self.settings.id);
            row.cloned()
        });
        row.is_some_and(|row| row.incarnation == self.settings.incarnation)
    }

    // ---- why clients are not served ----

    /// Why this member serves no clients, or `None` if it serves them.
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

    /// The newest progress of the task that asks members to add this node. The task logs it itself.
    pub fn joining(&mut self, state: String) {
        self.formation.joining = Some(state);
    }

    fn why_joining(&self) -> String {
        let id = self.settings.id;
        let (by, trouble) = self.formation.troubles.first_key_value().unzip();
        if let Some(through) = &self.settings.joins_through {
            let state = self.formation.joining.as_deref();
            let state =
                state.map_or_else(|| format!("member {id} is not added yet"), str::to_owned);
            let trouble = trouble.map_or(String::new(), |trouble| format!("; {trouble}"));
            return format!("joining through {through}: {state}{trouble}");
        }
        let is_hint = by.is_some_and(|by| self.formation.formed_without.contains(by));
        match trouble.filter(|_| !is_hint) {
            Some(trouble) => format!("joining: {trouble}"),
            None => {
                let hint = trouble.map_or(String::new(), |trouble| format!("; {trouble}"));
                let url = self.settings.url.as_ref();
                let url = url.map_or("http://HOST:PORT".to_owned(), PeerUrl::to_string);
                let instead = match id {
                    1 => {
                        "; to create a cluster instead, start member 1 without --join and with a new --data-dir"
                    }
                    _ => "",
                };
                format!(
                    "joining: member {id} is not added yet; a start with --join http://CLIENT_ADDRESS of any member asks for \
                     that, otherwise add the member: curl -X POST -d {url} http://CLIENT_ADDRESS/-/members/{id}{instead}{hint}"
                )
            }
        }
    }

    fn why_empty(&self) -> String {
        let id = self.settings.id;
        let (first, url) = self.settings.list.first_key_value().expect("it has a list");
        if let Some(by) = self.formation.formed_without.first() {
            let own = self.settings.list.get(&id).unwrap_or(url);
            return format!(
                "forming: the cluster of member {by} has formed without this member; did you forget --join? Start it with \
                 --join http://CLIENT_ADDRESS of any member, or add it: curl -X POST -d {own} \
                 http://CLIENT_ADDRESS/-/members/{id}"
            );
        }
        if *first == id {
            return format!(
                "forming: this data directory was first started with --join, and no cluster has let it in; to create a \
                 cluster that starts with member {id}, stop it, and start it with a new --data-dir"
            );
        }
        let mut why = format!(
            "forming: member {id} waits for member {first} ({url}), which starts the cluster and adds it"
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
                "forming: all {all} members are voters; a leader has to confirm this, and none is known here: {}",
                others.join("; ")
            );
        }
        if count == all {
            return format!(
                "forming: all {all} members are voters; waiting until every member has stored this"
            );
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
                    "; member {id} ({url}) answers, and has to reach this member too: compare its --cluster"
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
             so this directory was emptied or replaced, and started a cluster of its own; this member serves nothing \
             while member {by} says so: first stop this process, then DELETE /-/members/{id} at the other cluster, and \
             start with --join and a new --data-dir"
        )
    }

    /// The process that answered where a peer was dialled is not that peer.
    pub fn unfit(&mut self, id: u64, reason: Reason) {
        let Some(url) = self.members.forming.get(&id) else {
            return;
        };
        let trouble = format!("the process at {url} is not member {id} of this cluster: {reason}");
        self.keep_trouble(id, trouble);
    }

    /// Keeps the reason why a listed member, or a member that this node waits for, does not let this node in.
    pub(super) fn note_trouble(&mut self, by: u64, reason: Reason) {
        let at = self
            .members
            .forming
            .get(&by)
            .or(self.settings.list.get(&by));
        let at = at.map_or(String::new(), |url| format!(" ({url})"));
        match reason {
            Reason::NotAMember | Reason::Undisclosed => self.formation.formed_without.insert(by),
            _ => self.formation.formed_without.remove(&by),
        };
        let trouble = match reason {
            Reason::WrongCluster { .. } | Reason::Awaited => {
                format!(
                    "member {by}{at} belongs to another cluster; compare raftkvd inspect of both directories"
                )
            }
            Reason::NotAMember => format!(
                "member {by}{at} is in a cluster that has formed without this member; to add this member, POST its peer URL to /-/members/{} there",
                self.settings.id
            ),
            // A member that joins expects that no cluster has added it yet.
            Reason::Undisclosed if self.settings.list.is_empty() => {
                format!("the log of member {by} says why member {by} refuses this member")
            }
            Reason::Undisclosed => format!(
                "member {by}{at} is in a cluster that has formed without this member; to add this member, POST its peer URL to /-/members/{} there; the log of member {by} says if this id is taken, or was added at another peer URL",
                self.settings.id
            ),
            Reason::Removed { .. } if self.is_empty() => format!(
                "member {by}{at} says that this member was removed; to add this member again, POST its peer URL to /-/members/{} there",
                self.settings.id
            ),
            Reason::OtherPlace => format!(
                "member {by}{at} refuses this member: {reason}, and this member gives {}: correct --cluster or --peer-url, \
                 here or there",
                self.own_url().map_or("none".to_owned(), PeerUrl::to_string)
            ),
            reason => format!("member {by}{at} refuses this member: {reason}"),
        };
        self.keep_trouble(by, trouble);
    }

    /// Notes that a process has connected as a listed member, but claims another place than that in the list. The process
    /// may be a stranger and is not let in: an empty node reveals its incarnation only where it dials, and the first member
    /// adds others only where it dials.
    pub fn note_other_place(&mut self, id: u64, url: &PeerUrl) {
        let listed = match self.is_empty() {
            true => self.settings.list.get(&id),
            false => self.members.forming.get(&id),
        };
        let is_in = self.formation.let_in.contains(&id) || self.members.members.contains_key(&id);
        if let Some(listed) = listed.filter(|listed| *listed != url && !is_in) {
            let trouble = format!(
                "a process connected as member {id} (any process can claim that) and gives its peer URL as {url}, but \
                 --cluster has {listed} here: correct --cluster here or there"
            );
            self.keep_trouble(id, trouble);
        }
    }

    /// The peer URL that this member gives to others while it is empty.
    fn own_url(&self) -> Option<&PeerUrl> {
        let listed = self.settings.list.get(&self.settings.id);
        self.settings.url.as_ref().or(listed)
    }

    fn keep_trouble(&mut self, by: u64, trouble: String) {
        // There is at most one trouble for each listed member or member that was dialled. But a list may be long.
        if self.formation.troubles.len() < limits::TROUBLES_MAX
            || self.formation.troubles.contains_key(&by)
        {
            self.formation.troubles.insert(by, trouble);
        }
    }
}
