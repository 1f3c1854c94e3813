//! stderr that is closed, broken, full, or a pipe that nobody reads: it changes no exit code, and keeps nobody waiting.
//! And what is written there: whole lines, each by one write, which nobody else can forge.

use crate::disk_faults::call_with;
use crate::harness::{Cluster, Node, PATIENCE, daemon, eventually, require, run_to_end};
use crate::supervised::read_until;
use raftkvd::limits::{LOG_END_TIMEOUT, LOG_PANIC_TIMEOUT};
use raftkvd::logging::{Format, Log, LogOptions};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A stderr that takes nothing, or no more. The pipe that nobody reads is held as long as it has to block.
struct Broken {
    name: &'static str,
    stderr: OwnedFd,
    _unread: Option<PipeReader>,
}

/// A pipe with no room for another byte.
fn blocked() -> Broken {
    let (reader, writer) = io::pipe().expect("a pipe");
    let flags = fcntl_getfl(&writer).expect("its flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("make it non-blocking");
    while (&writer).write(&[b'x'; 4096]).is_ok() {}
    while (&writer).write(b"x").is_ok() {}
    fcntl_setfl(&writer, flags).expect("make it blocking");
    Broken {
        name: "a pipe that nobody reads",
        stderr: writer.into(),
        _unread: Some(reader),
    }
}

/// A pipe whose reader is gone.
fn broken() -> Broken {
    let (_, writer) = io::pipe().expect("a pipe");
    Broken {
        name: "a broken pipe",
        stderr: writer.into(),
        _unread: None,
    }
}

fn full() -> Broken {
    let full = OpenOptions::new().write(true).open("/dev/full");
    Broken {
        name: "a full disk",
        stderr: full.expect("open /dev/full").into(),
        _unread: None,
    }
}

fn all() -> [Broken; 3] {
    [blocked(), broken(), full()]
}

/// Starts the program without a stderr.
fn without_stderr() -> Vec<String> {
    ["/bin/sh", "-c", "exec \"$@\" 2>&-", "sh"]
        .map(str::to_owned)
        .into()
}

/// How long the end may take beside what it takes with a stderr that works: twice of what is promised.
const LATE_MAX: Duration = LOG_END_TIMEOUT.saturating_mul(2);

/// It starts, serves, tells systemd that it is ready, and ends when it is asked to.
#[track_caller]
fn assert_lives(name: &str, prepare: impl FnOnce(&mut Node)) {
    let mut cluster = Cluster::prepare(1, &["--log-level", "trace"]);
    let path = cluster.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let variable = path.to_str().expect("UTF-8").to_owned();
    cluster.node(1).environment = vec![("NOTIFY_SOCKET".to_owned(), variable)];
    prepare(cluster.node(1));
    cluster.start_all();
    read_until(&socket, "READY=1");
    // More lines than may wait.
    for number in 0..100 {
        cluster.put(1, &format!("key-{number}"), "value");
    }
    let begun = Instant::now();
    cluster.node(1).signal(Signal::TERM);
    let code = cluster.node(1).exit_code(PATIENCE);
    assert_eq!(code, Some(0), "{name}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2) + LATE_MAX, "{name}: {took:?}");
}

#[test]
fn a_stderr_that_takes_nothing_stops_no_start_and_no_end() {
    for broken in all() {
        assert_lives(broken.name, |node| {
            node.stderr = Some(broken.stderr.try_clone().expect("clone it"));
        });
    }
    assert_lives("closed", |node| node.wrapper = without_stderr());
}

#[test]
fn a_stderr_that_takes_nothing_changes_no_exit_code() {
    let directory = tempfile::tempdir().expect("create a directory");
    let used = directory.path().join("used");
    std::fs::create_dir(&used).expect("create a directory");
    std::fs::write(used.join("photo.jpg"), "x").expect("write a file");
    for (arguments, code) in [
        (&["--id", "0"][..], 2),
        (&["--id", "9"], 2),
        (&["--log-format", "json", "--id", "0"], 2),
        (&["inspect", "/nowhere"], 2),
        (&["backup", "http://127.0.0.1:1"], 1),
        (&["--data-dir", "used"], 2),
    ] {
        let run = |name: &str, command: &mut Command| {
            let begun = Instant::now();
            let mut child = command.stdout(Stdio::null()).spawn().expect("start it");
            let status = eventually("it ends", PATIENCE, || {
                let ended = child.try_wait().expect("wait for it");
                ended.ok_or_else(|| format!("{name}: {arguments:?}"))
            });
            assert_eq!(status.code(), Some(code), "{name}: {arguments:?}");
            begun.elapsed()
        };
        let usual = run(
            "null",
            daemon(directory.path())
                .args(arguments)
                .stderr(Stdio::null()),
        );
        for broken in all() {
            let mut command = daemon(directory.path());
            let took = run(broken.name, command.args(arguments).stderr(broken.stderr));
            assert!(
                took < usual + LATE_MAX,
                "{}: {arguments:?}: {took:?}",
                broken.name
            );
        }
    }
}

#[test]
fn a_member_whose_disk_fails_ends_and_lets_go_of_its_directory_though_nobody_reads_its_stderr() {
    let Some(wrapper) = call_with("fdatasync", "error=EIO:when=40+") else {
        return;
    };
    for broken in all() {
        let mut cluster = Cluster::prepare(1, &[]);
        cluster.node(1).wrapper = wrapper.clone();
        cluster.node(1).stderr = Some(broken.stderr);
        cluster.start_all();
        let failed = (0..1_000).find(|number| {
            let path = format!("/key-{number}");
            let sent = crate::http::request(cluster.address(1), "PUT", &path, &[], b"x");
            !sent.is_ok_and(|response| response.status == 204)
        });
        assert!(failed.is_some(), "{}", broken.name);
        let node = cluster.node(1);
        assert_eq!(node.exit_code(PATIENCE), Some(6), "{}", broken.name);
        (node.wrapper, node.stderr) = (Vec::new(), None);
        cluster.start_all();
    }
}

#[test]
fn the_log_goes_on_when_somebody_reads_again_and_tells_what_it_has_dropped() {
    let mut cluster = Cluster::prepare(1, &["--log-level", "trace"]);
    let mut pipe = blocked();
    cluster.node(1).stderr = Some(pipe.stderr.try_clone().expect("clone it"));
    cluster.start_all();
    for number in 0..1_500 {
        cluster.put(1, &format!("key-{number}"), "value");
    }
    drop(pipe.stderr);
    cluster.node(1).stderr = None;
    let mut reader = pipe._unread.take().expect("it was not read");
    let reading = thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).expect("read the log");
        all
    });
    cluster.node(1).signal(Signal::TERM);
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
    let log = reading.join().expect("the reader ends");
    let log = log.trim_start_matches('x');
    assert!(log.contains("lines of this log were dropped"), "{log}");
    for line in log.lines() {
        assert!(is_text(line), "torn: {line:?}");
    }
    // Lines tell when they were made, not when they were written.
    let starting = log.lines().next().expect("a line");
    assert!(starting.contains(" INFO starting, "), "{starting}");
}

