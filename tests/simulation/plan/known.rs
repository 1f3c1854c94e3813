//! Known defects: faults of the daemon itself, not faults that the simulation injects.

use std::collections::BTreeSet;

/// Defects of the daemon that are known and not repaired yet. A run produces the events that lead to a defect only if
/// `RAFTKVD_SIMULATION_KNOWN` names the defect; the simulation then has to notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// A promotion's commit index is on no disk: after a power cut a quorum of the new voters is none of the old ones.
    PromotionNotSettled,
    /// The first member of a cluster that has grown loses its disk, and makes a cluster of one from its old line.
    FirstMemberServesOn,
    /// A member that has lost its disk is believed by one that never met it.
    FirstMeetingBelieved,
    /// Claims of a life that never was are believed, and kept on the disk.
    LaterLifeBelieved,
    /// A joiner takes an id over that was added for another URL.
    JoinerBoundById,
    /// A leader believes that a follower holds more than its own log has.
    MatchAboveLast,
    /// A member that runs on an older copy of its disk does not notice, and all that is proposed through it is stale.
    OlderCopyUnnoticed,
}

impl Known {
    pub const ALL: [Known; 7] = [
        Known::PromotionNotSettled,
        Known::FirstMemberServesOn,
        Known::FirstMeetingBelieved,
        Known::LaterLifeBelieved,
        Known::JoinerBoundById,
        Known::MatchAboveLast,
        Known::OlderCopyUnnoticed,
    ];

    /// As `RAFTKVD_SIMULATION_KNOWN` names it.
    pub fn name(self) -> &'static str {
        match self {
            Known::PromotionNotSettled => "promotion-not-settled",
            Known::FirstMemberServesOn => "first-member-serves-on",
            Known::FirstMeetingBelieved => "first-meeting-believed",
            Known::LaterLifeBelieved => "later-life-believed",
            Known::JoinerBoundById => "joiner-bound-by-id",
            Known::MatchAboveLast => "match-above-last",
            Known::OlderCopyUnnoticed => "older-copy-unnoticed",
        }
    }

    /// Whether this message of a failed run shows the defect.
    #[cfg(feature = "mutants")]
    pub fn is_told_by(self, why: &str) -> bool {
        let any = |texts: &[&str]| texts.iter().any(|text| why.contains(text));
        // What comes of two histories that go on side by side.
        let parted = [
            "two leaders in term",
            "two logs differ",
            "committed entry",
            "members disagree",
            "voted twice",
            "no place in one order",
        ];
        match self {
            Known::PromotionNotSettled => why.contains("no progress in peace"),
            Known::FirstMemberServesOn | Known::FirstMeetingBelieved => any(&parted),
            Known::LaterLifeBelieved => {
                any(&["no progress in peace", "exits for an untrue reason"])
            }
            Known::JoinerBoundById => why.contains("exits for an untrue reason"),
            Known::MatchAboveLast => why.contains("believes that member"),
            Known::OlderCopyUnnoticed => {
                any(&["no write through machine", "was answered as one of"])
            }
        }
    }

    /// Reads names, separated by commas; `all` stands for every one.
    pub fn parse(text: &str) -> Result<BTreeSet<Known>, String> {
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let mut known = BTreeSet::new();
        for name in names {
            match Known::ALL.into_iter().find(|known| known.name() == name) {
                Some(one) => drop(known.insert(one)),
                None if name == "all" => known.extend(Known::ALL),
                None => {
                    return Err(format!(
                        "{name} is no known fault; there are {}",
                        Known::names()
                    ));
                }
            }
        }
        Ok(known)
    }

    pub fn names() -> String {
        Known::ALL.map(Known::name).join(", ")
    }
}
