//! What becomes of a proposal: carried out, refused, never proposed, or unknown. Failed and unknown are different answers.

use crate::peer_url::PeerUrl;

/// What became of a proposal. "Failed" ([`Outcome::NotProposed`]) and "unknown" are different answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Committed on a majority's disks and applied here. `index` is that of its entry.
    Applied {
        /// The index of the entry that carried it: the new ETag.
        index: u64,
    },
    /// Committed, and its condition did not hold; nothing was changed. `current` is the ETag of the key, if it exists.
    ConditionFailed {
        /// The ETag the key has, `None` when it is absent.
        current: Option<u64>,
    },
    /// A transaction: committed on a majority's disks and applied here.
    Transacted {
        /// The index of the entry that carried it: the ETag of every key that it put.
        index: u64,
        /// For each of its writes, whether the key was there before.
        existed: Box<[bool]>,
    },
    /// A transaction: committed, and these of its checks did not hold; nothing was changed.
    ChecksFailed(Box<[FailedCheck]>),
    /// Committed, and refused by the rules of membership; nothing was changed.
    Refused(Refusal),
    /// It surely was not proposed and never will be.
    NotProposed(NotProposed),
    /// It was handed to raft and may yet be applied, or not.
    Unknown,
}

/// A check of a transaction that did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedCheck {
    /// Its place in the transaction, from 0.
    pub position: usize,
    /// The ETag the key has, `None` when it is absent.
    pub current: Option<u64>,
}

/// Why a membership change was refused when its turn came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The member with this id is at another URL.
    #[error("the member with this id is at {0}")]
    IdTaken(PeerUrl),
    /// A member has this id and URL, with another data directory.
    #[error("this id is bound to another data directory")]
    OtherIncarnation,
    /// The member with this other id has the URL.
    #[error("this is the peer URL of member {0}")]
    UrlTaken(u64),
    /// There is no such member.
    #[error("there is no such member")]
    NotFound,
    /// The last voter can't be removed.
    #[error("the last voter can't be removed")]
    LastVoter,
    /// There are as many as there can be.
    #[error(
        "the cluster has {} members already, and cannot have more; remove one first",
        crate::limits::MEMBERS_MAX
    )]
    TooManyMembers,
    /// One membership change at a time.
    #[error("another membership change is under way")]
    ChangeUnderWay,
}

/// Why leadership was not handed to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTransferred {
    /// There is no such member.
    #[error("there is no such member")]
    NotFound,
    /// It has no vote.
    #[error("it is a learner, which becomes a voter by itself when it has caught up")]
    Learner,
    /// The leader has not heard of it for an election timeout.
    #[error("the leader does not hear of it; start it, or look at its log")]
    Inactive,
    /// Its log ends too far behind.
    #[error("it is not caught up; try again later")]
    Behind,
    /// Leadership is on its way to yet another member.
    #[error("leadership is being handed to another member")]
    UnderWay,
    /// Nothing was begun.
    #[error("{0}")]
    NotProposed(NotProposed),
    /// The leader was asked, and has not refused; the member may lead yet.
    #[error("the leader was asked, and nobody knows what came of it")]
    Unknown,
}

/// Why a proposal or a linearizable read surely had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// No leader was known until the deadline.
    #[error("no leader is known")]
    NoLeader,
    /// The leader took no proposals until the deadline: leadership was moving, or too much was uncommitted.
    #[error("the leader takes no writes at present")]
    NotTaken,
    /// A leader was known but did not answer until the deadline (reads only).
    #[error("the leader did not confirm the read in time")]
    NoQuorum,
    /// Too much is already waiting.
    #[error("too many requests are waiting")]
    QueueFull,
    /// This process is stopping.
    #[error("this member is stopping")]
    Stopping,
}
