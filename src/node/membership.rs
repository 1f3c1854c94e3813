//! Membership changes: one at a time, each settled before the next, each answered once it is settled.
//!
//! The leader is the gate. It proposes a change only when its own term has committed an entry, and the previous change
//! is published and settled ([`crate::members`] has the reason). A change that comes too early waits, at most until its
//! client's deadline: in `pending` if it was proposed here, in [`WaitingChanges`] if a follower forwarded it. It does
//! not delay writes.
//!
//! The leader itself proposes changes when it observes one of these: a member has moved, an empty directory answers for
//! an id whose incarnation is open, a learner has caught up, or a cluster forms (`formation.rs`).

use super::Node;
use super::pending::answer;
use super::revocation::hexadecimal;
use crate::certificates::KeyFingerprint;
use crate::channels::notice::Met;
use crate::command::outcome::{Outcome, Refusal};
use crate::command::proposal::ReplySender;
use crate::command::version::{self, VERSION};
use crate::command::{Batch, Command, Kind};
use crate::limits;
use crate::members::{Decision, Member};
use crate::mutants::{Mutant, is_planted};
use crate::node::Members;
use crate::numbers::Index;
use crate::peer_url::PeerUrl;
use raft::ProgressState;
use raft::eraftpb::{Entry, Message};
use slog::{info, warn};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Changes that followers have forwarded and that wait at the gate, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct WaitingChanges {
    changes: Vec<Forwarded>,
}

/// One start of a member, which is the source of a forwarded change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proposer {
    member: u64,
    incarnation: u64,
    boot: u64,
    run: u64,
}

#[derive(Debug)]
struct Forwarded {
    message: Message,
    command: Command,
    by: Proposer,
    /// The command version that the change needs, or 0 for the first version.
    version: u64,
    /// Tick at which the change is refused, early enough for its client.
    deadline: u64,
}

/// What a process says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement {
    /// The incarnation of the process's directory.
    pub incarnation: u64,
    /// The command version that the process knows.
    pub version: u64,
    /// The key with which the process has proved itself. `None` without TLS.
    pub key: Option<KeyFingerprint>,
}

/// What this node remembers of membership changes, and of members that it has met.
#[derive(Debug)]
pub(super) struct Membership {
    /// Index of a conf change that this leader has proposed and not published yet.
    pub conf_change_in_flight: u64,
    pub news: VecDeque<MembersNews>,
    /// Replies of changes that are not settled, each with the index of its change.
    pub replies: Vec<(Index, ReplySender)>,
    pub waiting: WaitingChanges,
    /// The leader may have to propose something: there is a learner, a member at another place or with another version or
    /// key, or the cluster forms.
    pub needs_care: bool,
    /// Members and listed members that answered where they were dialled. Only the newest answer of each.
    pub answered: BTreeMap<u64, Met>,
    /// Members that connected by themselves, with the place that each names.
    pub claimed: BTreeMap<u64, Met>,
    /// The newest statement of each peer.
    pub statements: BTreeMap<u64, Statement>,
    /// The index that bound this member, or 0 while none does.
    pub own_bound_index: u64,
    /// The place of this member that was last reported to the caller.
    pub place_told: Option<PeerUrl>,
}

impl Membership {
    pub fn new(own_bound_index: u64) -> Membership {
        Membership {
            conf_change_in_flight: 0,
            news: VecDeque::new(),
            replies: Vec::new(),
            waiting: WaitingChanges::default(),
            needs_care: false,
            answered: BTreeMap::new(),
            claimed: BTreeMap::new(),
            statements: BTreeMap::new(),
            own_bound_index,
            place_told: None,
        }
    }
}

/// A new state of the members, which may have to wait for a ready to become durable.
#[derive(Debug)]
pub(super) struct MembersNews {
    /// The number of that ready, or 0 if the members may be reported at once.
    pub after: u64,
    pub members: Arc<Members>,
}

