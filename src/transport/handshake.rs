//! The encoding of a handshake: what each end of a connection claims about itself, and the refusal of a claim.
//!
//! Both directions carry claims in the same headers. [`crate::identity`] defines what claims mean and decides whether
//! they are believed. Refusals and greetings name neither the cluster nor an incarnation, because their receiver may be
//! a stranger, and a stranger who knew these ids could claim to be a member. A refusal of a stranger does not even say
//! why. A greeting is the answer to a peer that waits to be bound.

use crate::identity::{
    Claims, Greeting, GreetingState, Leader, PeerAnswer, PeerRefusal, Reason, Receiver,
};
use crate::limits;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;

/// Version of the protocol between peers. It is also part of [`UPGRADE`].
pub(super) const VERSION: u64 = 2;
/// The protocol of a stream's connection after the upgrade.
pub(super) const UPGRADE: &str = "raftkvd/2";

const HEADER_VERSION: &str = "raftkvd-version";
const HEADER_CLUSTER: &str = "raftkvd-cluster";
const HEADER_FROM: &str = "raftkvd-from";
const HEADER_TO: &str = "raftkvd-to";
const HEADER_INCARNATION: &str = "raftkvd-incarnation";
const HEADER_BOUND: &str = "raftkvd-bound";
const HEADER_RUN: &str = "raftkvd-run";
const HEADER_URL: &str = "raftkvd-url";
/// If absent, the URL is the one in the sender's table.
const HEADER_URL_GIVEN: &str = "raftkvd-url-given";
/// Whether the cluster has formed, whether the receiver is bound at the dialled URL, and the receiver's incarnation.
const HEADER_RECEIVER: &str = "raftkvd-receiver";
/// Replaces all headers except the version and the sender. Its value is `empty` and a fingerprint, or `member` and the
/// leader, if the sender knows a leader.
const HEADER_GREETING: &str = "raftkvd-greeting";
/// The leader, beside the claims of an answer.
const HEADER_LEADER: &str = "raftkvd-leader";
/// The command version of the sender.
const HEADER_COMMANDS: &str = "raftkvd-commands";
/// The version of the sender's build, and the URL at which it serves clients. Only for people.
const HEADER_BUILD: &str = "raftkvd-build";
const HEADER_CLIENTS: &str = "raftkvd-clients";
/// If present, the sender's cluster waits for an empty data directory at the dialled URL.
const HEADER_AWAITS: &str = "raftkvd-awaits";
const HEADER_LANE: &str = "raftkvd-lane";

const FORMED: &str = "formed";
const FORMING: &str = "forming";
const HERE: &str = "here";
const ELSEWHERE: &str = "elsewhere";
const EMPTY: &str = "empty";
const MEMBER: &str = "member";

/// Why headers are not a handshake of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the header {0} is missing or not valid")]
    Header(&'static str),
    #[error("protocol version {0} is not spoken here, only {VERSION}")]
    Version(u64),
}

/// Writes claims into the head of a request or of an answer.
pub(super) fn write(claims: &Claims, headers: &mut HeaderMap) {
    let mut put = |name, text: String| {
        let value = HeaderValue::try_from(text).expect("digits and URLs are valid in a header");
        headers.insert(name, value);
    };
    put(HEADER_VERSION, VERSION.to_string());
    put(HEADER_CLUSTER, format!("{:016x}", claims.cluster));
    put(HEADER_FROM, claims.from.to_string());
    put(HEADER_TO, claims.to.to_string());
    put(HEADER_INCARNATION, format!("{:016x}", claims.incarnation));
    put(HEADER_BOUND, claims.bound_index.to_string());
    put(HEADER_RUN, format!("{:016x}", claims.run));
    put(HEADER_URL, claims.url.to_string());
    put(HEADER_COMMANDS, claims.version.to_string());
    if claims.url_given {
        put(HEADER_URL_GIVEN, "yes".to_owned());
    }
    if let Some(receiver) = claims.receiver {
        let formed = if receiver.formed { FORMED } else { FORMING };
        let place = if receiver.same_url { HERE } else { ELSEWHERE };
        let text = format!("{formed} {place} {:016x}", receiver.incarnation);
        put(HEADER_RECEIVER, text);
    }
    if claims.awaits {
        put(HEADER_AWAITS, "yes".to_owned());
    }
}

