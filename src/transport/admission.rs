//! Admission: judges a peer's claims, answers refused peers, and keeps the place of an accepted stream.

use super::handshake::{self, Lane};
use super::registry::{MemberKey, Turned};
use super::state::TransportState;
use crate::certificates::KeyFingerprint;
use crate::channels::notice::{Met, Notice};
use crate::identity::{self, Claims, Reason, Standing, View};
use crate::logging::AUDIT;
use crate::members;
use crate::metrics::peer_handshake::REFUSED;
use crate::tls::Shown;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use slog::{Logger, debug, warn};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// The number of peers whose last refusal is remembered. A remembered refusal is logged only once.
const REFUSALS_REMEMBERED: usize = 64;

/// The source of a connection.
pub(super) struct Source {
    pub address: IpAddr,
    /// What the peer has proved by its certificate. `None`: without TLS.
    pub proved: Option<Arc<Shown>>,
    /// Adds the address and the port to each line.
    pub logger: Logger,
}

impl Source {
    /// The key with which the peer has proved itself. `None`: without TLS.
    pub(super) fn key(&self) -> Option<KeyFingerprint> {
        self.proved.as_ref().map(|shown| shown.key())
    }
}

/// The result of judging claims, with the state that they were judged against.
pub(super) struct Judged {
    pub view: Arc<View>,
    pub applied: u64,
    pub standing: Result<Standing, Reason>,
}

impl TransportState {
    /// Judges claims against the current state.
    pub(super) fn judge(&self, claims: &Claims) -> Judged {
        let (view, applied) = self.now();
        let standing = identity::judge(claims, &view, applied);
        Judged {
            view,
            applied,
            standing,
        }
    }

    /// Reports a peer that waits to be bound. The peer must have connected here, and the fingerprint of its incarnation
    /// must have been the answer at the URL that was dialled for its id. Neither is enough alone: a peer that only
    /// connects here may be at any URL, and a peer that only answers does not state its incarnation.
    pub(super) fn recognize(&self, id: u64) {
        let Some((fingerprint, url)) = self.greeted(id) else {
            return;
        };
        let here = self.inbound.incarnations(id);
        let is_it = |incarnation: &u64| members::fingerprint(*incarnation) == fingerprint;
        if let Some(incarnation) = here.into_iter().find(is_it) {
            self.inbox.notice(Notice::Met(Met {
                id,
                incarnation,
                bound_index: 0,
                url,
                dialled: true,
                // The peer states its version once it has a table of members.
                version: 0,
                key: None,
            }));
        }
    }

    /// Why a peer is refused, for the log of this member. The answer to the peer does not contain the known URL.
    fn why_refused(&self, claims: &Claims, judged: &Judged, reason: Reason) -> String {
        match judged.view.place_of(claims.from) {
            Some(known) if reason == Reason::OtherPlace => {
                let (id, url) = (claims.from, claims.url.clone());
                self.inbox.notice(Notice::OtherPlace { id, url });
                format!("{reason}: it gives {}, and here it is {known}", claims.url)
            }
            _ => reason.to_string(),
        }
    }

