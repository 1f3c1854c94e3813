//! SIGTERM and SIGINT: leadership goes to somebody else first, whoever waits gets an answer, and the process ends
//! with 0. And the lock that keeps a second process off a data directory.

use crate::harness::{
    Cluster, PATIENCE, SetOnDrop, daemon, eventually, leader_and_followers, refuses_connections,
    require,
};
use crate::http::Connection;
use crate::ports::free_port;
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// "Within 2 s" says the book; twice that on a noisy machine.
const STOP: Duration = Duration::from_secs(4);

/// Stops the leader of three while clients write through the others.
fn stop_the_leader(signal: Signal) {
    // A leader that nobody can do without is missed for as long as this.
    const ELECTION_TIMEOUT: Duration = Duration::from_secs(5);
    let flags = ["--election-timeout", "5s", "--request-timeout", "20s"];
    let mut cluster = Cluster::start_with(3, &flags);
    let (leader, followers) = leader_and_followers(&cluster);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let slowest = thread::scope(|scope| {
        let _ended = SetOnDrop(&stop);
        let writers: Vec<_> = (0..4)
            .map(|i| {
                let address = cluster.address(followers[i % 2]);
                let (stop, written) = (&stop, &written);
                scope.spawn(move || {
                    let mut connection = Connection::open(address).expect("connect");
                    let mut slowest = Duration::ZERO;
                    while !stop.load(SeqCst) {
                        let begin = Instant::now();
                        let response = connection
                            .send("PUT", &format!("/key-{i}"), &[], b"x")
                            .expect("a survivor answers");
                        assert_eq!(response.status, 204, "{response:?}");
                        slowest = slowest.max(begin.elapsed());
                        written.fetch_add(1, SeqCst);
                    }
                    slowest
                })
            })
            .collect();
        let more = |n: u64| {
            let target = written.load(SeqCst) + n;
            eventually("the writers get on", PATIENCE, || {
                assert!(!writers.iter().any(|w| w.is_finished()), "a writer failed");
                require(written.load(SeqCst) >= target, || format!("not {target}"))
            });
        };
        more(100);
        cluster.node(leader).signal(signal);
        let code = cluster.node(leader).exit_code(STOP);
        assert_eq!(
            code,
            Some(0),
            "it said:\n{}",
            cluster.nodes[&leader].last_log()
        );
        more(100);
        stop.store(true, SeqCst);
        writers
            .into_iter()
            .map(|w| w.join().expect("a writer"))
            .max()
            .expect("there are writers")
    });
    assert!(
        slowest < ELECTION_TIMEOUT,
        "a write took {slowest:?}: no handover"
    );
    // Survivors would also do without a handover, but then it would have led to its end.
    let said = cluster.nodes[&leader].last_log();
    assert!(
        said.contains("became follower, former_role: leader"),
        "it said:\n{said}"
    );
    // It comes back as a follower with everything.
    cluster.node(leader).start();
    cluster.node(leader).wait_ready();
    assert!(cluster.get(leader, "key-0").is_some());
}

#[test]
fn sigterm_hands_leadership_over() {
    stop_the_leader(Signal::TERM);
}

#[test]
fn sigint_hands_leadership_over() {
    stop_the_leader(Signal::INT);
}

#[test]
fn a_stopped_follower_and_a_stopped_single_node_exit_with_0() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.node(followers[0]).signal(Signal::TERM);
    assert_eq!(cluster.node(followers[0]).exit_code(STOP), Some(0));
    cluster.put(leader, "foo", "bar");
    cluster.node(followers[1]).signal(Signal::INT);
    assert_eq!(cluster.node(followers[1]).exit_code(STOP), Some(0));
    // The last one of three leads nobody any more; it stops all the same.
    cluster.node(leader).signal(Signal::TERM);
    assert_eq!(cluster.node(leader).exit_code(STOP), Some(0));
    cluster.start_all();
    cluster.assert_value(followers[0], "foo", "bar");
}

