//! "Did you mean": paths that other stores use, or that are common conventions. In raftkvd they are ordinary keys. If
//! there is no such key, the line of the 404 names the path that serves the same purpose.

use super::path::percent_encode;
use std::borrow::Cow;

/// Longest path in a hint, in bytes.
const PATH_BYTES_MAX: usize = 200;

/// The path that a client most likely meant. `name` is the path of the request, without its first slash.
pub(super) fn meant(name: &[u8]) -> Option<Cow<'static, str>> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('/').unwrap_or(name);
    let path = match name {
        "metrics" | "stats" | "debug/metrics" => "/-/metrics",
        "health" | "healthz" | "ready" | "readyz" | "_health" | "-/health" | "-/healthz"
        | "-/readyz" => "/-/ready",
        "live" | "livez" | "ping" | "-/livez" | "-/ping" => "/-/live",
        "status" | "_status" | "v1/status/leader" | "v1/status/peers" | "v2/stats/self" => {
            "/-/status"
        }
        "members" | "nodes" | "peers" | "v2/members" | "-/member" => "/-/members",
        "leader" => "/-/leader",
        "hash" => "/-/hash",
        "watch" => "/-/watch",
        "snapshot" | "backup" | "v1/snapshot" | "-/backup" => "/-/snapshot",
        "txn" | "v1/txn" | "v3/kv/txn" => "/-/txn",
        "kv" | "keys" | "v1/kv" | "v2/keys" | "v3/kv/range" | "-/keys" => "/-/kv",
        _ => {
            let mut prefixes = ["v1/kv/", "v2/keys/", "v1/keys/"].into_iter();
            let key = prefixes.find_map(|prefix| name.strip_prefix(prefix))?;
            return Some(match percent_encode(key.as_bytes()) {
                key if key.len() <= PATH_BYTES_MAX => format!("/-/kv/{key}").into(),
                _ => "/-/kv/<key>".into(),
            });
        }
    };
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_other_stores_have_a_hint() {
        for (name, path) in [
            ("metrics", "/-/metrics"),
            ("metrics/", "/-/metrics"),
            ("health", "/-/ready"),
            ("status", "/-/status"),
            ("v2/keys/a b", "/-/kv/a%20b"),
            ("v1/kv/x", "/-/kv/x"),
            ("v2/keys", "/-/kv"),
        ] {
            assert_eq!(meant(name.as_bytes()).as_deref(), Some(path), "{name}");
        }
        for name in [&b""[..], b"greeting", b"my/metrics", b"Metrics", b"\xff"] {
            assert_eq!(meant(name), None, "{name:?}");
        }
        let long = format!("v2/keys/{}", "x".repeat(300));
        assert_eq!(meant(long.as_bytes()).as_deref(), Some("/-/kv/<key>"));
    }
}