impl Node {
    /// Advances all membership changes, own and forwarded, as the leader. Called at every [`Node::ready`].
    pub(super) fn attend_members(&mut self) {
        if !self.is_leader() || self.ending.leaving.is_some() {
            self.membership.waiting.changes.clear();
            return;
        }
        #[cfg(feature = "later")]
        self.attend_later();
        let idle = self.membership.waiting.changes.is_empty() && !self.membership.needs_care;
        if idle && self.members.unsettled.is_none() {
            return;
        }
        self.settle();
        let description = self.due_descriptions().next();
        if let Some(command) = description {
            self.propose_own(command);
        }
        if self.is_gate_open() {
            let first = self.membership.waiting.changes.first();
            if first.is_some_and(|first| self.waits_to_revoke(&first.command)) {
                // The next publication may end the wait.
            } else if first.is_some() {
                let first = self.membership.waiting.changes.remove(0);
                // A member may have gone back to an older version since the change arrived. The proposer sends the
                // change again.
                if first.version == 0 || first.version <= self.usable_version() {
                    self.step_conf_change(first.message, &first.command);
                }
            } else if self.membership.needs_care
                && let Some(command) = self.next_change()
            {
                self.propose_own(command);
            }
        }
        self.refuse_late_changes();
    }

    /// Proposes the settlement of the newest change.
    fn settle(&mut self) {
        let term = self.raw.raft.term;
        let Some(unsettled) = self.members.unsettled else {
            return;
        };
        let mut command = Command::new();
        command.kind = Kind::Settle;
        command.leader_term = term;
        command.changed_index = unsettled.index;
        self.propose_own(command);
    }

    /// Whether a change may be proposed: no other change is under way.
    fn is_gate_open(&self) -> bool {
        // A new leader can't know whether the entries that it inherited hold a change until it has applied them.
        self.membership.conf_change_in_flight <= self.watermarks.published
            && !self.raw.raft.has_pending_conf()
            && self.raw.raft.commit_to_current_term()
            && (self.members.unsettled.is_none() || is_planted(Mutant::ChangeNotSettled))
    }

    /// Proposes a change, as the leader. Returns false if it was not taken and has to be proposed again. Raft-rs would
    /// silently turn a change that it can't take into an empty entry.
    pub(super) fn step_conf_change(&mut self, message: Message, command: &Command) -> bool {
        if !self.is_gate_open() || self.waits_to_revoke(command) {
            return false;
        }
        let own = command.kind == Kind::RemoveMember && command.member_id == self.settings.id;
        if own && matches!(self.members.decide(command), Ok(Decision::Change(_))) {
            // A leader does not propose its own removal: the cluster would have no leader until an election timeout.
            self.hand_over();
            return false;
        }
        if self.is_outdated_addition(command) || self.adds_revoked_key(command) {
            return self.raw.step(refused(message)).is_ok();
        }
        let message = self.with_usable_key(message, command);
        let taken = self.raw.step(message).is_ok();
        if taken {
            self.membership.conf_change_in_flight = self.raw.raft.raft_log.last_index();
        }
        taken
    }

    /// Whether the id was removed after this addition was requested. A duplicate of a join request can arrive that
    /// late. If another directory has used the id meanwhile, the table has forgotten the first directory, and the
    /// duplicate would make the first directory a member again. Its process may not have heard of its removal, and may
    /// send its writes again. The cluster would take them for new writes, because a removal ends the session.
    pub(super) fn is_outdated_addition(&self, command: &Command) -> bool {
        let asked_index = command.member_added_index;
        let removed = self.members.removed.get(&command.member_id);
        // An earlier build does not say when the addition was requested.
        let is_later = |removed: &u64| *removed > asked_index && asked_index > 0;
        command.kind == Kind::AddMember && removed.is_some_and(is_later)
    }

    /// A follower has forwarded a change. It is proposed now, or waits.
    pub(super) fn step_forwarded_change(
        &mut self,
        message: Message,
        batch: &Batch,
        command: &Command,
    ) {
        let by = Proposer {
            member: batch.member,
            incarnation: batch.incarnation,
            boot: batch.boot,
            run: batch.run,
        };
        let changes = &mut self.membership.waiting.changes;
        // A resend, because no outcome arrived. The resend may carry another sequence.
        let before = changes.iter_mut().find(|other| {
            other.by == by && {
                let (mut one, mut two) = (other.command.clone(), command.clone());
                (one.sequence, one.wait_ticks) = (0, 0);
                (two.sequence, two.wait_ticks) = (0, 0);
                one == two
            }
        });
        if let Some(before) = before {
            (before.message, before.command) = (message, command.clone());
            return;
        }
        // The answer has to reach the client before its deadline.
        let deadline = self.now + command.wait_ticks / 4 * 3;
        let full = changes.len() >= limits::CHANGES_WAITING_MAX;
        changes.push(Forwarded {
            message,
            command: command.clone(),
            by,
            version: batch.version,
            deadline: if full { 0 } else { deadline },
        });
        self.attend_members();
    }