/// Sends the head of a PUT and waits until the server asks for the body: from then on the request is in flight.
fn begin_put(cluster: &Cluster, id: u64, key: &str, length: usize) -> Connection {
    let mut connection = Connection::open(cluster.address(id)).expect("connect");
    let head = format!(
        "PUT /{key} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.write(head.as_bytes()).expect("send the head");
    let response = connection.head().expect("100 Continue");
    assert_eq!(response.status, 100, "{response:?}");
    connection
}

/// Stops the leader of so many while it has a request in flight.
fn stop_with_a_request_in_flight(members: usize) {
    let mut cluster = Cluster::start(members);
    let leader = cluster.leader();
    let mut connection = begin_put(&cluster, leader, "in-flight", 5);
    cluster.node(leader).signal(Signal::TERM);
    connection.write(b"value").expect("send the body");
    let response = connection.response(false).expect("an answer");
    assert_eq!(cluster.node(leader).exit_code(STOP), Some(0));
    cluster.start_all();
    let found = cluster.get(leader, "in-flight");
    match response.status {
        204 => assert_eq!(found.as_deref(), Some(&b"value"[..])),
        503 => {
            assert_eq!(
                response.header("x-raftkvd-outcome"),
                Some("none"),
                "{response:?}"
            );
            assert_eq!(found, None, "it was answered 503");
        }
        _ => panic!("{response:?}"),
    }
}

#[test]
fn a_request_in_flight_is_answered_before_a_single_node_ends() {
    stop_with_a_request_in_flight(1);
}

#[test]
fn a_request_in_flight_is_answered_before_a_leader_ends() {
    stop_with_a_request_in_flight(3);
}

#[test]
fn a_request_that_is_never_finished_does_not_keep_the_process() {
    let mut cluster = Cluster::start(1);
    let _half_body = begin_put(&cluster, 1, "half", 5);
    let mut half_head = Connection::open(cluster.address(1)).expect("connect");
    half_head.write(b"PUT /half HT").expect("send half a head");
    let _idle = Connection::open(cluster.address(1)).expect("connect");
    cluster.node(1).signal(Signal::TERM);
    assert_eq!(cluster.node(1).exit_code(STOP), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut cluster = Cluster::start(1);
    // The first signal waits for this request.
    let _half_body = begin_put(&cluster, 1, "half", 5);
    let address = cluster.address(1);
    cluster.node(1).signal(Signal::TERM);
    eventually("it has heard the first signal", STOP, || {
        let log = cluster.nodes[&1].log_text().to_lowercase();
        let heard = refuses_connections(address) || log.contains("stop") || log.contains("sigterm");
        require(heard, || log)
    });
    let begin = Instant::now();
    // Another SIGTERM so soon would be the first one, sent twice.
    cluster.node(1).signal(Signal::INT);
    // Its exit code may be that of the signal: who asks twice does not want to wait for the outcome.
    cluster.node(1).exit_code(STOP);
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(1),
        "at once, but it took {took:?}"
    );
}

#[test]
fn a_second_process_on_the_same_data_directory_exits_3() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "foo", "bar");
    let data_dir = cluster.nodes[&1]
        .data_dir
        .to_str()
        .expect("UTF-8")
        .to_owned();
    let second = crate::harness::run_to_end(
        crate::harness::daemon(cluster.path())
            .args(["--id", "1", "--data-dir", &data_dir])
            .args(["--cluster", &format!("http://127.0.0.1:{}", free_port())])
            .args(["--port", &free_port().to_string()]),
    );
    assert_eq!(second.code, Some(3), "{second:?}");
    assert!(
        second.stderr.contains(&data_dir),
        "it names the directory: {second:?}"
    );
    cluster.node(1).assert_alive();
    cluster.assert_value(1, "foo", "bar");
    // Also after the first one's violent end: the lock dies with its process.
    cluster.node(1).kill();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.assert_value(1, "foo", "bar");
}

#[test]
fn twenty_short_runs_start_and_end_cleanly() {
    let mut cluster = Cluster::prepare(1, &[]);
    let node = cluster.node(1);
    let binary = node.binary.clone();
    for run in 0..20 {
        let mut command = Command::new("timeout");
        command
            .args(["--preserve-status", "0.3"])
            .arg(&binary)
            .args(&node.arguments);
        let ended = command.env_clear().output().expect("run timeout");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "run {run}: {said}");
        assert!(
            !said.contains("WARN") && !said.contains("ERROR"),
            "run {run}: {said}"
        );
    }
}

/// Whether the process catches this signal.
fn catches(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.map(|mask| u64::from_str_radix(mask.trim(), 16).expect("a mask"));
    mask.unwrap_or_default() & (1 << (signal.as_raw() - 1)) != 0
}

#[test]
fn a_signal_counts_from_the_first_moments_of_the_process() {
    let cluster = Cluster::prepare(1, &[]);
    let node = &cluster.nodes[&1];
    for signal in [Signal::HUP, Signal::TERM] {
        let mut command = daemon(cluster.path());
        let command = command.args(&node.arguments).stderr(Stdio::null());
        let mut child = command.spawn().expect("start the daemon");
        let pid = Pid::from_child(&child);
        // Signals that end the process are caught before SIGHUP is.
        eventually("the signals are caught", PATIENCE, || {
            require(catches(child.id(), Signal::HUP), || "not yet".into())
        });
        kill_process(pid, signal).expect("send the signal");
        if signal == Signal::HUP {
            kill_process(pid, Signal::TERM).expect("send the signal");
        }
        let status = child.wait().expect("wait");
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
    }
}
