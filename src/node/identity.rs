//! Who this node is, and what it does when a peer disagrees. The rules are one table in [`crate::identity`]; this file
//! carries them out.

use super::{Exit, Node, pending};
use crate::channels::status::{Closed, ClosedKind};
use crate::command::outcome::Outcome;
use crate::command::{Command, Kind};
use crate::identity::{self, Own, PeerRefusal, Reason, Verdict};
use crate::numbers::NodeId;
use slog::{info, warn};
use std::sync::Arc;

impl Node {
    /// A peer refuses this member.
    pub fn refused(&mut self, refusal: PeerRefusal) {
        let by = refusal.by;
        match identity::verdict(self.own(), &refusal) {
            Verdict::GoOn => {}
            Verdict::Wait => {
                // This peer's table does not bind this node's id. A table that binds the id to another directory is
                // older, so the refusals by such tables no longer count.
                if refusal.dialled {
                    self.formation.replaced_since = None;
                }
                let is_listed = !self.settings.list.is_empty();
                let is_hidden = refusal.reason == Reason::Undisclosed;
                if refusal.dialled && refusal.formed && (is_listed || is_hidden) {
                    self.note_trouble(by, refusal.reason);
                }
                if !std::mem::replace(&mut self.formation.waiting_told, true) {
                    info!(self.logger, "waiting to be added: POST the peer URL of this member to /-/members/{} of any member", self.settings.id; "member" => by);
                }
            }
            Verdict::Warn => {
                if refusal.dialled {
                    self.note_trouble(by, refusal.reason);
                }
            }
            Verdict::RefuseService => {
                // Keep naming the same peer while this lasts.
                let by = self.other_life().unwrap_or(by);
                self.formation.other_life_heard = Some((self.now, by));
            }
            Verdict::EndAsReplaced => self.end(Exit::Replaced { by }),
            Verdict::EndAsReplacedUnlessLetIn => {
                self.formation.let_in.remove(&by);
                let patience = 2 * self.settings.election_ticks as u64;
                let since = *self.formation.replaced_since.get_or_insert(self.now);
                if self.formation.let_in.is_empty() && self.now - since >= patience {
                    self.end(Exit::Replaced { by });
                }
                self.note_trouble(by, refusal.reason);
            }
            Verdict::EndAsStateLost => self.end(Exit::StateLost { by }),
            Verdict::EndAsNotJoined => self.end(Exit::NotJoined { by }),
            Verdict::EndAsNotJoinedIfUnused => self.end_unless_used(by),
            Verdict::EndAsTwice => self.end(Exit::Twice { by }),
            Verdict::EndAsRemoved { index } => {
                self.answer_own_removal();
                self.end(Exit::Removed { index });
            }
        }
    }

    /// A member of another cluster waits for an empty data directory of this sole member. Ends this node if no client has
    /// ever written to it: then nothing is lost, even if any process may have said so. From the decision on, this node
    /// takes no proposal.
    fn end_unless_used(&mut self, by: NodeId) {
        if !self.formation.is_new || self.formation.is_used {
            if !std::mem::replace(&mut self.formation.awaited_told, true) {
                warn!(
                    self.logger,
                    "another cluster has added member {0} at this peer URL, and waits for an empty data directory here, but this \
                     member is a cluster of its own with writes of clients, and goes on; did you forget --join? To let it join, \
                     stop it, and start it with --join and a new --data-dir; otherwise DELETE /-/members/{0} at the other cluster",
                    self.settings.id;
                    "member" => by
                );
            }
            return;
        }
        // A write that is under way decides. Until its end nothing has to happen, because the peer repeats its claim.
        let published = self.watermarks.published;
        let is_quiet = published == self.raw.raft.raft_log.last_index();
        if is_quiet && self.pending.held().proposals == 0 {
            self.ending.takes_nothing = true;
            self.end(Exit::NotJoined { by });
        }
    }

    /// The life and state of this node, as input for the table of verdicts.
    fn own(&self) -> Own {
        let members = &self.members;
        let bound_index = self.membership.own_bound_index;
        match members.members.get(&self.settings.id) {
            _ if self.is_empty() => Own::Empty,
            _ if !members.is_formed() => Own::Forming { bound_index },
            Some(_) if members.members.len() == 1 && members.removed.is_empty() => Own::Sole,
            _ => Own::Member { bound_index },
        }
    }

    /// Answers the clients that asked this member for its own removal: the removal is settled.
    fn answer_own_removal(&mut self) {
        let id = self.settings.id;
        let own_removal = |c: &Command| c.kind == Kind::RemoveMember && c.member_id == id;
        let index = self.watermarks.published;
        self.pending
            .resolve_where(own_removal, Outcome::Applied { index });
        for (index, reply) in self.membership.replies.drain(..) {
            pending::answer(Some(reply), Outcome::Applied { index });
        }
    }

    /// The member of another cluster that says it knows this sole member with another directory, if one said so
    /// recently.
    pub(super) fn other_life(&self) -> Option<u64> {
        let patience = 5 * self.settings.election_ticks as u64;
        let (heard, by) = self.formation.other_life_heard?;
        (self.own() == Own::Sole && self.now - heard < patience).then_some(by)
    }

    /// Why clients are not served, if that has changed since it was last reported. `Some(None)`: they are served.
    pub(super) fn tell_closed(&mut self) -> Option<Option<Arc<Closed>>> {
        // The usual case, at every pass: the cluster has formed and there is nothing to report.
        if self.formation.closed_told.is_none()
            && self.formation.other_life_heard.is_none()
            && self.is_open()
        {
            return None;
        }
        let closed = self.closed();
        if closed == self.formation.closed_told {
            return None;
        }
        self.note_closed(closed.clone());
        Some(closed)
    }

    /// Logs why clients are not served, or that clients are served again. Stores this as the newest report.
    pub(super) fn note_closed(&mut self, closed: Option<Arc<Closed>>) {
        match &closed {
            Some(closed) if closed.kind == ClosedKind::OtherLife => {
                warn!(self.logger, "serving no clients: {}", closed.why);
            }
            // The task that asks members to add this node has logged the same.
            Some(_) if self.is_empty() && self.formation.joining.is_some() => {}
            Some(closed) => info!(self.logger, "serving no clients: {}", closed.why),
            None => self.tell_open(),
        }
        self.formation.closed_told = closed;
    }

    /// Logs that clients are served again, if they were not.
    fn tell_open(&self) {
        match &self.formation.closed_told {
            Some(told) if told.kind == ClosedKind::OtherLife => {
                warn!(
                    self.logger,
                    "serving clients again, as a cluster of its own: no member of the other cluster says any more that it knows \
                     member {} with another data directory; if that is wrong, stop this process",
                    self.settings.id
                );
            }
            Some(_) => info!(self.logger, "serving clients"),
            None => {}
        }
    }

    fn is_open(&self) -> bool {
        !self.is_empty()
            && self.members.is_formed()
            && self.watermarks.applied >= self.watermarks.first_state
    }
}
