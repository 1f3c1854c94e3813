//! The codes of refusals. Programs read the code, people read the line of text. The codes are listed in the book and
//! are stable.

use hyper::StatusCode;

macro_rules! codes {
    ($($(#[doc = $when:literal])* $name:ident = $status:ident $text:literal,)*) => {
        /// Why a request was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code {
            $($(#[doc = $when])* $name,)*
        }

        impl Code {
            /// The HTTP status of the code.
            pub(super) fn status(self) -> StatusCode {
                match self {
                    $(Code::$name => StatusCode::$status,)*
                }
            }

            /// The spelling that clients see.
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
    /// The path has an invalid escape or no key.
    BadPath = BAD_REQUEST "bad-path",
    /// An option is unknown, invalid, or given twice.
    BadOption = BAD_REQUEST "bad-option",
    /// A header field with a condition is malformed, or has no meaning for this request.
    BadCondition = BAD_REQUEST "bad-condition",
    /// The body is malformed or incomplete.
    BadBody = BAD_REQUEST "bad-body",
    /// A member id or a peer URL is invalid.
    BadMember = BAD_REQUEST "bad-member",
    /// The request does not name exactly one host.
    BadHost = BAD_REQUEST "bad-host",
    /// A web page of another site has sent the request.
    CrossSite = FORBIDDEN "cross-site",
    /// The request needs the certificate of a client, and this client has shown none.
    NoCertificate = FORBIDDEN "no-certificate",
    /// The certificate of the client does not allow the request.
    NotAllowed = FORBIDDEN "not-allowed",
    /// A write to a reserved path.
    ReservedPath = FORBIDDEN "reserved-path",
    /// The key is absent.
    NoSuchKey = NOT_FOUND "no-such-key",
    /// This path does not exist, and never did.
    NoSuchPath = NOT_FOUND "no-such-path",
    /// No member has this id.
    NoSuchMember = NOT_FOUND "no-such-member",
    /// This path does not support the method.
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed",
    /// The client asked for JSON, but the bytes are not UTF-8.
    NotUtf8 = NOT_ACCEPTABLE "not-utf8",
    /// The number is both the id of a member and a key.
    Ambiguous = CONFLICT "ambiguous",
    /// The id belongs to a member with another URL.
    IdTaken = CONFLICT "id-taken",
    /// The URL belongs to another member.
    UrlTaken = CONFLICT "url-taken",
    /// The id is bound to another data directory.
    OtherIncarnation = CONFLICT "other-incarnation",
    /// The cluster has the maximum number of members.
    TooManyMembers = CONFLICT "too-many-members",
    /// The last voter can't be removed.
    LastVoter = CONFLICT "last-voter",
    /// Another membership change is under way.
    ChangeUnderWay = CONFLICT "change-under-way",
    /// The member that should become the leader is a learner.
    Learner = CONFLICT "learner",
    /// The leader does not hear from the member that should become the leader.
    NotActive = CONFLICT "not-active",
    /// The log of the member that should become the leader ends too far behind.
    NotCaughtUp = CONFLICT "not-caught-up",
    /// Another leadership transfer is under way.
    HandoverUnderWay = CONFLICT "handover-under-way",
    /// The requested changes are not in memory any more.
    Compacted = GONE "compacted",
    /// A condition did not hold.
    ConditionFailed = PRECONDITION_FAILED "condition-failed",
    /// A value, a body, or the number of items in a body is too large.
    TooLarge = PAYLOAD_TOO_LARGE "too-large",
    /// The key is too long.
    KeyTooLong = URI_TOO_LONG "key-too-long",
    /// This member is not known by the host that the request names.
    UnknownHost = MISDIRECTED_REQUEST "unknown-host",
    /// The body has a transfer coding other than chunked.
    TransferCoding = NOT_IMPLEMENTED "transfer-coding",
    /// No leader is known.
    NoLeader = SERVICE_UNAVAILABLE "no-leader",
    /// The leader accepts no writes at present.
    LeaderBusy = SERVICE_UNAVAILABLE "leader-busy",
    /// The leader did not confirm its leadership in time.
    NoQuorum = SERVICE_UNAVAILABLE "no-quorum",
    /// A queue or a budget of this member is full.
    QueueFull = SERVICE_UNAVAILABLE "queue-full",
    /// The client port has no slot left for this connection, or for this address.
    TooManyConnections = SERVICE_UNAVAILABLE "too-many-connections",
    /// Another backup of this member is being sent.
    BackupUnderWay = SERVICE_UNAVAILABLE "backup-under-way",
    /// This member is stopping.
    Stopping = SERVICE_UNAVAILABLE "stopping",
    /// The body did not arrive, or the answer was not ready, by the timeout.
    TooSlow = SERVICE_UNAVAILABLE "too-slow",
    /// This member has just started, and is loading its snapshot or reading its log.
    Replaying = SERVICE_UNAVAILABLE "replaying",
    /// Not all first members of the cluster have joined.
    Forming = SERVICE_UNAVAILABLE "forming",
    /// This member was not added to a cluster yet.
    Joining = SERVICE_UNAVAILABLE "joining",
    /// Another cluster knows another data directory under this member's id.
    OtherLife = SERVICE_UNAVAILABLE "other-life",
    /// It is unknown whether the request took effect.
    UnknownOutcome = GATEWAY_TIMEOUT "unknown-outcome",
    /// The map would grow over `--max-store-bytes`.
    StoreFull = INSUFFICIENT_STORAGE "store-full",
    /// The disk of this member is full.
    DiskFull = INSUFFICIENT_STORAGE "disk-full",
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of the table in the book, each with its status.
    fn documented() -> Vec<(String, String)> {
        let page = include_str!("../docs/reference/api.md");
        let (_, table) = page.split_once("\n### Error codes\n").unwrap();
        let (table, _) = table.split_once("\n#").unwrap();
        let rows = table.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let code = cells.next()?.strip_suffix('`')?;
            Some((code.to_owned(), cells.next()?.to_owned()))
        });
        rows.collect()
    }

    #[test]
    fn the_book_has_every_code_and_no_other_each_with_its_status() {
        let codes = Code::ALL.iter();
        let codes = codes.map(|code| (code.text().to_owned(), code.status().as_str().to_owned()));
        let mut codes: Vec<_> = codes.collect();
        let mut documented = documented();
        codes.sort();
        documented.sort();
        assert_eq!(documented, codes);
    }
}
