//! Flags, environment, exit codes: what the daemon says before it serves.

use crate::harness::{Cluster, Node, daemon, refuses_connections, run_to_end};
use crate::ports::{free_port, is_free};
use crate::skipped::skipped;
use std::net::{Ipv4Addr, SocketAddr};
use tempfile::TempDir;

/// A file that is there.
const A_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// Every option of the daemon, with its environment variable.
const OPTIONS: [(&str, &str); 17] = [
    ("--id", "RAFTKVD_ID"),
    ("--cluster", "RAFTKVD_CLUSTER"),
    ("--port", "RAFTKVD_PORT"),
    ("--join", "RAFTKVD_JOIN"),
    ("--listen", "RAFTKVD_LISTEN"),
    ("--listen-peer", "RAFTKVD_LISTEN_PEER"),
    ("--tls", "RAFTKVD_TLS"),
    ("--insecure", "RAFTKVD_INSECURE"),
    ("--data-dir", "RAFTKVD_DATA_DIR"),
    ("--snapshot-bytes", "RAFTKVD_SNAPSHOT_BYTES"),
    ("--max-value-bytes", "RAFTKVD_MAX_VALUE_BYTES"),
    ("--max-key-bytes", "RAFTKVD_MAX_KEY_BYTES"),
    ("--request-timeout", "RAFTKVD_REQUEST_TIMEOUT"),
    ("--heartbeat", "RAFTKVD_HEARTBEAT"),
    ("--election-timeout", "RAFTKVD_ELECTION_TIMEOUT"),
    ("--log-format", "RAFTKVD_LOG_FORMAT"),
    ("--log-level", "RAFTKVD_LOG_LEVEL"),
];

#[test]
fn version_and_help_exit_with_0() {
    let directory = TempDir::new().expect("create a directory");
    let version = run_to_end(daemon(directory.path()).arg("--version"));
    assert_eq!(version.code, Some(0), "{version:?}");
    assert!(
        version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{version:?}"
    );
    let help = run_to_end(daemon(directory.path()).arg("--help"));
    assert_eq!(help.code, Some(0), "{help:?}");
    for (flag, variable) in OPTIONS {
        assert!(help.stdout.contains(flag), "no {flag} in {}", help.stdout);
        assert!(
            help.stdout.contains(variable),
            "no {variable} in {}",
            help.stdout
        );
    }
    let left = std::fs::read_dir(directory.path()).expect("list").count();
    assert_eq!(left, 0, "neither makes a data directory");
}

#[test]
fn help_groups_its_options_and_gives_examples() {
    let directory = TempDir::new().expect("create a directory");
    let help = |flag: &str| {
        let help = run_to_end(daemon(directory.path()).arg(flag));
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
        help.stdout
    };
    let (short, long) = (help("-h"), help("--help"));
    for text in [&short, &long] {
        let place = |heading: &str| {
            let line = format!("\n{heading}:\n");
            text.find(&line)
                .unwrap_or_else(|| panic!("no {heading} in {text}"))
        };
        let headings = [
            "Cluster",
            "Addresses",
            "Security",
            "Data",
            "Limits",
            "Timing",
            "Logs",
            "Examples",
        ];
        assert!(headings.map(place).is_sorted(), "{text}");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(80), "{widest:?} columns: {text}");
    }
    assert!(
        short.lines().count() <= 80 && short.contains("--help"),
        "{short}"
    );
    assert!(long.lines().count() > short.lines().count() && long.contains("Exit codes:"));
    let examples = long.lines().filter(|line| line.starts_with("    raftkvd"));
    assert!((4..=7).contains(&examples.count()), "{long}");
}

/// Asserts a usage error: exit 2 and one line that names what is wrong.
#[track_caller]
fn assert_usage_error(arguments: &[&str], names: &str) {
    let directory = TempDir::new().expect("create a directory");
    let ended = run_to_end(daemon(directory.path()).args(arguments));
    assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
    let lines = ended.stderr.trim_end().lines().count();
    assert_eq!(lines, 1, "{arguments:?}: one line says why: {ended:?}");
    assert!(
        ended.stderr.contains(names),
        "{arguments:?}: no {names:?} in {ended:?}"
    );
}

/// Arguments of a usage error, and what its line names.
type BadArguments = (&'static [&'static str], &'static str);

