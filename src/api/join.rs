//! `POST /join`, by which hraftd's members are added and by which `--join URL` asks: an id and an address in JSON.

use super::Front;
use super::body::Body;
use super::code::Code;
use super::members::{no_conditions, peer_url};
use super::path;
use super::reply::{self, Answer, Reply, Wish};
use crate::config;
use crate::members::PeerUrl;
use hyper::http::request::Parts;
use serde_json::Value;
use tokio::time::Instant;

impl Front {
    /// `POST /join` with `{"id":"4","addr":"http://127.0.0.1:42379"}`. The answers are those of `POST /<id>`.
    pub(super) async fn join(&self, head: &Parts, body: &mut Body, deadline: Instant) -> Answer {
        no_conditions(head)?;
        let limit = config::MEMBER_URL_BYTES_MAX;
        let received = body
            .receive(&self.body_bytes, limit, Wish::Change, deadline)
            .await?;
        let (id, url) = joiner(&received.bytes)?;
        self.add(id, &url, deadline).await
    }
}

/// Reads who wants to be added. An id may be a string or a number, and an address may come without its `http://`.
pub(super) fn joiner(body: &[u8]) -> Result<(u64, PeerUrl), Box<Reply>> {
    let bad = |why: &str| {
        let form = "{\"id\":\"4\",\"addr\":\"http://HOST:PORT\"}";
        let line = format!("the body has to be {form}, with the address for peers: {why}");
        reply::error(Code::BadBody, line)
    };
    let object = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(bad("it is not an object")),
        Err(_) => return Err(bad("it is not JSON")),
    };
    if object.keys().any(|name| name != "id" && name != "addr") {
        return Err(bad("there is another name in it"));
    }
    let (Some(id), Some(addr)) = (object.get("id"), object.get("addr")) else {
        return Err(bad("it lacks id or addr"));
    };
    let id = match id {
        Value::String(digits) => path::member_id(digits.as_bytes()),
        number => number.as_u64().filter(|id| *id > 0),
    };
    let id = id.ok_or_else(|| {
        reply::error(
            Code::BadMember,
            "the id has to be a number from 1 to 18446744073709551615, also as a string; names are not supported",
        )
    })?;
    let addr = addr.as_str().ok_or_else(|| bad("addr is not a string"))?;
    let url = if addr.contains("://") {
        peer_url(addr)
    } else {
        peer_url(&format!("http://{addr}"))
    };
    Ok((id, url?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joiner_gives_its_id_and_its_address() {
        for body in [
            "{\"id\":\"4\",\"addr\":\"http://127.0.0.1:42379\"}",
            "{\"addr\": \"127.0.0.1:42379\", \"id\": 4}\n",
        ] {
            let (id, url) = joiner(body.as_bytes()).unwrap();
            assert_eq!((id, url.to_string()), (4, "http://127.0.0.1:42379".into()));
        }
        for (body, code) in [
            ("", Code::BadBody),
            ("4", Code::BadBody),
            ("[]", Code::BadBody),
            ("{\"id\":4}", Code::BadBody),
            ("{\"id\":4,\"addr\":5}", Code::BadBody),
            ("{\"id\":4,\"addr\":\"a:1\",\"x\":1}", Code::BadBody),
            ("{\"id\":0,\"addr\":\"a:1\"}", Code::BadMember),
            ("{\"id\":\"node1\",\"addr\":\"a:1\"}", Code::BadMember),
            ("{\"id\":4.5,\"addr\":\"a:1\"}", Code::BadMember),
            ("{\"id\":4,\"addr\":\"a\"}", Code::BadMember),
            ("{\"id\":4,\"addr\":\"https://a:1\"}", Code::BadMember),
        ] {
            let refused = joiner(body.as_bytes()).unwrap_err();
            assert_eq!(refused.extensions().get(), Some(&code), "{body}");
        }
    }
}
