//! What passes by itself is waited for: a port, an address, a name that is not there yet, SIGHUP, a signal sent twice. And
//! what the environment of a pod holds.

use crate::harness::{Cluster, Node, PATIENCE, daemon, eventually, require, run_to_end};
use crate::http;
use crate::ports::free_port;
use rustix::process::Signal;
use std::net::{Ipv4Addr, TcpListener};
use tempfile::TempDir;

/// Starts a member with these options and without waiting for it.
fn launch(cluster: &mut Cluster, port: u16, peer_port: u16, extra: &[&str]) {
    let data_dir = cluster.path().join("raftkvd-1");
    let mut arguments = vec!["--port".to_owned(), port.to_string()];
    arguments.extend(extra.iter().map(|word| (*word).to_owned()));
    let home = cluster.path().to_owned();
    let node = Node::with_arguments(1, port, peer_port, &home, data_dir, arguments);
    cluster.nodes.insert(1, node);
    cluster.node(1).start();
}

fn wait_for_line(cluster: &Cluster, line: &str) {
    eventually("a line of the log", PATIENCE, || {
        let log = cluster.nodes[&1].log_text();
        require(log.contains(line), || log)
    });
}

#[test]
fn a_port_that_is_still_taken_is_waited_for() {
    let mut cluster = Cluster::prepare(0, &[]);
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).expect("take a port");
    let (port, peer_port) = (held.local_addr().expect("its address").port(), free_port());
    let url = format!("http://127.0.0.1:{peer_port}");
    launch(&mut cluster, port, peer_port, &["--peer-url", &url]);
    wait_for_line(&cluster, &format!("waiting for 127.0.0.1:{port}"));
    drop(held);
    cluster.node(1).wait_ready();
    let log = cluster.nodes[&1].log_text();
    assert_eq!(log.matches("waiting for").count(), 1, "said once: {log}");
}

#[test]
fn what_does_not_come_up_ends_in_a_code_that_systemd_restarts() {
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).expect("take a port");
    let taken = held.local_addr().expect("its address").port();
    let free = free_port();
    let of = |host: &str| format!("http://{host}:{free}");
    let taken = taken.to_string();
    let port = free_port().to_string();
    for (url, port, said) in [
        (
            of("127.0.0.1"),
            &taken,
            "choose another port with --port or --listen",
        ),
        (
            of("192.0.2.7"),
            &port,
            "this machine has no address 192.0.2.7; use --listen",
        ),
        (
            of("not-yet.invalid"),
            &port,
            &format!("the host of peer URL http://not-yet.invalid:{free} does not resolve"),
        ),
    ] {
        let directory = TempDir::new().expect("create a directory");
        let ended = run_to_end(daemon(directory.path()).args(["--peer-url", &url, "--port", port]));
        assert_eq!(ended.code, Some(1), "{url}: {ended:?}");
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(
            lines.len(),
            2,
            "one to say that it waits, one that it ends: {ended:?}"
        );
        assert!(lines[0].contains("waiting for"), "{ended:?}");
        assert!(lines[1].contains(said), "{ended:?}");
    }
}

#[test]
fn a_signal_ends_a_start_that_waits() {
    let mut cluster = Cluster::prepare(0, &[]);
    let (port, peer_port) = (free_port(), free_port());
    let url = format!("http://not-yet.invalid:{peer_port}");
    launch(&mut cluster, port, peer_port, &["--peer-url", &url]);
    wait_for_line(&cluster, "waiting for not-yet.invalid");
    cluster.node(1).signal(Signal::HUP);
    wait_for_line(&cluster, "SIGHUP is ignored");
    cluster.node(1).signal(Signal::TERM);
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
}

#[test]
fn sighup_is_a_line_in_the_log() {
    let mut cluster = Cluster::start(1);
    cluster.node(1).signal(Signal::HUP);
    wait_for_line(&cluster, "SIGHUP is ignored");
    cluster.put(1, "foo", "bar");
}

