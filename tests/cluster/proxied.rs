//! Behind nginx and HAProxy as they are without tuning: events arrive at once, values are unchanged, and an answer that
//! breaks off is seen to break off. A proxy that is not installed is skipped.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{self, Connection};
use crate::skipped::skipped;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A proxy in front of a member. It ends with this value.
pub struct Proxy {
    process: Child,
    pub address: SocketAddr,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const KINDS: [&str; 2] = ["nginx", "haproxy"];

/// Starts a proxy of this kind, or returns `None` if it is not installed.
fn start(kind: &str, before: SocketAddr, directory: &Path, pass_host: bool) -> Option<Proxy> {
    let host = if pass_host {
        "proxy_set_header Host $http_host;"
    } else {
        ""
    };
    run(kind, kind, directory, |listen| match kind {
        "nginx" => format!(
            "server {{ listen {listen};\nlocation / {{ proxy_pass http://{before}; {host} }} }}"
        ),
        _ => format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 50s\n  timeout server 50s\n\
             frontend clients\n  bind {listen}\n  default_backend members\n\
             backend members\n  server one {before}\n"
        ),
    })
}

/// Starts a proxy of this kind, whose files get this name. The text is its configuration, for nginx that of its servers.
pub fn run(
    kind: &str,
    name: &str,
    directory: &Path,
    text: impl FnOnce(SocketAddr) -> String,
) -> Option<Proxy> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = free.local_addr().expect("its address");
    drop(free);
    let file = directory.join(format!("{name}.conf"));
    let root = directory.display();
    let mut command = Command::new(kind);
    let mut text = text(address);
    if kind == "nginx" {
        // One process, so that it can be killed.
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|of| format!("{of}_temp_path {root}/{of};"));
        command.args(["-p", &root.to_string(), "-c"]).arg(&file);
        text = format!(
            "daemon off; master_process off; pid {root}/{name}.pid; error_log {root}/{name}.log;\nevents {{}}\n\
             http {{ access_log off; client_max_body_size 64m; {}\n{text} }}\n",
            temporary.concat()
        );
    } else {
        command.args(["-db", "-f"]).arg(&file);
    }
    fs::write(&file, text).expect("write the configuration");
    let log = fs::File::create(directory.join(format!("{name}.out"))).expect("create a file");
    let other = log.try_clone().expect("clone the file");
    let started = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(other)
        .spawn();
    let Ok(process) = started else {
        skipped(kind);
        return None;
    };
    let proxy = Proxy { process, address };
    eventually("the proxy listens", PATIENCE, || {
        let connected = TcpStream::connect(address);
        require(connected.is_ok(), || format!("{kind}: {connected:?}"))
    });
    Some(proxy)
}

#[test]
fn values_and_conditions_pass_a_proxy_unchanged() {
    let cluster = Cluster::start(1);
    for kind in KINDS {
        let address = cluster.address(1);
        let Some(proxy) = start(kind, address, cluster.path(), false) else {
            continue;
        };
        let key = http::encode(format!("{kind}/a+b c").as_bytes());
        let value: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let send = |method: &str, headers: &[(&str, &str)], body: &[u8]| {
            http::request(proxy.address, method, &key, headers, body).expect("an answer")
        };
        let put = send("PUT", &[], &value);
        assert_eq!(put.status, 204, "{kind}: {put:?}");
        let etag = format!("\"{}\"", put.etag());
        let got = send("GET", &[], b"");
        assert_eq!(
            (got.status, got.body == value),
            (200, true),
            "{kind}: {got:?}"
        );
        let unchanged = send("GET", &[("If-None-Match", &etag)], b"");
        assert_eq!(unchanged.status, 304, "{kind}: {unchanged:?}");
        let refused = send("PUT", &[("If-Match", "\"1\"")], b"x");
        assert_eq!(refused.status, 412, "{kind}: {refused:?}");
        // nginx names the member itself as the Host by default, HAProxy passes on what the client has sent.
        let other = [("Origin", "http://evil.example")];
        assert_eq!(send("PUT", &other, b"x").status, 403, "{kind}");
        assert_eq!(send("GET", &[], b"").body, value, "{kind}");
    }
}

#[test]
fn a_rebound_name_is_refused_behind_a_proxy_that_passes_on_the_host() {
    let cluster = Cluster::start(1);
    for kind in KINDS {
        let address = cluster.address(1);
        let Some(proxy) = start(kind, address, cluster.path(), true) else {
            continue;
        };
        let mut connection = Connection::open(proxy.address).expect("connect");
        let request = "PUT /a HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\
                       Sec-Fetch-Site: same-origin\r\nContent-Length: 1\r\n\r\nx";
        connection.write(request.as_bytes()).expect("send");
        let answer = connection.response(false).expect("an answer");
        assert_eq!(answer.status, 421, "{kind}: {answer:?}");
        assert_eq!(cluster.get(1, "a"), None, "{kind}");
    }
}

#[test]
fn events_pass_a_proxy_at_once() {
    let cluster = Cluster::start(1);
    for kind in KINDS {
        let address = cluster.address(1);
        let Some(proxy) = start(kind, address, cluster.path(), false) else {
            continue;
        };
        let mut watch = Connection::impatient(proxy.address, Duration::from_secs(10));
        let watch = watch.as_mut().expect("connect");
        let request = b"GET /-/watch HTTP/1.1\r\nHost: localhost\r\n\r\n";
        watch.write(request).expect("send");
        let head = watch.head().expect("the head of the stream");
        assert_eq!(head.status, 200, "{kind}: {head:?}");
        let key = format!("event-of-{kind}");
        let begun = Instant::now();
        cluster.put(1, &key, "x");
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(&key) {
            let chunk = watch.chunk().expect("an event").expect("no end");
            seen.extend(chunk);
        }
        // Without a pause that a proxy would make to fill its buffer. A noisy machine takes a while.
        assert!(begun.elapsed() < Duration::from_secs(5), "{kind}");
    }
}

#[test]
fn a_backup_that_breaks_off_is_seen_behind_a_proxy() {
    let mut cluster = Cluster::start(1);
    for i in 0..30_u8 {
        cluster.put(1, &format!("key-{i}"), vec![i; 1_000_000]);
    }
    for kind in KINDS {
        let address = cluster.address(1);
        let Some(proxy) = start(kind, address, cluster.path(), false) else {
            continue;
        };
        let whole = http::request(proxy.address, "GET", "/-/snapshot", &[], b"");
        assert!(whole.expect("a whole backup").body.len() > 30_000_000);
        let mut half = Connection::open(proxy.address).expect("connect");
        let request = b"GET /-/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n";
        half.write(request).expect("send");
        let head = half.head().expect("the head of a backup");
        assert_eq!(head.status, 200, "{kind}: {head:?}");
        cluster.node(1).kill();
        let broken = half.body(&head);
        assert!(
            broken.is_err(),
            "{kind}: {:?}",
            broken.map(|body| body.len())
        );
        cluster.start_all();
    }
}
