//! Outcomes of a proposal: applied, refused, never proposed, or unknown.

use crate::peer_url::PeerUrl;

/// The outcome of a proposal. A definite failure ([`Outcome::NotProposed`]) is distinguished from an unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Committed on the disks of a majority, and applied here.
    Applied {
        /// Index of the entry that contains the command: the new ETag.
        index: u64,
    },
    /// Committed, but the condition did not hold. Nothing was changed.
    ConditionFailed {
        /// ETag of the key, `None` if the key does not exist.
        current: Option<u64>,
    },
    /// A transaction that is committed on the disks of a majority, and applied here.
    Transacted {
        /// Index of the entry that contains the transaction: the ETag of every key that it put.
        index: u64,
        /// For each write of the transaction, whether the key existed before.
        existed: Box<[bool]>,
    },
    /// A transaction that is committed, but the listed checks did not hold. Nothing was changed.
    ChecksFailed(Box<[FailedCheck]>),
    /// Committed, but the rules of membership refused the change. Nothing was changed.
    Refused(Refusal),
    /// Definitely not proposed, now or later.
    NotProposed(NotProposed),
    /// Handed to raft. The command may or may not be applied later.
    Unknown,
}

/// A check of a transaction that did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedCheck {
    /// Index of the check in the transaction, from 0.
    pub position: usize,
    /// ETag of the key, `None` if the key does not exist.
    pub current: Option<u64>,
}

/// Why a membership change was refused when its entry was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The member with this id has another URL.
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
    /// The cluster has the maximum number of members.
    #[error(
        "the cluster has {} members already, and cannot have more; remove one first",
        crate::limits::MEMBERS_MAX
    )]
    TooManyMembers,
    /// Another membership change is not settled yet.
    #[error("another membership change is under way")]
    ChangeUnderWay,
}

/// Why leadership was not transferred to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTransferred {
    /// There is no such member.
    #[error("there is no such member")]
    NotFound,
    /// The member has no vote.
    #[error("the member is a learner; it becomes a voter automatically once it has caught up")]
    Learner,
    /// The leader has not heard from the member for an election timeout.
    #[error("the leader does not hear from the member; start it, or look at its log")]
    Inactive,
    /// The log of the member ends too far behind that of the leader.
    #[error("the member has not caught up; try again later")]
    Behind,
    /// A transfer of leadership to another member is under way.
    #[error("leadership is being transferred to another member")]
    UnderWay,
    /// No transfer was started.
    #[error("{0}")]
    NotProposed(NotProposed),
    /// The leader received the request and did not refuse it. The member may still become leader.
    #[error("the leader received the request, and its outcome is unknown")]
    Unknown,
}

/// Why a proposal or a linearizable read definitely had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// No leader was known until the deadline.
    #[error("no leader is known")]
    NoLeader,
    /// The leader accepted no proposals until the deadline: a transfer of leadership was under way, or too much was
    /// uncommitted.
    #[error("the leader accepts no writes at present")]
    NotTaken,
    /// A leader was known but did not answer until the deadline (reads only).
    #[error("the leader did not confirm the read in time")]
    NoQuorum,
    /// The disk of this member has no room for the entry (writes only).
    #[error("the disk of this member is full; make room on it, or use another member")]
    DiskFull,
    /// Too many requests are waiting already.
    #[error("too many requests are waiting")]
    QueueFull,
    /// This process is stopping.
    #[error("this member is stopping")]
    Stopping,
}
