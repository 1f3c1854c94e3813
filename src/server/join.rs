//! Joining by address (`--join URL`): asks members of a running cluster to add this member, and repeats until a member
//! has added it.
//!
//! The server runs this task on an empty member, beside all other tasks. The task asks each member in two steps:
//! 1. `GET /-/status` returns the other members, so that the transport dials them and they can report a refusal of this
//!    member.
//! 2. `POST /join` asks the member to add this member with its incarnation. The request has no effect if this member
//!    was added already.
//!
//! The rest needs no part of this task: the leader dials this member, and sends it the first state.
//!
//! The task ends when a member has added this one, or when this member gets a table of members in another way. The task
//! fails with an error that a retry would meet again.

use crate::api::client;
use crate::channels::inbox::Inbox;
use crate::channels::notice::Notice;
use crate::limits;
use crate::peer_url::PeerUrl;
use crate::tls::client::ClientTls;
use crate::transport::{PEERS_ONLY, Transport};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use slog::{Logger, info, warn};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

/// The member that asks, and the members that are asked.
#[derive(Debug, Clone)]
pub struct JoinTask {
    /// The id of this member.
    pub id: u64,
    /// The incarnation of this member's data directory.
    pub incarnation: u64,
    /// The URL at which peers reach this member.
    pub url: PeerUrl,
    /// The client URLs of the members to ask, in this order.
    pub asked: Vec<PeerUrl>,
    /// The files with which to dial these members. `None`: without TLS.
    pub tls: Option<ClientTls>,
}

/// Why a member has not added this one.
enum NotAdded {
    /// A retry may succeed.
    Now(String),
    /// The id or the URL belongs to another member.
    Taken(String),
    /// The id is bound to another data directory.
    OtherIncarnation(String),
}

/// Why the member must be started in another way. Both texts are one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotJoined {
    /// Other options are needed: the id or the URL belongs to another member.
    Taken(String),
    /// Another data directory is needed, or the member that uses the id must be removed first.
    OtherIncarnation(String),
}

/// Asks until this member is added or has a table of members.
pub async fn run(
    task: JoinTask,
    transport: Transport,
    inbox: Arc<Inbox>,
    logger: Logger,
) -> Result<(), NotJoined> {
    let JoinTask { id, url, .. } = &task;
    let mut pause = limits::JOIN_BACKOFF_MIN;
    let mut told = String::new();
    let mut in_doubt = false;
    while transport.is_empty() {
        let mut reasons = Vec::new();
        for asked in &task.asked {
            match ask(&task, asked, &mut in_doubt, &transport).await {
                Ok(()) => {
                    info!(logger, "was added to the cluster"; "client_url" => %asked);
                    inbox.notice(Notice::Joining(format!(
                        "member {id} was added by {asked}, and waits for the leader, which has to reach it at {url}"
                    )));
                    return Ok(());
                }
                Err(NotAdded::Now(why)) => reasons.push(format!("{asked}: {why}")),
                Err(NotAdded::Taken(why)) => {
                    return Err(NotJoined::Taken(format!(
                        "can't join as member {id} at {url}: the member at {asked} says: {why}"
                    )));
                }
                Err(NotAdded::OtherIncarnation(why)) => {
                    return Err(NotJoined::OtherIncarnation(format!(
                        "can't join as member {id} at {url}: the member at {asked} says: {why} \
                         (curl -X DELETE {asked}/-/members/{id})"
                    )));
                }
            }
        }
        let why = reasons.join("; ");
        if why != told {
            warn!(
                logger,
                "not added to the cluster yet, and asking again: {}", why
            );
            inbox.notice(Notice::Joining(format!(
                "member {id} is not added yet: {why}"
            )));
            told = why;
        }
        sleep(pause).await;
        pause = (2 * pause).min(limits::JOIN_BACKOFF_MAX);
    }
    Ok(())
}

/// Asks one member. `in_doubt` means that an earlier request may have succeeded. If the status then shows this member
/// as added, the function does not ask again: if this member was added and then removed, another request would add it
/// again.
async fn ask(
    task: &JoinTask,
    asked: &PeerUrl,
    in_doubt: &mut bool,
    transport: &Transport,
) -> Result<(), NotAdded> {
    let (status, body) = request(task, asked, Method::GET, "/-/status", String::new()).await?;
    let known = serde_json::from_slice(&body).ok().and_then(members);
    let (Some(known), StatusCode::OK) = (known, status) else {
        return Err(NotAdded::Now(no_status(status, &body)));
    };
    if known.is_empty() {
        return Err(NotAdded::Now(no_members(task, &body)));
    }
    let is_member = known.get(&task.id) == Some(&task.url);
    transport.set_list(known);
    if *in_doubt && is_member {
        return Ok(());
    }
    let body = join_body(task);
    let was_in_doubt = std::mem::replace(in_doubt, true);
    let (status, body) = request(task, asked, Method::POST, "/join", body).await?;
    if status.is_success() {
        return Ok(());
    }
    // Every other refusal says that nothing was changed.
    *in_doubt = was_in_doubt || status == StatusCode::GATEWAY_TIMEOUT;
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = detail(&problem);
    let why = why.unwrap_or_else(|| format!("the answer to POST /join is {status}"));
    match problem["code"].as_str() {
        Some("id-taken" | "url-taken") => Err(NotAdded::Taken(why)),
        Some("other-incarnation") => Err(NotAdded::OtherIncarnation(why)),
        _ => Err(NotAdded::Now(why)),
    }
}

