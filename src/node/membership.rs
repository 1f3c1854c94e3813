//! Changes of members: one at a time, each settled before the next, and each answered once it is settled.
//!
//! The leader is the gate: it proposes a change only when its own term has committed an entry, the change before is
//! published, and that one's settlement too ([`Members::unsettled`](crate::members::Members::unsettled) has the reason).
//! A change that comes too early waits, its client's deadline permitting, and holds up no write: the leader's own in
//! `pending`, a follower's in [`WaitingChanges`].
//!
//! What the leader itself proposes follows from what it sees: a member that has moved, an id whose incarnation is open and
//! that answers at its place, a learner that has caught up, a cluster that forms (`formation.rs`).

use super::Node;
use super::pending::answer;
use crate::channels::notice::Met;
use crate::command::outcome::{Outcome, Refusal};
use crate::command::proposal::ReplySender;
use crate::command::version::VERSION;
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

/// Changes of members that followers have forwarded and that wait at the gate, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct WaitingChanges {
    changes: Vec<Forwarded>,
}

/// One start of a member.
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
    /// The command version that it needs; 0: the first.
    version: u64,
    /// Tick at which it is refused, in time for its client.
    deadline: u64,
}

/// The command version that the directory with this incarnation runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SaidVersion {
    pub incarnation: u64,
    pub version: u64,
}

/// What this node remembers of changes of members, and of members that it has met.
#[derive(Debug)]
pub(super) struct Membership {
    /// Index of a conf change that this leader proposed and that is not published.
    pub conf_change_in_flight: u64,
    pub news: VecDeque<MembersNews>,
    /// Of changes of members that are not settled, with their indexes.
    pub replies: Vec<(Index, ReplySender)>,
    /// Changes of members that followers have forwarded and that wait for another one.
    pub waiting: WaitingChanges,
    /// There is a learner, a member at another place or of another version, or a cluster that forms: the leader may have to
    /// propose something.
    pub needs_care: bool,
    /// Members and listed ones that have answered where they were dialled, the newest answer of each.
    pub answered: BTreeMap<u64, Met>,
    /// Members that have come by themselves, and the place that each names.
    pub claimed: BTreeMap<u64, Met>,
    /// What was said by whom was met last, by peer.
    pub versions: BTreeMap<u64, SaidVersion>,
    /// The index that bound this member, 0 while nothing does.
    pub own_bound_index: u64,
    /// Where the caller was told that this member is reached.
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
            versions: BTreeMap::new(),
            own_bound_index,
            place_told: None,
        }
    }
}

/// A change of members, which may be told only once a ready is durable.
#[derive(Debug)]
pub(super) struct MembersNews {
    /// The ready; 0 when it may be told at once.
    pub after: u64,
    pub members: Arc<Members>,
}

