//! Members: `GET /-/members` lists them. `POST /-/members/<id>` adds a member, `PUT` moves a member to another URL, and
//! `DELETE` removes a member. `POST /<id>` and `DELETE /<id>` do the same for clients of raftexample.
//!
//! The leader makes one change at a time. A change that arrives during another change waits at the leader until the
//! other change is settled or the deadline of the request passes.

use super::audit::{Audit, Audited};
use super::body::Body;
use super::condition::Conditions;
use super::error_code::Code;
use super::path::{self, ReadOptions};
use super::reply::{self, Reply, ReplyResult, RequestKind};
use super::status::{self, within};
use super::{Front, json};
use crate::channels::status::{MemberStatus, Status};
use crate::command::outcome::{Outcome, Refusal};
use crate::command::{Command, Kind};
use crate::limits;
use crate::peer_url::PeerUrl;
use hyper::http::request::Parts;
use serde::Serialize;
use tokio::time::Instant;

#[derive(Serialize)]
struct MembersJson {
    members: Vec<MemberStatus>,
}

impl Front {
    /// `GET /-/members`.
    pub(super) async fn list_members(
        &self,
        options: ReadOptions,
        deadline: Instant,
    ) -> ReplyResult {
        if !options.stale {
            let caught_up = self.catch_up(deadline).await;
            caught_up.map_err(|why| self.not_proposed(RequestKind::Read, why))?;
        }
        match self.status(within(limits::STATUS_TIMEOUT, deadline)).await {
            Some(Status { members, .. }) => Ok(reply::json(json::line(&MembersJson { members }))),
            None => Err(reply::unavailable(Code::TooSlow, status::STUCK)),
        }
    }

    /// `POST /-/members/<id>` and `POST /<id>` with a peer URL.
    pub(super) async fn add_member(
        &self,
        head: &Parts,
        key: &[u8],
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        let Some(id) = path::member_id(key) else {
            let names_a_key =
                !path::is_all_digits(key) && !head.uri.path().starts_with("/-/members/");
            if names_a_key {
                return Err(bad_request(
                    "POST writes no key: use PUT, as in curl -X PUT -d VALUE URL; POST adds a member, whose id is a number: \
                     see POST /-/members/<id>",
                ));
            }
            return Err(bad_request(
                "POST /-/members/<id> adds a member: its id is a number from 1 to 18446744073709551615, without leading zeros",
            ));
        };
        no_conditions(head)?;
        let url = self.receive_url(body, deadline).await?;
        // Incarnation 0: the id is bound later, to the empty member that answers at this URL.
        self.add(head, id, (&url, 0), deadline).await
    }

    /// Adds a member with this URL and incarnation. Incarnation 0 binds the id to no data directory yet.
    pub(super) async fn add(
        &self,
        head: &Parts,
        id: u64,
        (url, incarnation): (&PeerUrl, u64),
        deadline: Instant,
    ) -> ReplyResult {
        self.check_addition(head, id)?;
        // The leader refuses an addition by a member that has not heard of the newest removal of this id.
        let caught_up = self.catch_up(deadline).await;
        caught_up.map_err(|why| self.not_proposed(RequestKind::Change, why))?;
        // What this member has caught up with may have revoked the key.
        let key = self.check_addition(head, id)?;
        let mut command = Command::new();
        command.kind = Kind::AddMember;
        command.member_id = id;
        command.member_url = url.to_string();
        command.member_incarnation = incarnation;
        command.member_key_fingerprint = key.map_or(Vec::new(), |key| key.0.into()).into();
        self.change(head, command, deadline).await
    }

    /// `PUT /-/members/<id>` with the peer URL at which the cluster reaches the member from now on. `path` is the path
    /// of the request.
    pub(super) async fn move_member(
        &self,
        head: &Parts,
        key: &[u8],
        path: &str,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        let Some(id) = path::member_id(key) else {
            return Err(reply::error(
                Code::BadMember,
                format!(
                    "PUT /-/members/<id> moves a member: its id is a number from 1 to 18446744073709551615, without \
                     leading zeros; {}",
                    path::hint(path)
                ),
            ));
        };
        no_conditions(head)?;
        let url = self.receive_url(body, deadline).await?;
        let mut command = Command::new();
        command.kind = Kind::MoveMember;
        command.member_id = id;
        command.member_url = url.to_string();
        self.change(head, command, deadline).await
    }