/// Writes an answer into the head of a response.
pub(super) fn write_answer(answer: &PeerAnswer, headers: &mut HeaderMap) {
    let Greeting { from, state } = match answer {
        PeerAnswer::Claims(claims, leader) => {
            write(claims, headers);
            let text = leader.as_ref().map(|(id, url)| format!("{id} {url}"));
            if let Some(text) = text {
                let value = HeaderValue::try_from(text);
                headers.insert(
                    HEADER_LEADER,
                    value.expect("digits and URLs are valid in a header"),
                );
            }
            return;
        }
        PeerAnswer::Greeting(greeting) => greeting,
    };
    let text = match state {
        GreetingState::Empty(fingerprint) => format!("{EMPTY} {fingerprint:016x}"),
        GreetingState::Member(None) => MEMBER.to_owned(),
        GreetingState::Member(Some((id, url))) => format!("{MEMBER} {id} {url}"),
    };
    headers.insert(HEADER_VERSION, HeaderValue::from(VERSION));
    headers.insert(HEADER_FROM, HeaderValue::from(*from));
    let text = HeaderValue::try_from(text).expect("digits and URLs are valid in a header");
    headers.insert(HEADER_GREETING, text);
}

/// What a member says about itself to its peers, only to be shown. No decision depends on these texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The version of the build.
    pub version: Option<String>,
    /// The URL at which the member serves clients.
    pub client_url: Option<String>,
}

impl About {
    /// Writes the texts into the head of an answer.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let texts = [
            (HEADER_BUILD, &self.version),
            (HEADER_CLIENTS, &self.client_url),
        ];
        for (name, text) in texts {
            let value = text
                .as_ref()
                .and_then(|text| HeaderValue::from_str(text).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }

    /// Reads the texts from the head of an answer. A text that is too long or not plain counts as absent.
    pub(super) fn read(headers: &HeaderMap) -> About {
        let plain = |name| {
            let text = text(headers, name)?;
            let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            (text.len() <= limits::CLIENT_URL_BYTES_MAX && is_plain).then(|| text.to_owned())
        };
        About {
            version: plain(HEADER_BUILD),
            client_url: plain(HEADER_CLIENTS),
        }
    }
}

/// Reads an answer from the head of a response.
pub(super) fn read_answer(headers: &HeaderMap) -> Result<PeerAnswer, Malformed> {
    let Some(value) = headers.get(HEADER_GREETING) else {
        return Ok(PeerAnswer::Claims(read(headers)?, leader(headers)));
    };
    version(headers)?;
    let state = || {
        let mut parts = value.to_str().ok()?.split(' ');
        let state = match (parts.next()?, parts.next(), parts.next()) {
            (EMPTY, Some(print), None) => GreetingState::Empty(parse(print, 16)?),
            (MEMBER, None, None) => GreetingState::Member(None),
            (MEMBER, Some(id), Some(url)) => {
                let id = parse(id, 10).filter(|id| *id != 0)?;
                GreetingState::Member(Some((id, url.parse().ok()?)))
            }
            _ => return None,
        };
        parts.next().is_none().then_some(state)
    };
    Ok(PeerAnswer::Greeting(Greeting {
        from: number(headers, HEADER_FROM, 10)?,
        state: state().ok_or(Malformed::Header(HEADER_GREETING))?,
    }))
}

/// The leader that an answer names beside its claims. Earlier builds name no leader.
fn leader(headers: &HeaderMap) -> Option<Leader> {
    let (id, url) = text(headers, HEADER_LEADER)?.split_once(' ')?;
    let id = parse(id, 10).filter(|id| *id != 0)?;
    Some((id, url.parse().ok()?))
}

fn version(headers: &HeaderMap) -> Result<(), Malformed> {
    match number(headers, HEADER_VERSION, 10)? {
        VERSION => Ok(()),
        version => Err(Malformed::Version(version)),
    }
}