/// Year to millisecond, Z, a level, and something.
fn is_text(line: &str) -> bool {
    let form = "0000-00-00T00:00:00.000Z ";
    let fits = |(c, form): (char, char)| match form {
        '0' => c.is_ascii_digit(),
        form => c == form,
    };
    let mut words = line.split(' ').skip(1);
    let level = words.next().unwrap_or_default();
    line.len() > form.len()
        && line.chars().zip(form.chars()).all(fits)
        && ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level)
        && words.next().is_some()
        && !line.contains(|c: char| c.is_control())
}

#[track_caller]
fn assert_json(line: &str) -> Value {
    let value: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let levels = ["error", "warn", "info", "debug", "trace"];
    let level = value["level"].as_str().unwrap_or_default();
    assert!(
        levels.contains(&level) && value["msg"].is_string(),
        "{line}"
    );
    let ts = value["ts"].as_str().unwrap_or_default();
    assert!(is_text(&format!("{ts} INFO -")), "{line}");
    value
}

/// Each write to a socket of datagrams is one of them.
#[test]
fn each_line_is_one_write_also_while_all_threads_log_and_the_process_ends() {
    for format in ["text", "json"] {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair of sockets");
        let mut cluster = Cluster::prepare(1, &["--log-level", "trace", "--log-format", format]);
        cluster.node(1).stderr = Some(theirs.into());
        let reading = thread::spawn(move || {
            ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let (mut writes, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
            while let Ok(length @ 1..) = ours.recv(&mut buffer) {
                writes.push(String::from_utf8(buffer[..length].to_vec()).expect("UTF-8"));
                if writes.iter().any(|write| write.contains("can't listen on")) {
                    break;
                }
            }
            writes
        });
        cluster.start_all();
        let address = cluster.address(1);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _ = crate::http::request(address, "PUT", "/foo", &[], b"bar");
                    }
                });
            }
        });
        // Another one on the same socket, whose port is taken: the reason is the last line.
        let mut arguments = cluster.node(1).arguments.clone();
        let data = arguments.iter().position(|word| word == "--data-dir");
        arguments[data.expect("it has one") + 1] = "elsewhere".to_owned();
        cluster.node(1).signal(Signal::TERM);
        assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
        let _held = TcpListener::bind(address).expect("take its port");
        let stderr = cluster.node(1).stderr.take().expect("it has one");
        let ended = daemon(cluster.path())
            .args(&arguments)
            .stdout(Stdio::null())
            .stderr(stderr)
            .status();
        assert_eq!(ended.expect("run it").code(), Some(1));
        let writes = reading.join().expect("the reader ends");
        assert!(writes.len() > 100, "{writes:?}");
        for write in &writes {
            let line = write.strip_suffix('\n').unwrap_or_default();
            assert!(!line.contains('\n'), "{write:?}");
            match format {
                "json" => drop(assert_json(line)),
                _ => assert!(is_text(line), "{write:?}"),
            }
        }
        let listening = writes
            .iter()
            .filter(|write| write.contains("raftkvd 1 is listening"));
        assert_eq!(listening.count(), 1);
    }
}

