//! Who is let in: the judgement of a peer's claims, the answer to those that are turned away, and the place of a stream that
//! was let in.

use super::handshake::{self, Lane};
use super::registry::{MemberKey, Turned};
use super::state::TransportState;
use crate::channels::notice::{Met, Notice};
use crate::identity::{self, Claims, PeerRefusal, Reason, Standing, View};
use crate::members;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode};
use slog::{Logger, warn};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// Peers whose last refusal is remembered, so that it is logged once.
const REFUSALS_REMEMBERED: usize = 64;

/// Claims that were judged, and with what.
pub(super) struct Judged {
    pub view: Arc<View>,
    pub applied: u64,
    pub standing: Result<Standing, Reason>,
}

impl TransportState {
    /// Judges claims against the state of this moment.
    pub(super) fn judge(&self, claims: &Claims) -> Judged {
        let (view, applied) = self.now();
        let standing = identity::judge(claims, &view, applied);
        Judged {
            view,
            applied,
            standing,
        }
    }

    /// Tells who it is that waits: one that has come here with the incarnation whose fingerprint was answered where its id
    /// was dialled. Somebody who only comes may be at any place, and somebody who only answers does not say who it is.
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
                empty: true,
                url,
                dialled: true,
                // It says so once it has a table.
                version: 0,
            }));
        }
    }

    /// Answers claims that were not believed. The answer tells nothing that they would have to know.
    pub(super) fn deny(
        self: &Arc<TransportState>,
        claims: &Claims,
        judged: &Judged,
        reason: Reason,
        logger: &Logger,
    ) -> Response<Full<Bytes>> {
        if judged.standing.is_err() {
            self.forget(claims);
        }
        let text = reason.to_string();
        let mut refusals = self.inbound.refusals();
        if refusals.get(&claims.from) != Some(&text) {
            warn!(logger, "refused a peer"; "peer" => claims.from, "why" => &text);
            if refusals.len() >= REFUSALS_REMEMBERED {
                refusals.clear();
            }
            refusals.insert(claims.from, text);
        }
        let (status, body) = handshake::refusal(&PeerRefusal {
            by: self.me,
            applied: judged.applied,
            formed: !judged.view.is_empty() && judged.view.members.is_formed(),
            dialled: true,
            reason,
        });
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response
    }
}

/// The answer to a stream that got no place, and may be tried again.
pub(super) fn turn_away(turned: &Turned) -> Response<Full<Bytes>> {
    let line = match turned {
        Turned::Late => "a newer stream of this member is open here",
        _ => "another process of this member is connected here; try again",
    };
    answer(StatusCode::SERVICE_UNAVAILABLE, line)
}

/// An answer of one line, or of none.
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

/// A stream in the [`Registry`](super::registry::Registry). A process has one a lane: a second means that the first is dead and does not know it. The
/// first is the one that was accepted first.
pub(super) struct StreamEntry {
    shared: Arc<TransportState>,
    key: MemberKey,
    lane: Lane,
    pub(super) replaced: Arc<Notify>,
}

impl StreamEntry {
    /// The place of the stream with this serial number, whose claims have this standing.
    pub(super) fn new(
        shared: &Arc<TransportState>,
        claims: &Claims,
        standing: Standing,
        lane: Lane,
        serial: u64,
    ) -> Result<StreamEntry, Turned> {
        let mut processes = shared.inbound.processes();
        let replaced = processes.enter(claims, standing, lane, serial, Instant::now())?;
        drop(processes);
        Ok(StreamEntry {
            shared: shared.clone(),
            key: MemberKey::of(claims),
            lane,
            replaced,
        })
    }

    /// Messages have come on it.
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
