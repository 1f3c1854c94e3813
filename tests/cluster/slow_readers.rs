//! Clients that read slowly, and clients that do not read: the first get the whole answer, and the others are cut.

use crate::harness::{Cluster, PATIENCE, PATIENT, eventually, require};
use crate::http;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType, connect, socket};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than a member waits for a client that reads nothing.
const LONG: Duration = Duration::from_secs(72);

/// A client with a small receive buffer that has sent this request.
fn request(address: SocketAddr, path: &str) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    // The kernel of a client tells of what was read in steps, which are as large as the buffer allows.
    set_socket_recv_buffer_size(&socket, 16 << 10).expect("a small buffer");
    connect(&socket, &address).expect("connect");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("a request");
    stream
}

/// Reads so many bytes a second for this time, and then the rest at once.
fn read_slowly(mut stream: TcpStream, rate: usize, time: Duration) -> io::Result<Vec<u8>> {
    let (begun, mut read) = (Instant::now(), Vec::new());
    let mut piece = vec![0; rate / 10];
    while begun.elapsed() < time {
        stream.read_exact(&mut piece)?;
        read.extend_from_slice(&piece);
        let due = Duration::from_secs_f64(read.len() as f64 / rate as f64);
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    stream.read_to_end(&mut read)?;
    Ok(read)
}

#[track_caller]
fn assert_whole(answer: io::Result<Vec<u8>>, what: &str) {
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{what}");
    let whole = match what.contains("backup") {
        true => answer.ends_with(b"\r\n0\r\n\r\n"),
        false => answer.trim_ascii_end().ends_with(b"}"),
    };
    assert!(whole, "{what}: {} bytes", answer.len());
}

#[test]
fn slow_readers_get_the_whole_answer_and_those_that_do_not_read_are_cut() {
    let flags = [&PATIENT[..], &["--max-value-bytes", "8M"]].concat();
    let cluster = Cluster::start_with(3, &flags);
    for key in 0..3 {
        // Some are longer than all buffers together.
        cluster.put(1, &format!("key-{key}"), vec![b'x'; 8 << 20]);
    }
    let ask = |id, path| request(cluster.address(id), path);
    // This one lies in the kernels as soon as it is asked for. The member has no part in sending it then.
    cluster.put(1, "short", vec![b'x'; 150_000]);
    let short = request(cluster.address(1), "/key/short");
    let list = "/-/kv?values=true";
    let slow = [
        ("a backup at 50 kB/s", ask(1, "/-/snapshot"), 50_000),
        ("a backup at 5 kB/s", ask(2, "/-/snapshot"), 5_000),
        ("a list at 50 kB/s", ask(1, list), 50_000),
        ("a list at 5 kB/s", ask(2, list), 5_000),
        ("a pair at 2 kB/s", short, 2_000),
    ];
    let mut stopped = [ask(3, "/-/snapshot"), ask(3, list)];
    thread::scope(|scope| {
        let slow = slow.map(|(what, stream, rate)| {
            (what, scope.spawn(move || read_slowly(stream, rate, LONG)))
        });
        thread::sleep(LONG);
        for stream in &mut stopped {
            let mut answer = Vec::new();
            let cut = stream.read_to_end(&mut answer);
            assert!(cut.is_err() || answer.len() < 4 << 20, "{}", answer.len());
        }
        eventually("the turn is free again", 3 * PATIENCE, || {
            let next = http::request(cluster.address(3), "GET", "/-/snapshot", &[], b"");
            let next = next.map_err(|error| error.to_string())?;
            require(next.status == 200, || next.text())
        });
        for (what, thread) in slow {
            assert_whole(thread.join().expect("no panic"), what);
        }
    });
}
