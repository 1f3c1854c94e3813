//! The codes of refusals: what a program goes by, where a person reads the line. They are in the README, and stay.

use hyper::StatusCode;

macro_rules! codes {
    ($($(#[doc = $when:literal])* $name:ident = $status:ident $text:literal,)*) => {
        /// Why a request was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code {
            $($(#[doc = $when])* $name,)*
        }

        impl Code {
            /// The status that goes with it.
            pub(super) fn status(self) -> StatusCode {
                match self {
                    $(Code::$name => StatusCode::$status,)*
                }
            }

            /// As clients see it.
            pub(super) fn text(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                }
            }

            #[cfg(test)]
            const ALL: &[Code] = &[$(Code::$name,)*];
        }
    };
}

codes! {
    /// The path has a wrong escape or no key.
    BadPath = BAD_REQUEST "bad-path",
    /// An option is unknown, wrong, or there twice.
    BadOption = BAD_REQUEST "bad-option",
    /// A header field with a condition is wrong, or has no meaning here.
    BadCondition = BAD_REQUEST "bad-condition",
    /// The body is not what it has to be, or broke off.
    BadBody = BAD_REQUEST "bad-body",
    /// An id or a peer URL is wrong.
    BadMember = BAD_REQUEST "bad-member",
    /// A write to a reserved path.
    ReservedPath = FORBIDDEN "reserved-path",
    /// The key is absent.
    NoSuchKey = NOT_FOUND "no-such-key",
    /// Nothing is at this path, and never was.
    NoSuchPath = NOT_FOUND "no-such-path",
    /// No member has this id.
    NoSuchMember = NOT_FOUND "no-such-member",
    /// The method is not supported here.
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed",
    /// JSON was asked for, and the bytes are not UTF-8.
    NotUtf8 = NOT_ACCEPTABLE "not-utf8",
    /// The id belongs to a member with another URL.
    IdTaken = CONFLICT "id-taken",
    /// The URL belongs to another member.
    UrlTaken = CONFLICT "url-taken",
    /// The id is bound to another data directory.
    OtherIncarnation = CONFLICT "other-incarnation",
    /// The cluster has as many members as it can have.
    TooManyMembers = CONFLICT "too-many-members",
    /// The last voter can't be removed.
    LastVoter = CONFLICT "last-voter",
    /// Another membership change is under way.
    ChangeUnderWay = CONFLICT "change-under-way",
    /// The member that shall lead is a learner.
    Learner = CONFLICT "learner",
    /// The leader does not hear of the member that shall lead.
    NotActive = CONFLICT "not-active",
    /// The log of the member that shall lead ends too far behind.
    NotCaughtUp = CONFLICT "not-caught-up",
    /// Leadership is being handed to another member.
    HandoverUnderWay = CONFLICT "handover-under-way",
    /// Changes that were asked for are not in memory any more.
    Compacted = GONE "compacted",
    /// A condition did not hold.
    ConditionFailed = PRECONDITION_FAILED "condition-failed",
    /// A value, a body, or a number of things in it, is too large.
    TooLarge = PAYLOAD_TOO_LARGE "too-large",
    /// The key is too long.
    KeyTooLong = URI_TOO_LONG "key-too-long",
    /// No leader is known.
    NoLeader = SERVICE_UNAVAILABLE "no-leader",
    /// The leader takes no writes at present.
    LeaderBusy = SERVICE_UNAVAILABLE "leader-busy",
    /// The leader did not confirm in time that it still leads.
    NoQuorum = SERVICE_UNAVAILABLE "no-quorum",
    /// Too much is waiting.
    QueueFull = SERVICE_UNAVAILABLE "queue-full",
    /// Another backup of this member is being sent.
    BackupUnderWay = SERVICE_UNAVAILABLE "backup-under-way",
    /// This member is stopping.
    Stopping = SERVICE_UNAVAILABLE "stopping",
    /// The body, or what was to be shown, did not come by the timeout.
    TooSlow = SERVICE_UNAVAILABLE "too-slow",
    /// This member has just started, and loads its snapshot or reads its log.
    Replaying = SERVICE_UNAVAILABLE "replaying",
    /// Not all first members of the cluster are in.
    Forming = SERVICE_UNAVAILABLE "forming",
    /// This member was not added to a cluster yet.
    Joining = SERVICE_UNAVAILABLE "joining",
    /// Another cluster knows another data directory as this member.
    OtherLife = SERVICE_UNAVAILABLE "other-life",
    /// Nobody knows what became of it.
    UnknownOutcome = GATEWAY_TIMEOUT "unknown-outcome",
    /// The map would grow over `--max-store-bytes`.
    StoreFull = INSUFFICIENT_STORAGE "store-full",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_readme_beside_its_status() {
        let readme = include_str!("../../README.md");
        for code in Code::ALL {
            let (status, text) = (code.status().as_u16(), code.text());
            let row = readme
                .lines()
                .find(|line| line.contains(&format!("`{text}`")));
            let row = row.unwrap_or_else(|| panic!("{text} is not in the README"));
            assert!(
                row.contains(&status.to_string()),
                "{text} is {status}: {row}"
            );
        }
    }
}
