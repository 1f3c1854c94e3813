//! Planted bugs. They test the tests: a test that no bug can make fail proves nothing.
//!
//! Each planted bug is a one-line mistake at the place where a programmer could make it, guarded by [`is_planted`].
//! The simulation runs with one bug at a time and has to notice each of them (`tests/simulation/mutants.rs`).
//!
//! Only the cargo feature `mutants` compiles the bugs in, and no release has it: without the feature [`is_planted`] is
//! constantly false, the compiler removes the bugs with their names, and `RAFTKVD_MUTANT` has no effect. With the
//! feature at most one bug is planted in a process: the bug that `RAFTKVD_MUTANT` names when [`is_planted`] is first
//! called, until a call of `plant` replaces it.
//!
//! To add a bug, add a line to the list below and an `is_planted` to the code.

use std::fmt;

#[cfg(feature = "mutants")]
pub use planted::{VARIABLE, is_planted, plant};

macro_rules! mutants {
    ($($variant:ident $name:literal $what:literal;)*) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $what] $variant,)*
        }

        impl Mutant {
            /// All bugs that can be planted.
            pub const ALL: &[Mutant] = &[$(Mutant::$variant,)*];

            /// The name of the bug, in lower case with hyphens.
            pub fn name(self) -> &'static str {
                match self {
                    $(Mutant::$variant => $name,)*
                }
            }

            /// What is wrong while the bug is planted.
            pub fn what(self) -> &'static str {
                match self {
                    $(Mutant::$variant => $what,)*
                }
            }
        }
    };
}

mutants! {
    // Commands and reads.
    AcknowledgeBeforeCommit "acknowledge-before-commit" "a write is acknowledged before it is committed";
    AppliedTwice "applied-twice" "a command that was sent again is applied again";
    SnapshotWithoutSessions "snapshot-without-sessions"
        "a snapshot from the leader does not bring which commands were applied";
    BootNumberAgain "boot-number-again" "a start does not make its boot number durable";
    StaleRead "stale-read" "a local read is called linearizable";
    ReusedReadContext "reused-read-context" "a read-index context is used again";
    LateReadJoins "late-read-joins" "a read joins the round of those that came before it";
    ReadBeforeApplied "read-before-applied" "a read is answered before the map has followed";
    MapIsCurrentTooEarly "map-is-current-too-early"
        "a member that has just become the only one reads its map as if it were current";
    // Votes, terms and members.
    EarlyVote "early-vote" "a vote is sent before it is durable";
    EarlyAppendResponse "early-append-response" "a follower acknowledges entries before they are durable";
    TermNotAwaited "term-not-awaited" "the only voter sends entries before its term is durable";
    RemovedCounts "removed-counts" "a removed member still counts";
    UnsettledChangeTold "unsettled-change-told" "a change of members is acknowledged before it is settled";
    ChangeNotSettled "change-not-settled"
        "a change of members does not wait until the one before it is settled";
    FormedWithoutAll "formed-without-all"
        "a cluster forms before each of its first members has stored that all are voters";
    CommitNotStored "commit-not-stored" "an entry is stored without the commit index that came with it";
    UnformedServes "unformed-serves" "a member serves clients though its cluster has not formed, or is another's";
    EmptyVotes "empty-votes" "a member that is empty votes and confirms";
    BoundAnywhere "bound-anywhere" "an id is bound to any directory that claims it, wherever it is reached";
    PromotionForgotten "promotion-forgotten" "a learner that has caught up in an idle cluster is not promoted";
    SnapshotBeforeAddition "snapshot-before-addition"
        "a member that was added again is sent a snapshot from before that";
    // Identity.
    RevokedKeysLost "revoked-keys-lost" "a snapshot from the leader does not bring the revoked keys";
    RunIgnored "run-ignored" "two processes that count the same start of one member are taken for one";
    OlderCopyUnnoticed "older-copy-unnoticed" "a member that runs on an older copy of its directory goes on";
    IncarnationIgnored "incarnation-ignored" "a command of another directory of the same id is carried out";
    SessionKept "session-kept" "what a removed member had sent counts for the next member with its id";
    BindingAhead "binding-ahead" "a claim that can't be judged yet is believed";
    UnjudgedTailDropped "unjudged-tail-dropped"
        "a leader that can't be judged yet is not heard when entries are missing";
    PutBackLedOn "put-back-led-on"
        "a voter whose directory is from before it was let in is led on, as if it were new";
    PartedLogUnnoticed "parted-log-unnoticed" "the proof that two logs have parted is ignored";
    // The log on disk.
    SkippedFsync "skipped-fsync" "no fsync";
    DirectoryNotSynced "directory-not-synced" "a directory is not synced after a rename";
    RecoveryNotSynced "recovery-not-synced" "a restart relies on what it has read and not synced";
    TornMark "torn-mark" "a snapshot's mark and the hard state are not written in one step";
    TornTailKept "torn-tail-kept" "a torn batch is believed as long as its records decode";
    CommitAheadOfEntries "commit-ahead-of-entries" "a commit index is written before the entries that it covers";
    PurgedTooEarly "purged-too-early" "what the newest snapshot covers is deleted, though somebody still needs it";
    ReplacedEntryReadBack "replaced-entry-read-back"
        "of two entries with one index, the one is read back that a new leader has replaced";
    RoomIgnored "room-ignored" "entries are taken for which the disk has no room";
    RestoredIndexTooLow "restored-index-too-low" "a restored cluster starts at the index of its backup";
    // Between the threads, the map, and the watchers.
    LoneWriteOvertakes "lone-write-overtakes" "the raft loop writes though the WAL thread has not finished";
    LoneApplyOvertakes "lone-apply-overtakes" "the raft loop applies though the apply thread has not finished";
    HoldBackSkipped "hold-back-skipped" "entries are published though the map is too far behind";
    FrozenEntryFreed "frozen-entry-freed" "the newest entry of a frozen map is lost when it is overwritten";
    HistoryGap "history-gap" "a watcher gets no notice that changes have left the history";
    HistoryGapAfterSnapshot "history-gap-after-snapshot"
        "a watcher gets no notice that a snapshot from the leader jumped over changes";
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bug with this name. The error lists all names.
impl std::str::FromStr for Mutant {
    type Err = String;

    fn from_str(name: &str) -> Result<Mutant, String> {
        let found = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
            format!("there is no mutant {name:?}, only {}", names.join(", "))
        })
    }
}

