//! How things stand: `/-/status` and `/-/hash` for people and scripts, `/-/live` and `/-/ready` for supervisors.

use super::Front;
use super::error_code::Code;
use super::gate;
use super::reply::{self, Answer};
use crate::channels::status::Status;
use crate::command::outcome::NotProposed;
use crate::limits;
use hyper::StatusCode;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

const STUCK: &str = "the raft loop does not answer";

impl Front {
    /// `GET /-/status`.
    pub(super) async fn show_status(&self, deadline: Instant) -> Answer {
        match self.status(within(limits::STATUS_TIMEOUT, deadline)).await {
            Some(status) => Ok(reply::json(to_json(&status))),
            None => Err(reply::unavailable(Code::TooSlow, STUCK)),
        }
    }

    /// `GET /-/hash`: what the map is at one index, in 16 digits. Members that show the same index show the same.
    pub(super) async fn show_hash(&self, deadline: Instant) -> Answer {
        match self.hash(deadline).await {
            Some((index, hash)) => Ok(reply::json(format!(
                "{{\"index\":{index},\"hash\":\"{hash:016x}\"}}\n"
            ))),
            None => Err(reply::unavailable(
                Code::TooSlow,
                "the map was not hashed in time: the node lags behind, or the map is large; try again with a longer \
                 --request-timeout",
            )),
        }
    }

    /// `GET /-/live`: the raft loop runs, or the snapshot is being loaded for it. With or without a leader, a restart
    /// would not help.
    pub(super) async fn show_live(&self, deadline: Instant) -> Answer {
        if self.api.replay.is_loading() {
            return Ok(reply::text(StatusCode::OK, "live"));
        }
        match self.status(within(limits::STATUS_TIMEOUT, deadline)).await {
            Some(_) => Ok(reply::text(StatusCode::OK, "live")),
            None => Err(reply::unavailable(Code::TooSlow, STUCK)),
        }
    }

    /// `GET /-/ready`: a linearizable read works, which takes a leader and a majority, and clients are served.
    pub(super) async fn show_ready(&self, deadline: Instant) -> Answer {
        if let Some(closed) = self.api.inbox.closed() {
            let line = format!("not ready: {}", closed.why);
            return Err(reply::unavailable(gate::code(&closed), line));
        }
        if let Some(what) = self.api.replay.under_way() {
            return Err(reply::unavailable(
                Code::Replaying,
                format!("not ready: {what}"),
            ));
        }
        let why = match self.catch_up(within(limits::READY_TIMEOUT, deadline)).await {
            Ok(()) => return Ok(reply::text(StatusCode::OK, "ready")),
            Err(why) => why,
        };
        let code = reply::code(why);
        let why = match why {
            NotProposed::NoQuorum => {
                "the leader does not confirm reads, or the map lags behind".to_owned()
            }
            other => other.to_string(),
        };
        Err(reply::unavailable(code, format!("not ready: {why}")))
    }
}

/// So long from now, but not beyond the request's deadline.
pub(super) fn within(limit: Duration, deadline: Instant) -> Instant {
    deadline.min(Instant::now() + limit)
}

/// One line of JSON, the fields in an order that reads well. Roles and URLs hold no character that JSON escapes.
fn to_json(status: &Status) -> String {
    let or_null = |value: u64, text: String| {
        if value == 0 { "null".to_owned() } else { text }
    };
    let mut json = format!(
        "{{\"id\":{},\"cluster\":{},\"formed\":{},\"role\":\"{}\",\"leader\":{},\"term\":{},\"committed\":{},\
         \"applied\":{},\"snapshot_index\":{},\"wal_syncs\":{},\"wal_bytes\":{},\"members\":[",
        status.id,
        or_null(status.cluster, format!("\"{:016x}\"", status.cluster)),
        status.formed,
        status.role,
        or_null(status.leader, status.leader.to_string()),
        status.term,
        status.committed,
        status.applied,
        status.snapshot,
        status.wal_syncs,
        status.wal_bytes,
    );
    for (i, member) in status.members.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let role = if member.learner { "learner" } else { "voter" };
        // Writing to a string does not fail.
        let _ = write!(
            json,
            "{comma}{{\"id\":{},\"url\":\"{}\",\"role\":\"{role}\"",
            member.id, member.url
        );
        if let Some(progress) = member.progress {
            let _ = write!(
                json,
                ",\"match_index\":{},\"active\":{}",
                progress.matched, progress.active
            );
        }
        json.push('}');
    }
    json.push_str("]}\n");
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::status::{MemberStatus, Progress};
    use serde_json::json;

    #[test]
    fn status_is_valid_json_with_every_field() {
        let mut status = Status {
            id: 1,
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
                },
                MemberStatus {
                    id: 4,
                    url: "http://[::1]:4".parse().unwrap(),
                    learner: true,
                    progress: None,
                },
            ],
        };
        let parsed: serde_json::Value = serde_json::from_str(&to_json(&status)).unwrap();
        assert_eq!(
            parsed,
            json!({
                "id": 1, "cluster": "00000000000000ab", "formed": true, "role": "leader", "leader": 1, "term": 3,
                "committed": 9, "applied": 8, "snapshot_index": 7, "wal_syncs": 6, "wal_bytes": 5,
                "members": [
                    {"id": 1, "url": "http://127.0.0.1:1", "role": "voter", "match_index": 9, "active": true},
                    {"id": 4, "url": "http://[::1]:4", "role": "learner"},
                ],
            })
        );
        status.leader = 0;
        status.cluster = 0;
        status.formed = false;
        status.members.clear();
        let parsed: serde_json::Value = serde_json::from_str(&to_json(&status)).unwrap();
        assert_eq!(parsed["leader"], json!(null));
        assert_eq!(parsed["cluster"], json!(null));
        assert_eq!(parsed["formed"], json!(false));
        assert_eq!(parsed["members"], json!([]));
    }
}
