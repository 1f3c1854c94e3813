//! Views and claims for the tests of this folder.

use super::{Claims, Receiver, View};
use crate::command::Kind;
use crate::command::version::VERSION;
use crate::members::{Member, Members, Unsettled};
use crate::peer_url::PeerUrl;

pub(super) const CLUSTER: u64 = 0xc1;

pub(super) fn url(id: u64) -> PeerUrl {
    format!("http://a:{id}").parse().unwrap()
}

/// The view of member 1 in a cluster that was formed by three members. Member 4 was added by hand at 40, 5 was removed
/// at 50, and 9 was removed at 60, which is not settled. Applied up to 60.
pub(super) fn view() -> View {
    let mut members = Members::of((1..=3).map(|id| (id, url(id), 10 * id)));
    let open = Member {
        url: url(4),
        learner: true,
        added_index: 40,
        incarnation: 0,
        bound_index: 0,
        description: Default::default(),
    };
    members.members.insert(4, open);
    members.removed.insert(5, 50);
    members.removed.insert(9, 60);
    members.unsettled = Some(Unsettled {
        index: 60,
        kind: Kind::RemoveMember,
        member: 9,
    });
    View {
        me: 1,
        incarnation: 10,
        run: 1,
        url: url(1),
        url_given: true,
        cluster: CLUSTER,
        members,
        bound_index: 1,
    }
}

pub(super) fn empty_view() -> View {
    View {
        cluster: 0,
        members: Members::default(),
        bound_index: 0,
        ..view()
    }
}

/// Claims of a peer whose table binds member 1.
pub(super) fn claims(from: u64, incarnation: u64, bound_index: u64) -> Claims {
    Claims {
        cluster: if bound_index == 0 { 0 } else { CLUSTER },
        from,
        to: 1,
        incarnation,
        bound_index,
        run: 1,
        url: url(from),
        url_given: true,
        version: VERSION,
        receiver: Some(Receiver {
            incarnation: 10,
            formed: true,
            same_url: true,
        }),
        awaits: false,
    }
}
