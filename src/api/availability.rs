//! Availability: refuses requests while a member can't or must not serve clients.
//!
//! `route` checks this at most once for each request, after the route is known and before any of the body is read.
//! While the snapshot is loading, there is no raft loop and no map. While the member is closed, both exist, but no
//! client may read or change keys or members on any path. A member is closed when the cluster has not formed, when the
//! member belongs to no cluster, or when another cluster knows another data directory under this member's id.
//!
//! Invariants:
//! - A request that is refused here had no effect, and the reply says so.
//! - A request that passed the check continues if the member is closed meanwhile, except for watches, which end
//!   (`watch`).

use super::Front;
use super::error_code::Code;
use super::reply::{self, Reply};
use super::route::Needs;
use crate::channels::status::{Closed, ClosedKind};

impl Front {
    /// Refuses a request that can't be served at present.
    pub(super) fn check_available(&self, needs: Needs) -> Result<(), Box<Reply>> {
        if self.api.state_machine.replay.is_loading() {
            return match needs {
                Needs::Nothing => Ok(()),
                Needs::Raft | Needs::Service => Err(self.loading()),
            };
        }
        match (self.api.inbox.closed(), needs) {
            // People and supervisors may still look at a closed member. `/-/ready` gives the reason.
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
        let what = what.as_deref().unwrap_or("this member has just started");
        let mut reply =
            reply::unavailable(Code::Replaying, format!("not ready: {what}; try again"));
        reply::set_outcome(&mut reply, "none");
        reply
    }
}

/// The error code for the reason why the member is closed.
pub(super) fn code(closed: &Closed) -> Code {
    match closed.kind {
        ClosedKind::Forming => Code::Forming,
        ClosedKind::Joining => Code::Joining,
        ClosedKind::OtherLife => Code::OtherLife,
    }
}
