//! Ports that other machines can reach: refused without TLS, and open with `--tls` or `--insecure`.

use crate::harness::{Cluster, PATIENCE, daemon, eventually, require, run_to_end};
use crate::ports::free_port;
use crate::process::Ended;
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tempfile::TempDir;

/// Both ports on all addresses of the machine.
const EVERYWHERE: [&str; 4] = ["--listen", "0.0.0.0", "--listen-peer", "0.0.0.0"];
const WARNING: &str = "is open beyond loopback without TLS";

/// Runs a start that has to be refused, with a client port and a peer URL on the loopback address unless given.
#[track_caller]
fn refused(directory: &Path, options: &[&str], variables: &[(&str, &str)]) -> String {
    let (port, peer_port) = (free_port().to_string(), free_port());
    let url = format!("http://127.0.0.1:{peer_port}");
    let mut command = daemon(directory);
    command.args(["--port", &port, "--data-dir", "data"]);
    if !options.contains(&"--peer-url") {
        command.args(["--peer-url", &url]);
    }
    let variables = variables.iter().copied();
    let ended: Ended = run_to_end(command.args(options).envs(variables));
    assert_eq!(ended.code, Some(2), "{options:?}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{options:?}: {ended:?}");
    ended.stderr
}

/// An address of this machine that is not a loopback address. Nothing is sent: the socket only finds a route.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn a_port_without_tls_beyond_loopback_is_refused_before_anything_is_made() {
    let all = EVERYWHERE.as_slice();
    for (options, clients, peers, stays) in [
        (&["--listen", "0.0.0.0"][..], true, false, "--listen 127"),
        (&["--listen", "::"], true, false, "--listen 127"),
        (&["--listen", "::ffff:0.0.0.0"], true, false, "--listen 127"),
        (
            &["--listen-peer", "0.0.0.0"],
            false,
            true,
            "--listen-peer 127",
        ),
        (&["--listen-peer", "::"], false, true, "--listen-peer 127"),
        (all, true, true, "--listen 127.0.0.1 --listen-peer 127"),
    ] {
        let directory = TempDir::new().expect("create a directory");
        let line = refused(directory.path(), options, &[]);
        assert_eq!(line.contains("client port at"), clients, "{line}");
        assert_eq!(line.contains("peer port at"), peers, "{line}");
        for way in ["--tls DIR", "raftkvd cert", "--insecure", stays] {
            assert!(line.contains(way), "{way}: {line}");
        }
        let left = fs::read_dir(directory.path()).expect("list the directory");
        assert_eq!(left.count(), 0, "{options:?}");
    }
}

#[test]
fn the_address_of_the_peer_url_counts() {
    let Some(address) = outer_address() else {
        eprintln!("not tried: this machine has the loopback address only");
        return;
    };
    let directory = TempDir::new().expect("create a directory");
    let (url, ip) = (format!("http://{address}:{}", free_port()), address);
    let line = refused(directory.path(), &["--peer-url", &url], &[]);
    for said in [
        format!("the client port at {ip}:"),
        format!("the peer port at {ip}:"),
    ] {
        assert!(line.contains(&said), "{line}");
    }
    // The other members could not reach a peer port on the loopback address.
    assert!(!line.contains("--listen"), "{line}");
    let local = ["--peer-url", &url, "--listen", "127.0.0.1"];
    let line = refused(directory.path(), &local, &[]);
    assert!(!line.contains("client port"), "{line}");
}

/// Every file and directory below this one, with its mode and its bytes.
fn content(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("list the directory") {
        let entry = entry.expect("list the directory");
        let mode = entry.metadata().expect("its mode").permissions().mode();
        let path = entry.path();
        let bytes = match path.is_dir() {
            true => {
                found.extend(content(&path));
                Vec::new()
            }
            false => fs::read(&path).expect("read the file"),
        };
        found.insert(path.display().to_string(), (mode, bytes));
    }
    found
}

