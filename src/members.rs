//! The members of the cluster: id, peer URL, voter or learner, and who was removed.
//!
//! This is replicated state: it changes only by committed entries, it is the same on every node at the same index,
//! and it travels in every snapshot. The command line is used once, to make the first one. [`Members::decide`] is
//! where the rules of membership are, and nowhere else.

use crate::command::{self, Command, Kind, ReplicatedState};
use crate::proposal::Refusal;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Members and removed ids, as of some index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// By id.
    pub members: BTreeMap<u64, Member>,
    /// Removed ids, with the index of the entry that removed them; an id added again leaves this map.
    pub removed: BTreeMap<u64, u64>,
    /// Index of the newest removal while it is not settled, otherwise 0.
    ///
    /// A removal is settled by any change or settlement that a leader proposed after it had carried the removal out:
    /// the appends that brought that entry to a majority said that the removal is committed. Only then may the
    /// removed member go: before, those who know that they do without it may be too few to elect one of them, and the
    /// others still need its vote.
    pub unsettled_removal: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where its peers reach it, in the canonical form of [`PeerUrl`].
    pub url: PeerUrl,
    /// A learner replicates and does not vote.
    pub learner: bool,
    /// Index of the entry that added it; 1 for the first members. Tells whose view of a member is the newer one.
    pub added_index: u64,
}

/// What an accepted membership command does.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It changes the configuration in this way.
    Change(ConfChange),
    /// It asks for what is already so: a success without effect.
    Nothing,
}

impl Members {
    /// The first members of a new cluster: `urls[i]` is that of member i + 1, all are voters.
    pub fn initial(urls: &[PeerUrl]) -> Members {
        let members = (1..).zip(urls).map(|(id, url)| {
            (
                id,
                Member {
                    url: url.clone(),
                    learner: false,
                    added_index: 1,
                },
            )
        });
        Members {
            members: members.collect(),
            removed: BTreeMap::new(),
            unsettled_removal: 0,
        }
    }

    /// The cluster id that follows from the first members: the same on each of them without a word between them.
    /// FNV-1a over the ids and URLs; never 0, which means "not known yet".
    pub fn cluster_id(&self) -> u64 {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for (id, member) in &self.members {
            for byte in format!("{id}={}\n", member.url).bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash.max(1)
    }

    /// Decides on a membership command against this state. Every node gives the same answer at the same index.
    pub fn decide(&self, command: &Command) -> Result<Decision, Refusal> {
        let id = command.member_id;
        let known = self.members.get(&id);
        match command.kind {
            Kind::AddMember => {
                let url = command
                    .member_url
                    .parse::<PeerUrl>()
                    .map_err(|_| Refusal::NotFound)?;
                match known {
                    Some(member) if member.url == url => return Ok(Decision::Nothing),
                    Some(_) => return Err(Refusal::IdTaken),
                    None if id == 0 => return Err(Refusal::NotFound),
                    None if self.members.values().any(|m| m.url == url) => {
                        return Err(Refusal::UrlTaken);
                    }
                    None => {}
                }
            }
            Kind::PromoteMember => match known {
                // A promotion that was long on its way must not hit the next life of an id, which may not even run.
                Some(member)
                    if member.learner && member.added_index == command.member_added_index => {}
                Some(_) => return Ok(Decision::Nothing),
                None => return Err(Refusal::NotFound),
            },
            Kind::RemoveMember => match known {
                Some(member) if !member.learner && self.voters().count() == 1 => {
                    return Err(Refusal::LastVoter);
                }
                Some(_) => {}
                None => return Err(Refusal::NotFound),
            },
            Kind::Put | Kind::Delete | Kind::Transaction | Kind::SettleRemoval => {
                return Err(Refusal::NotFound);
            }
        }
        Ok(Decision::Change(conf_change(command)))
    }

    /// Carries out a command that [`Members::decide`] accepted as a change, at the entry with this index.
    pub fn apply(&mut self, command: &Command, index: u64) {
        let id = command.member_id;
        // A leader proposes no change before it has carried out the one before.
        self.unsettled_removal = 0;
        match command.kind {
            Kind::AddMember => {
                let url = command.member_url.parse().expect("decide parsed this URL");
                self.removed.remove(&id);
                let previous = self.members.insert(
                    id,
                    Member {
                        url,
                        learner: true,
                        added_index: index,
                    },
                );
                assert_eq!(previous, None, "member {id} was added twice");
            }
            Kind::PromoteMember => {
                self.members
                    .get_mut(&id)
                    .expect("decide found the member")
                    .learner = false;
            }
            Kind::RemoveMember => {
                self.members.remove(&id).expect("decide found the member");
                self.removed.insert(id, index);
                self.unsettled_removal = index;
            }
            Kind::Put | Kind::Delete | Kind::Transaction | Kind::SettleRemoval => {
                panic!("{:?} changes no members", command.kind)
            }
        }
    }

    /// Ids of the voters, ascending.
    pub fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids(false)
    }