#[test]
fn with_json_what_must_be_said_is_json_at_every_level_and_whatever_is_wrong() {
    let mut cluster = Cluster::prepare(1, &["--log-format", "json", "--log-level", "error"]);
    cluster.start_all();
    let log = eventually("it says where it listens", PATIENCE, || {
        let log = cluster.nodes[&1].log_text();
        require(log.ends_with('\n'), || log.clone())?;
        Ok(log)
    });
    assert_eq!(log.lines().count(), 1, "{log}");
    let listening = assert_json(log.trim_end());
    let text = listening["msg"].as_str().expect("a text");
    assert!(
        text.starts_with("raftkvd 1 is listening: try curl -X PUT"),
        "{text}"
    );
    assert_eq!(listening["level"], "info");

    let directory = tempfile::tempdir().expect("create a directory");
    let port = cluster.address(1).port().to_string();
    for (arguments, says, code) in [
        (&["--port", "0"][..], "--port", 2),
        (&["--id", "9"], "--id 9", 2),
        (&["--port", &port], "can't listen on", 1),
    ] {
        let mut command = daemon(directory.path());
        let command = command.args(arguments).args(["--log-format", "json"]);
        let ended = run_to_end(command);
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let lines: Vec<_> = ended.stderr.lines().map(assert_json).collect();
        let last = lines.last().expect("a line");
        assert!(last["msg"].to_string().contains(says), "{last}");
        assert_eq!(
            (&last["level"], &last["exit_code"]),
            (&"error".into(), &code.into())
        );
    }
    let by_variable = run_to_end(
        daemon(directory.path())
            .env("RAFTKVD_LOG_FORMAT", "json")
            .args(["--port", "0"]),
    );
    assert_json(by_variable.stderr.trim_end());
    // Nobody reads what a subcommand says by a program.
    let inspected = run_to_end(daemon(directory.path()).args(["inspect", "a\nb\u{1b}"]));
    let start = "raftkvd: can't read a\\nb\\u{1b}: ";
    assert!(inspected.stderr.starts_with(start), "{inspected:?}");
    assert_eq!(inspected.stderr.lines().count(), 1);
}