/// Why an answer to `GET /-/status` is not the answer of a member to its clients. If the member does not know the host in
/// the URL, its refusal says what to do.
fn no_status(status: StatusCode, body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    if problem["code"] == "no-certificate" {
        return "this member speaks TLS; start this one with --tls DIR too".to_owned();
    }
    if let Some(line) = detail(&problem) {
        return line;
    }
    match body.trim_ascii() == PEERS_ONLY.as_bytes() {
        true => "this is the peer URL of a member; give --join the URL at which clients reach the member"
            .to_owned(),
        false => format!(
            "the answer to GET /-/status is {status} without members; give --join the URL at which clients reach a member"
        ),
    }
}

/// Why a member that knows no members can't add this one.
fn no_members(task: &JoinTask, body: &[u8]) -> String {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    match status["id"].as_u64() {
        Some(id) if id == task.id => {
            "this is the URL of this member itself; give --join the URL at which clients reach a member of the cluster"
                .to_owned()
        }
        Some(id) => format!("member {id}, which answers there, waits to be added too"),
        None => "the member that answers there waits to be added too".to_owned(),
    }
}

/// The line of a refusal, if the answer is one.
fn detail(problem: &Value) -> Option<String> {
    let line = problem["detail"].as_str()?;
    Some(line.chars().take(limits::JOIN_REASON_CHARS_MAX).collect())
}

/// The body of `POST /join`. The incarnation is text, because JSON numbers are not exact beyond 2^53.
fn join_body(task: &JoinTask) -> String {
    let incarnation = format!("{:016x}", task.incarnation);
    json!({"id": task.id, "addr": task.url.to_string(), "incarnation": incarnation}).to_string()
}

/// The peer URLs of the members in the answer to `GET /-/status`.
fn members(status: Value) -> Option<BTreeMap<u64, PeerUrl>> {
    let listed = status["members"].as_array()?.iter();
    let member = |member: &Value| {
        Some((
            member["id"].as_u64()?,
            member["url"].as_str()?.parse().ok()?,
        ))
    };
    listed.map(member).collect()
}

/// Sends one request. Returns the status and the body of its answer.
async fn request(
    task: &JoinTask,
    to: &PeerUrl,
    method: Method,
    path: &'static str,
    body: String,
) -> Result<(StatusCode, Bytes), NotAdded> {
    let stream = client::connect(to, task.tls.as_ref())
        .await
        .map_err(NotAdded::Now)?;
    let take = async |answer: Response<Incoming>| {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), limits::JOIN_ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    let exchange = client::exchange(stream, to, method, path, body, take);
    match timeout(limits::MEMBER_ANSWER_TIMEOUT, exchange).await {
        Ok(answer) => answer.map_err(|why: String| NotAdded::Now(format!("{path}: {why}"))),
        Err(_) => Err(NotAdded::Now(format!("no answer to {path} in time"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_members_says_which_url_is_wrong() {
        let task = JoinTask {
            id: 4,
            incarnation: 0xab,
            url: "http://10.0.0.4:9021".parse().unwrap(),
            asked: Vec::new(),
            tls: None,
        };
        let peers = format!("{PEERS_ONLY}\n");
        let line = no_status(StatusCode::NOT_FOUND, peers.as_bytes());
        assert!(
            line.starts_with("this is the peer URL of a member"),
            "{line}"
        );
        let line = no_status(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(line.contains("502 Bad Gateway without members"), "{line}");
        let line = no_members(&task, b"{\"id\":4,\"members\":[]}");
        assert!(line.contains("of this member itself"), "{line}");
        let line = no_members(&task, b"{\"id\":5,\"members\":[]}");
        assert!(line.starts_with("member 5, which answers there"), "{line}");
    }

    #[test]
    fn a_joiner_says_who_it_is_and_reads_who_the_others_are() {
        let task = JoinTask {
            id: 4,
            incarnation: 0xab,
            url: "http://10.0.0.4:9021".parse().unwrap(),
            asked: Vec::new(),
            tls: None,
        };
        let said: Value = serde_json::from_str(&join_body(&task)).unwrap();
        let expected =
            json!({"id": 4, "addr": "http://10.0.0.4:9021", "incarnation": "00000000000000ab"});
        assert_eq!(said, expected);

        let status =
            json!({"members": [{"id": 1, "url": "http://a:1"}, {"id": 2, "url": "http://a:2"}]});
        let known = members(status).unwrap();
        assert_eq!(known.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(members(json!({"members": []})), Some(BTreeMap::new()));
        for other in [json!({}), json!({"members": [{"id": 1, "url": "a"}]})] {
            assert_eq!(members(other), None);
        }
    }
}