#[test]
fn a_refused_start_leaves_a_data_directory_as_it_is() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    cluster.node(1).kill();
    let dir = cluster.nodes[&1].data_dir.clone();
    // A start that is not refused removes the permissions of other users.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("open the directory");
    let home = cluster.path().to_owned();
    let before = content(&home);
    let data_dir = dir.to_str().expect("UTF-8").to_owned();
    let port = free_port().to_string();
    let ended = run_to_end(
        daemon(&home)
            .args(["--data-dir", &data_dir, "--port", &port])
            .args(EVERYWHERE),
    );
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(content(&home) == before, "{ended:?}");
    cluster.start_all();
    cluster.assert_value(1, "foo", "bar");
}

/// The value of the metric.
#[track_caller]
fn insecure(cluster: &Cluster) -> String {
    let answer = cluster.send(1, "GET", "/-/metrics", &[], b"");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("raftkvd_insecure "));
    line.unwrap_or_else(|| panic!("no such metric: {text}"))
        .to_owned()
}

#[test]
fn insecure_opens_both_ports_with_a_warning_at_each_start_and_a_metric() {
    let mut cluster = Cluster::start_with(1, &[&EVERYWHERE[..], &["--insecure"]].concat());
    cluster.put(1, "foo", "bar");
    for start in 1..=3 {
        let log = cluster.nodes[&1].last_log();
        assert_eq!(log.matches(WARNING).count(), 2, "start {start}: {log}");
        for said in [
            "WARN the client port is open beyond loopback without TLS: everybody",
            "WARN the peer port is open beyond loopback without TLS: everybody",
        ] {
            assert!(log.contains(said), "start {start}: {log}");
        }
        assert_eq!(insecure(&cluster), "1");
        let node = cluster.node(1);
        node.kill();
        node.arguments.retain(|argument| argument != "--insecure");
        node.environment = vec![("RAFTKVD_INSECURE".to_owned(), "true".to_owned())];
        cluster.start_all();
    }
}

#[test]
fn one_port_that_is_open_has_one_warning() {
    let cluster = Cluster::start_with(1, &["--listen", "0.0.0.0", "--insecure"]);
    let log = cluster.nodes[&1].log_text();
    assert_eq!(log.matches(WARNING).count(), 1, "{log}");
    assert!(log.contains("the client port is open"), "{log}");
    assert_eq!(insecure(&cluster), "1");
}

#[test]
fn on_the_loopback_address_insecure_says_nothing() {
    for options in [&["--insecure"][..], &[], &["--listen", "127.0.0.2"]] {
        let mut cluster = Cluster::prepare(1, options);
        if options.contains(&"127.0.0.2") {
            cluster.node(1).address.set_ip([127, 0, 0, 2].into());
        }
        cluster.start_all();
        let log = cluster.nodes[&1].log_text();
        assert!(!log.contains("WARN"), "{options:?}: {log}");
        assert_eq!(insecure(&cluster), "0", "{options:?}");
    }
}

#[test]
fn the_variable_of_insecure_is_true_or_false() {
    let directory = TempDir::new().expect("create a directory");
    for (value, said) in [
        ("false", "--insecure"),
        ("", "--insecure"),
        ("maybe", "RAFTKVD_INSECURE \"maybe\": write true or false"),
    ] {
        let variables = [("RAFTKVD_INSECURE", value)];
        let line = refused(directory.path(), &EVERYWHERE, &variables);
        assert!(line.contains(said), "{value}: {line}");
    }
    let variables = [("RAFTKVD_LISTEN", "0.0.0.0")];
    let line = refused(directory.path(), &[], &variables);
    assert!(line.contains("RAFTKVD_LISTEN 127.0.0.1"), "{line}");
}

#[test]
fn with_tls_both_ports_are_open_without_a_warning() {
    let mut cluster = Cluster::prepare(1, &EVERYWHERE);
    let certs = cluster.path().join("certs");
    let (dir, url) = (certs.display().to_string(), cluster.nodes[&1].url());
    let made = run_to_end(daemon(cluster.path()).args(["cert", &dir, "--cluster", &url]));
    assert_eq!(made.code, Some(0), "{made:?}");
    cluster
        .node(1)
        .set_flag("--tls", &format!("{dir}/member-1"));
    cluster.node(1).start();
    eventually("the member listens", PATIENCE, || {
        let log = cluster.nodes[&1].log_text();
        require(log.contains("is listening: try curl"), || log)
    });
    let log = cluster.nodes[&1].log_text();
    assert!(!log.contains("WARN"), "{log}");
}
