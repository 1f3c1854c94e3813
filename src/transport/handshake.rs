//! The handshake: what each end of a connection claims about itself, and whether the other end believes it.
//!
//! Both directions carry the same headers, and both ends run the same pure [`check`] on the other's claims against
//! their own view. A responder that disagrees answers with a status and a small JSON object, which the initiator
//! turns into a [`Verdict`]; an initiator that disagrees just closes, and the other learns of it when it dials.
//!
//! Every member is an id *in one life*: the life begins with the entry that added it, at its `added_index`. Views of
//! the membership differ in age, and a member that was down for long may see none of those that now lead the
//! cluster. So a claim of a later life than the own view knows proves that the own view is old, and is believed;
//! otherwise a member that lags could refuse the very leader from which it has to learn. A claim of an earlier life,
//! or of none, is judged by the view.

use super::View;
use crate::inbox::{Reason, Verdict};
use crate::members::PeerUrl;
use crate::storage::Pin;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use std::fmt;
use std::str::FromStr;

/// Version of the protocol between peers, also in [`UPGRADE`].
pub(super) const VERSION: u64 = 1;
/// The protocol of a stream's connection after its upgrade.
pub(super) const UPGRADE: &str = "raftkvd/1";

const HEADER_VERSION: &str = "raftkvd-version";
const HEADER_CLUSTER: &str = "raftkvd-cluster";
const HEADER_FROM: &str = "raftkvd-from";
const HEADER_TO: &str = "raftkvd-to";
const HEADER_INCARNATION: &str = "raftkvd-incarnation";
const HEADER_ADDED: &str = "raftkvd-added";
const HEADER_URL: &str = "raftkvd-url";
const HEADER_LANE: &str = "raftkvd-lane";

/// What an end of a connection says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Its cluster, 0 for a joiner that does not know it yet.
    pub cluster: u64,
    /// Its member id.
    pub from: u64,
    /// The id it means to talk to.
    pub to: u64,
    /// The incarnation of its data directory.
    pub incarnation: u64,
    /// The index of the entry that added it, in its own view: 1 for a first member, 0 for an empty joiner.
    pub added_index: u64,
    /// Where it is reached, in its own view. An empty joiner has none.
    pub url: Option<PeerUrl>,
}

/// Headers that are no handshake of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the header {0} is missing or not valid")]
    Header(&'static str),
    #[error("protocol version {0} is not spoken here, only {VERSION}")]
    Version(u64),
}

impl Claims {
    /// Writes the claims into the head of a request or an answer.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let mut put = |name, text: String| {
            let value = HeaderValue::try_from(text).expect("digits and URLs are valid in a header");
            headers.insert(name, value);
        };
        put(HEADER_VERSION, VERSION.to_string());
        put(HEADER_CLUSTER, format!("{:016x}", self.cluster));
        put(HEADER_FROM, self.from.to_string());
        put(HEADER_TO, self.to.to_string());
        put(HEADER_INCARNATION, format!("{:016x}", self.incarnation));
        put(HEADER_ADDED, self.added_index.to_string());
        if let Some(url) = &self.url {
            put(HEADER_URL, url.to_string());
        }
    }

    /// Reads the claims out of the head of a request or an answer.
    pub(super) fn read(headers: &HeaderMap) -> Result<Claims, Malformed> {
        let version = number(headers, HEADER_VERSION, 10)?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let claims = Claims {
            cluster: number(headers, HEADER_CLUSTER, 16)?,
            from: number(headers, HEADER_FROM, 10)?,
            to: number(headers, HEADER_TO, 10)?,
            incarnation: number(headers, HEADER_INCARNATION, 16)?,
            added_index: number(headers, HEADER_ADDED, 10)?,
            url: match text(headers, HEADER_URL) {
                Some(text) => Some(text.parse().map_err(|_| Malformed::Header(HEADER_URL))?),
                None if headers.contains_key(HEADER_URL) => {
                    return Err(Malformed::Header(HEADER_URL));
                }
                None => None,
            },
        };
        // Nobody dials itself, and a message with such a sender would be taken for the node's own.
        if claims.from == 0 || claims.from == claims.to {
            return Err(Malformed::Header(HEADER_FROM));
        }
        // Who knows when it was added has learned that from its cluster. Without this rule a stranger could claim any
        // later life, and be believed, without knowing a thing of the cluster.
        if claims.cluster == 0 && claims.added_index != 0 {
            return Err(Malformed::Header(HEADER_CLUSTER));
        }
        Ok(claims)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &'static str, radix: u32) -> Result<u64, Malformed> {
    let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_alphanumeric());
    text(headers, name)
        .filter(digits)
        .and_then(|text| u64::from_str_radix(text, radix).ok())
        .ok_or(Malformed::Header(name))
}