    /// Ids of the learners, ascending.
    pub fn learners(&self) -> impl Iterator<Item = u64> + '_ {
        self.ids(true)
    }

    fn ids(&self, learner: bool) -> impl Iterator<Item = u64> + '_ {
        self.members
            .iter()
            .filter(move |(_, member)| member.learner == learner)
            .map(|(id, _)| *id)
    }

    /// The same members as raft-rs counts them.
    pub fn conf_state(&self) -> ConfState {
        let mut state = ConfState::default();
        state.set_voters(self.voters().collect());
        state.set_learners(self.learners().collect());
        state
    }

    /// Reads the members out of a snapshot header's state. A URL that does not parse is an error, with its text.
    pub fn from_state(state: &ReplicatedState) -> Result<Members, String> {
        let mut members = BTreeMap::new();
        for member in state.members.iter() {
            members.insert(
                member.id,
                Member {
                    url: member.url.parse()?,
                    learner: member.learner,
                    added_index: member.added_index,
                },
            );
        }
        let removed = state.removed.iter().map(|r| (r.id, r.removed_index));
        Ok(Members {
            members,
            removed: removed.collect(),
            unsettled_removal: state.unsettled_removal,
        })
    }

    /// Writes the members into a snapshot header's state.
    pub fn write_to(&self, state: &mut ReplicatedState) {
        state.unsettled_removal = self.unsettled_removal;
        state.members = self
            .members
            .iter()
            .map(|(id, member)| {
                let mut out = command::Member::new();
                out.id = *id;
                out.url = member.url.to_string();
                out.learner = member.learner;
                out.added_index = member.added_index;
                out
            })
            .collect();
        state.removed = self
            .removed
            .iter()
            .map(|(id, index)| {
                let mut out = command::RemovedMember::new();
                out.id = *id;
                out.removed_index = *index;
                out
            })
            .collect();
    }
}

/// What a membership command asks of raft.
pub fn conf_change(command: &Command) -> ConfChange {
    let mut change = ConfChange::default();
    change.set_change_type(match command.kind {
        Kind::AddMember => ConfChangeType::AddLearnerNode,
        Kind::PromoteMember => ConfChangeType::AddNode,
        Kind::RemoveMember => ConfChangeType::RemoveNode,
        Kind::Put | Kind::Delete | Kind::Transaction | Kind::SettleRemoval => {
            panic!("{:?} changes no members", command.kind)
        }
    });
    change.node_id = command.member_id;
    change
}

/// `http://host:port`: where a member's peers reach it. Compared and printed in one canonical form: the host in lower
/// case, no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerUrl {
    host: String,
    port: u16,
}

impl PeerUrl {
    /// The host: a name, an IPv4 address, or an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as an HTTP `Host` header and a resolver take it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl FromStr for PeerUrl {
    type Err = String;

