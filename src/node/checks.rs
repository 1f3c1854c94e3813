//! Checks a peer's message before raft sees it.
//!
//! Raft-rs trusts its peers. A number that no correct member would send makes raft-rs panic, or lets a counter run
//! towards its maximum. And raft-rs goes on silently where two logs, or two leaders, can't both be right. So every
//! message must first be *plausible*, whichever peer sent the message. A message that *contradicts* what this node knows
//! for certain ends the node. Such a message means that a disk has lost what its member promised, and the answers of the
//! two members would differ for ever.
//!
//! A contradicting message ends the process only if it comes from a member that the applied table binds. From any other
//! sender, such a message is dropped, with one exception: a leader that counts on entries that are missing here is
//! followed. Only the entries of that leader can bring the table that binds it.

use super::elections::Lead;
use super::{Exit, Node};
use crate::command;
use crate::identity::Standing;
use crate::limits::INDEX_MAX;
use crate::mutants::{Mutant, is_planted};
use crate::numbers::{Index, NodeId, Term};
use raft::StateRole;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use slog::warn;

/// How far a message's term may exceed this node's term if the sender is not bound. No cluster holds that many
/// elections while a member is away.
const TERM_LEAD_MAX: u64 = 1 << 32;

/// What this node has heard of leaders and of missing entries.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The leader of the newest term.
    led: Lead,
    /// The leader that has sent one heartbeat with a commit index beyond the end of this log.
    lost_tail: Lead,
    /// The leader that this node has asked to send the missing entries.
    tail_asked_for: Lead,
    /// While this node leads: a follower whose log ended before an entry that the follower had acknowledged.
    lost_entries: Option<LostEntries>,
    /// The replicated state has held a session of this start.
    start_is_known: bool,
}

impl Node {
    /// Whether raft may see the message. Ends the node if the message proves that two members can't both be right.
    pub(super) fn passes(&mut self, message: &mut Message, standing: Standing) -> bool {
        if !self.is_plausible(message, standing) {
            warn!(self.logger, "ignoring a message that no member would send"; "member" => message.from,
                "type" => ?message.get_msg_type(), "term" => message.term, "index" => message.index,
                "committed" => message.commit);
            return false;
        }
        match self.contradiction(message) {
            None => {
                self.note_who_leads(message, standing);
                true
            }
            Some(Contradiction::Proven(Exit::PartedLog { .. }))
                if is_planted(Mutant::PartedLogUnnoticed) =>
            {
                true
            }
            Some(Contradiction::Proven(exit)) => {
                if standing == Standing::Bound {
                    self.end(exit);
                }
                false
            }
            Some(Contradiction::LostTail) if self.knows_as_voter(message.from, standing) => {
                self.note_lost_tail(message);
                false
            }
            Some(Contradiction::LostTail) if is_planted(Mutant::UnjudgedTailDropped) => false,
            Some(Contradiction::LostTail) => {
                self.ask_for_tail(message);
                true
            }
        }
    }

    pub(super) fn is_plausible(&self, message: &Message, standing: Standing) -> bool {
        // Raft-rs takes a message without a term for a message of this node itself, and checks nothing. Of the messages
        // between members, only these two types have no term.
        let termless = [MessageType::MsgPropose, MessageType::MsgReadIndex];
        let has_none = termless.contains(&message.get_msg_type());
        if has_none != (message.term == 0) || message.request_snapshot != 0 {
            return false;
        }
        let indexes = [
            message.index,
            message.commit,
            message.reject_hint,
            message.get_snapshot().get_metadata().index,
        ];
        let small = indexes.iter().all(|index| *index < INDEX_MAX);
        let terms = [
            message.term,
            message.log_term,
            message.commit_term,
            message.get_snapshot().get_metadata().term,
        ];
        // A bound member is followed to any term. A member whose term was raised this far would otherwise be cut off
        // for ever.
        let near = match standing {
            Standing::Bound => INDEX_MAX,
            _ => self
                .raw
                .raft
                .term
                .saturating_add(TERM_LEAD_MAX)
                .min(INDEX_MAX),
        };
        let in_order = |(index, entry): (u64, &Entry)| {
            entry.index == index && (1..=message.term).contains(&entry.term)
        };
        let appended = message.get_msg_type() != MessageType::MsgAppend
            || small
                && (message.index + 1..)
                    .zip(message.entries.iter())
                    .all(in_order);
        // A transfer message uses these fields for other numbers: see leadership_transfer.rs.
        let transfer = message.get_msg_type() == MessageType::MsgTransferLeader;
        let usual = small && terms.iter().all(|term| *term <= near);
        message.term <= near && (usual || transfer) && appended
    }

