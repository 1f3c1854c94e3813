//! Members: `POST /<id>` adds one, `DELETE /<id>` removes one.

use super::Front;
use super::body::Body;
use super::code::Code;
use super::condition::Conditions;
use super::path;
use super::reply::{self, Answer, Reply, Wish};
use crate::command::{Command, Kind};
use crate::config;
use crate::members::PeerUrl;
use crate::proposal::{Outcome, Refusal};
use hyper::http::request::Parts;
use tokio::time::Instant;

impl Front {
    /// `POST /<id>` with a peer URL.
    pub(super) async fn add_member(
        &self,
        head: &Parts,
        key: &[u8],
        body: &mut Body,
        deadline: Instant,
    ) -> Answer {
        let Some(id) = path::member_id(key) else {
            return Err(bad_request(
                "POST /<id> adds a member: its id is a number from 1 to 18446744073709551615, without leading zeros",
            ));
        };
        no_conditions(head)?;
        let limit = config::MEMBER_URL_BYTES_MAX;
        let received = body
            .receive(&self.body_bytes, limit, Wish::Change, deadline)
            .await?;
        let url = std::str::from_utf8(&received.bytes)
            .map_err(|_| bad_request("the body is not a peer URL: write it as http://HOST:PORT"))?
            .trim();
        self.add(id, &peer_url(url)?, deadline).await
    }

    /// Adds a member.
    pub(super) async fn add(&self, id: u64, url: &PeerUrl, deadline: Instant) -> Answer {
        let mut command = Command::new();
        command.kind = Kind::AddMember;
        command.member_id = id;
        command.member_url = url.to_string();
        self.change(command, deadline).await
    }

    /// `DELETE /<id>`. `path` is that of the request, for the hint.
    pub(super) async fn remove_member(
        &self,
        head: &Parts,
        key: &[u8],
        path: &str,
        deadline: Instant,
    ) -> Answer {
        let Some(id) = path::member_id(key) else {
            return Err(reply::error(
                Code::BadMember,
                format!(
                    "DELETE of a number removes a member, and this number is no id; {}",
                    path::hint(path)
                ),
            ));
        };
        no_conditions(head)?;
        let mut command = Command::new();
        command.kind = Kind::RemoveMember;
        command.member_id = id;
        self.change(command, deadline).await
    }

    async fn change(&self, command: Command, deadline: Instant) -> Answer {
        let id = command.member_id;
        match self.propose(command, deadline).await {
            Outcome::Applied { .. } => Ok(reply::done(None)),
            Outcome::Refused(why) => {
                let line = format!("not changed: {why}");
                Err(match why {
                    Refusal::NotFound => reply::error(
                        Code::NoSuchMember,
                        format!("{why} {id}; the key of that name is at /-/kv/{id}"),
                    ),
                    Refusal::IdTaken => reply::error(Code::IdTaken, line),
                    Refusal::UrlTaken => reply::error(Code::UrlTaken, line),
                    Refusal::LastVoter => reply::error(Code::LastVoter, line),
                    Refusal::ChangeUnderWay => reply::error(Code::ChangeUnderWay, line),
                })
            }
            // A membership command carries no condition.
            Outcome::ConditionFailed { current } => Err(reply::condition_failed(current)),
            other @ (Outcome::Transacted { .. } | Outcome::ChecksFailed(_)) => {
                panic!("{other:?} is no outcome of a change of membership")
            }
            Outcome::NotProposed(why) => Err(reply::not_proposed(Wish::Change, why)),
            Outcome::Unknown => Err(reply::unknown(Wish::Change)),
        }
    }
}

/// Reads a peer URL.
pub(super) fn peer_url(text: &str) -> Result<PeerUrl, Box<Reply>> {
    if text.len() > 300 {
        // No valid one is that long, and the message would repeat it.
        return Err(bad_request("this is not a peer URL: it is too long"));
    }
    text.parse()
        .map_err(|why: String| reply::error(Code::BadMember, why))
}

/// A condition can't be kept for a member, and ignoring one would be worse than refusing it.
pub(super) fn no_conditions(head: &Parts) -> Result<(), Box<Reply>> {
    if Conditions::of(&head.headers)?.is_empty() {
        Ok(())
    } else {
        Err(reply::error(
            Code::BadCondition,
            "If-Match and If-None-Match don't apply to members",
        ))
    }
}

fn bad_request(line: &'static str) -> Box<Reply> {
    reply::error(Code::BadMember, line)
}