/// Whether this bug is planted. Always false without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_planted(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
mod planted {
    use super::Mutant;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The environment variable that names the bug which is planted from the start.
    pub const VARIABLE: &str = "RAFTKVD_MUTANT";

    const NONE: usize = usize::MAX;

    /// The number of the planted bug, or `NONE`.
    static PLANTED: LazyLock<AtomicUsize> = LazyLock::new(|| {
        let named = std::env::var_os(VARIABLE).map(|name| {
            let mutant: Result<Mutant, String> = name.to_string_lossy().parse();
            mutant.unwrap_or_else(|why| panic!("{VARIABLE}: {why}"))
        });
        AtomicUsize::new(number(named))
    });

    fn number(mutant: Option<Mutant>) -> usize {
        mutant.map_or(NONE, |mutant| mutant as usize)
    }

    /// Whether this bug is planted.
    pub fn is_planted(mutant: Mutant) -> bool {
        PLANTED.load(Ordering::Relaxed) == mutant as usize
    }

    /// Plants this bug in the whole process, instead of the previous bug. `None` plants no bug.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.store(number(mutant), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_mutant_has_a_name_of_its_own_and_is_found_by_it() {
        let names: BTreeSet<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        assert_eq!(names.len(), Mutant::ALL.len());
        for mutant in Mutant::ALL {
            assert_eq!(mutant.name().parse(), Ok(*mutant));
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(mutant.name().bytes().all(plain), "{mutant}");
            assert_ne!(mutant.what(), "");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_all_there_are() {
        let why = "early".parse::<Mutant>().unwrap_err();
        assert!(why.contains("\"early\""), "{why}");
        for mutant in Mutant::ALL {
            assert!(why.contains(mutant.name()), "{why}");
        }
    }

    #[test]
    #[cfg(not(feature = "mutants"))]
    fn without_the_feature_none_is_planted() {
        const { assert!(!is_planted(Mutant::EarlyVote)) };
    }
}
