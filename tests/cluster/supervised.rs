//! Under systemd, played by a socket of the test: ready, alive, stopping.

use crate::harness::{Cluster, PATIENCE};
use rustix::process::Signal;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Instant;

/// Reads datagrams until one has this line. Gives all their lines, also those of the last.
#[track_caller]
pub fn read_until(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let (mut lines, mut buffer) = (Vec::new(), [0; 4096]);
    let begin = Instant::now();
    while !lines.iter().any(|line| line == wanted) {
        assert!(begin.elapsed() < PATIENCE, "no {wanted} among {lines:?}");
        let length = socket.recv(&mut buffer);
        let length = length.unwrap_or_else(|error| panic!("no {wanted} after {lines:?}: {error}"));
        let text = std::str::from_utf8(&buffer[..length]).expect("UTF-8");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

#[track_caller]
fn assert_is_told(socket: &UnixDatagram, name: &str) {
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.node(1).environment = vec![
        ("NOTIFY_SOCKET".to_owned(), name.to_owned()),
        ("WATCHDOG_USEC".to_owned(), "500000".to_owned()),
    ];
    cluster.node(1).start();
    let before = read_until(socket, "READY=1");
    assert!(
        !before.iter().any(|line| line == "STOPPING=1"),
        "{before:?}"
    );
    // Behind the start, not before it: clients are served.
    let asked = cluster.send(1, "GET", "/-/live", &[], b"");
    assert_eq!(asked.status, 200);
    for _ in 0..3 {
        read_until(socket, "WATCHDOG=1");
    }
    cluster.node(1).signal(Signal::TERM);
    let last = read_until(socket, "STOPPING=1");
    assert!(!last.iter().any(|line| line == "READY=1"), "{last:?}");
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
}

#[test]
fn systemd_hears_of_ready_alive_and_stopping_by_a_socket_with_a_path() {
    let directory = tempfile::tempdir().expect("create a directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    assert_is_told(&socket, path.to_str().expect("UTF-8"));
}

#[test]
fn systemd_hears_of_ready_alive_and_stopping_by_an_abstract_socket() {
    let name = format!("raftkvd-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let socket = UnixDatagram::bind_addr(&address).expect("bind");
    assert_is_told(&socket, &format!("@{name}"));
}

#[test]
fn a_member_is_ready_for_systemd_while_it_waits_for_others() {
    let directory = tempfile::tempdir().expect("create a directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut cluster = Cluster::prepare(3, &[]);
    for id in [1, 2] {
        let name = path.to_str().expect("UTF-8").to_owned();
        cluster.node(id).environment = vec![("NOTIFY_SOCKET".to_owned(), name)];
        cluster.node(id).start();
        read_until(&socket, "READY=1");
        cluster.node(id).wait_closed("forming");
        let live = cluster.send(id, "GET", "/-/live", &[], b"");
        assert_eq!(live.status, 200);
        cluster.node(id).signal(Signal::TERM);
        read_until(&socket, "STOPPING=1");
        assert_eq!(cluster.node(id).exit_code(PATIENCE), Some(0));
    }
}

#[test]
fn a_socket_that_nobody_reads_keeps_no_member_from_its_work() {
    let mut cluster = Cluster::prepare(2, &[]);
    cluster.node(1).environment = vec![("NOTIFY_SOCKET".to_owned(), "/nonexistent".to_owned())];
    cluster.node(2).environment = vec![("NOTIFY_SOCKET".to_owned(), "nonsense".to_owned())];
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.assert_value(2, "foo", "bar");
    assert!(
        cluster.nodes[&1]
            .log_text()
            .contains("can't notify systemd")
    );
    assert!(cluster.nodes[&2].log_text().contains("NOTIFY_SOCKET"));
}
