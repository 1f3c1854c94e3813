//! Waiting: which members have to be started while this node's cluster has formed, but the node has no leader.
//!
//! The node reports one line about this, which the log, `/-/ready` and refusals show. After several election timeouts
//! without a leader, the API also ends watches, so that their clients go to other members: see [`Waiting::is_long`].
//!
//! A leader counts only while this node hears from the leader. Raft itself keeps a learner's leader for ever, because a
//! learner never campaigns.

use super::Node;
use crate::channels::status::Waiting;
use crate::limits;
use crate::numbers::{NodeId, Ticks};
use slog::{info, warn};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

/// Whether this node has a leader, and which peers it reaches.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// The tick at which this node last had a leader. `None`: the node has had no leader since its start.
    led: Option<Ticks>,
    /// The tick of the last check.
    checked: Ticks,
    /// The peers that accept the connection of this node.
    reached: BTreeSet<NodeId>,
    /// What was last reported.
    reported: Option<Arc<Waiting>>,
    /// The line that was logged last, if the node still waits.
    logged: Option<String>,
}

impl Node {
    /// Records that a peer accepts the connection of this node.
    pub(super) fn note_reached(&mut self, peer: NodeId) {
        self.wait.reached.insert(peer);
    }

    /// The connection of this node to the peer has ended, or can't be made.
    pub fn note_unreached(&mut self, peer: NodeId) {
        self.wait.reached.remove(&peer);
    }

    /// What this node waits for, if that has changed since the last report. `Some(None)`: the node has a leader. Checked
    /// once a tick.
    pub(super) fn tell_waiting(&mut self) -> Option<Option<Arc<Waiting>>> {
        // Until this node has its first leader, the log that it replays may change the members at any time.
        if self.wait.checked == self.now && self.wait.led.is_some() {
            return None;
        }
        self.wait.checked = self.now;
        let waiting = self.waiting().map(Arc::new);
        self.log_waiting(waiting.as_deref());
        if waiting == self.wait.reported {
            return None;
        }
        self.wait.reported = waiting.clone();
        Some(waiting)
    }

    /// What this node waits for at its start.
    pub fn waiting_at_start(&mut self) -> Option<Arc<Waiting>> {
        self.wait.reported = self.waiting().map(Arc::new);
        self.wait.reported.clone()
    }

    /// Logs each change, but not the short time without a leader after each start and in each election.
    fn log_waiting(&mut self, waiting: Option<&Waiting>) {
        let Some(waiting) = waiting else {
            if self.wait.logged.take().is_some() {
                let leader = self.raw.raft.leader_id;
                info!(self.logger, "this member waits no longer"; "leader" => leader);
            }
            return;
        };
        let is_brief = self.leaderless() < self.settings.election_ticks as u64;
        if !is_brief && self.wait.logged.as_ref() != Some(&waiting.why) {
            warn!(self.logger, "{}", waiting.why);
            self.wait.logged = Some(waiting.why.clone());
        }
    }

    /// Ticks without a leader.
    fn leaderless(&self) -> Ticks {
        self.now - self.wait.led.unwrap_or(0)
    }

    fn waiting(&mut self) -> Option<Waiting> {
        let election = self.settings.election_ticks;
        let raft = &self.raw.raft;
        let hears_leader = raft.leader_id != 0 && raft.election_elapsed < 2 * election;
        if self.is_leader() || hears_leader {
            self.wait.led = Some(self.now);
            return None;
        }
        let is_member = self.members.members.contains_key(&self.settings.id);
        if !is_member || !self.members.is_formed() || self.is_sole_voter() {
            return None;
        }
        let silent = self.leaderless();
        let waits = self.wait.led.is_none() || silent >= election as u64;
        waits.then(|| Waiting {
            why: self.why_waiting(),
            is_long: silent >= limits::LEADERLESS_ELECTIONS * election as u64,
        })
    }

    fn why_waiting(&self) -> String {
        let missing = self.who_is_missing();
        match self.misplaced() {
            None => missing,
            Some((url, served)) => format!(
                "{missing}; the other members know this member at {url}, but it listens for peers at {served}"
            ),
        }
    }

    fn who_is_missing(&self) -> String {
        let own = self.settings.id;
        let is_reached = |id: &u64| {
            *id == own || self.wait.reached.contains(id) || self.leadership.heard.contains(id)
        };
        let voters: Vec<u64> = self.members.voters().collect();
        let needed = voters.len() / 2 + 1;
        let reached = voters.iter().filter(|id| is_reached(id)).count();
        let kind = match voters.len() == self.members.members.len() {
            true => "members",
            false => "voters",
        };
        let have = format!("{reached} of {} {kind} reachable", voters.len());
        if reached >= needed {
            return format!(
                "waiting: {have}, and they have not elected a leader yet; if this lasts, see the logs of these \
                 members"
            );
        }
        let missing = voters.iter().filter(|id| !is_reached(id));
        let missing = missing.map(|id| match self.members.members.get(id) {
            Some(member) => format!("{id} ({})", member.url),
            None => id.to_string(),
        });
        let missing: Vec<String> = missing.collect();
        let more = needed - reached;
        let start = match (more, missing.len()) {
            (1, _) => format!("start member {}", listed(&missing, "or")),
            (more, all) if more == all => format!("start members {}", listed(&missing, "and")),
            (more, _) => format!("start {more} of the members {}", listed(&missing, "and")),
        };
        let mut why = format!("waiting: {have}, {needed} needed; {start}");
        // A member that refuses this one is missing too, and starting it does not help.
        let refuses = voters.iter().filter(|id| !is_reached(id));
        for trouble in refuses.filter_map(|id| self.formation.troubles.get(id)) {
            let _ = write!(why, "; {trouble}");
        }
        why
    }
}

/// Joins the names with commas and a last word. Names beyond a limit are only counted.
fn listed(names: &[String], word: &str) -> String {
    let shown = names.len().min(limits::WAITING_NAMES_MAX);
    let beyond = names.len() - shown;
    match (beyond, &names[..shown]) {
        (0, [before @ .., last]) if !before.is_empty() => {
            format!("{} {word} {last}", before.join(", "))
        }
        (0, names) => names.concat(),
        (beyond, names) => format!("{} {word} {beyond} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_members_are_counted_and_few_are_named() {
        let names: Vec<String> = (1..=9).map(|id| id.to_string()).collect();
        assert_eq!(listed(&names[..1], "or"), "1");
        assert_eq!(listed(&names[..2], "or"), "1 or 2");
        assert_eq!(listed(&names[..4], "and"), "1, 2, 3 and 4");
        assert_eq!(listed(&names, "or"), "1, 2, 3, 4, 5 or 4 more");
    }
}
