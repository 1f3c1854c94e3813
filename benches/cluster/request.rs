//! The requests of a load, built before it begins, so that sending one costs little more than a system call.

use std::sync::Arc;

/// Bytes of a value of a load that says nothing else, and of what the ceiling answers.
pub const VALUE_BYTES: usize = 100;

/// A value up to this size is sent with its head in one buffer; a larger one is shared by all requests.
const INLINE_BYTES_MAX: usize = 4 << 10;

/// What a load asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    /// Linearizable.
    Get,
    /// `?consistency=stale`.
    Stale,
    /// `/v3/kv/put` of etcd's JSON gateway.
    EtcdPut,
    /// `/v3/kv/range` there, which is linearizable.
    EtcdRange,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Put => "PUT",
            Kind::Get => "GET linearizable",
            Kind::Stale => "GET stale",
            Kind::EtcdPut => "etcd put",
            Kind::EtcdRange => "etcd range",
        }
    }

    /// This status is what the request was sent for. Every key that is read was written before, so 404 is not.
    pub fn succeeds_with(self, status: u16) -> bool {
        match self {
            Kind::Put => status == 204,
            _ => status == 200,
        }
    }
}

/// Bytes of a key: `key-` and digits.
pub const KEY_BYTES: usize = 16;
const KEY_DIGITS: usize = 12;

/// One request for each key.
pub struct Requests {
    pub kind: Kind,
    keys: usize,
    heads: Heads,
    body: Arc<[u8]>,
}

enum Heads {
    /// The request for key 0, and where the digits of its key end: there may be ten million keys.
    Template(Vec<u8>, usize),
    /// Where the key is encoded.
    Built(Vec<Vec<u8>>),
}

impl Requests {
    pub fn new(kind: Kind, keys: usize, value_bytes: usize) -> Requests {
        let value = vec![b'v'; value_bytes];
        let inline = value_bytes <= INLINE_BYTES_MAX;
        let heads = match kind {
            Kind::Put => {
                let rest = format!(
                    " HTTP/1.1\r\nHost: localhost\r\nContent-Length: {value_bytes}\r\n\r\n"
                );
                let (mut bytes, end) = template("PUT", &rest);
                if inline {
                    bytes.extend_from_slice(&value);
                }
                Heads::Template(bytes, end)
            }
            Kind::Get => {
                let (bytes, end) = template("GET", " HTTP/1.1\r\nHost: localhost\r\n\r\n");
                Heads::Template(bytes, end)
            }
            Kind::Stale => {
                let rest = "?consistency=stale HTTP/1.1\r\nHost: localhost\r\n\r\n";
                let (bytes, end) = template("GET", rest);
                Heads::Template(bytes, end)
            }
            Kind::EtcdPut => {
                let value = base64(&value);
                Heads::Built(posts(keys, "/v3/kv/put", |key| {
                    format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}")
                }))
            }
            Kind::EtcdRange => Heads::Built(posts(keys, "/v3/kv/range", |key| {
                format!("{{\"key\":\"{key}\"}}")
            })),
        };
        let shared = kind == Kind::Put && !inline;
        Requests {
            kind,
            keys,
            heads,
            body: if shared { value.into() } else { Arc::new([]) },
        }
    }

    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Puts what is to be sent for a key, but for a large value, in the place of what the buffer holds.
    pub fn write_head(&self, key: usize, head: &mut Vec<u8>) {
        head.clear();
        match &self.heads {
            Heads::Template(bytes, end) => {
                head.extend_from_slice(bytes);
                let mut rest = key;
                for digit in head[..*end].iter_mut().rev().take(KEY_DIGITS) {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
            }
            Heads::Built(heads) => head.extend_from_slice(&heads[key]),
        }
    }

    /// What follows the head: the value, if it is large.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

fn key_name(key: usize) -> String {
    format!("key-{key:0KEY_DIGITS$}")
}

/// A request for key 0, and where its key ends.
fn template(method: &str, rest: &str) -> (Vec<u8>, usize) {
    let mut bytes = format!("{method} /{}", key_name(0)).into_bytes();
    let end = bytes.len();
    bytes.extend_from_slice(rest.as_bytes());
    (bytes, end)
}

/// Requests with a body that is made from each key in base64.
fn posts(keys: usize, path: &str, json: impl Fn(&str) -> String) -> Vec<Vec<u8>> {
    (0..keys)
        .map(|key| post(path, &json(&base64(key_name(key).as_bytes()))))
        .collect()
}

fn post(path: &str, json: &str) -> Vec<u8> {
    let length = json.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
    )
    .into_bytes()
}

/// With padding, as JSON carries the bytes of protobuf.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            let is_padding = digit as usize > chunk.len();
            text.push(if is_padding {
                '='
            } else {
                char::from(DIGITS[index as usize])
            });
        }
    }
    text
}