/// The kinds of stream to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Small and urgent messages: heartbeats, votes, reads, every answer.
    Control,
    /// Messages with entries.
    Append,
}

impl Lane {
    /// Both lanes, in the order of their queues.
    pub(super) const ALL: [Lane; 2] = [Lane::Control, Lane::Append];

    /// Names the lane in a stream's request.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert(HEADER_LANE, HeaderValue::from_static(self.name()));
    }

    /// Reads the lane of a stream's request.
    pub(super) fn read(headers: &HeaderMap) -> Result<Lane, Malformed> {
        text(headers, HEADER_LANE)
            .and_then(|text| text.parse().ok())
            .ok_or(Malformed::Header(HEADER_LANE))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Lane::Control => "control",
            Lane::Append => "append",
        }
    }
}

impl FromStr for Lane {
    type Err = ();

    fn from_str(text: &str) -> Result<Lane, ()> {
        Lane::ALL
            .into_iter()
            .find(|lane| lane.name() == text)
            .ok_or(())
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is to be remembered about a peer whose claims were believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The cluster that this joiner now belongs to, if it did not know before.
    pub pin_cluster: Option<u64>,
    /// The peer's incarnation, if it is news.
    pub pin: Option<Pin>,
    /// The life in which the peer was accepted: when the view later knows a newer one, the connection is void.
    pub life: u64,
    /// The peer was added later than the view knows.
    pub newcomer: bool,
}

/// Judges a peer's claims, as member `me` of `cluster` (0: not known yet), with this view of the members and this
/// memory of the peer.
pub fn check(
    claims: &Claims,
    me: u64,
    cluster: u64,
    view: &View,
    pin: Option<Pin>,
) -> Result<Accepted, Reason> {
    if claims.to != me {
        return Err(Reason::WrongReceiver { actual: me });
    }
    if claims.cluster != cluster && claims.cluster != 0 && cluster != 0 {
        return Err(Reason::WrongCluster { theirs: cluster });
    }
    let known = view.known(claims.from);
    let newcomer = view.is_news(claims.from, claims.added_index);
    match known {
        _ if newcomer => {}
        // An empty joiner knows nobody, so it takes everybody's word.
        Known::Never if view.joining => {}
        // While its removal is not settled it must not go home: its vote may be needed elsewhere.
        Known::Never | Known::Leaving(_) => return Err(Reason::NotAMember),
        Known::Removed(removed_index) => return Err(Reason::Removed { removed_index }),
        Known::Added(added_index) => {
            // An empty joiner claims no life: it is in the one that is known, unless its incarnation says otherwise.
            if claims.added_index != 0 && claims.added_index < added_index {
                return Err(Reason::AddedLater { added_index });
            }
        }
    }
    // A joiner takes everybody's word, so only for those that it was told of does it keep something on disk. It has
    // nothing yet that a second data directory under one id could spoil.
    let remember = !view.joining || view.members.members.contains_key(&claims.from);
    let life = claims.added_index.max(known.index());
    // A pin of an earlier life says nothing about this one: nobody has to delete it, and no crash can leave it behind.
    let pin = pin.filter(|pin| pin.added_index >= life);
    match pin {
        Some(pin) if pin.incarnation != claims.incarnation => Err(Reason::WrongIncarnation {
            added_index: pin.added_index,
        }),
        _ => Ok(Accepted {
            pin_cluster: (cluster == 0 && claims.cluster != 0).then_some(claims.cluster),
            pin: (remember && pin.is_none()).then_some(Pin {
                incarnation: claims.incarnation,
                added_index: life,
            }),
            life,
            newcomer,
        }),
    }
}

/// What a view knows of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    Never,
    /// It is a member, added by the entry at this index.
    Added(u64),
    /// It was removed by the entry at this index, and that is not settled yet.
    Leaving(u64),
    /// It was removed by the entry at this index.
    Removed(u64),
}

impl Known {
    /// When what is known came to be.
    pub(super) fn index(self) -> u64 {
        match self {
            Known::Never => 0,
            Known::Added(index) | Known::Leaving(index) | Known::Removed(index) => index,
        }
    }
}