    /// Puts changes that have waited too long into the log as refused.
    fn refuse_late_changes(&mut self) {
        let (now, usable) = (self.now, self.usable_version());
        let changes = &mut self.membership.waiting.changes;
        let late: Vec<Forwarded> = changes
            .extract_if(.., |change| change.deadline <= now)
            .collect();
        // Even a refused change ends a member that does not know the command version of that change.
        let known = |change: &Forwarded| change.version == 0 || change.version <= usable;
        for change in late.into_iter().filter(known) {
            // If raft drops the message here, the proposer sends it again.
            let _ = self.raw.step(refused(change.message));
        }
    }

    /// Refuses this leader's own changes that have waited for another change until their deadline. They have changed
    /// nothing.
    pub(super) fn expire_changes(&mut self) {
        if self.is_leader() && !self.is_gate_open() {
            let outcome = Outcome::Refused(Refusal::ChangeUnderWay);
            self.pending.expire_changes(self.now, outcome);
        }
    }

    /// Updates `needs_care`. Called when the members change or a peer is met, so that a pass does not have to search.
    pub(super) fn note_care(&mut self) {
        let learners = self.members.learners().next().is_some();
        let moves = self.next_move().is_some();
        let describes = self.descriptions().next().is_some();
        self.membership.needs_care = learners || moves || describes || !self.members.is_formed();
    }

    /// Records which command version a peer knows, and with which key it has proved itself. Whether the peer is the member
    /// that the table binds is checked when its row is described.
    pub(super) fn note_statement(&mut self, met: &Met) {
        let statements = &self.membership.statements;
        let known = statements.contains_key(&met.id) || self.members.members.contains_key(&met.id);
        let few = statements.len() < limits::MEMBERS_MAX + limits::PEERS_AHEAD_MAX;
        if met.version == 0 || !(known || few) {
            return;
        }
        let said = Statement {
            incarnation: met.incarnation,
            version: met.version,
            key: met.key,
        };
        if self.membership.statements.insert(met.id, said) != Some(said) {
            self.note_care();
        }
    }

    /// What the process of this member says about itself. `None`: the process has not connected to this node.
    pub(super) fn statement(&self, id: u64, row: &Member) -> Option<Statement> {
        let said = match id == self.settings.id {
            true => Some(Statement {
                incarnation: self.settings.incarnation,
                version: VERSION,
                key: self.settings.key,
            }),
            false => self.membership.statements.get(&id).copied(),
        };
        said.filter(|said| said.incarnation == row.incarnation)
    }

    /// Commands that describe the members whose version or key differs from their rows. A member without TLS states no key,
    /// so its row keeps the key. A revoked key is left out: the statement comes from before the newest key of the member.
    fn descriptions(&self) -> impl Iterator<Item = Command> {
        let rows = self.members.members.iter();
        rows.filter_map(|(id, row)| {
            let said = self.statement(*id, row)?;
            let key = said.key.filter(|key| !self.members.is_revoked(key));
            let key = key.map_or(Vec::new(), |key| key.0.to_vec());
            let has_key = key.is_empty() || row.description.key_fingerprint == key;
            (row.description.version != said.version || !has_key).then(|| {
                let mut command = Command::new();
                command.kind = Kind::DescribeMember;
                command.leader_term = self.raw.raft.term;
                command.member_id = *id;
                command.member_incarnation = row.incarnation;
                command.member_version = said.version;
                command.member_key_fingerprint = key.into();
                command
            })
        })
    }

    /// The descriptions that this leader proposes. A silent member is left out: its last statement may come from an earlier
    /// process, and another leader may have received a later one. A key waits until all members know that a new key revokes
    /// the former one.
    pub(super) fn due_descriptions(&self) -> impl Iterator<Item = Command> {
        let may_revoke = self.usable_version() >= version::REVOKES;
        let answers = |id| {
            let progress = self.raw.raft.prs().get(id);
            progress.is_some_and(|progress| progress.recent_active)
        };
        let due = self.descriptions().filter(move |command| {
            command.member_id == self.settings.id || answers(command.member_id)
        });
        due.filter_map(move |mut command| {
            if !may_revoke {
                command.member_key_fingerprint.clear();
            }
            let row = &self.members.members[&command.member_id].description;
            let changes =
                !command.member_key_fingerprint.is_empty() || row.version != command.member_version;
            changes.then_some(command)
        })
    }

