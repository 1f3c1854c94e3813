//! The audit: logs each change of members or of leadership and each backup that a client asks for, with the address of
//! the client, the request and the result.
//!
//! Invariants:
//! - A request is one line, also if its client disconnects before the answer. A request that is refused before it is
//!   read as a change is not in the audit, for example by a closed member or because of a malformed body.
//! - The line of a request that succeeded is never held back, unless the request asked for a state that held already.
//!   Lines of such requests, and of refusals, are held back when they repeat (see [`logging`](crate::logging)).
//! - No line holds a key or a value.

use super::Front;
use super::caller::Caller;
use super::error_code::Code;
use super::reply::{Reply, ReplyResult};
use super::slots::Full;
use crate::logging::{AUDIT, AUDIT_AGAIN};
use hyper::http::request::Parts;
use slog::{KV, Logger, Record, Serializer, info, warn};
use std::net::{IpAddr, SocketAddr};

/// The client that sent a request. The connection adds it to the extensions of the request.
#[derive(Debug, Clone)]
pub(super) struct Client {
    address: SocketAddr,
    caller: Caller,
    /// Why the connection has only a spare slot. `None`: the connection has a regular slot.
    full: Option<Full>,
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Client {
        // A port that accepts both IPv4 and IPv6 shows IPv4 addresses as IPv6.
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Client {
            address,
            caller: Caller::Anybody,
            full: None,
        }
    }

    /// The same client, on a spare connection if there is a reason.
    pub(super) fn turned_away(self, full: Option<Full>) -> Client {
        Client { full, ..self }
    }

    /// The same client, after it has proved this.
    pub(super) fn proved(self, caller: Caller) -> Client {
        Client { caller, ..self }
    }

    /// The client of a request.
    pub(super) fn of(head: &Parts) -> &Client {
        let client = head.extensions.get::<Client>();
        client.expect("the connection adds it to each request")
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    pub(super) fn full(&self) -> Option<Full> {
        self.full
    }
}

/// The kinds of requests in the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audited {
    Members,
    Leadership,
    Backup,
}

/// A request in the audit. Its line is logged when the request ends, at the latest when this value is dropped.
pub(super) struct Audit {
    logger: Logger,
    line: Line,
    /// The request asks for a state that held already.
    again: bool,
    ended: bool,
}

struct Line {
    audited: Audited,
    from: SocketAddr,
    asked: &'static str,
    member: Option<u64>,
    url: Option<String>,
    index: Option<u64>,
    result: &'static str,
    code: Option<&'static str>,
}

impl Front {
    /// Starts the audit of a request. `asked` names the change, or the kind of backup.
    pub(super) fn audit(&self, head: &Parts, audited: Audited, asked: &'static str) -> Audit {
        let from = Client::of(head).address;
        Audit {
            logger: self.api.logger.clone(),
            line: Line {
                audited,
                from,
                asked,
                member: None,
                url: None,
                index: None,
                result: "unknown",
                code: Some("unanswered"),
            },
            again: false,
            ended: false,
        }
    }

    /// Logs that the gate has refused a request. The line holds nothing that the request says.
    pub(super) fn audit_refusal(&self, head: &Parts, refused: &Reply) {
        let code = refused.extensions().get::<Code>();
        let code = code.map_or("", |code| code.text());
        let from = Client::of(head).address;
        warn!(self.api.logger, #AUDIT, "refused a request at the gate"; "audit" => "gate", "from" => %from, "code" => code);
    }
}

impl Audit {
    /// Adds the member that the request is about, and the URL in the request unless that is empty.
    pub(super) fn member(mut self, id: u64, url: &str) -> Audit {
        self.line.member = Some(id);
        self.line.url = (!url.is_empty()).then(|| url.to_owned());
        self
    }

    /// Sets whether the request asks for a state that holds already, as far as this member knows. Another change may
    /// come first, so such a request has a line too.
    pub(super) fn again(mut self, again: bool) -> Audit {
        self.again = again;
        self
    }

    /// Adds the index of the backup.
    pub(super) fn index(mut self, index: u64) -> Audit {
        self.line.index = Some(index);
        self
    }

    /// Logs the request with the result of this answer.
    pub(super) fn answered(self, answer: &ReplyResult) {
        let Err(reply) = answer else {
            return self.end("done", None);
        };
        let code = reply.extensions().get::<Code>();
        let result = match code {
            Some(Code::UnknownOutcome) => "unknown",
            _ => "refused",
        };
        self.end(result, code.map(|code| code.text()));
    }

    /// Logs the request with this result, and with a code if it failed.
    pub(super) fn end(mut self, result: &'static str, code: Option<&'static str>) {
        (self.line.result, self.line.code) = (result, code);
        self.tell();
    }

    fn tell(&mut self) {
        self.ended = true;
        let what = match self.line.audited {
            Audited::Members => "a client asked for a change of members",
            Audited::Leadership => "a client asked for another leader",
            Audited::Backup => "a client asked for a backup",
        };
        match self.line.code {
            None if self.again => info!(self.logger, #AUDIT_AGAIN, "{}", what; &self.line),
            None => info!(self.logger, #AUDIT, "{}", what; &self.line),
            Some(_) => warn!(self.logger, #AUDIT, "{}", what; &self.line),
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.ended {
            self.tell();
        }
    }
}

/// Emits the values in reverse order, as the macros of slog do.
impl KV for Line {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        if let Some(code) = self.code {
            serializer.emit_str("code", code)?;
        }
        serializer.emit_str("result", self.result)?;
        if let Some(index) = self.index {
            serializer.emit_u64("index", index)?;
        }
        if let Some(url) = &self.url {
            serializer.emit_str("url", url)?;
        }
        if let Some(member) = self.member {
            serializer.emit_u64("member", member)?;
        }
        serializer.emit_str("asked", self.asked)?;
        serializer.emit_arguments("from", &format_args!("{}", self.from))?;
        serializer.emit_str(
            "audit",
            match self.audited {
                Audited::Members => "members",
                Audited::Leadership => "leadership",
                Audited::Backup => "backup",
            },
        )
    }
}