/// Reads the claims in the head of a request, or of an answer that has claims.
pub(super) fn read(headers: &HeaderMap) -> Result<Claims, Malformed> {
    version(headers)?;
    let url = text(headers, HEADER_URL).and_then(|text| text.parse().ok());
    let claims = Claims {
        cluster: number(headers, HEADER_CLUSTER, 16)?,
        from: number(headers, HEADER_FROM, 10)?,
        to: number(headers, HEADER_TO, 10)?,
        incarnation: number(headers, HEADER_INCARNATION, 16)?,
        bound_index: number(headers, HEADER_BOUND, 10)?,
        run: number(headers, HEADER_RUN, 16)?,
        url: url.ok_or(Malformed::Header(HEADER_URL))?,
        url_given: text(headers, HEADER_URL_GIVEN) == Some("yes"),
        version: number(headers, HEADER_COMMANDS, 10)?,
        receiver: receiver(headers)?,
        awaits: text(headers, HEADER_AWAITS) == Some("yes"),
    };
    let wrong = |name| Err(Malformed::Header(name));
    match () {
        // No member dials itself, and raft would take a message with such a sender for the node's own.
        () if claims.from == 0 || claims.from == claims.to => wrong(HEADER_FROM),
        // Incarnation 0 means an open incarnation, which belongs to no data directory.
        () if claims.incarnation == 0 => wrong(HEADER_INCARNATION),
        () if claims.run == 0 => wrong(HEADER_RUN),
        // Without this rule, a stranger could claim any later binding and be believed without knowing the cluster.
        () if claims.cluster == 0 && claims.bound_index != 0 => wrong(HEADER_CLUSTER),
        () => Ok(claims),
    }
}

fn receiver(headers: &HeaderMap) -> Result<Option<Receiver>, Malformed> {
    let Some(value) = headers.get(HEADER_RECEIVER) else {
        return Ok(None);
    };
    let read = || {
        let mut parts = value.to_str().ok()?.split(' ');
        let mut one_of = |yes, no| match parts.next()? {
            word if word == yes => Some(true),
            word if word == no => Some(false),
            _ => None,
        };
        let (formed, same_url) = (one_of(FORMED, FORMING)?, one_of(HERE, ELSEWHERE)?);
        let incarnation = parse(parts.next()?, 16).filter(|incarnation| *incarnation != 0)?;
        parts.next().is_none().then_some(Receiver {
            incarnation,
            formed,
            same_url,
        })
    };
    let read = read().ok_or(Malformed::Header(HEADER_RECEIVER))?;
    Ok(Some(read))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &'static str, radix: u32) -> Result<u64, Malformed> {
    text(headers, name)
        .and_then(|text| parse(text, radix))
        .ok_or(Malformed::Header(name))
}

fn parse(text: &str, radix: u32) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_alphanumeric());
    u64::from_str_radix(text, radix).ok().filter(|_| digits)
}

/// The kinds of stream to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Small and urgent messages: heartbeats, votes, reads, and every answer.
    Control,
    /// Messages with entries.
    Append,
}

impl Lane {
    /// Both lanes, in the order in which arrays hold them.
    pub(super) const ALL: [Lane; 2] = [Lane::Control, Lane::Append];

    /// Writes the lane into the head of a stream's request.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert(HEADER_LANE, HeaderValue::from_static(self.name()));
    }

    /// Reads the lane from the head of a stream's request.
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

