//! `POST /-/leader`: transfers leadership to the member whose id is the body.

use super::Front;
use super::audit::Audited;
use super::body::Body;
use super::error_code::Code;
use super::members::no_conditions;
use super::path;
use super::reply::{self, Reply, ReplyResult, RequestKind};
use super::status::within;
use crate::command::outcome::NotTransferred;
use crate::limits;
use hyper::http::request::Parts;
use tokio::time::Instant;

impl Front {
    /// `POST /-/leader`. Replies 204 once this member has seen the target lead.
    pub(super) async fn hand_over(
        &self,
        head: &Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        no_conditions(head)?;
        let limit = limits::MEMBER_URL_BYTES_MAX;
        let received = body
            .receive(&self.body_bytes, limit, RequestKind::Change, deadline)
            .await?;
        let Some(id) = path::member_id(received.bytes.trim_ascii()) else {
            return Err(reply::error(
                Code::BadMember,
                "the body has to be the id of the member that is to become the leader, such as 2",
            ));
        };
        let audit = self.audit(head, Audited::Leadership, "transfer");
        let status = self.status(within(limits::STATUS_TIMEOUT, deadline)).await;
        let audit = audit
            .member(id, "")
            .again(status.is_some_and(|status| status.leader == id));
        let answer = match self.transfer(id, deadline).await {
            Ok(()) => Ok(reply::done(None)),
            Err(why) => Err(refused(id, why)),
        };
        audit.answered(&answer);
        answer
    }
}

fn refused(id: u64, why: NotTransferred) -> Box<Reply> {
    let line = format!("not handed over to member {id}: {why}");
    match why {
        NotTransferred::NotFound => reply::error(Code::NoSuchMember, line),
        NotTransferred::Learner => reply::error(Code::Learner, line),
        NotTransferred::Inactive => reply::error(Code::NotActive, line),
        NotTransferred::Behind => reply::error(Code::NotCaughtUp, line),
        NotTransferred::UnderWay => reply::error(Code::HandoverUnderWay, line),
        NotTransferred::NotProposed(why) => reply::not_proposed(RequestKind::Change, why),
        NotTransferred::Unknown => reply::unknown(RequestKind::Change),
    }
}