    /// The highest command version that may be proposed. A later one would end some member.
    ///
    /// A member's own statement counts at once if it is lower than its row. The version is 0 while a change is not
    /// settled: a removed member is no longer in the table, but may still be needed. It is also 0 while a new leader
    /// has not published everything it inherited: a removal or a member's lower version may be among those entries.
    pub(super) fn usable_version(&self) -> u64 {
        match self.inherits() || self.members.unsettled.is_some() {
            true => 0,
            false => self.least_version(),
        }
    }

    /// Whether this node is a new leader that has not published everything it inherited.
    pub(super) fn inherits(&self) -> bool {
        let raft = &self.raw.raft;
        let published = raft.raft_log.term(self.watermarks.published);
        self.is_leader() && !published.is_ok_and(|term| term == raft.term)
    }

    /// The command version that all members in the table know, by their rows or their own newer statements. An open id has
    /// no process yet, so it does not keep keys from being revoked.
    pub(super) fn least_version(&self) -> u64 {
        let rows = self.members.members.iter();
        let versions = rows.map(|(id, row)| match row.incarnation {
            0 => self.version_of(*id, row).max(version::REVOKES),
            _ => self.version_of(*id, row),
        });
        versions.min().unwrap_or_default()
    }

    /// The command version that this member knows, by its row or its own newer statement: the lower one.
    pub(super) fn version_of(&self, id: u64, row: &Member) -> u64 {
        let written = row.description.version;
        let said = self.statement(id, row);
        said.map_or(written, |said| said.version.min(written))
    }

    /// Publishes a description. A description from the leader of an earlier term has been under way for long and may be
    /// out of date, so it is ignored. `version` is the command version that the entry names.
    pub(super) fn publish_description(&mut self, command: &Command, version: u64, entry: &Entry) {
        let id = command.member_id;
        let row = self.members.members.get(&id);
        let before = row.map(|row| row.description.clone()).unwrap_or_default();
        let is_current = command.leader_term == entry.term;
        if is_current && self.members.describe(command, version, entry.index) {
            let now = &self.members.members[&id].description;
            let is_news = self.is_news(entry.index);
            if is_news && now.version != before.version {
                info!(self.logger, "a member knows another command version"; "member" => id,
                    "command_version" => now.version, "all_know" => self.members.known_version());
            }
            if is_news && now.key_fingerprint != before.key_fingerprint {
                info!(self.logger, "a member has another key"; "member" => id,
                    "key" => hexadecimal(&now.key_fingerprint));
                self.log_former_key(id, &before.key_fingerprint);
            }
            self.note_care();
            self.tell_members(0);
        }
    }

    /// The next change that this leader proposes by itself, if any.
    fn next_change(&mut self) -> Option<Command> {
        self.next_move()
            .or_else(|| self.next_binding())
            .or_else(|| self.next_promotion())
            .or_else(|| self.next_of_formation())
    }

    /// Warns of a member that connected from the place of another, for example when two members have swapped their
    /// URLs. A person has to move one of them away first.
    pub(super) fn warn_of_taken_place(&self, met: &Met) {
        let decided = self
            .members
            .decide(&moving(met.id, met.incarnation, &met.url));
        if let Err(Refusal::UrlTaken(other)) = decided {
            warn!(
                self.logger,
                "member {} says that it is at {}, which is the peer URL of member {other}: it is not moved \
                there; PUT another URL of member {other} to /-/members/{other} first",
                met.id,
                met.url
            );
        }
    }

    /// The move of a member that is at another place than the table says: this member, or a member that connected and
    /// named that place.
    fn next_move(&self) -> Option<Command> {
        let claimed = self.membership.claimed.values();
        let mut claimed = claimed.map(|met| moving(met.id, met.incarnation, &met.url));
        self.own_move()
            .or_else(|| claimed.find(|command| self.is_move(command)))
    }

    /// The move of a member was published. `from` is the previous place. The member's statement about its place is
    /// dropped if it names either end of this move, even if an operator overruled it. A statement that names another
    /// place stays.
    ///
    /// What this member states itself is dropped only if an operator overruled it. A leader may have made the move
    /// because of an older statement: see [`ask_to_be_moved`](Node::ask_to_be_moved).
    pub(super) fn note_moved(&mut self, command: &Command, index: u64, from: Option<PeerUrl>) {
        let id = command.member_id;
        let to = self.members.members.get(&id).map(|row| row.url.clone());
        // A replayed move is older than anything stated in this start.
        if !self.is_news(index) {
            return;
        }
        let answered = |url: &PeerUrl| from.as_ref() == Some(url) || to.as_ref() == Some(url);
        if self
            .membership
            .claimed
            .get(&id)
            .is_some_and(|met| answered(&met.url))
        {
            self.membership.claimed.remove(&id);
        }
        // An operator does not name an incarnation.
        let overruled = command.member_incarnation == 0 && id == self.settings.id;
        if overruled && self.settings.url.as_ref().is_some_and(answered) {
            self.settings.url = None;
        }
        self.note_care();
    }