const THREE: &str = "http://127.0.0.1:9021,http://127.0.0.1:9022,http://127.0.0.1:9023";

/// Ids that are none, or not of the list.
const BAD_IDS: [BadArguments; 5] = [
    (&["--id", "0", "--cluster", THREE, "--port", "9121"], "0"),
    (&["--id", "4", "--cluster", THREE, "--port", "9121"], "4"),
    (&["--id", "-1", "--cluster", THREE], "-1"),
    (&["--id", "one", "--cluster", THREE], "one"),
    (
        &["--id", "18446744073709551616", "--cluster", THREE],
        "18446744073709551616",
    ),
];

/// Lists that hold what is no URL of a peer, or a peer twice.
const BAD_CLUSTERS: [BadArguments; 10] = [
    (
        &["--cluster", "http://127.0.0.1:9021/raft"],
        "http://127.0.0.1:9021/raft",
    ),
    (&["--cluster", "http://127.0.0.1"], "http://127.0.0.1"),
    (&["--cluster", "http://127.0.0.1:0"], "http://127.0.0.1:0"),
    (&["--cluster", "http://127.0.0.1:99999"], "99999"),
    (&["--cluster", "127.0.0.1"], "127.0.0.1"),
    (
        &["--cluster", "ftp://127.0.0.1:9021"],
        "ftp://127.0.0.1:9021",
    ),
    (
        &["--cluster", "http://127.0.0.1:9021,,http://127.0.0.1:9022"],
        "",
    ),
    (
        &["--cluster", "http://127.0.0.1:9021,http://127.0.0.1:9021"],
        "http://127.0.0.1:9021",
    ),
    (
        &["--cluster", "http://127.0.0.1:9021,http://127.0.0.1:9021/"],
        "http://127.0.0.1:9021",
    ),
    (
        &[
            "--cluster",
            "http://[::1]:9021,http://[0:0:0:0:0:0:0:1]:9021",
        ],
        "http://[::1]:9021",
    ),
];

/// Addresses that nobody can dial: they are only to listen on.
const LISTENING_URLS: [BadArguments; 5] = [
    (&["--peer-url", "http://0.0.0.0:9021"], "--listen-peer"),
    (
        &["--peer-url", "http://[::ffff:0.0.0.0]:9021"],
        "--listen-peer",
    ),
    (
        &["--cluster", "http://127.0.0.1:9021,http://[::]:9022"],
        "--listen-peer",
    ),
    (
        &[
            "--id",
            "2",
            "--peer-url",
            "http://127.0.0.1:9021",
            "--join",
            "http://0.0.0.0:9121",
        ],
        "only to listen on",
    ),
    (
        &["restore", A_FILE, "--peer-url", "http://0.0.0.0:9021"],
        "--listen-peer",
    ),
];

/// Other values that are none, and words that are not known.
const BAD_VALUES: [BadArguments; 14] = [
    (&["--heartbeat", "1s", "--election-timeout", "1s"], "1s"),
    (&["--heartbeat", "2s"], "2s"),
    (&["--heartbeat", "soon"], "soon"),
    (&["--request-timeout", "5 parsecs"], "parsecs"),
    (&["--port", "65536"], "65536"),
    (&["--port", "x"], "x"),
    (&["--listen", "nowhere"], "nowhere"),
    (&["--listen-peer", "1.2.3"], "1.2.3"),
    (&["--snapshot-bytes", "-5"], "-5"),
    (&["--max-value-bytes", "many"], "many"),
    (&["--log-format", "xml"], "xml"),
    (&["--log-level", "loud"], "loud"),
    (&["--no-such-flag"], "--no-such-flag"),
    (&["stray"], "stray"),
];

#[test]
fn bad_arguments_exit_2_with_one_line_that_names_the_value() {
    for group in [&BAD_IDS[..], &BAD_CLUSTERS, &LISTENING_URLS, &BAD_VALUES] {
        for (arguments, names) in group {
            assert_usage_error(arguments, names);
        }
    }
}

#[test]
fn one_port_for_clients_and_peers_exits_2_and_names_it() {
    let free = free_port().to_string();
    let url = format!("http://127.0.0.1:{free}");
    assert_usage_error(&["--cluster", &url, "--port", &free], &free);
}

