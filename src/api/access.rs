//! Which client may make which request. With `--tls`, the certificate of the connection decides.
//!
//! The table of routes gives each request its [`Audience`], and [`Front::check_rights`] compares the audience with what
//! the client has proved. The check comes after the gate and before everything else, so a refusal tells a stranger nothing
//! about the cluster. Without `--tls` no client can prove anything, and every client may do everything.

use super::Front;
use super::audit::Client;
use super::caller::Caller;
use super::error_code::Code;
use super::reply::{self, Reply};
use crate::certificates::{KeyFingerprint, Role, Subject};
use crate::tls::{NoLonger, Shown, Tls};
use hyper::http::request::Parts;
use std::sync::Arc;

/// The clients that may make a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// All clients, also without a certificate: supervisors probe a member with these requests.
    Everybody,
    /// Administrators, and members that join: see [`Front::check_addition`].
    Joiners,
    /// Administrators.
    Administrators,
}

/// What a client may do.
enum Rights {
    All,
    /// Ask for the status, and add the member with this id. The member has proved itself with this key.
    Join(u64, KeyFingerprint),
    None(Box<Reply>),
}

/// The certificate of a client. It may become invalid while the connection is open.
#[derive(Debug)]
pub(super) struct ShownCertificate {
    tls: Tls,
    shown: Arc<Shown>,
}

impl ShownCertificate {
    /// The certificate of this client. `None`: the client has shown none.
    pub(super) fn of(client: &Client, tls: Option<&Tls>) -> Option<Arc<ShownCertificate>> {
        match (client.caller(), tls) {
            (Caller::Known(shown), Some(tls)) => Some(Arc::new(ShownCertificate {
                tls: tls.clone(),
                shown: shown.clone(),
            })),
            _ => None,
        }
    }

    /// Whether it is still accepted.
    pub(super) fn check(&self) -> Result<(), NoLonger> {
        self.shown.check(&self.tls)
    }
}

impl Front {
    /// Returns 403 if the client may not make a request for this audience.
    pub(super) fn check_rights(&self, head: &Parts, audience: Audience) -> Result<(), Box<Reply>> {
        match (audience, self.rights(head)) {
            (Audience::Everybody, _) | (_, Rights::All) => Ok(()),
            (Audience::Joiners, Rights::Join(..)) => Ok(()),
            (Audience::Administrators, Rights::Join(id, _)) => Err(only_join(id)),
            (_, Rights::None(refused)) => Err(refused),
        }
    }

    /// Returns 403 if the client may not add this member. A member may add itself, and no other. Returns the key with which
    /// the member has proved itself, if the member asks itself.
    pub(super) fn check_addition(
        &self,
        head: &Parts,
        id: u64,
    ) -> Result<Option<KeyFingerprint>, Box<Reply>> {
        match self.rights(head) {
            Rights::Join(own, _) if own != id => Err(only_join(own)),
            Rights::All => Ok(None),
            Rights::Join(_, key) => Ok(Some(key)),
            Rights::None(refused) => Err(refused),
        }
    }

    /// Whether a client has proved nothing, on a member where that can be proved.
    pub(super) fn is_stranger(&self, head: &Parts) -> bool {
        matches!(self.rights(head), Rights::None(_))
    }

    /// Returns 403 if the certificate of a client is not accepted any more.
    fn check_shown(&self, shown: &Shown) -> Result<(), Box<Reply>> {
        if self.api.revoked.contains(&shown.key()) {
            return Err(revoked());
        }
        let Some(tls) = &self.api.tls else {
            return Ok(());
        };
        shown.check(tls).map_err(|no_longer| match no_longer {
            NoLonger::Revoked => revoked(),
            NoLonger::Invalid(why) => no_longer_valid(&why),
        })
    }

    fn rights(&self, head: &Parts) -> Rights {
        let known = match Client::of(head).caller() {
            Caller::Anybody => return Rights::All,
            Caller::Stranger => return Rights::None(no_certificate()),
            Caller::Known(known) => known,
        };
        // A connection outlives its certificate, so each request is judged.
        if let Err(refused) = self.check_shown(known) {
            return Rights::None(refused);
        }
        match known.facts.name.subject {
            Subject::Member(id) => Rights::Join(id, known.facts.fingerprint),
            Subject::Client {
                role: Role::Admin, ..
            } => Rights::All,
        }
    }
}

fn revoked() -> Box<Reply> {
    reply::error(
        Code::NotAllowed,
        "the key of this certificate is revoked; make a certificate with a new key (`raftkvd cert member` or `raftkvd cert client`)",
    )
}

/// A client with a renewed certificate has to connect again to show it.
fn no_longer_valid(why: &str) -> Box<Reply> {
    let line = format!(
        "the certificate of this connection is not accepted any more: {why}; connect again with one that is valid"
    );
    let mut reply = reply::error(Code::NotAllowed, line);
    reply::close(&mut reply);
    reply
}

fn no_certificate() -> Box<Reply> {
    reply::error(
        Code::NoCertificate,
        "this request needs the certificate of a client: curl --cacert ca.pem --cert client.pem --key client.key",
    )
}

fn only_join(id: u64) -> Box<Reply> {
    reply::error(
        Code::NotAllowed,
        format!(
            "the certificate of member {id} allows only the addition of member {id}; use that of a client: \
             `raftkvd cert client NAME` makes one"
        ),
    )
}
