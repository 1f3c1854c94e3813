//! A signal ends a backup: no file is left, and one line says so.

use crate::harness::{PATIENCE, daemon, eventually, require};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use tempfile::TempDir;

/// The start of an answer. The member then sends nothing more.
const START: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Disposition: attachment; filename=\"raftkvd-1-2.snap\"\r\n\
    Content-Length: 1000\r\n\r\n";

#[test]
fn a_backup_that_a_signal_ends_leaves_no_file_and_says_so() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (ended, until_ended) = channel::<()>();
        let member = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(START).expect("it is read");
            until_ended.recv().expect_err("the test drops its end");
        });
        let directory = TempDir::new().expect("a directory");
        let mut command = daemon(directory.path());
        command.args(["backup", &url]).stderr(Stdio::piped());
        let child = command.spawn().expect("start it");
        let names = || {
            let files = fs::read_dir(directory.path()).expect("list");
            let files = files.map(|file| file.expect("list").file_name());
            files.map(|name| name.to_string_lossy().into_owned())
        };
        eventually("the backup has a file", PATIENCE, || {
            let names: Vec<_> = names().collect();
            let is_part = |name: &String| name.ends_with(".part");
            require(names.iter().any(is_part), || format!("{names:?}"))
        });
        kill_process(Pid::from_child(&child), signal).expect("signal it");
        let output = child.wait_with_output().expect("it ends");
        drop(ended);
        member.join().expect("the member ends");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            format!(
                "raftkvd: no backup: {name} has ended the command, and its incomplete file is removed; start it again\n"
            )
        );
        assert_eq!(names().count(), 0, "{name}");
    }
}
