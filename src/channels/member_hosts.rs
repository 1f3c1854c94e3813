//! The hosts in the members' peer URLs, for the API: a request may name a member by one of these hosts.
//!
//! The raft loop writes the hosts when the table of members changes, and the API reads them. The API asks only for
//! requests whose Host is a name that no option allows.

use crate::members::Members;
use crate::peer_url::PeerUrl;
use parking_lot::RwLock;

/// The hosts in the peer URLs of the command line and of the table of members.
#[derive(Debug, Default)]
pub struct MemberHosts {
    /// The hosts of the command line. They are allowed whatever the table holds.
    given: Vec<String>,
    /// The hosts of the table of members.
    table: RwLock<Vec<String>>,
}

impl MemberHosts {
    /// The hosts of the peer URLs on the command line.
    pub fn new<'a>(given: impl Iterator<Item = &'a PeerUrl>) -> MemberHosts {
        MemberHosts {
            given: names(given),
            table: RwLock::default(),
        }
    }

    /// Replaces the hosts of the table.
    pub fn set(&self, members: &Members) {
        *self.table.write() = names(members.members.values().map(|member| &member.url));
    }

    /// Whether a member has this host. `host` has no final dot. Upper and lower case are the same.
    pub fn contains(&self, host: &str) -> bool {
        let is_same = |name: &String| name.eq_ignore_ascii_case(host);
        self.given.iter().any(is_same) || self.table.read().iter().any(is_same)
    }
}

/// A final dot only says that the name is absolute.
fn names<'a>(urls: impl Iterator<Item = &'a PeerUrl>) -> Vec<String> {
    let hosts = urls.map(PeerUrl::host);
    hosts
        .map(|host| host.strip_suffix('.').unwrap_or(host).to_owned())
        .collect()
}