    /// The error says what is wrong with which URL, in one line.
    fn from_str(text: &str) -> Result<PeerUrl, String> {
        let wrong = |why: &str| Err(format!("{text:?} is not a peer URL: {why}"));
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("write it as http://HOST:PORT");
        };
        if scheme.eq_ignore_ascii_case("https") {
            return wrong("https is not supported, put the peers into a private network");
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return wrong("the scheme has to be http");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return wrong("it has a path or a query; write it as http://HOST:PORT");
        }
        if authority.contains('@') {
            return wrong("it has a user name; write it as http://HOST:PORT");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                    (host, port.strip_prefix(':'))
                }
                _ => return wrong("the IPv6 address in brackets is not valid"),
            },
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let Some(port) = port else {
            return wrong("it has no port; write it as http://HOST:PORT");
        };
        let valid_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(port) if valid_port && port > 0 => port,
            _ => return wrong("the port has to be a number from 1 to 65535"),
        };
        let bracketed = authority.starts_with('[');
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if host.is_empty() || host.len() > 253 || (!bracketed && !host.bytes().all(name)) {
            return wrong("the host is not valid");
        }
        Ok(PeerUrl {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(kind: Kind, id: u64, url: &str) -> Command {
        let mut command = Command::new();
        command.kind = kind;
        command.member_id = id;
        command.member_url = url.to_owned();
        command
    }

    fn three() -> Members {
        let urls = ["http://a:1", "http://a:2", "http://a:3"].map(|u| u.parse().unwrap());
        Members::initial(&urls)
    }

    #[test]
    fn peer_urls_have_one_canonical_form() {
        for (text, canonical) in [
            ("http://127.0.0.1:9021", "http://127.0.0.1:9021"),
            ("http://127.0.0.1:9021/", "http://127.0.0.1:9021"),
            ("HTTP://Node-1.Example:80", "http://node-1.example:80"),
            ("http://[::1]:9021", "http://[::1]:9021"),
        ] {
            assert_eq!(text.parse::<PeerUrl>().unwrap().to_string(), canonical);
        }
        for text in [
            "",
            "127.0.0.1:9021",
            "http://127.0.0.1",
            "http://127.0.0.1:",
            "http://127.0.0.1:0",
            "http://127.0.0.1:+1",
            "http://127.0.0.1:65536",
            "http://127.0.0.1:1/path",
            "http://127.0.0.1:1//",
            "http://127.0.0.1:1?q",
            "http://:1",
            "http://a b:1",
            "http://u@a:1",
            "http://[::1:1",
            "http://[x]:1",
            "http://[::1]",
            "https://a:1",
            "ftp://a:1",
        ] {
            let error = text.parse::<PeerUrl>().unwrap_err();
            assert!(!error.contains('\n') && error.contains(&format!("{text:?}")));
        }
    }

    #[test]
    fn membership_rules() {
        let mut members = three();
        let decide = |m: &Members, kind, id, url| m.decide(&command(kind, id, url));
        use Kind::*;
        assert_eq!(
            decide(&members, AddMember, 3, "http://a:3/"),
            Ok(Decision::Nothing)
        );
        assert_eq!(
            decide(&members, AddMember, 3, "http://a:4"),
            Err(Refusal::IdTaken)
        );
        assert_eq!(
            decide(&members, AddMember, 4, "http://a:3"),
            Err(Refusal::UrlTaken)
        );
        assert_eq!(
            decide(&members, RemoveMember, 4, ""),
            Err(Refusal::NotFound)
        );
        assert_eq!(
            decide(&members, PromoteMember, 4, ""),
            Err(Refusal::NotFound)
        );

        let add = command(AddMember, 4, "http://a:4");
        assert!(matches!(members.decide(&add), Ok(Decision::Change(_))));
        members.apply(&add, 7);
        assert_eq!(members.learners().collect::<Vec<_>>(), [4]);
        let mut promote = command(PromoteMember, 4, "");
        promote.member_added_index = 5;
        assert_eq!(
            members.decide(&promote),
            Ok(Decision::Nothing),
            "an earlier life"
        );
        promote.member_added_index = 7;
        assert!(matches!(members.decide(&promote), Ok(Decision::Change(_))));
        members.apply(&promote, 8);
        assert_eq!(members.conf_state().get_voters(), [1, 2, 3, 4]);
        for id in [1, 2, 3] {
            members.apply(&command(RemoveMember, id, ""), 8 + id);
        }
        assert_eq!(
            decide(&members, RemoveMember, 4, ""),
            Err(Refusal::LastVoter)
        );
        assert_eq!(members.removed, BTreeMap::from([(1, 9), (2, 10), (3, 11)]));
        assert_eq!(members.unsettled_removal, 11);
        members.apply(&command(AddMember, 2, "http://b:2"), 12);
        assert_eq!(members.unsettled_removal, 0);
        assert!(!members.removed.contains_key(&2));
    }

    #[test]
    fn state_survives_a_round_trip() {
        let mut members = three();
        members.apply(&command(Kind::AddMember, 9, "http://a:9"), 5);
        members.apply(&command(Kind::RemoveMember, 2, ""), 6);
        let mut state = ReplicatedState::new();
        members.write_to(&mut state);
        assert_eq!(Members::from_state(&state), Ok(members));
    }

    #[test]
    fn cluster_id_depends_on_every_url_and_its_place() {
        let id = |urls: &[&str]| {
            let urls: Vec<_> = urls.iter().map(|u| u.parse().unwrap()).collect();
            Members::initial(&urls).cluster_id()
        };
        assert_eq!(
            id(&["http://a:1", "http://a:2"]),
            id(&["http://A:1/", "http://a:2"])
        );
        assert_ne!(
            id(&["http://a:1", "http://a:2"]),
            id(&["http://a:2", "http://a:1"])
        );
        assert_ne!(id(&["http://a:1"]), id(&["http://a:1", "http://a:2"]));
    }
}