impl Node {
    /// As the leader: goes on with changes, own and others'. Called at every [`Node::ready`].
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
        if let Some(command) = self.next_description() {
            self.propose_own(command);
        }
        if self.is_gate_open() {
            if !self.membership.waiting.changes.is_empty() {
                let first = self.membership.waiting.changes.remove(0);
                // A member may have gone back since it came. Its proposer sends it again.
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

    /// Proposes what settles the newest change.
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

    /// A change may be proposed: there is none under way.
    fn is_gate_open(&self) -> bool {
        // A new leader can't know whether one is among the entries that it inherited, until it has applied them.
        self.membership.conf_change_in_flight <= self.watermarks.published
            && !self.raw.raft.has_pending_conf()
            && self.raw.raft.commit_to_current_term()
            && (self.members.unsettled.is_none() || is_planted(Mutant::ChangeNotSettled))
    }

    /// Proposes a change as the leader; false when it was not taken, and has to come again. Raft-rs would turn one that it
    /// can't take into an empty entry without a word.
    pub(super) fn step_conf_change(&mut self, message: Message, command: &Command) -> bool {
        if !self.is_gate_open() {
            return false;
        }
        let own = command.kind == Kind::RemoveMember && command.member_id == self.settings.id;
        if own && matches!(self.members.decide(command), Ok(Decision::Change(_))) {
            // A leader does not propose its own removal: the cluster would be without one until a timeout.
            self.hand_over();
            return false;
        }
        let taken = self.raw.step(message).is_ok();
        if taken {
            self.membership.conf_change_in_flight = self.raw.raft.raft_log.last_index();
        }
        taken
    }

    /// A follower has forwarded a change: it is proposed now, or waits.
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
        // Sent again, since no outcome came: it may have another sequence now.
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
        // The answer has to get back before its client's deadline.
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

    /// Changes that have waited too long go into the log as what they are: refused.
    fn refuse_late_changes(&mut self) {
        let (now, usable) = (self.now, self.usable_version());
        let changes = &mut self.membership.waiting.changes;
        let late: Vec<Forwarded> = changes
            .extract_if(.., |change| change.deadline <= now)
            .collect();
        // Refused or not, what a member does not know would end it.
        let known = |change: &Forwarded| change.version == 0 || change.version <= usable;
        for mut change in late.into_iter().filter(known) {
            let entries = change.message.take_entries();
            let entries = entries.into_iter().map(refused_entry).collect();
            change.message.set_entries(entries);
            // What raft drops here, its proposer sends again.
            let _ = self.raw.step(change.message);
        }
    }

    /// Ends this leader's own requests that have waited for another change until their deadline: nothing was changed.
    pub(super) fn expire_changes(&mut self) {
        if self.is_leader() && !self.is_gate_open() {
            let outcome = Outcome::Refused(Refusal::ChangeUnderWay);
            self.pending.expire_changes(self.now, outcome);
        }
    }

    /// There may be something for a leader to propose by itself. Noted when the members change or a peer is met, so that
    /// nothing is looked for at every pass.
    pub(super) fn note_care(&mut self) {
        let learners = self.members.learners().next().is_some();
        let moves = self.next_move().is_some();
        let describes = self.descriptions().next().is_some();
        self.membership.needs_care = learners || moves || describes || !self.members.is_formed();
    }

    /// A peer says which command version it knows. Who that is, is asked when the row is described.
    pub(super) fn note_version(&mut self, met: &Met) {
        let known = self.membership.versions.contains_key(&met.id)
            || self.members.members.contains_key(&met.id);
        let few = self.membership.versions.len() < limits::MEMBERS_MAX + limits::PEERS_AHEAD_MAX;
        if met.version == 0 || !(known || few) {
            return;
        }
        let said = SaidVersion {
            incarnation: met.incarnation,
            version: met.version,
        };
        if self.membership.versions.insert(met.id, said) != Some(said) {
            self.note_care();
        }
    }

    /// Which version the process of this member knows, if it is this one or was met.
    fn said_version(&self, id: u64, row: &Member) -> Option<u64> {
        let met = self.membership.versions.get(&id).copied();
        let said = match id == self.settings.id {
            true => Some(SaidVersion {
                incarnation: self.settings.incarnation,
                version: VERSION,
            }),
            false => met,
        };
        let SaidVersion {
            incarnation,
            version,
        } = said?;
        (incarnation == row.incarnation).then_some(version)
    }

    /// Members that run another version than their rows say.
    fn descriptions(&self) -> impl Iterator<Item = Command> {
        let rows = self.members.members.iter();
        rows.filter_map(|(id, row)| {
            let version = self.said_version(*id, row)?;
            (row.description.version != version).then(|| {
                let mut command = Command::new();
                command.kind = Kind::DescribeMember;
                command.leader_term = self.raw.raft.term;
                command.member_id = *id;
                command.member_incarnation = row.incarnation;
                command.member_version = version;
                command
            })
        })
    }

    /// The next one that this leader proposes. What a member said before it fell silent may be of an earlier process, and
    /// another leader may have heard the later one.
    fn next_description(&self) -> Option<Command> {
        let progress = self.raw.raft.prs();
        let answers = |id| progress.get(id).is_some_and(|p| p.recent_active);
        self.descriptions()
            .find(|command| command.member_id == self.settings.id || answers(command.member_id))
    }

    /// The command version of what may be proposed: that of a later one would end a member. What a member itself has said
    /// counts as soon as it was heard, if it lowers what its row says. 0 while a change is not settled: a member that was
    /// removed may still be needed, and is in the table no more. 0 also while a new leader has not published all that it
    /// inherited: a member's older version, or a removal, may stand there.
    pub(super) fn usable_version(&self) -> u64 {
        let raft = &self.raw.raft;
        let published = raft.raft_log.term(self.watermarks.published);
        let inherits = self.is_leader() && !published.is_ok_and(|term| term == raft.term);
        match inherits || self.members.unsettled.is_some() {
            true => 0,
            false => self.least_version(),
        }
    }

    /// The command version that all members of the table know, by their rows or their own later word.
    pub(super) fn least_version(&self) -> u64 {
        let versions = self.members.members.iter().map(|(id, row)| {
            let written = row.description.version;
            let said = self.said_version(*id, row);
            said.map_or(written, |said| said.min(written))
        });
        versions.min().unwrap_or_default()
    }

    /// A member was described. Not by a leader of another term, whose word has been under way for long.
    pub(super) fn publish_description(&mut self, command: &Command, entry_term: u64) {
        if command.leader_term == entry_term && self.members.describe(command) {
            info!(self.logger, "a member knows another command version"; "member" => command.member_id,
                "version" => command.member_version, "all_know" => self.members.known_version());
            self.note_care();
            self.tell_members(0);
        }
    }

    /// The change that this leader proposes next by itself, if there is one.
    fn next_change(&mut self) -> Option<Command> {
        self.next_move()
            .or_else(|| self.next_binding())
            .or_else(|| self.next_promotion())
            .or_else(|| self.next_of_formation())
    }

    /// A member has come from the place of another, as when two have swapped their URLs: a person has to move one of them
    /// out of the way.
    pub(super) fn warn_of_taken_place(&self, met: &Met) {
        let decided = self
            .members
            .decide(&moving(met.id, met.incarnation, &met.url));
        if let Err(Refusal::UrlTaken(other)) = decided {
            warn!(
                self.logger,
                "member {} has come from {}, which is the peer URL of member {other}: it is not moved \
                there; PUT another URL of member {other} to /-/members/{other} first",
                met.id,
                met.url
            );
        }
    }

    /// A member that is at another place than the members say: this one, or one that has come from there.
    fn next_move(&self) -> Option<Command> {
        let own = self.settings.url.clone();
        let own = own.map(|url| (self.settings.id, self.settings.incarnation, url));
        let claimed = self.membership.claimed.values();
        let claimed = claimed.map(|met| (met.id, met.incarnation, met.url.clone()));
        let command = |(id, incarnation, url): (u64, u64, PeerUrl)| moving(id, incarnation, &url);
        let changes = |command: &Command| {
            let row = self.members.members.get(&command.member_id);
            row.is_some_and(|row| row.incarnation == command.member_incarnation)
                && matches!(self.members.decide(command), Ok(Decision::Change(_)))
        };
        own.into_iter().chain(claimed).map(command).find(changes)
    }

    /// A move was carried out, from a place. What the member said of that place before is answered, also if an operator
    /// knows better; what it says of another place is not.
    pub(super) fn note_moved(&mut self, id: u64, index: u64, from: Option<PeerUrl>) {
        let to = self.members.members.get(&id).map(|row| row.url.clone());
        // A move that is only replayed is older than whatever was said in this start.
        if index <= self.found.last {
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
        if id == self.settings.id && self.settings.url.as_ref().is_some_and(answered) {
            self.settings.url = None;
        }
        self.note_care();
    }

    /// An id that was added with an open incarnation, and whoever answers at its place with an empty directory.
    fn next_binding(&self) -> Option<Command> {
        let mut members = self.members.members.iter();
        members.find_map(|(id, row)| {
            let met = self.membership.answered.get(id)?;
            let at_its_place = met.url == row.url || is_planted(Mutant::BoundAnywhere);
            let fits = row.incarnation == 0 && met.empty && at_its_place;
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

    /// A learner that has caught up becomes a voter.
    fn next_promotion(&self) -> Option<Command> {
        let raft = &self.raw.raft;
        let committed = raft.raft_log.committed;
        let lag_max = match self.members.is_formed() {
            true => limits::PROMOTION_LAG_ENTRIES_MAX,
            // There are no writes that could keep it behind.
            false => 0,
        };
        let caught_up = |id: &u64| {
            raft.prs().get(*id).is_some_and(|progress| {
                let behind = committed.saturating_sub(progress.matched);
                // After a snapshot a member is probed until there is an entry to send it: in an idle cluster, for ever.
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

    /// A change of members was published, and its effect is in `members` and in raft: its answer waits for the settlement.
    pub(super) fn answer_when_settled(&mut self, reply: Option<ReplySender>, index: u64) {
        if self.members.unsettled.is_none() || is_planted(Mutant::UnsettledChangeTold) {
            answer(reply, Outcome::Applied { index });
        } else {
            self.membership
                .replies
                .extend(reply.map(|reply| (index, reply)));
        }
    }

    /// A settlement was published. Of another term, it was forwarded to a leader that may not have carried the change out.
    pub(super) fn publish_settlement(&mut self, command: &Command, entry_term: u64) {
        let same_term = command.leader_term == entry_term;
        let unsettled = self.members.unsettled;
        if !same_term || unsettled.is_none_or(|change| change.index != command.changed_index) {
            return;
        }
        let change = self.members.unsettled.take();
        info!(self.logger, "the change of members is settled"; "index" => command.changed_index,
            "member" => change.map(|change| change.member));
        self.tell_members(0);
        for (index, reply) in self.membership.replies.drain(..) {
            answer(Some(reply), Outcome::Applied { index });
        }
    }
}

/// The command that moves a member to a place.
fn moving(id: u64, incarnation: u64, url: &PeerUrl) -> Command {
    let mut command = Command::new();
    command.kind = Kind::MoveMember;
    command.member_id = id;
    command.member_incarnation = incarnation;
    command.member_url = url.to_string();
    command
}

/// A change that is not carried out goes into the log as a normal entry: at publication it is refused on every node alike,
/// and its proposer learns of it.
fn refused_entry(entry: Entry) -> Entry {
    let mut normal = Entry::default();
    normal.data = entry.context;
    normal
}
