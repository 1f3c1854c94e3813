//! The requests of a load, built before it begins, so that sending one costs no more than a system call.

use std::sync::Arc;

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

/// One request for each key.
pub struct Requests {
    pub kind: Kind,
    heads: Vec<Vec<u8>>,
    body: Arc<[u8]>,
}

impl Requests {
    pub fn new(kind: Kind, keys: usize, value_bytes: usize) -> Requests {
        let value = vec![b'v'; value_bytes];
        let inline = value_bytes <= INLINE_BYTES_MAX;
        let heads = (0..keys).map(|key| {
            let key = format!("key-{key:05}");
            match kind {
                Kind::Put => {
                    let head = format!(
                        "PUT /{key} HTTP/1.1\r\nHost: bench\r\nContent-Length: {value_bytes}\r\n\r\n"
                    );
                    let mut head = head.into_bytes();
                    if inline {
                        head.extend_from_slice(&value);
                    }
                    head
                }
                Kind::Get => format!("GET /{key} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes(),
                Kind::Stale => {
                    format!("GET /{key}?consistency=stale HTTP/1.1\r\nHost: bench\r\n\r\n")
                        .into_bytes()
                }
                Kind::EtcdPut => {
                    let (key, value) = (base64(key.as_bytes()), base64(&value));
                    post(
                        "/v3/kv/put",
                        &format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}"),
                    )
                }
                Kind::EtcdRange => {
                    let key = base64(key.as_bytes());
                    post("/v3/kv/range", &format!("{{\"key\":\"{key}\"}}"))
                }
            }
        });
        let shared = kind == Kind::Put && !inline;
        Requests {
            kind,
            heads: heads.collect(),
            body: if shared { value.into() } else { Arc::new([]) },
        }
    }

    pub fn keys(&self) -> usize {
        self.heads.len()
    }

    /// What is to be sent for a key, in two parts.
    pub fn parts(&self, key: usize) -> (&[u8], &[u8]) {
        (&self.heads[key], &self.body)
    }
}

fn post(path: &str, json: &str) -> Vec<u8> {
    let length = json.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
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