    /// `DELETE /-/members/<id>`.
    pub(super) async fn remove_member(
        &self,
        head: &Parts,
        key: &[u8],
        deadline: Instant,
    ) -> ReplyResult {
        let Some(id) = path::member_id(key) else {
            return Err(bad_request(
                "DELETE /-/members/<id> removes a member: its id is a number from 1 to 18446744073709551615, without \
                 leading zeros",
            ));
        };
        no_conditions(head)?;
        self.change(head, removal(id), deadline).await
    }

    /// `DELETE /<id>`. The client may mean the key of this name. `path` is the path of the request, for the hint.
    pub(super) async fn remove_number(
        &self,
        head: &Parts,
        key: &[u8],
        path: &str,
        deadline: Instant,
    ) -> ReplyResult {
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
        let command = removal(id);
        let audit = self.audit_change(head, &command, deadline).await;
        let answer = match self.refuse_key(key, id, deadline).await {
            Ok(()) => self.propose_change(command, deadline).await,
            Err(refused) => Err(refused),
        };
        let answer = answer.map_err(|refused| or_key(refused, id));
        audit.answered(&answer);
        answer
    }

    /// Refuses to remove a member while there is a key with the same name.
    async fn refuse_key(&self, key: &[u8], id: u64, deadline: Instant) -> Result<(), Box<Reply>> {
        let caught_up = self.catch_up(deadline).await;
        caught_up.map_err(|why| self.not_proposed(RequestKind::Change, why))?;
        if self.api.state_machine.store.get(key).is_none() {
            return Ok(());
        }
        let status = self.status(within(limits::STATUS_TIMEOUT, deadline)).await;
        let status =
            status.ok_or_else(|| reply::unavailable(Code::TooSlow, super::status::STUCK))?;
        if status.members.iter().all(|member| member.id != id) {
            // The removal is not proposed, because it would remove a member that is added meanwhile.
            return Err(refused(Refusal::NotFound, id));
        }
        Err(reply::error(
            Code::Ambiguous,
            format!(
                "not changed: {id} is a member and a key; DELETE /-/kv/{id} deletes the key, and DELETE /-/members/{id} \
                 removes the member"
            ),
        ))
    }

    /// Reads a body that is a peer URL.
    async fn receive_url(&self, body: &mut Body, deadline: Instant) -> Result<PeerUrl, Box<Reply>> {
        let limit = limits::MEMBER_URL_BYTES_MAX;
        let received = body
            .receive(&self.body_bytes, limit, RequestKind::Change, deadline)
            .await?;
        let url = std::str::from_utf8(&received.bytes)
            .map_err(|_| bad_request("the body is not a peer URL: write it as http://HOST:PORT"))?;
        peer_url(url)
    }

    async fn change(&self, head: &Parts, command: Command, deadline: Instant) -> ReplyResult {
        let audit = self.audit_change(head, &command, deadline).await;
        let answer = self.propose_change(command, deadline).await;
        audit.answered(&answer);
        answer
    }

    async fn audit_change(&self, head: &Parts, command: &Command, deadline: Instant) -> Audit {
        let asked = match command.kind {
            Kind::AddMember => "add",
            Kind::MoveMember => "move",
            _ => "remove",
        };
        let audit = self.audit(head, Audited::Members, asked);
        let audit = audit.member(command.member_id, &command.member_url);
        let status = self.status(within(limits::STATUS_TIMEOUT, deadline)).await;
        audit.again(status.is_some_and(|status| holds(command, &status)))
    }

