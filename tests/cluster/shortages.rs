//! Too few file descriptors, threads or addresses of memory: a member goes on, or says at its start what to raise.

use crate::harness::{Cluster, PATIENCE, eventually, leader_and_followers, require};
use crate::http::{self, Connection};
use crate::process::{self, BINARY, Ended, daemon};
use crate::skipped::skipped;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A wrapper that sets a limit and becomes the daemon.
pub fn limited(option: &str, limit: u64) -> Vec<String> {
    let script = format!("ulimit {option} {limit} && exec \"$0\" \"$@\"");
    ["/bin/bash", "-c", &script].map(str::to_owned).to_vec()
}

#[test]
fn too_low_a_limit_of_open_files_refuses_the_start_with_what_to_raise() {
    let directory = TempDir::new().expect("a directory");
    // With 6, the process can't even catch signals.
    for limit in [100, 6] {
        let Ended { code, stderr, .. } = start_limited(&directory, "-n", limit);
        assert_eq!(code, Some(2), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let says = format!("limit of open files is {limit}");
        for words in [&*says, "LimitNOFILE", "ulimit -Hn"] {
            assert!(stderr.contains(words), "{stderr}");
        }
        assert!(!directory.path().join("raftkvd-1").exists());
    }
}

/// Starts a member with a limit that ends the start.
fn start_limited(directory: &TempDir, option: &str, limit: u64) -> Ended {
    let wrapper = limited(option, limit);
    let mut command = Command::new(&wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(daemon(directory.path()).get_program());
    command.current_dir(directory.path()).env_clear();
    process::run_to_end(&mut command)
}

/// The needs of a process before it starts its threads depend on the build and the machine.
#[test]
fn too_low_a_limit_of_address_space_refuses_the_start_with_what_to_raise() {
    let directory = TempDir::new().expect("a directory");
    let mut refused = 0;
    for kib in (16_000..=40_000).step_by(500) {
        let Ended { code, stderr, .. } = start_limited(&directory, "-v", kib);
        // With less, the loader of the system can't load the program.
        if !stderr.contains("can't start a thread") {
            // Or the standard library panics before the program begins.
            let is_early = stderr.contains("failed to allocate an alternative stack");
            assert!(is_early || !stderr.contains("panicked"), "{kib}: {stderr}");
            continue;
        }
        refused += 1;
        assert_ne!(code, Some(0), "{kib}: {stderr}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(last.contains("(ulimit -v)"), "{kib}: {stderr}");
    }
    assert!(refused > 0);
}

/// Opens connections until it is told to stop, and holds up to 300.
fn flood(address: std::net::SocketAddr, stop: &AtomicBool) {
    let mut held = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match Connection::impatient(address, Duration::from_secs(1)) {
            Ok(mut connection) => {
                let _ = connection.write(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n");
                held.push(connection);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
        if held.len() > 300 {
            held.remove(0);
        }
    }
}

#[test]
fn clients_leave_descriptors_for_the_log_snapshots_and_peers() {
    let mut cluster = Cluster::prepare(3, &["--snapshot-bytes", "65536"]);
    for id in 1..=3 {
        cluster.node(id).wrapper = limited("-n", 256);
    }
    cluster.start_all();
    let (leader, followers) = leader_and_followers(&cluster);
    let log = cluster.nodes[&leader].log_text();
    let line = "divided the limit of open files, files_max: 256, client_connections_max: 128, \
                peer_connections_max: 64, own_files_max: 64";
    assert!(log.contains(line), "{log}");
    let (address, stop) = (cluster.address(leader), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _stop = crate::harness::SetOnDrop(&stop);
        scope.spawn(|| flood(address, &stop));
        std::thread::sleep(Duration::from_secs(1));
        cluster.node(followers[0]).kill();
        cluster.node(followers[0]).start();
        cluster.node(followers[0]).wait_ready();
        for number in 0..40 {
            let value = vec![number; 100_000];
            cluster.put(followers[1], &format!("key-{}", number % 10), value);
        }
        cluster.node(leader).assert_alive();
        assert!(
            cluster
                .nodes
                .values()
                .all(|node| { !node.log_text().contains("can't accept") })
        );
    });
    cluster.assert_hashes_agree(&[1, 2, 3]);
}

#[test]
fn announced_bodies_take_no_memory_before_they_arrive() {
    let mut cluster =
        Cluster::prepare(1, &["--max-value-bytes", "64M", "--request-timeout", "30s"]);
    cluster.node(1).wrapper = limited("-v", 4 << 20);
    cluster.start_all();
    let announce = |_| {
        let mut client = Connection::open(cluster.address(1)).expect("connect");
        let head = b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 67108864\r\n\r\n";
        client.write(head).expect("a head");
        client.write(&[7; 10_000]).expect("the start of a body");
        client
    };
    let mut clients: Vec<Connection> = (0..150).map(announce).collect();
    for client in &mut clients {
        client.write(&[7; 10_000]).expect("more of a body");
    }
    cluster.put(1, "b", "other clients are served");
    cluster.node(1).assert_alive();
    drop(clients);
    cluster.put(1, "large", vec![7; 64 << 20]);
}

/// A start with this many threads for its user.
fn start_with_threads(directory: &Path, threads: u64) -> Option<(Option<i32>, String)> {
    let user = 61_100 + threads;
    let script = format!(
        "ulimit -u {threads}; exec setpriv --reuid {user} --regid {user} --clear-groups ./raftkvd \"$@\""
    );
    let (peer, port) = (crate::ports::free_port(), crate::ports::free_port());
    let log = directory.join(format!("log-{threads}"));
    let mut child = Command::new("bash")
        .args([
            "-c",
            &script,
            "bash",
            "--data-dir",
            &format!("data-{threads}"),
        ])
        .args(["--peer-url", &format!("http://127.0.0.1:{peer}")])
        .args(["--port", &port.to_string()])
        .current_dir(directory)
        .stderr(fs::File::create(&log).expect("a log"))
        .spawn()
        .ok()?;
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let ended = eventually("it runs or ends", PATIENCE, || {
        match child.try_wait().expect("its state") {
            Some(status) => Ok(Some(status)),
            None => require(read().contains(" started, "), read).map(|()| None),
        }
    });
    let status = ended.unwrap_or_else(|| {
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        child.wait().expect("its end")
    });
    Some((status.code(), read()))
}

#[test]
fn with_too_few_threads_a_start_says_so_and_with_enough_it_works() {
    let directory = TempDir::new().expect("a directory");
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory.path(), open).expect("open the directory");
    fs::copy(BINARY, directory.path().join("raftkvd")).expect("a copy of the daemon");
    let allowed = Command::new("setpriv")
        .args(["--reuid", "61100", "--regid", "61100", "--clear-groups"])
        .args(["sh", "-c", &format!("cd {}", directory.path().display())])
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        skipped("setpriv that may run a process of another user in a temporary directory");
        return;
    }
    let mut codes = Vec::new();
    for threads in (1..=12).chain([64]) {
        let (code, log) = start_with_threads(directory.path(), threads).expect("bash");
        assert!(!log.contains("panicked"), "{threads}: {log}");
        match code {
            Some(0) => {}
            Some(1) => {
                let last = log.lines().last().unwrap_or_default();
                assert!(last.contains("can't start a thread"), "{threads}: {log}");
            }
            _ => panic!("{threads} threads: {code:?}, {log}"),
        }
        codes.push(code);
    }
    assert_eq!(codes.first(), Some(&Some(1)));
    assert_eq!(codes.last(), Some(&Some(0)));
}

/// The limit counts the threads of a user, and does not hold for root. So this member runs as a user of its own.
#[test]
fn a_member_without_a_thread_for_a_lookup_goes_on() {
    let directory = TempDir::new().expect("a directory");
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory.path(), open).expect("open the directory");
    fs::copy(BINARY, directory.path().join("raftkvd")).expect("a copy of the daemon");
    let (peer, port) = (crate::ports::free_port(), crate::ports::free_port());
    let log = directory.path().join("log");
    let mut child = Command::new("setpriv")
        .args(["--reuid", "61090", "--regid", "61090", "--clear-groups"])
        .args([
            "./raftkvd",
            "--data-dir",
            "data",
            "--port",
            &port.to_string(),
        ])
        .args(["--peer-url", &format!("http://127.0.0.1:{peer}")])
        .current_dir(directory.path())
        .stderr(fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("setpriv");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let started = eventually("it runs or ends", PATIENCE, || {
        match child.try_wait().expect("its state") {
            Some(_) => Ok(false),
            None => require(read().contains(" started, "), read).map(|()| true),
        }
    });
    let process = child.id().to_string();
    let limit = ["--nproc=1:1", "--pid", process.as_str()];
    let limited = started
        && Command::new("prlimit")
            .args(limit)
            .status()
            .is_ok_and(|s| s.success());
    if !limited {
        let _ = child.kill();
        let _ = child.wait();
        skipped("prlimit, and setpriv that may run a process of another user");
        return;
    }
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let send = |method, path: &str, body: &[u8]| {
        http::request(address, method, path, &[], body).map(|answer| answer.status)
    };
    let added = send("POST", "/-/members/2", b"http://nobody.invalid:1").expect("an answer");
    // The member dials the new one now, and tries again.
    std::thread::sleep(Duration::from_secs(2));
    let written = send("PUT", "/a", b"1").ok();
    let state = child.try_wait().expect("its state");
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!((added, written), (204, Some(204)), "{state:?}: {}", read());
    assert!(!read().contains("panicked"), "{}", read());
}

#[test]
fn shortages_are_counted() {
    let cluster = Cluster::start(1);
    let shown = http::request(cluster.address(1), "GET", "/-/metrics", &[], b"");
    let text = shown.expect("metrics").text();
    for series in [
        "raftkvd_accepts_failed_total{port=\"client\"} 0",
        "raftkvd_accepts_failed_total{port=\"peer\"} 0",
        "raftkvd_connections_beyond_limit_total{result=\"admitted\"} 0",
        "raftkvd_connections_beyond_limit_total{result=\"refused\"} 0",
        "raftkvd_file_work_failed_total{work=\"delete\"} 0",
        "raftkvd_file_work_failed_total{work=\"load\"} 0",
        "raftkvd_file_work_failed_total{work=\"read\"} 0",
        "raftkvd_threads_refused_total 0",
    ] {
        assert!(text.lines().any(|line| line == series), "{series}: {text}");
    }
}

/// Sets the limit of open files of a running process. A process keeps what it has open.
fn set_descriptors(pid: u32, soft: &str) -> bool {
    let set = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
        .status();
    set.is_ok_and(|status| status.success())
}

#[test]
fn without_descriptors_the_log_goes_on_and_what_it_needs_later_is_tried_again() {
    const VALUE_BYTES: usize = 1 << 20;
    let mut cluster = Cluster::prepare(1, &["--snapshot-bytes", "8M"]);
    cluster.node(1).wrapper = limited("-n", 1_000);
    cluster.start_all();
    eventually("the next segment is made", PATIENCE, || {
        let spare = cluster.nodes[&1].data_dir.join("wal/spare.wal.tmp");
        let reserved = spare.metadata().map_or(0, |file| file.len());
        require(reserved >= 64 << 20, || format!("{reserved}"))
    });
    let mut client = Connection::open(cluster.address(1)).expect("connect");
    let mut put = |number: usize| {
        let path = format!("/key-{}", number % 20);
        let body = vec![number as u8; VALUE_BYTES];
        let answer = client.send("PUT", &path, &[], &body).expect("an answer");
        assert_eq!(answer.status, 204, "{answer:?}");
    };
    put(0);
    let pid = cluster.node(1).pid();
    if !set_descriptors(pid, "3") {
        skipped("prlimit");
        return;
    }
    // The log continues in the segment that was made before.
    (1..90).for_each(&mut put);
    let log = || cluster.nodes[&1].log_text();
    let delayed = "can't make the next segment of the log yet";
    eventually("the shortage is logged", PATIENCE, || {
        let log = log();
        let is_told = log.contains(delayed) && log.contains("can't write a snapshot");
        require(is_told, || log)
    });
    let full = "the disk of this member is full";
    assert!(!log().contains(full), "{}", log());
    assert!(set_descriptors(pid, "1000"));
    eventually("the work is done", 2 * PATIENCE, || {
        let log = log();
        let is_done = log.contains("the log has its next segment again");
        require(is_done && log.contains("wrote a snapshot"), || log)
    });
    (90..200).for_each(&mut put);
    drop(client);
    assert_eq!(log().matches(delayed).count(), 1, "{}", log());
    cluster.node(1).assert_alive();
    cluster.kill_all();
    cluster.start_all();
    for number in 180..200 {
        let value = cluster.get(1, &format!("key-{}", number % 20));
        assert!(value == Some(vec![number as u8; VALUE_BYTES]), "{number}");
    }
}