/// Answers each request with this.
fn serve_hostile(detail: &'static str, code: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept");
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let (status, body) = match request[..length].starts_with(b"GET /-/status") {
                true => (
                    "200 OK",
                    "{\"members\":[{\"id\":1,\"url\":\"http://a:1\"}]}".to_owned(),
                ),
                false => (
                    "409 Conflict",
                    serde_json::json!({"detail": detail, "code": code}).to_string(),
                ),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    url
}

#[test]
fn a_hostile_server_that_is_asked_to_let_a_member_join_can_not_forge_a_line() {
    const DETAIL: &str =
        "no\n2026-01-01T00:00:00.000Z INFO forged\r\u{1b}[2Jforged\u{9b}31m\u{2028}forged\u{202e}";
    for format in ["text", "json"] {
        for (code, exit) in [("change-under-way", None), ("id-taken", Some(2))] {
            let url = serve_hostile(DETAIL, code);
            let mut cluster = Cluster::prepare(0, &["--log-format", format]);
            cluster.lay_out_alone(2, &[]);
            let node = cluster.node(2);
            node.set_flag("--join", &url);
            node.start();
            if let Some(exit) = exit {
                assert_eq!(node.exit_code(PATIENCE), Some(exit));
            }
            let log = eventually("it says what it was answered", PATIENCE, || {
                let log = node.log_text();
                require(log.contains("forged"), || log.clone())?;
                Ok(log)
            });
            let forged: Vec<_> = log.lines().filter(|line| line.contains("forged")).collect();
            assert_eq!(forged.len(), 1, "{log}");
            assert!(
                forged[0].contains("POST /join") || forged[0].contains(&url),
                "{log}"
            );
            for line in log.lines() {
                let strange = |c: char| c.is_control() || "\u{2028}\u{202e}".contains(c);
                assert!(!line.contains(strange), "{line:?}");
                match format {
                    "json" => drop(assert_json(line)),
                    _ => assert!(is_text(line), "{line:?}"),
                }
            }
        }
    }
}

/// What [`a_panic_ends_the_process_in_time_and_says_where`] starts. Alone it does nothing.
#[test]
fn panicking_process() {
    let Ok(format) = std::env::var("RAFTKVD_TEST_PANIC") else {
        return;
    };
    let log = Log::start(LogOptions {
        format: match &*format {
            "json" => Format::Json,
            _ => Format::Text,
        },
        level: slog::Level::Info,
    });
    log.expect("start the log").end_on_panic();
    let thread = thread::Builder::new().name("victim".to_owned());
    let panicking = thread.spawn(|| panic!("on\npurpose"));
    drop(panicking.expect("start a thread").join());
    unreachable!("the process has ended");
}

#[test]
fn a_panic_ends_the_process_in_time_and_says_where() {
    const ABORTED: i32 = 6;
    let run = |format: &str, stderr: Stdio| {
        let begun = Instant::now();
        let child = Command::new(std::env::current_exe().expect("the test's own program"))
            .args(["--exact", "stderr::panicking_process", "--nocapture"])
            .env("RAFTKVD_TEST_PANIC", format)
            .env("RUST_BACKTRACE", "1")
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn();
        let output = child.expect("start it").wait_with_output();
        let output = output.expect("wait for it");
        assert_eq!(output.status.signal(), Some(ABORTED), "{output:?}");
        let took = begun.elapsed();
        assert!(took < 2 * LOG_PANIC_TIMEOUT, "{took:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let says = "thread victim panicked at tests/cluster/stderr.rs:";
    let text = run("text", Stdio::piped());
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].contains(says) && lines[0].ends_with(": on\\npurpose"),
        "{text}"
    );
    assert!(
        lines.len() <= 2 && lines.iter().all(|line| is_text(line)),
        "{text}"
    );
    let json = run("json", Stdio::piped());
    let lines: Vec<_> = json.lines().map(assert_json).collect();
    assert!(lines[0]["msg"].to_string().contains(says), "{json}");
    // Resolving its symbols may take too long on a busy machine.
    if let Some(last) = lines.get(1) {
        assert!(
            last["backtrace"].to_string().contains("panicking_process"),
            "{json}"
        );
    }
    for broken in all() {
        run("text", broken.stderr.into());
    }
}