    fn contradiction(&self, message: &Message) -> Option<Contradiction> {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let last = log.last_index();
        let by = message.from;
        if message.term < raft.term {
            return None;
        }
        match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot => {
                let Lead {
                    term,
                    leader: known,
                } = self.evidence.led;
                if term == message.term && known != by {
                    return Some(Contradiction::Proven(Exit::TwoLeaders {
                        term,
                        known,
                        other: by,
                        last,
                    }));
                }
            }
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
                // A follower gets entries of this term from this leader only, so a correct follower holds no entry
                // above this leader's last index.
                let index = match message.get_msg_type() {
                    MessageType::MsgAppendResponse => message.index,
                    _ => message.commit,
                };
                let proven = self.is_leader() && message.term == raft.term && !message.reject;
                return (proven && index > last)
                    .then_some(Contradiction::Proven(Exit::PartedLog { by, index }));
            }
            _ => return None,
        }
        let parted = |index: u64, term: u64| {
            let own = log.term(index).unwrap_or(0);
            index > 0 && index <= log.committed && own != 0 && own != term
        };
        let at = |index| Some(Contradiction::Proven(Exit::PartedLog { by, index }));
        match message.get_msg_type() {
            MessageType::MsgHeartbeat if message.commit > last => Some(Contradiction::LostTail),
            MessageType::MsgAppend if parted(message.index, message.log_term) => at(message.index),
            MessageType::MsgAppend => {
                let mut entries = message.entries.iter();
                let entry = entries.find(|entry| parted(entry.index, entry.term))?;
                at(entry.index)
            }
            MessageType::MsgSnapshot => {
                let metadata = message.get_snapshot().get_metadata();
                let parted = parted(metadata.index, metadata.term);
                parted.then(|| at(metadata.index)).flatten()
            }
            _ => None,
        }
    }

    fn note_who_leads(&mut self, message: &Message, standing: Standing) {
        let leads = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        );
        if leads && standing == Standing::Bound && message.term > self.evidence.led.term {
            self.evidence.led = Lead {
                term: message.term,
                leader: message.from,
            };
        }
    }

    /// Records that this node leads in this term.
    pub(super) fn note_own_lead(&mut self, term: u64) {
        self.evidence.led = self.evidence.led.max(Lead {
            term,
            leader: self.settings.id,
        });
    }

    /// Whether the applied table lets this sender lead. A table that lacks the promotion of the leader can't judge it.
    fn knows_as_voter(&self, from: NodeId, standing: Standing) -> bool {
        standing == Standing::Bound && self.members.voters().any(|voter| voter == from)
    }

    /// A leader assumes that this node holds entries that are missing in this node's log. The evidence counts only if
    /// the leader is a voter, leads this term, and sends such a heartbeat twice: a single message may be a late one.
    fn note_lost_tail(&mut self, message: &Message) {
        let says = Lead {
            term: message.term,
            leader: message.from,
        };
        if self.evidence.led != says {
            self.note_who_leads(message, Standing::Bound);
            return;
        }
        if std::mem::replace(&mut self.evidence.lost_tail, says) == says {
            self.end(Exit::LostTail {
                by: message.from,
                committed: message.commit,
                last: self.raw.raft.raft_log.last_index(),
            });
        }
    }

    /// Handles a heartbeat whose commit index is beyond the end of this log, from a leader that can't be judged yet.
    /// The heartbeat becomes an append at that index. Raft rejects the append, and the rejection tells the leader where
    /// this log ends: see [`note_lost_entries`](Node::note_lost_entries).
    fn ask_for_tail(&mut self, message: &mut Message) {
        let says = Lead {
            term: message.term,
            leader: message.from,
        };
        if std::mem::replace(&mut self.evidence.tail_asked_for, says) != says {
            let last = self.raw.raft.raft_log.last_index();
            warn!(self.logger, "the leader counts on entries that are missing here: the data directory may be an older copy; \
                asking for the entries"; "leader" => message.from, "committed" => message.commit, "last" => last);
        }
        let mut append = Message::default();
        append.set_msg_type(MessageType::MsgAppend);
        (append.from, append.to) = (message.from, message.to);
        append.term = message.term;
        (append.index, append.log_term) = (message.commit, message.term);
        *message = append;
    }

    /// Handles a rejected append from a follower whose log ends before an entry that the follower acknowledged in this
    /// term. Raft-rs takes the rejection for a late one and ignores it. As long as this node leads, raft-rs would send
    /// this follower nothing useful.
    ///
    /// Only rejections of an append at or before what the follower acknowledged count, which raft ignores. From any other
    /// rejection raft goes back by itself. A late rejection can look the same, so the follower has to go on for an
    /// election timeout. A follower that can judge this leader, perhaps only when it has applied its own log, ends for its
    /// lost tail before that. Sending entries again does no harm.
    pub(super) fn note_lost_entries(&mut self, message: &Message) {
        let is_refusal = message.get_msg_type() == MessageType::MsgAppendResponse && message.reject;
        let raft = &mut self.raw.raft;
        if !is_refusal || raft.state != StateRole::Leader || message.term != raft.term {
            return;
        }
        let Some(progress) = raft.mut_prs().get_mut(message.from) else {
            return;
        };
        let is_short = message.reject_hint < progress.matched && message.index <= progress.matched;
        if !is_short {
            return;
        }
        let said = (message.term, message.from, message.reject_hint);
        let lost = match self.evidence.lost_entries {
            Some(lost) if lost.said == said => lost,
            _ => LostEntries {
                said,
                since: self.now,
            },
        };
        self.evidence.lost_entries = Some(lost);
        if self.now < lost.since + self.settings.election_ticks as u64 {
            return;
        }
        self.evidence.lost_entries = None;
        warn!(self.logger, "a member has lost entries that it had acknowledged: they are sent again; check \
            the disk of that member"; "member" => message.from,
            "acknowledged" => progress.matched, "last" => message.reject_hint);
        progress.matched = 0;
        progress.become_probe();
        // Raft accepts a rejection only at the index before the next one.
        progress.next_idx = message.index + 1;
    }

    /// Whether every entry of a forwarded proposal names the member that forwards it as its proposer. Otherwise a peer
    /// could use up the sequence numbers of another member.
    pub(super) fn is_of_sender(&self, message: &Message) -> bool {
        let sender = self.members.members.get(&message.from);
        let own = sender.map(|row| (message.from, row.incarnation));
        let is_own = |entry: &Entry| {
            let data = match entry.get_entry_type() {
                EntryType::EntryNormal => &entry.data,
                _ => &entry.context,
            };
            let proposer = command::proposer(data);
            let member = proposer.map(|(member, _)| member);
            proposer == own
                || member == own.map(|(id, _)| id) && is_planted(Mutant::IncarnationIgnored)
        };
        own.is_some() && message.entries.iter().all(is_own)
    }

    /// Checks the newest session of this member in the replicated state. A session with a later boot number, or with
    /// the same boot number but another run, means that another process has used a copy of the data directory. This
    /// process has to end, because the cluster drops its writes as stale.
    pub(super) fn check_own_session(&mut self) {
        let own = self.members.members.get(&self.settings.id);
        let is_own = own.is_some_and(|row| row.incarnation == self.settings.incarnation);
        let Some(session) = self.sessions.get(&self.settings.id).filter(|_| is_own) else {
            return;
        };
        let (boot, run) = (self.settings.boot, self.settings.run);
        let known = session.boot;
        let is_own = session.run == run || is_planted(Mutant::RunIgnored);
        if known == boot && is_own {
            self.evidence.start_is_known = true;
        } else if known >= boot && !is_planted(Mutant::OlderCopyUnnoticed) {
            let proven = !self.evidence.start_is_known;
            self.end(Exit::OlderCopy {
                proven,
                boot,
                known,
            });
        }
    }
}

/// A follower's log ended before an entry that the follower had acknowledged.
#[derive(Debug, Clone, Copy)]
struct LostEntries {
    /// The leader's term, the follower, and the last index of the follower's log.
    said: (Term, NodeId, Index),
    /// The tick at which the follower first said so.
    since: u64,
}

/// What a contradicting message proves.
enum Contradiction {
    /// Two members can't both be right.
    Proven(Exit),
    /// The log of this node lacks entries that this node has acknowledged.
    LostTail,
}
