//! The gate: the one place that every request passes before it is routed.
//!
//! The gate refuses a request that names another host than this member, that a web page of another site has sent, or
//! whose body is not the whole value. The gate reads nothing of the body. A check is one pass over the header, and
//! allocates memory only for a refusal.
//!
//! Browsers add the fields `Sec-Fetch-*` and `Origin` themselves, and no page can change them. Other clients, such as
//! curl, send none of them.

mod authority;
mod fields;
mod hosts;

pub use hosts::Hosts;

use super::Front;
use super::error_code::Code;
use super::reply::{self, Reply};
use authority::{Authority, Host};
use fields::{Field, Fields};
use hyper::http::request::Parts;
use hyper::{Method, Version};

/// Paths that are served for any Host, because probes and scrapers may use any name. Their answers hold no keys, and
/// the requests change nothing.
const FOR_ANY_HOST: [&[u8]; 3] = [b"-/live", b"-/ready", b"-/metrics"];

impl Front {
    /// Admits or refuses a request. `path` is the decoded path, without its first slash.
    pub(super) fn admit(&self, head: &Parts, path: &[u8]) -> Result<(), Box<Reply>> {
        let fields = Fields::of(&head.headers);
        check_body(head, &fields)?;
        let host = match needs_known_host(path) {
            true => self.known_host(head, &fields)?,
            false => named_host(head, &fields).unwrap_or(None),
        };
        match is_of_other_site(head, &fields, host) {
            true => Err(reply::error(
                Code::CrossSite,
                "a web page of another site has sent this request; use a page of this host and port, or a client that is \
                 no browser; a proxy has to pass on the Host of its client",
            )),
            false => Ok(()),
        }
    }

    /// The host that the request names. `None`: the request is HTTP/1.0 and names no host.
    fn known_host<'a>(
        &self,
        head: &'a Parts,
        fields: &Fields<'a>,
    ) -> Result<Option<Authority<'a>>, Box<Reply>> {
        let named = named_host(head, fields)?;
        // The host in an absolute target takes precedence. An unknown host in the field is refused too, as it is
        // without an absolute target.
        let in_field = match fields.host {
            Field::Once(value) if head.uri.authority().is_some() => field_host(value)?,
            _ => None,
        };
        for authority in [named, in_field].into_iter().flatten() {
            if let Host::Name(name) = authority.host
                && !self.api.hosts.allow(authority.host)
            {
                return Err(unknown_host(name));
            }
        }
        Ok(named)
    }
}

/// Whether the request has to name a host by which this member is known.
fn needs_known_host(path: &[u8]) -> bool {
    !FOR_ANY_HOST.contains(&path)
}

/// The host in the target, or else the host in the header.
fn named_host<'a>(
    head: &'a Parts,
    fields: &Fields<'a>,
) -> Result<Option<Authority<'a>>, Box<Reply>> {
    let in_field = match fields.host {
        Field::Once(value) => field_host(value)?,
        Field::Missing if head.version == Version::HTTP_10 => None,
        Field::Missing => return Err(bad_host("the header has no Host; send the one of the URL")),
        Field::Repeated => return Err(bad_host("the header has more than one Host; send one")),
    };
    let Some(target) = head.uri.authority() else {
        return Ok(in_field);
    };
    // HTTP reads `GET key` as the name of a host. The target of CONNECT is a host, and `route` refuses the method.
    if head.uri.scheme().is_none() && head.method != Method::CONNECT {
        return Err(bad_host(
            "the target of the request has no slash; write one before the key, as in GET /hello",
        ));
    }
    let target = Authority::parse(target.as_str().as_bytes());
    let bad = || bad_host("the target of the request does not name a host as HOST or HOST:PORT");
    target.map(Some).ok_or_else(bad)
}

fn field_host(value: &hyper::header::HeaderValue) -> Result<Option<Authority<'_>>, Box<Reply>> {
    let host = Authority::parse(value.as_bytes());
    let bad = || bad_host("the Host has to be HOST or HOST:PORT, with an IPv6 address in brackets");
    host.map(Some).ok_or_else(bad)
}

fn bad_host(line: &'static str) -> Box<Reply> {
    reply::error(Code::BadHost, line)
}

/// `name` is well-formed, so it can't break the line.
fn unknown_host(name: &str) -> Box<Reply> {
    reply::error(
        Code::UnknownHost,
        format!(
            "this member is not known by the host {name}: use an IP address or localhost, or start the member with \
             --allow-host {name}; a proxy has to pass on the Host of its client, and that name has to be allowed"
        ),
    )
}

/// Refuses a request whose body is a part of the value, or the value in a coding that is not supported.
fn check_body(head: &Parts, fields: &Fields<'_>) -> Result<(), Box<Reply>> {
    if fields.is_coded {
        return Err(reply::error(
            Code::TransferCoding,
            "the only transfer coding that is supported is chunked; send the body without another one",
        ));
    }
    if fields.is_part && (head.method == Method::PUT || head.method == Method::POST) {
        return Err(reply::error(
            Code::BadBody,
            "not written: the body is a part (Content-Range), which would replace the whole value; send the whole value, \
             with curl without -C",
        ));
    }
    Ok(())
}

/// Whether a browser sent the request for a page of another site. A link is allowed: the browser shows the answer to
/// the user, and the page with the link can't read the answer.
fn is_of_other_site(head: &Parts, fields: &Fields<'_>, host: Option<Authority<'_>>) -> bool {
    let is_link = head.method == Method::GET && fields.navigates && fields.is_document;
    let is_other_origin = match fields.origin {
        Field::Missing => false,
        Field::Once(origin) => !host.is_some_and(|host| host.is_origin(origin.as_bytes())),
        Field::Repeated => true,
    };
    !is_link && (fields.other_site || is_other_origin)
}
