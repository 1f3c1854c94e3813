//! Members and commands for the tests of this folder.

use super::{Decision, Members};
use crate::command::version::VERSION;
use crate::command::{Command, Kind};
use crate::limits::{
    CLIENT_URL_BYTES_MAX, INDEX_MAX, KEY_FINGERPRINT_BYTES_MAX, MEMBERS_MAX, REMOVED_MAX,
};
use crate::peer_url::PeerUrl;

pub(super) fn command(kind: Kind, id: u64, url: &str) -> Command {
    let mut command = Command::new();
    command.kind = kind;
    command.member_id = id;
    command.member_url = url.to_owned();
    command
}

pub(super) fn url(id: u64) -> PeerUrl {
    format!("http://a:{id}").parse().unwrap()
}

pub(super) fn three() -> Members {
    Members::of((1..=3).map(|id| (id, url(id), 10 * id)))
}

/// The largest possible table: as many members as allowed, with the longest URLs, and more removals and revoked keys than
/// are kept.
pub(super) fn fullest() -> Members {
    let mut members = three();
    let add = |id: u64| {
        let mut command = command(Kind::AddMember, id, "");
        command.member_url = format!("http://{}:{id}", "a".repeat(253));
        command.member_incarnation = u64::MAX - id;
        command
    };
    let mut index = INDEX_MAX / 2;
    for id in 4..=3 + REMOVED_MAX as u64 + 10 {
        members.apply(&add(id), index);
        let mut removal = command(Kind::RemoveMember, id, "");
        let mut key = vec![7; KEY_FINGERPRINT_BYTES_MAX];
        key[..8].copy_from_slice(&id.to_be_bytes());
        removal.member_key_fingerprint = key.into();
        members.apply(&removal, index + 1);
        index += 2;
    }
    let free = MEMBERS_MAX - members.members.len();
    for id in (10_000..).take(free) {
        let change = members.decide(&add(id));
        assert!(
            matches!(change, Ok(Decision::Change(_))),
            "{id}: {change:?}"
        );
        members.apply(&add(id), index);
        index += 1;
    }
    for id in members.members.keys().copied().collect::<Vec<_>>() {
        let mut command = description(id, members.members[&id].incarnation);
        command.member_version = u64::MAX;
        assert!(members.describe(&command, 0, 4));
    }
    members.forming = members
        .members
        .iter()
        .map(|(id, m)| (*id, m.url.clone()))
        .collect();
    members
}

/// The longest description that fits.
pub(super) fn description(id: u64, incarnation: u64) -> Command {
    let mut command = command(Kind::DescribeMember, id, "");
    command.member_incarnation = incarnation;
    command.member_version = VERSION + 1;
    command.member_client_url = "u".repeat(CLIENT_URL_BYTES_MAX);
    command.member_key_fingerprint = vec![7; KEY_FINGERPRINT_BYTES_MAX].into();
    command
}