    async fn propose_change(&self, mut command: Command, deadline: Instant) -> ReplyResult {
        let id = command.member_id;
        command.wait_ticks = self.ticks_until(deadline);
        match self.propose(command, deadline).await {
            Outcome::Applied { .. } => Ok(reply::done(None)),
            Outcome::Refused(why) => Err(refused(why, id)),
            // This does not occur: a membership command carries no condition.
            Outcome::ConditionFailed { current } => Err(reply::condition_failed(current)),
            other @ (Outcome::Transacted { .. } | Outcome::ChecksFailed(_)) => {
                panic!("{other:?} is no outcome of a change of membership")
            }
            Outcome::NotProposed(why) => Err(self.not_proposed(RequestKind::Change, why)),
            Outcome::Unknown => Err(reply::unknown(RequestKind::Change)),
        }
    }
}

/// Whether the state that a change asks for holds already.
fn holds(command: &Command, status: &Status) -> bool {
    let mut members = status.members.iter();
    let member = members.find(|member| member.id == command.member_id);
    match command.kind {
        Kind::RemoveMember => member.is_none(),
        _ => member.is_some_and(|member| member.url.to_string() == command.member_url),
    }
}

fn removal(id: u64) -> Command {
    let mut command = Command::new();
    command.kind = Kind::RemoveMember;
    command.member_id = id;
    command
}

/// If the member is not found, the line also names the key: the client of `DELETE /<id>` may have meant the key.
fn or_key(refused: Box<Reply>, id: u64) -> Box<Reply> {
    match refused.extensions().get() {
        Some(Code::NoSuchMember) => reply::error(
            Code::NoSuchMember,
            format!(
                "{} {id}; the key of that name is at /-/kv/{id}",
                Refusal::NotFound
            ),
        ),
        _ => refused,
    }
}

/// 409 or 404, with a line for this refusal and this member.
fn refused(why: Refusal, id: u64) -> Box<Reply> {
    let line = format!("not changed: {why}");
    match why {
        Refusal::NotFound => reply::error(Code::NoSuchMember, format!("{why} {id}")),
        Refusal::IdTaken(url) => reply::error(
            Code::IdTaken,
            format!(
                "not changed: member {id} is at {url}; a new member needs an id of its own: give another --id; only if \
                 member {id} itself has moved, PUT its new URL to /-/members/{id}"
            ),
        ),
        Refusal::OtherIncarnation => reply::error(
            Code::OtherIncarnation,
            format!(
                "not changed: member {id} has another data directory: start it on that one, or, if that is lost, DELETE \
                 /-/members/{id} and then add it again"
            ),
        ),
        Refusal::UrlTaken(other) => reply::error(
            Code::UrlTaken,
            format!(
                "not changed: this is the peer URL of member {other}; give member {id} one of its own, or, if member \
                 {other} is gone for good, DELETE /-/members/{other} first"
            ),
        ),
        Refusal::TooManyMembers => reply::error(Code::TooManyMembers, line),
        Refusal::LastVoter => reply::error(Code::LastVoter, line),
        Refusal::ChangeUnderWay => reply::error(Code::ChangeUnderWay, line),
    }
}

/// Parses a peer URL.
pub(super) fn peer_url(text: &str) -> Result<PeerUrl, Box<Reply>> {
    if text.len() > 300 {
        // No valid URL is that long, and the message would repeat it.
        return Err(bad_request("this is not a peer URL: it is too long"));
    }
    PeerUrl::typed(text).map_err(|why| reply::error(Code::BadMember, why))
}

/// Refuses conditions. Members have no ETag to compare, and ignoring a condition would be worse than refusing it.
pub(super) fn no_conditions(head: &Parts) -> Result<(), Box<Reply>> {
    if Conditions::of(&head.headers)?.is_empty() {
        Ok(())
    } else {
        Err(reply::error(
            Code::BadCondition,
            "If-Match and If-None-Match don't apply to members; leave them out",
        ))
    }
}

fn bad_request(line: &'static str) -> Box<Reply> {
    reply::error(Code::BadMember, line)
}
