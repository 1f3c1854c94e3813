//! The place of this member: its operator's word against the members table.
//!
//! A member states its place when it connects, and the leader moves the member there (`membership.rs`). But a leader
//! may act on an old statement. The leader may have been cut off while the member moved on, so that it heard the
//! statement of an earlier start, and not the newest one. After such a move nobody repeats the newest statement: the
//! connections stand, and the leader that heard it takes it as carried out.
//!
//! Only the member knows which of its statements is the newest. So it asks the leader to move it back.

use super::Node;
use super::membership::moving;
use crate::command::Command;
use crate::members::{Decision, Members};
use crate::numbers::Ticks;

/// How long the table may have another place before this member asks, in election timeouts. A leader that has heard the
/// newest statement moves this member earlier.
const PATIENCE_ELECTION_TIMEOUTS: u64 = 3;

/// The longest time between two questions, in election timeouts.
const PATIENCE_ELECTION_TIMEOUTS_MAX: u64 = 48;

/// The table has another place of this member than its operator has given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Displaced {
    /// The tick since which that is so, or at which this member last asked.
    since: Ticks,
    /// How long to wait from then on. It doubles with every question, because a member that lags asks in vain.
    patience_ticks: Ticks,
}

impl Node {
    /// The move of this member to the place that its operator has given, if the table has another one.
    pub(super) fn own_move(&self) -> Option<Command> {
        let url = self.settings.url.as_ref()?;
        let command = moving(self.settings.id, self.settings.incarnation, url);
        self.is_move(&command).then_some(command)
    }

    /// Whether the command moves a member that is bound to the incarnation in it.
    pub(super) fn is_move(&self, command: &Command) -> bool {
        let row = self.members.members.get(&command.member_id);
        row.is_some_and(|row| row.incarnation == command.member_incarnation)
            && matches!(self.members.decide(command), Ok(Decision::Change(_)))
    }

    /// Asks the leader to move this member to its place, if the table has had another place for long. Called at every
    /// tick.
    pub(super) fn ask_to_be_moved(&mut self) {
        let raft = &self.raw.raft;
        let is_led = raft.leader_id != 0 && !self.is_leader();
        // As long as nothing of the leader's term is published here, the entry that moves this member may be under way.
        let published = raft.raft_log.term(self.watermarks.published);
        let lags = !published.is_ok_and(|term| term == raft.term);
        let may_ask = self.settings.url_given && is_led && !lags && self.ending.leaving.is_none();
        let Some(command) = self.own_move().filter(|_| may_ask) else {
            self.displaced = None;
            return;
        };
        let election_ticks = self.settings.election_ticks as u64;
        let displaced = self.displaced.get_or_insert(Displaced {
            since: self.now,
            patience_ticks: PATIENCE_ELECTION_TIMEOUTS * election_ticks,
        });
        if self.now - displaced.since >= displaced.patience_ticks {
            let longest = PATIENCE_ELECTION_TIMEOUTS_MAX * election_ticks;
            displaced.since = self.now;
            displaced.patience_ticks = longest.min(2 * displaced.patience_ticks);
            self.propose_own(command);
        }
    }

    /// A snapshot has replaced the table `before`. Drops the statements of members that have moved in between: the
    /// snapshot does not say which places they passed, so a statement may be older than the row. If it is newer, its
    /// member asks to be moved.
    pub(super) fn drop_statements_before_snapshot(&mut self, before: &Members) {
        let rows = &self.members.members;
        self.membership.claimed.retain(|id, _| {
            let rows = before.members.get(id).zip(rows.get(id));
            rows.is_none_or(|(before, now)| before.url == now.url)
        });
    }
}