/// The status and the body of a refusal. The body is one JSON object on one line.
pub(super) fn refusal(refusal: &PeerRefusal) -> (StatusCode, String) {
    let (name, detail) = match refusal.reason {
        Reason::Removed { removed_index } => ("removed", json!(removed_index)),
        Reason::NotAMember => ("not-a-member", Value::Null),
        Reason::OtherIncarnation {
            bound_index,
            same_url,
        } => ("other-incarnation", json!([bound_index, same_url])),
        Reason::OtherPlace => ("other-place", Value::Null),
        Reason::WrongCluster { other_life } => ("wrong-cluster", json!(other_life)),
        // A build that does not know `awaited` reads the rest.
        Reason::Awaited => ("wrong-cluster", json!(false)),
        Reason::WrongReceiver { actual } => ("wrong-receiver", json!(actual)),
        Reason::Twice => ("twice", Value::Null),
        Reason::StateLost => ("state-lost", Value::Null),
        // A build that does not know `key_revoked` reads the rest.
        Reason::KeyRevoked => ("not-a-member", Value::Null),
        // A build that does not know `undisclosed` reads the rest.
        Reason::Undisclosed => ("not-a-member", json!(UNDISCLOSED)),
    };
    let status = match refusal.reason {
        Reason::Removed { .. } => StatusCode::GONE,
        _ => StatusCode::CONFLICT,
    };
    let (by, applied, formed) = (refusal.by, refusal.applied, refusal.formed);
    let mut body =
        json!({"by": by, "applied": applied, "formed": formed, "reason": name, "detail": detail});
    if refusal.reason == Reason::Awaited {
        body["awaited"] = json!(true);
    }
    if refusal.reason == Reason::KeyRevoked {
        body["key_revoked"] = json!(true);
    }
    (status, format!("{body}\n"))
}

/// The detail of a refusal that does not say why.
const UNDISCLOSED: &str = "undisclosed";

/// Longest body of a refusal that is read, in bytes.
pub(super) const REFUSAL_BYTES_MAX: usize = 1 << 10;

/// How certain it is that the place where a peer is dialled belongs to that peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
    /// The place is only a claim of a peer that can't be judged yet.
    Claimed,
    /// Known, for example from the table of members or from this member's list.
    Known,
}

