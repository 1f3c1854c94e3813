//! The gate: what a member refuses while it can't or must not serve clients.
//!
//! `route` asks it once for each request, when it is known what is wanted and before any of the body is read. While the
//! snapshot is loaded there is no raft loop and no map. While the member is closed there are both, and no client may
//! see or change them on any path: the cluster has not formed, the member is in none, or another cluster knows another
//! data directory as this member.
//!
//! Invariants: what is refused here had no effect, and the client is told so. What passed the gate goes on when the member
//! is closed meanwhile, except watches, which end (`watch`).

use super::Front;
use super::error_code::Code;
use super::reply::{self, Reply};
use super::route::Needs;
use crate::channels::status::{Closed, ClosedKind};

impl Front {
    /// Refuses what can't be served at present.
    pub(super) fn gate(&self, needs: Needs) -> Result<(), Box<Reply>> {
        if self.api.state_machine.replay.is_loading() {
            return match needs {
                Needs::Nothing => Ok(()),
                Needs::Raft | Needs::Service => Err(self.loading()),
            };
        }
        match (self.api.inbox.closed(), needs) {
            // What people and supervisors see of a closed member. Ready says why not.
            (None, _) | (Some(_), Needs::Nothing | Needs::Raft) => Ok(()),
            (Some(closed), Needs::Service) => {
                let mut reply = reply::unavailable(code(&closed), closed.why.clone());
                reply::set_outcome(&mut reply, "none");
                Err(reply)
            }
        }
    }

    fn loading(&self) -> Box<Reply> {
        let what = self.api.state_machine.replay.under_way();
        let what = what.as_deref().unwrap_or("it has just begun to serve");
        let mut reply =
            reply::unavailable(Code::Replaying, format!("not ready: {what}; try again"));
        reply::set_outcome(&mut reply, "none");
        reply
    }
}

/// The code of each reason.
pub(super) fn code(closed: &Closed) -> Code {
    match closed.kind {
        ClosedKind::Forming => Code::Forming,
        ClosedKind::Joining => Code::Joining,
        ClosedKind::OtherLife => Code::OtherLife,
    }
}
