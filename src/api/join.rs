//! `POST /join`, which adds a member as in hraftd, and which `--join URL` calls. The body is a JSON object with an id,
//! an address and, if the joiner has one, the incarnation of its data directory.

use super::body::Body;
use super::error_code::Code;
use super::members::{no_conditions, peer_url};
use super::reply::{self, Reply, ReplyResult, RequestKind};
use super::{Front, path, strict_json};
use crate::limits;
use crate::peer_url::PeerUrl;
use hyper::http::request::Parts;
use serde_json::error::Category;
use serde_json::{Map, Value};
use tokio::time::Instant;

impl Front {
    /// `POST /join` with `{"id":"4","addr":"http://127.0.0.1:14379"}`. The answers are those of `POST /-/members/<id>`.
    pub(super) async fn join(
        &self,
        head: &Parts,
        body: &mut Body,
        deadline: Instant,
    ) -> ReplyResult {
        no_conditions(head)?;
        let limit = limits::MEMBER_URL_BYTES_MAX;
        let received = body
            .receive(&self.body_bytes, limit, RequestKind::Change, deadline)
            .await?;
        let joiner = joiner(&received.bytes)?;
        self.add(head, joiner.id, (&joiner.url, joiner.incarnation), deadline)
            .await
    }
}

/// The member that asks to be added.
struct Joiner {
    id: u64,
    url: PeerUrl,
    /// 0 if the joiner does not state one.
    incarnation: u64,
}

/// Reads the body. An id may be a string or a number, and an address may omit its `http://`.
fn joiner(body: &[u8]) -> Result<Joiner, Box<Reply>> {
    let bad = |why: &str| {
        let form = "{\"id\":\"4\",\"addr\":\"http://HOST:PORT\"}";
        let line = format!("the body has to be {form}, with the address for peers: {why}");
        reply::error(Code::BadBody, line)
    };
    let object = strict_json::read(body, Map::new()).map_err(|why| match why.classify() {
        Category::Data if !body.trim_ascii_start().starts_with(b"{") => bad("it is not an object"),
        // A name that appears twice.
        Category::Data => bad(&why.to_string()),
        _ => bad("it is not JSON"),
    })?;
    let known = ["id", "addr", "incarnation"];
    if object.keys().any(|name| !known.contains(&&**name)) {
        return Err(bad("it has an unknown name"));
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
    let url = peer_url(addr)?;
    let incarnation = match object.get("incarnation") {
        None => 0,
        Some(digits) => digits.as_str().and_then(incarnation).ok_or_else(|| {
            bad("incarnation has to be 16 hexadecimal digits in a string, not all 0")
        })?,
    };
    Ok(Joiner {
        id,
        url,
        incarnation,
    })
}

/// Never returns 0, which stands for "no incarnation".
fn incarnation(digits: &str) -> Option<u64> {
    let is_hex = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let incarnation = u64::from_str_radix(digits, 16).ok();
    incarnation.filter(|number| is_hex && *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joiner_gives_its_id_and_its_address() {
        for body in [
            "{\"id\":\"4\",\"addr\":\"http://127.0.0.1:14379\"}",
            "{\"addr\": \"127.0.0.1:14379\", \"id\": 4}\n",
        ] {
            let joiner = joiner(body.as_bytes()).unwrap();
            assert_eq!(joiner.id, 4);
            assert_eq!(joiner.url.to_string(), "http://127.0.0.1:14379");
            assert_eq!(joiner.incarnation, 0);
        }
        for (body, code) in [
            ("", Code::BadBody),
            ("4", Code::BadBody),
            ("[]", Code::BadBody),
            ("{\"id\":4}", Code::BadBody),
            ("{\"id\":4,\"addr\":5}", Code::BadBody),
            ("{\"id\":4,\"addr\":\"a:1\",\"x\":1}", Code::BadBody),
            ("{\"id\":5,\"id\":4,\"addr\":\"a:1\"}", Code::BadBody),
            (
                "{\"id\":4,\"addr\":\"a:1\",\"addr\":\"a:1\"}",
                Code::BadBody,
            ),
            ("{\"id\":0,\"addr\":\"a:1\"}", Code::BadMember),
            ("{\"id\":\"node1\",\"addr\":\"a:1\"}", Code::BadMember),
            ("{\"id\":4.5,\"addr\":\"a:1\"}", Code::BadMember),
            ("{\"id\":4,\"addr\":\"a\"}", Code::BadMember),
            ("{\"id\":4,\"addr\":\"ftp://a:1\"}", Code::BadMember),
        ] {
            let refused = joiner(body.as_bytes()).err().expect(body);
            assert_eq!(refused.extensions().get(), Some(&code), "{body}");
        }
    }

    #[test]
    fn a_joiner_may_give_its_incarnation_as_16_digits() {
        let body = |text: &str| format!("{{\"id\":4,\"addr\":\"a:1\",\"incarnation\":{text}}}");
        for (text, expected) in [
            ("\"0000000000000001\"", 1),
            ("\"00000000000000ab\"", 0xab),
            ("\"FFFFFFFFFFFFFFFF\"", u64::MAX),
        ] {
            let joiner = joiner(body(text).as_bytes()).unwrap();
            assert_eq!(joiner.incarnation, expected, "{text}");
        }
        for text in [
            "\"0000000000000000\"",
            "\"\"",
            "\"ab\"",
            "\"+0000000000000ab\"",
            "\"00000000000000xy\"",
            "\"00000000000000000ab\"",
            "1",
            "null",
        ] {
            let refused = joiner(body(text).as_bytes()).err().expect(text);
            let code = refused.extensions().get();
            assert_eq!(code, Some(&Code::BadBody), "{text}");
        }
    }
}