    /// The binding of an id that was added with an open incarnation, to the empty directory that answers at its place.
    fn next_binding(&self) -> Option<Command> {
        let mut members = self.members.members.iter();
        members.find_map(|(id, row)| {
            let met = self.membership.answered.get(id)?;
            let at_its_place = met.url == row.url || is_planted(Mutant::BoundAnywhere);
            let fits = row.incarnation == 0 && met.is_empty() && at_its_place;
            fits.then(|| {
                let mut command = Command::new();
                command.kind = Kind::BindMember;
                command.member_id = *id;
                command.member_incarnation = met.incarnation;
                command.member_added_index = row.added_index;
                command
            })
        })
    }

    /// The promotion of a learner that has caught up.
    fn next_promotion(&self) -> Option<Command> {
        let raft = &self.raw.raft;
        let committed = raft.raft_log.committed;
        let lag_max = match self.members.is_formed() {
            true => limits::PROMOTION_LAG_ENTRIES_MAX,
            // An unformed cluster takes no writes that could keep a learner behind.
            false => 0,
        };
        let caught_up = |id: &u64| {
            raft.prs().get(*id).is_some_and(|progress| {
                let behind = committed.saturating_sub(progress.matched);
                // After a snapshot, raft stays in the probe state until there is an entry to send: in an idle cluster,
                // for ever.
                let replicates = progress.state == ProgressState::Replicate
                    || (behind == 0 && !is_planted(Mutant::PromotionForgotten));
                progress.recent_active && replicates && behind <= lag_max
            })
        };
        let bound = |id: &u64| self.members.members[id].incarnation != 0;
        let id = self.members.learners().filter(bound).find(caught_up)?;
        let mut command = Command::new();
        command.kind = Kind::PromoteMember;
        command.member_id = id;
        command.member_added_index = self.members.members[&id].added_index;
        Some(command)
    }

    /// Answers a published change. `members` and raft already have its effect, but the answer waits for the settlement.
    pub(super) fn answer_when_settled(&mut self, reply: Option<ReplySender>, index: u64) {
        if self.members.unsettled.is_none() || is_planted(Mutant::UnsettledChangeTold) {
            answer(reply, Outcome::Applied { index });
        } else {
            self.membership
                .replies
                .extend(reply.map(|reply| (index, reply)));
        }
    }

    /// A settlement was published. It is ignored if the term in the command is not the term of the entry: the command
    /// was then forwarded to another leader, which may not have carried the change out.
    pub(super) fn publish_settlement(&mut self, command: &Command, entry: &Entry) {
        let same_term = command.leader_term == entry.term;
        let unsettled = self.members.unsettled;
        if !same_term || unsettled.is_none_or(|change| change.index != command.changed_index) {
            return;
        }
        let change = self.members.unsettled.take();
        if self.is_news(entry.index) {
            info!(self.logger, "the change of members is settled"; "index" => command.changed_index,
                "member" => change.map(|change| change.member));
        }
        self.tell_members(0);
        for (index, reply) in self.membership.replies.drain(..) {
            answer(Some(reply), Outcome::Applied { index });
        }
    }
}

/// The command that moves a member to a place.
pub(super) fn moving(id: u64, incarnation: u64, url: &PeerUrl) -> Command {
    let mut command = Command::new();
    command.kind = Kind::MoveMember;
    command.member_id = id;
    command.member_incarnation = incarnation;
    command.member_url = url.to_string();
    command
}

/// The proposal of a change that is not carried out.
fn refused(mut message: Message) -> Message {
    let entries = message.take_entries();
    message.set_entries(entries.into_iter().map(refused_entry).collect());
    message
}

/// Turns a change that is not carried out into a normal entry. Every node refuses it at publication, and its proposer
/// learns of that.
fn refused_entry(entry: Entry) -> Entry {
    let mut normal = Entry::default();
    normal.data = entry.context;
    normal
}