#[test]
fn sigterm_to_the_child_and_to_its_group_is_one() {
    for _ in 0..5 {
        let mut cluster = Cluster::start(1);
        let mut half = http::Connection::open(cluster.address(1)).expect("connect");
        let head = "PUT /half HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        half.write(head.as_bytes()).expect("send the head");
        assert_eq!(half.head().expect("100 Continue").status, 100);
        cluster.node(1).signal(Signal::TERM);
        wait_for_line(&cluster, "stopping");
        cluster.node(1).signal(Signal::TERM);
        let code = cluster.node(1).exit_code(PATIENCE);
        assert_eq!(code, Some(0), "{}", cluster.nodes[&1].log_text());
    }
}

#[test]
fn a_service_link_of_kubernetes_is_no_port() {
    let mut cluster = Cluster::start(1);
    cluster.node(1).kill();
    let port = cluster.address(1).port().to_string();
    cluster
        .node(1)
        .replace_in_arguments("--port", "--max-key-bytes");
    cluster.node(1).replace_in_arguments(&port, "4096");
    // Where 9121 is free, whatever else runs on this machine.
    let address = std::net::SocketAddr::from((Ipv4Addr::new(127, 0, 77, 7), 9121));
    cluster.node(1).address = address;
    let variables = [
        ("RAFTKVD_LISTEN", "127.0.77.7"),
        ("RAFTKVD_PORT", "tcp://10.43.0.9:9121"),
        ("RAFTKVD_SERVICE_HOST", "10.43.0.9"),
        ("RAFTKVD_SERVICE_PORT", "9121"),
        ("RAFTKVD_PORT_9121_TCP", "tcp://10.43.0.9:9121"),
        ("RAFTKVD_PORT_9121_TCP_PROTO", "tcp"),
        ("RAFTKVD_PORT_9121_TCP_ADDR", "10.43.0.9"),
        ("RAFTKVD_LOG_LEVEL", "INFO"),
        ("RAFTKVD_HEARTBEAT", ""),
        ("RAFTKVD_PROT", "9"),
    ];
    cluster.node(1).environment = variables.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    let log = cluster.nodes[&1].last_log();
    assert!(
        log.contains("RAFTKVD_PORT=tcp://10.43.0.9:9121 is the service link"),
        "{log}"
    );
    assert!(
        log.contains("no option has the variable RAFTKVD_PROT:"),
        "{log}"
    );
}

#[test]
fn an_error_names_the_variable_and_subcommands_need_none() {
    let directory = TempDir::new().expect("create a directory");
    for (variable, value) in [
        ("RAFTKVD_ID", "x"),
        ("RAFTKVD_MAX_VALUE_BYTES", "0"),
        ("RAFTKVD_CLUSTER", "127.0.0.1"),
        ("RAFTKVD_JOIN", "true"),
    ] {
        let ended = run_to_end(daemon(directory.path()).env(variable, value));
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(variable), "{ended:?}");
        for subcommand in [&["man"][..], &["completions", "bash"]] {
            let ended = run_to_end(
                daemon(directory.path())
                    .env(variable, value)
                    .args(subcommand),
            );
            assert_eq!(ended.code, Some(0), "{subcommand:?}: {ended:?}");
        }
        let inspect = ["inspect", "nothing-here"];
        let ended = run_to_end(daemon(directory.path()).env(variable, value).args(inspect));
        assert!(!ended.stderr.contains(variable), "{ended:?}");
    }
}

#[test]
fn an_option_wins_over_the_variable_of_its_counterpart() {
    let mut cluster = Cluster::prepare(0, &[]);
    let (port, peer_port) = (free_port(), free_port());
    let url = format!("http://127.0.0.1:{peer_port}");
    let data_dir = cluster.path().join("raftkvd-1");
    let arguments = ["--port", &port.to_string(), "--peer-url", &url].map(str::to_owned);
    let home = cluster.path().to_owned();
    let mut node = Node::with_arguments(1, port, peer_port, &home, data_dir, arguments.into());
    let list = "http://192.0.2.1:1,http://192.0.2.2:1".to_owned();
    node.environment = vec![("RAFTKVD_CLUSTER".to_owned(), list)];
    cluster.nodes.insert(1, node);
    cluster.start_all();
    cluster.put(1, "foo", "bar");
}
