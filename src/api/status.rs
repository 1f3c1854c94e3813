//! The state of this member: `/-/status` and `/-/hash` for people and scripts, `/-/live` and `/-/ready` for
//! supervisors.

use super::availability;
use super::error_code::Code;
use super::reply::{self, ReplyResult};
use super::{Front, json};
use crate::command::outcome::NotProposed;
use crate::limits;
use hyper::StatusCode;
use hyper::http::request::Parts;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

pub(super) const STUCK: &str = "the raft loop does not answer";
const NOT_READY: &str = "not ready: the reason is in the log, and for clients with a certificate";
const FULL: &str = "ready for reads; the disk of this member is full, and writes for which the log has no room are refused";

#[derive(Serialize)]
struct HashJson {
    index: u64,
    hash: String,
}

impl Front {
    /// `GET /-/status`.
    pub(super) async fn show_status(&self, deadline: Instant) -> ReplyResult {
        match self.status(within(limits::STATUS_TIMEOUT, deadline)).await {
            Some(status) => Ok(reply::json(json::line(&status))),
            None => Err(reply::unavailable(Code::TooSlow, STUCK)),
        }
    }

    /// `GET /-/hash`: a hash of the map at one index, in 16 digits. Members with the same index must show the same
    /// hash.
    pub(super) async fn show_hash(&self, deadline: Instant) -> ReplyResult {
        match self.hash(deadline).await {
            Some((index, hash)) => {
                let hash = format!("{hash:016x}");
                Ok(reply::json(json::line(&HashJson { index, hash })))
            }
            None => Err(reply::unavailable(
                Code::TooSlow,
                "the map was not hashed in time: the node lags behind, or the map is large; try again with a longer \
                 --request-timeout",
            )),
        }
    }

    /// `GET /-/live`: live if the raft loop runs, or if the snapshot is loading. A missing leader does not count,
    /// because a restart would not help.
    pub(super) async fn show_live(&self, deadline: Instant) -> ReplyResult {
        if self.api.state_machine.replay.is_loading() {
            return Ok(reply::text(StatusCode::OK, "live"));
        }
        match self.status(within(limits::STATUS_TIMEOUT, deadline)).await {
            Some(_) => Ok(reply::text(StatusCode::OK, "live")),
            None => Err(reply::unavailable(Code::TooSlow, STUCK)),
        }
    }

    /// `GET /-/ready`: ready if a linearizable read works, which takes a leader and a majority, and if clients are
    /// served. The reason may name members and their URLs, so it is not for strangers.
    pub(super) async fn show_ready(&self, head: &Parts, deadline: Instant) -> ReplyResult {
        let ready = self.ready(deadline).await;
        ready.map_err(|refused| match self.is_stranger(head) {
            true => {
                let code = refused.extensions().get::<Code>().copied();
                let code = code.expect("a refusal has a code");
                reply::unavailable(code, NOT_READY)
            }
            false => refused,
        })
    }

    async fn ready(&self, deadline: Instant) -> ReplyResult {
        if let Some(closed) = self.api.inbox.closed() {
            let line = format!("not ready: {}", closed.why);
            return Err(reply::unavailable(availability::code(&closed), line));
        }
        if let Some(what) = self.api.state_machine.replay.under_way() {
            return Err(reply::unavailable(
                Code::Replaying,
                format!("not ready: {what}"),
            ));
        }
        let full = self.api.inbox.disk_is_full();
        let why = match self.catch_up(within(limits::READY_TIMEOUT, deadline)).await {
            // Reads go on, so the member stays in service.
            Ok(()) if full => return Ok(reply::text(StatusCode::OK, FULL)),
            Ok(()) => return Ok(reply::text(StatusCode::OK, "ready")),
            Err(why) => why,
        };
        let code = reply::code(why);
        let waiting = self.api.inbox.waiting().borrow().clone();
        let why = match why {
            NotProposed::NoLeader if let Some(waiting) = waiting => waiting.why.clone(),
            NotProposed::NoQuorum if full => {
                "the disk of this member is full, and the leader does not confirm reads, or the map lags behind".to_owned()
            }
            NotProposed::NoQuorum => {
                "the leader does not confirm reads, or the map lags behind".to_owned()
            }
            other => other.to_string(),
        };
        Err(reply::unavailable(code, format!("not ready: {why}")))
    }
}

/// The time `limit` from now, but at most the request's deadline.
pub(super) fn within(limit: Duration, deadline: Instant) -> Instant {
    deadline.min(Instant::now() + limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::status::{MemberStatus, PeerSeen, Progress, Status};
    use std::time::SystemTime;

    #[test]
    fn status_is_one_line_with_every_field() {
        let line = |status: &Status| String::from_utf8(json::line(status)).unwrap();
        let mut status = Status {
            id: 1,
            version: "0.1.0",
            cluster: 0xab,
            formed: true,
            role: "leader",
            leader: 1,
            term: 3,
            committed: 9,
            last: 10,
            applied: 8,
            snapshot: 7,
            wal_syncs: 6,
            wal_bytes: 5,
            members: vec![
                MemberStatus {
                    id: 1,
                    url: "http://127.0.0.1:1".parse().unwrap(),
                    learner: false,
                    progress: Some(Progress {
                        matched: 9,
                        active: true,
                    }),
                    behind: Some(0),
                    seen: PeerSeen {
                        reachable: Some(true),
                        since: Some(SystemTime::UNIX_EPOCH),
                        client_url: Some("http://127.0.0.1:2".to_owned()),
                        version: Some("0.1.0".to_owned()),
                    },
                },
                MemberStatus {
                    id: 4,
                    url: "http://[::1]:4".parse().unwrap(),
                    learner: true,
                    progress: None,
                    behind: None,
                    seen: PeerSeen::default(),
                },
            ],
        };
        assert_eq!(
            line(&status),
            concat!(
                r#"{"id":1,"version":"0.1.0","cluster":"00000000000000ab","formed":true,"role":"leader","leader":1,"term":3,"#,
                r#""committed":9,"applied":8,"snapshot_index":7,"wal_syncs":6,"wal_bytes":5,"members":["#,
                r#"{"id":1,"url":"http://127.0.0.1:1","role":"voter","match_index":9,"active":true,"behind":0,"#,
                r#""reachable":true,"since":"1970-01-01T00:00:00.000Z","client_url":"http://127.0.0.1:2","version":"0.1.0"},"#,
                r#"{"id":4,"url":"http://[::1]:4","role":"learner","behind":null,"#,
                r#""reachable":null,"since":null,"client_url":null,"version":null}]}"#,
                "\n"
            )
        );
        status.leader = 0;
        status.cluster = 0;
        status.formed = false;
        status.members.clear();
        assert_eq!(
            line(&status),
            concat!(
                r#"{"id":1,"version":"0.1.0","cluster":null,"formed":false,"role":"leader","leader":null,"term":3,"#,
                r#""committed":9,"applied":8,"snapshot_index":7,"wal_syncs":6,"wal_bytes":5,"members":[]}"#,
                "\n"
            )
        );
    }
}