    /// Answers a peer that is refused. The answer contains nothing that a peer must know to be believed. The answer to a
    /// stranger does not say why.
    pub(super) fn deny(
        self: &Arc<TransportState>,
        claims: &Claims,
        judged: &Judged,
        reason: Reason,
        source: &Source,
    ) -> Response<Full<Bytes>> {
        if judged.standing.is_err() {
            self.forget(claims);
        }
        let text = self.why_refused(claims, judged, reason);
        let mut refusals = self.inbound.refusals();
        let claimant = (claims.from, source.address);
        if refusals.get(&claimant) != Some(&text) {
            match is_fellow_dial(claims, &judged.view) {
                true => {
                    debug!(source.logger, "refused a member that dials an open id"; "member" => claims.from, "why" => &text);
                }
                false => {
                    warn!(source.logger, #AUDIT, "refused a peer"; "audit" => "peer", "member" => claims.from, "why" => &text);
                }
            }
            if refusals.len() >= REFUSALS_REMEMBERED {
                refusals.clear();
            }
            refusals.insert(claimant, text);
        }
        self.metrics.peer_handshakes_failed.add(REFUSED);
        let refusal = judged.view.refusal(claims, reason, judged.applied);
        let (status, body) = handshake::refusal(&refusal);
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response
    }
}

/// Whether the claims are those with which a member of this cluster dials an id that is open to it: see
/// [`View::claims_to_dial`]. The id is bound here, and that member lags. The claims prove nothing, so only the id and the
/// URL of a member make such claims less conspicuous than others.
fn is_fellow_dial(claims: &Claims, view: &View) -> bool {
    let is_borrowed = claims.awaits && claims.cluster == 0 && claims.bound_index == 0;
    is_borrowed && view.place_of(claims.from) == Some(&claims.url)
}

/// The answer to a stream that got no place and may be retried.
pub(super) fn turn_away(turned: &Turned) -> Response<Full<Bytes>> {
    let line = match turned {
        Turned::Late => "a newer stream of this member is open here",
        _ => "another process of this member is connected here; try again",
    };
    answer(StatusCode::SERVICE_UNAVAILABLE, line)
}

/// An answer with one line, or with an empty body.
pub(super) fn answer(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let body = if line.is_empty() {
        Full::default()
    } else {
        Full::from(format!("{line}\n"))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// The place of a stream in the [`Registry`](super::registry::Registry). A process has one stream for each lane. A
/// second stream for the same lane means that the stream of the earlier connection is dead, although that connection
/// still looks open here.
pub(super) struct StreamEntry {
    shared: Arc<TransportState>,
    key: MemberKey,
    lane: Lane,
    pub(super) replaced: Arc<Notify>,
}

impl StreamEntry {
    /// Registers the stream with this serial number. `standing` is the standing of its claims.
    pub(super) fn new(
        shared: &Arc<TransportState>,
        claims: &Claims,
        standing: Standing,
        lane: Lane,
        serial: u64,
        logger: &Logger,
    ) -> Result<StreamEntry, Turned> {
        let mut processes = shared.inbound.processes();
        let had_another = processes.has_another(claims);
        let replaced = processes.enter(claims, standing, lane, serial, Instant::now())?;
        drop(processes);
        if had_another {
            warn!(logger, "another process of this member took the place of the one that was connected: if that was not \
                restarted, two run on copies of one data directory; stop one of them";
                "member" => claims.from, "url" => %claims.url);
        }
        Ok(StreamEntry {
            shared: shared.clone(),
            key: MemberKey::of(claims),
            lane,
            replaced,
        })
    }

    /// Records that messages have arrived on the stream.
    pub(super) fn heard(&self) {
        let mut processes = self.shared.inbound.processes();
        processes.heard(self.key, self.lane, &self.replaced, Instant::now());
    }
}

impl Drop for StreamEntry {
    fn drop(&mut self) {
        let mut processes = self.shared.inbound.processes();
        processes.leave(self.key, self.lane, &self.replaced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Members;
    use crate::peer_url::PeerUrl;

    #[test]
    fn a_dial_of_an_open_id_is_that_of_a_fellow_only_from_the_place_of_a_member() {
        let url = |id: u64| -> PeerUrl { format!("http://a:{id}").parse().unwrap() };
        let mut members = Members::of((1..=2).map(|id| (id, url(id), 10 * id)));
        let bound = View {
            me: 2,
            incarnation: 20,
            run: 2,
            url: url(2),
            url_given: true,
            cluster: 7,
            members: members.clone(),
            bound_index: 1,
        };
        members.members.get_mut(&2).unwrap().incarnation = 0;
        let lagging = View {
            me: 1,
            incarnation: 10,
            url: url(1),
            members,
            ..bound.clone()
        };
        let said = lagging.claims_to_dial(2, &url(2), false);
        assert!(is_fellow_dial(&said, &bound));
        let elsewhere = Claims {
            url: url(9),
            ..said.clone()
        };
        let whole = lagging.claims_to_dial(2, &url(2), true);
        let unexpected = Claims {
            awaits: false,
            ..said
        };
        for other in [elsewhere, whole, unexpected] {
            assert!(!is_fellow_dial(&other, &bound), "{other:?}");
        }
    }
}
