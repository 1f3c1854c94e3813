//! Joining by address (`--join URL`): asks members of a running cluster to add this one, again and again until one of
//! them has done it.
//!
//! The server starts it beside everything else on a member that holds nothing yet. Each member is asked for the others
//! first (`GET /-/status`), so that they are dialed and can say when they refuse this one, and then to add this one
//! (`POST /join`), which is harmless when it is a member already. All further is between the leader and this member.
//!
//! It ends when it was heard, when this member hears from the cluster in another way, or with an error that another try
//! would meet again.

use crate::members::{Member, Members, PeerUrl};
use crate::transport::Transport;
use crate::{config, http_client};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use slog::{Logger, info, warn};
use tokio::time::{sleep, timeout};

/// Who asks whom.
#[derive(Debug, Clone)]
pub struct Joiner {
    /// This member.
    pub id: u64,
    /// Where its peers reach it.
    pub url: PeerUrl,
    /// Where clients reach the members that are asked, in this order.
    pub asked: Vec<PeerUrl>,
}

/// Why a member has not added this one.
enum Failure {
    /// It may be different the next time.
    Now(String),
    /// The id or the URL belongs to another member.
    Taken(String),
}

/// Asks until there is nothing to ask for any more. An error is one line: another start is needed, with other options.
pub async fn run(joiner: Joiner, transport: Transport, logger: Logger) -> Result<(), String> {
    let mut pause = config::JOIN_BACKOFF_MIN;
    let mut told = String::new();
    let mut in_doubt = false;
    while transport.is_joining() {
        let mut reasons = Vec::new();
        for asked in &joiner.asked {
            match ask(&joiner, asked, &mut in_doubt, &transport).await {
                Ok(()) => {
                    info!(logger, "was added to the cluster"; "by" => %asked);
                    return Ok(());
                }
                Err(Failure::Now(why)) => reasons.push(format!("{asked}: {why}")),
                Err(Failure::Taken(why)) => {
                    let Joiner { id, url, .. } = &joiner;
                    return Err(format!(
                        "can't join as member {id} at {url}: {asked} says: {why}; choose another --id or --peer-url, or \
                         remove the other member first: curl -X DELETE {asked}/ID"
                    ));
                }
            }
        }
        let why = reasons.join("; ");
        if why != told {
            warn!(logger, "not added to the cluster yet, trying on: {}", why);
            told = why;
        }
        sleep(pause).await;
        pause = (2 * pause).min(config::JOIN_BACKOFF_MAX);
    }
    Ok(())
}

/// Asks one member. `in_doubt`: an earlier wish may have been granted. A member that is found to be added is not asked
/// for again then, for whoever removes it between the two would see it come back.
async fn ask(
    joiner: &Joiner,
    asked: &PeerUrl,
    in_doubt: &mut bool,
    transport: &Transport,
) -> Result<(), Failure> {
    let (status, body) = request(asked, Method::GET, "/-/status", String::new()).await?;
    let described = serde_json::from_slice(&body).ok();
    let known = described.as_ref().and_then(members);
    let (Some(described), Some(known), StatusCode::OK) = (&described, known, status) else {
        return Err(Failure::Now(format!(
            "GET /-/status was answered with {status} and not with members; is this where clients reach a member?"
        )));
    };
    if described["role"] == "joining" {
        return Err(Failure::Now("it waits to be added itself".to_owned()));
    }
    transport.set_members_to_dial(&known);
    let is_member = |member: &Member| member.url == joiner.url;
    if *in_doubt && known.members.get(&joiner.id).is_some_and(is_member) {
        return Ok(());
    }
    let wish = json!({"id": joiner.id, "addr": joiner.url.to_string()}).to_string();
    let was_in_doubt = std::mem::replace(in_doubt, true);
    let (status, body) = request(asked, Method::POST, "/join", wish).await?;
    if status.is_success() {
        return Ok(());
    }
    // Any other refusal says that nothing was changed.
    *in_doubt = was_in_doubt || status == StatusCode::GATEWAY_TIMEOUT;
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = match problem["detail"].as_str() {
        Some(line) => line.to_owned(),
        None => format!("POST /join was answered with {status}"),
    };
    match problem["code"].as_str() {
        Some("id-taken" | "url-taken") => Err(Failure::Taken(why)),
        _ => Err(Failure::Now(why)),
    }
}

/// The members in what `GET /-/status` says.
fn members(status: &Value) -> Option<Members> {
    let mut known = Members::default();
    for member in status["members"].as_array()? {
        let url = member["url"].as_str()?.parse().ok()?;
        let member_known = Member {
            url,
            learner: false,
            added_index: 1,
        };
        known.members.insert(member["id"].as_u64()?, member_known);
    }
    Some(known)
}

/// One request: the status and the body of its answer.
async fn request(
    to: &PeerUrl,
    method: Method,
    path: &'static str,
    body: String,
) -> Result<(StatusCode, Bytes), Failure> {
    let stream = http_client::connect(to).await.map_err(Failure::Now)?;
    let take = async |answer: Response<Incoming>| {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), config::JOIN_ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    };
    let exchange = http_client::exchange(stream, to, method, path, body, take);
    match timeout(config::MEMBER_ANSWER_TIMEOUT, exchange).await {
        Ok(answer) => answer.map_err(|why: String| Failure::Now(format!("{path}: {why}"))),
        Err(_) => Err(Failure::Now(format!("{path}: no answer in time"))),
    }
}