/// Reads the body of a refusal from a place with this trust. Returns `None` if the body is not a refusal of this
/// protocol.
pub(super) fn parse_refusal(body: &[u8], trust: Trust) -> Option<PeerRefusal> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let detail = &body["detail"];
    Some(PeerRefusal {
        by: body["by"].as_u64()?,
        applied: body["applied"].as_u64()?,
        formed: body["formed"].as_bool()?,
        dialled: trust == Trust::Known,
        reason: match body["reason"].as_str()? {
            "removed" => Reason::Removed {
                removed_index: detail.as_u64()?,
            },
            "not-a-member" if body["key_revoked"] == json!(true) => Reason::KeyRevoked,
            "not-a-member" if *detail == json!(UNDISCLOSED) => Reason::Undisclosed,
            "not-a-member" => Reason::NotAMember,
            "other-incarnation" => Reason::OtherIncarnation {
                bound_index: detail[0].as_u64()?,
                same_url: detail[1].as_bool()?,
            },
            "other-place" => Reason::OtherPlace,
            "wrong-cluster" if body["awaited"] == json!(true) => Reason::Awaited,
            "wrong-cluster" => Reason::WrongCluster {
                other_life: detail.as_bool()?,
            },
            "wrong-receiver" => Reason::WrongReceiver {
                actual: detail.as_u64()?,
            },
            "twice" => Reason::Twice,
            "state-lost" => Reason::StateLost,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            cluster: u64::MAX,
            from: 2,
            to: 1,
            incarnation: 7,
            bound_index: 77,
            run: 9,
            url: "http://[::1]:9".parse().unwrap(),
            url_given: true,
            version: 3,
            receiver: Some(Receiver {
                incarnation: u64::MAX,
                formed: true,
                same_url: true,
            }),
            awaits: false,
        }
    }

    #[test]
    fn claims_survive_headers() {
        let forming = Some(Receiver {
            incarnation: 1,
            formed: false,
            same_url: false,
        });
        let mut headers = HeaderMap::new();
        for receiver in [None, forming, claims().receiver] {
            let claims = Claims {
                url_given: receiver.is_some(),
                awaits: receiver.is_none(),
                receiver,
                ..claims()
            };
            headers = HeaderMap::new();
            write(&claims, &mut headers);
            assert_eq!(read(&headers), Ok(claims));
        }
        for (name, value) in [
            (HEADER_VERSION, "1"),
            (HEADER_CLUSTER, "xyz"),
            (HEADER_CLUSTER, "0"),
            (HEADER_FROM, "0"),
            (HEADER_FROM, "1"),
            (HEADER_TO, "-1"),
            (HEADER_TO, "+1"),
            (HEADER_INCARNATION, ""),
            (HEADER_INCARNATION, "0"),
            (HEADER_BOUND, "18446744073709551616"),
            (HEADER_RUN, "0"),
            (HEADER_URL, "ftp://x"),
            (HEADER_COMMANDS, "two"),
            (HEADER_RECEIVER, "formed here 0"),
            (HEADER_RECEIVER, "1"),
            (HEADER_RECEIVER, "formed 1"),
            (HEADER_RECEIVER, "formed here 1 "),
            (HEADER_RECEIVER, "forming elsewhere x"),
        ] {
            let mut headers = headers.clone();
            headers.insert(name, HeaderValue::from_static(value));
            read(&headers).unwrap_err();
            headers.remove(name);
            assert_eq!(read(&headers).is_ok(), name == HEADER_RECEIVER, "{name}");
        }
    }

    #[test]
    fn answers_survive_headers() {
        let greeting = |state| PeerAnswer::Greeting(Greeting { from: 2, state });
        let leader = (u64::MAX, "http://a:1".parse().unwrap());
        for answer in [
            PeerAnswer::Claims(claims(), None),
            PeerAnswer::Claims(claims(), Some((4, "http://a:1".parse().unwrap()))),
            greeting(GreetingState::Empty(0)),
            greeting(GreetingState::Empty(u64::MAX)),
            greeting(GreetingState::Member(None)),
            greeting(GreetingState::Member(Some(leader))),
        ] {
            let mut headers = HeaderMap::new();
            write_answer(&answer, &mut headers);
            assert_eq!(read_answer(&headers), Ok(answer));
        }
        let mut headers = HeaderMap::new();
        write_answer(&greeting(GreetingState::Member(None)), &mut headers);
        for wrong in [
            "",
            "empty",
            "empty x",
            "empty 1 2",
            "member 0 http://a:1",
            "member 1",
            "member 1 a",
            "member 1 http://a:1 ",
        ] {
            headers.insert(HEADER_GREETING, HeaderValue::from_static(wrong));
            let malformed = Malformed::Header(HEADER_GREETING);
            assert_eq!(read_answer(&headers), Err(malformed), "{wrong:?}");
        }
    }

    #[test]
    fn an_empty_member_claims_no_binding() {
        let mut headers = HeaderMap::new();
        let empty = Claims {
            cluster: 0,
            bound_index: 0,
            ..claims()
        };
        write(&empty, &mut headers);
        assert_eq!(read(&headers), Ok(empty));
    }

    #[test]
    fn refusals_survive_their_body() {
        for reason in [
            Reason::Removed { removed_index: 5 },
            Reason::NotAMember,
            Reason::OtherIncarnation {
                bound_index: u64::MAX,
                same_url: true,
            },
            Reason::OtherPlace,
            Reason::WrongCluster { other_life: true },
            Reason::Awaited,
            Reason::WrongReceiver { actual: 8 },
            Reason::Twice,
            Reason::StateLost,
            Reason::KeyRevoked,
            Reason::Undisclosed,
        ] {
            let (by, applied, formed) = (3, 70, true);
            let refused = PeerRefusal {
                by,
                applied,
                formed,
                dialled: true,
                reason,
            };
            let (status, body) = refusal(&refused);
            let gone = matches!(reason, Reason::Removed { .. });
            assert_eq!(status.as_u16(), if gone { 410 } else { 409 });
            assert!(body.len() <= REFUSAL_BYTES_MAX && body.ends_with("}\n"));
            assert_eq!(parse_refusal(body.as_bytes(), Trust::Known), Some(refused));
        }
        for body in [
            "",
            "{}",
            "[1]",
            "{\"by\":1,\"applied\":1,\"formed\":true,\"reason\":\"x\"}",
            "{\"by\":1,\"applied\":1,\"formed\":true,\"reason\":\"removed\"}",
        ] {
            assert_eq!(parse_refusal(body.as_bytes(), Trust::Known), None);
        }
    }
}