/// The status and body of a refusal. The body is one JSON object on one line.
pub(super) fn refusal(by: u64, by_leader: bool, reason: Reason) -> (StatusCode, String) {
    let (name, index) = match reason {
        Reason::Removed { removed_index } => ("removed", removed_index),
        Reason::NotAMember => ("not-a-member", 0),
        Reason::WrongIncarnation { added_index } => ("wrong-incarnation", added_index),
        Reason::AddedLater { added_index } => ("added-later", added_index),
        Reason::WrongCluster { theirs } => ("wrong-cluster", theirs),
        Reason::WrongReceiver { actual } => ("wrong-receiver", actual),
    };
    let status = match reason {
        Reason::Removed { .. } => StatusCode::GONE,
        _ => StatusCode::CONFLICT,
    };
    let body =
        serde_json::json!({"by": by, "by_leader": by_leader, "reason": name, "index": index});
    (status, format!("{body}\n"))
}

/// Longest body of a refusal that is read.
pub(super) const REFUSAL_BYTES_MAX: usize = 1 << 10;

/// Reads a refusal's body. `None`: whoever answered speaks something else.
pub(super) fn parse_refusal(body: &[u8]) -> Option<Verdict> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let index = body["index"].as_u64()?;
    Some(Verdict {
        by: body["by"].as_u64()?,
        by_leader: body["by_leader"].as_bool()?,
        reason: match body["reason"].as_str()? {
            "removed" => Reason::Removed {
                removed_index: index,
            },
            "not-a-member" => Reason::NotAMember,
            "wrong-incarnation" => Reason::WrongIncarnation { added_index: index },
            "added-later" => Reason::AddedLater { added_index: index },
            "wrong-cluster" => Reason::WrongCluster { theirs: index },
            "wrong-receiver" => Reason::WrongReceiver { actual: index },
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Member, Members};

    const CLUSTER: u64 = 0xc1;

    /// Members 1, 2 and 3 of the first hour, 4 added at 40, 5 removed at 50, and 9 removed at 60, not settled.
    fn view() -> View {
        let urls = ["http://a:1", "http://a:2", "http://a:3"].map(|url| url.parse().unwrap());
        let mut members = Members::initial(&urls);
        let added = Member {
            url: "http://a:4".parse().unwrap(),
            learner: true,
            added_index: 40,
        };
        members.members.insert(4, added);
        members.removed.insert(5, 50);
        members.removed.insert(9, 60);
        members.unsettled_removal = 60;
        View {
            members,
            ..View::default()
        }
    }

    fn claims(from: u64, added_index: u64) -> Claims {
        Claims {
            cluster: CLUSTER,
            from,
            to: 1,
            incarnation: 7,
            added_index,
            url: None,
        }
    }

    fn pin(incarnation: u64, added_index: u64) -> Option<Pin> {
        Some(Pin {
            incarnation,
            added_index,
        })
    }

    fn judge(claims: &Claims, pin: Option<Pin>) -> Result<Accepted, Reason> {
        check(claims, 1, CLUSTER, &view(), pin)
    }

    #[test]
    fn members_are_accepted_and_remembered_once() {
        let first = judge(&claims(2, 1), None).unwrap();
        assert_eq!((first.pin, first.newcomer), (pin(7, 1), false));
        let again = judge(&claims(2, 1), first.pin).unwrap();
        assert_eq!((again.pin, again.pin_cluster), (None, None));
        // A member that was added and is still empty claims no life.
        let empty = judge(&claims(4, 0), None).unwrap();
        assert_eq!((empty.pin, empty.life), (pin(7, 40), 40));
        let mut unpinned = claims(4, 0);
        unpinned.cluster = 0;
        judge(&unpinned, None).unwrap();
    }

    #[test]
    fn each_reason_to_refuse() {
        let misdirected = Claims {
            to: 2,
            ..claims(3, 1)
        };
        let foreign = Claims {
            cluster: 9,
            ..claims(2, 1)
        };
        for (claims, pin, reason) in [
            (misdirected, None, Reason::WrongReceiver { actual: 1 }),
            (foreign, None, Reason::WrongCluster { theirs: CLUSTER }),
            (claims(5, 0), None, Reason::Removed { removed_index: 50 }),
            (claims(5, 1), None, Reason::Removed { removed_index: 50 }),
            // Its removal is not settled.
            (claims(9, 1), None, Reason::NotAMember),
            (claims(6, 0), None, Reason::NotAMember),
            // Every view knows what became of the first members.
            (claims(9, 1), None, Reason::NotAMember),
            (claims(4, 1), None, Reason::AddedLater { added_index: 40 }),
            // Wiped and started as a joiner, wiped and started as a first member.
            (
                claims(4, 0),
                pin(8, 40),
                Reason::WrongIncarnation { added_index: 40 },
            ),
            (
                claims(2, 1),
                pin(8, 1),
                Reason::WrongIncarnation { added_index: 1 },
            ),
        ] {
            assert_eq!(judge(&claims, pin), Err(reason), "{claims:?}");
        }
    }

    #[test]
    fn a_later_life_than_the_view_knows_is_believed() {
        // Removed and added again; never seen; added again without the removal having been seen.
        for (id, old) in [(5, pin(8, 1)), (6, None), (2, pin(8, 1))] {
            let accepted = judge(&claims(id, 60), old).unwrap();
            assert_eq!((accepted.pin, accepted.newcomer), (pin(7, 60), true));
        }
        // Two data directories in one life stay impossible.
        let refused = judge(&claims(6, 60), pin(8, 60)).unwrap_err();
        assert_eq!(refused, Reason::WrongIncarnation { added_index: 60 });
    }

    #[test]
    fn a_pin_of_an_earlier_life_is_void() {
        let accepted = judge(&claims(4, 0), pin(8, 1)).unwrap();
        assert_eq!(accepted.pin, pin(7, 40));
    }

    #[test]
    fn an_empty_joiner_believes_and_pins_the_cluster() {
        let joining = View {
            joining: true,
            ..View::default()
        };
        let accepted = check(&claims(9, 1), 1, 0, &joining, None).unwrap();
        assert_eq!(accepted.pin_cluster, Some(CLUSTER));
        let pinned = check(&claims(9, 1), 1, 2, &joining, None).unwrap_err();
        assert_eq!(pinned, Reason::WrongCluster { theirs: 2 });
        let two_joiners = Claims {
            cluster: 0,
            ..claims(9, 0)
        };
        let accepted = check(&two_joiners, 1, 0, &joining, None).unwrap();
        assert_eq!(accepted.pin_cluster, None);
    }

    #[test]
    fn an_empty_joiner_remembers_only_peers_that_it_was_told_of() {
        let joining = View {
            joining: true,
            ..view()
        };
        let to_joiner = |id| Claims {
            to: 9,
            ..claims(id, 40)
        };
        let told = check(&to_joiner(4), 9, CLUSTER, &joining, None).unwrap();
        assert_eq!(told.pin, pin(7, 40));
        for stranger in 10..20 {
            let accepted = check(&to_joiner(stranger), 9, CLUSTER, &joining, None).unwrap();
            assert_eq!(accepted.pin, None);
        }
    }

    #[test]
    fn claims_survive_headers() {
        let mut headers = HeaderMap::new();
        let claims = Claims {
            cluster: u64::MAX,
            url: Some("http://[::1]:9".parse().unwrap()),
            ..claims(2, 77)
        };
        claims.write(&mut headers);
        assert_eq!(Claims::read(&headers), Ok(claims));
        for (name, value) in [
            (HEADER_VERSION, "2"),
            (HEADER_CLUSTER, "xyz"),
            (HEADER_CLUSTER, "0"),
            (HEADER_FROM, "0"),
            (HEADER_FROM, "1"),
            (HEADER_TO, "-1"),
            (HEADER_TO, "+1"),
            (HEADER_INCARNATION, ""),
            (HEADER_ADDED, "18446744073709551616"),
            (HEADER_URL, "ftp://x"),
        ] {
            let mut headers = headers.clone();
            headers.insert(name, HeaderValue::from_static(value));
            Claims::read(&headers).unwrap_err();
            headers.remove(name);
            assert_eq!(Claims::read(&headers).is_ok(), name == HEADER_URL);
        }
    }

    #[test]
    fn refusals_survive_their_body() {
        for reason in [
            Reason::Removed { removed_index: 5 },
            Reason::NotAMember,
            Reason::WrongIncarnation { added_index: 6 },
            Reason::AddedLater { added_index: 7 },
            Reason::WrongCluster { theirs: u64::MAX },
            Reason::WrongReceiver { actual: 8 },
        ] {
            let (status, body) = refusal(3, true, reason);
            let gone = matches!(reason, Reason::Removed { .. });
            assert_eq!(status.as_u16(), if gone { 410 } else { 409 });
            assert!(body.len() <= REFUSAL_BYTES_MAX);
            let verdict = Verdict {
                by: 3,
                by_leader: true,
                reason,
            };
            assert_eq!(parse_refusal(body.as_bytes()), Some(verdict));
        }
        for body in [
            "",
            "{}",
            "[1]",
            "{\"by\":1,\"by_leader\":true,\"reason\":\"x\",\"index\":1}",
        ] {
            assert_eq!(parse_refusal(body.as_bytes()), None);
        }
    }
}