#[test]
fn options_come_from_the_environment_and_the_flag_wins() {
    let mut cluster = Cluster::prepare(0, &[]);
    let (port, peer_port, wrong) = (free_port(), free_port(), free_port());
    let data_dir = cluster.path().join("from-the-environment");
    let mut node = Node::with_arguments(
        1,
        port,
        peer_port,
        cluster.path(),
        data_dir.clone(),
        vec!["--port".to_owned(), port.to_string()],
    );
    node.environment = [
        ("RAFTKVD_ID", "1".to_owned()),
        ("RAFTKVD_CLUSTER", node.url()),
        ("RAFTKVD_PORT", wrong.to_string()),
        ("RAFTKVD_DATA_DIR", data_dir.display().to_string()),
        ("RAFTKVD_MAX_VALUE_BYTES", "10".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    cluster.nodes.insert(1, node);
    cluster.start_all();
    assert!(data_dir.is_dir());
    assert!(is_free(wrong), "the flag wins");
    cluster.put(1, "foo", "0123456789");
    let too_large = cluster.send(1, "PUT", "/foo", &[], b"0123456789a");
    assert_eq!(too_large.status, 413, "{too_large:?}");
}

#[test]
fn a_bad_value_in_the_environment_exits_2() {
    let directory = TempDir::new().expect("create a directory");
    let ended = run_to_end(daemon(directory.path()).env("RAFTKVD_PORT", "seventy"));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.contains("seventy"), "{ended:?}");
}

#[test]
fn the_defaults_start_a_single_member_and_say_what_to_curl() {
    // The default ports are fixed: somebody else's daemon on them is no reason to fail.
    if !is_free(9_021) || !is_free(9_121) {
        skipped("the ports 9021 and 9121, one of which is in use");
        return;
    }
    let mut cluster = Cluster::prepare(0, &[]);
    let data_dir = cluster.path().join("raftkvd-1");
    let node = Node::with_arguments(1, 9_121, 9_021, cluster.path(), data_dir, Vec::new());
    cluster.nodes.insert(1, node);
    cluster.start_all();
    cluster.put(1, "hello", "world");
    cluster.assert_value(1, "hello", "world");
    assert!(cluster.nodes[&1].data_dir.is_dir());
    let said = cluster.nodes[&1].log_text();
    assert!(
        said.lines()
            .any(|line| line.contains("127.0.0.1:9121") && line.contains("curl")),
        "one line says where it listens and what to curl:\n{said}"
    );
}

#[test]
fn the_client_port_is_on_the_host_of_its_own_url_unless_told_otherwise() {
    let mut cluster = Cluster::start(1);
    let port = cluster.address(1).port();
    let elsewhere = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
    assert!(refuses_connections(elsewhere), "127.0.0.1 only by default");
    cluster.node(1).kill();
    cluster.node(1).set_flag("--listen", "127.0.0.2");
    cluster.node(1).address = elsewhere;
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.put(1, "foo", "bar");
    assert!(refuses_connections(SocketAddr::from((
        Ipv4Addr::LOCALHOST,
        port
    ))));
}

#[test]
fn a_member_behind_another_address_is_told_where_to_listen() {
    // The others know it by 127.0.0.1, where nobody listens but on another address of this host.
    let mut cluster = Cluster::prepare(1, &["--listen-peer", "127.0.0.2"]);
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    let peer = cluster.nodes[&1].peer_address;
    assert!(refuses_connections(peer));
    let elsewhere = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), peer.port()));
    assert!(!refuses_connections(elsewhere));
}

#[test]
fn logs_are_json_on_demand() {
    let mut cluster = Cluster::start_with(1, &["--log-format", "json"]);
    cluster.put(1, "foo", "a secret value");
    cluster.node(1).signal(rustix::process::Signal::TERM);
    assert_eq!(cluster.node(1).exit_code(crate::harness::PATIENCE), Some(0));
    let said = cluster.nodes[&1].log_text();
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!lines.is_empty(), "{said}");
    for line in lines {
        let parsed = serde_json::from_str::<serde_json::Value>(line);
        assert!(parsed.is_ok_and(|value| value.is_object()), "{line}");
    }
    assert!(!said.contains("a secret value"), "values are never logged");
}
