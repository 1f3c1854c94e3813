//! What one client may take from the others: connections, watches, processor time.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{self, Connection};
use crate::shortages::limited;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One member with 32 slots for clients.
fn small(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepare(1, flags);
    cluster.node(1).wrapper = limited("-n", 128);
    cluster.start_all();
    cluster
}

/// Connections on which a write waits for its body.
fn hold(cluster: &Cluster, count: usize) -> Vec<Connection> {
    let begin = |_| {
        let mut client = Connection::open(cluster.address(1)).expect("connect");
        client
            .write(
                b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
            )
            .expect("a head");
        assert_eq!(client.head().expect("a go-ahead").status, 100);
        client
    };
    (0..count).map(begin).collect()
}

/// The status of a GET from this address of the loopback network.
fn get_from(from: Ipv4Addr, to: SocketAddr, path: &str) -> String {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is not IPv4")
    };
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &SocketAddrV4::new(from, 0)).expect("bind");
    connect(&socket, &to).expect("connect");
    let mut stream = TcpStream::from(socket);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn probes_are_answered_at_once_while_all_connections_are_taken() {
    let flags = ["--max-per-address", "1000", "--request-timeout", "60s"];
    let cluster = small(&flags);
    let address = cluster.address(1);
    let held = hold(&cluster, 32);
    // Those that send nothing take no place from the probes.
    let _silent: Vec<_> = (0..50).map(|_| Connection::open(address)).collect();
    let mut longest = Duration::ZERO;
    for path in ["/-/live", "/-/ready"].repeat(20) {
        let begun = Instant::now();
        let answer = http::request(address, "GET", path, &[], b"").expect("an answer");
        longest = longest.max(begun.elapsed());
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    // The page promises 100 ms; the machine of the tests is busy.
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    let refused = http::request(address, "GET", "/a", &[], b"").expect("an answer");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("connection"), Some("close"));
    let log = cluster.nodes[&1].log_text();
    assert_eq!(
        log.matches("too many connections of clients").count(),
        1,
        "{log}"
    );
    drop(held);
    let text = eventually("there is room again", PATIENCE, || {
        let shown = http::request(address, "GET", "/-/metrics", &[], b"");
        let shown = shown.map_err(|error| error.to_string())?;
        require(shown.status == 200, || format!("{shown:?}"))?;
        Ok(shown.text())
    });
    let refused = text.lines().find_map(|line| {
        line.strip_prefix("raftkvd_connections_beyond_limit_total{result=\"refused\"} ")
    });
    assert!(refused.is_some_and(|count| count != "0"), "{text}");
}

#[test]
fn one_address_takes_a_quarter_of_the_connections_and_the_others_are_served() {
    let cluster = small(&["--request-timeout", "60s"]);
    let address = cluster.address(1);
    let held = hold(&cluster, 8);
    let other = Ipv4Addr::new(127, 0, 0, 2);
    assert_eq!(get_from(Ipv4Addr::LOCALHOST, address, "/a"), "503");
    assert_eq!(get_from(Ipv4Addr::LOCALHOST, address, "/-/ready"), "200");
    assert_eq!(get_from(other, address, "/a"), "404");
    drop(held);
    eventually("the address is served again", PATIENCE, || {
        let status = get_from(Ipv4Addr::LOCALHOST, address, "/a");
        require(status == "404", || status)
    });
}

#[test]
fn idle_connections_give_way_to_new_ones_of_their_address() {
    let cluster = small(&[]);
    let mut idle: Vec<Connection> = (0..20)
        .map(|_| Connection::open(cluster.address(1)).expect("connect"))
        .collect();
    // The last ones are served, and the first ones were closed.
    let last = idle.last_mut().expect("a connection");
    let answer = last.send("GET", "/a", &[], b"").expect("an answer");
    assert_eq!(answer.status, 404);
    assert!(idle[0].send("GET", "/a", &[], b"").is_err());
}

#[test]
fn one_address_gets_so_many_watches_as_the_option_says() {
    let cluster = Cluster::start_with(1, &["--max-per-address", "3"]);
    let watch = || watch(cluster.address(1));
    let watchers = [watch(), watch(), watch()];
    assert_eq!(watchers.each_ref().map(|(_, status)| *status), [200; 3]);
    assert_eq!(watch().1, 503);
    assert_eq!(
        get_from(Ipv4Addr::new(127, 0, 0, 2), cluster.address(1), "/a"),
        "404"
    );
}

/// Starts to watch, and reads the head of the answer.
fn watch(address: SocketAddr) -> (Connection, u16) {
    let mut client = Connection::open(address).expect("connect");
    client
        .write(b"GET /-/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("a request");
    let status = client.head().expect("a head").status;
    (client, status)
}

/// A new watch and a read are served long before the member writes the next id to its watchers.
fn assert_served_at_once(cluster: &Cluster) {
    let address = cluster.address(1);
    let within = Duration::from_secs(3);
    eventually("a watch is served", within, || {
        let (_client, status) = watch(address);
        require(status == 200, || status.to_string())
    });
    eventually("a read is served", within, || {
        let status = get_from(Ipv4Addr::LOCALHOST, address, "/a");
        require(status == "404", || status)
    });
}

#[test]
fn closed_watches_free_their_places_at_once() {
    let cluster = Cluster::start(1);
    let address = cluster.address(1);
    // One address may have 256 watches.
    for round in 0..4 {
        let watches: Vec<_> = (0..250)
            .map(|_| {
                let mut client = Connection::open(address).expect("connect");
                client
                    .write(b"GET /-/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    .expect("a request");
                client
            })
            .collect();
        if round % 2 == 0 {
            for mut client in watches {
                client.head().expect("a head");
            }
        }
    }
    assert_served_at_once(&cluster);
}

#[test]
fn closed_watches_free_their_connections_at_once() {
    let cluster = small(&[]);
    for _ in 0..10 {
        // One address may have 8 connections.
        let watches: Vec<_> = (0..8).map(|_| watch(cluster.address(1))).collect();
        drop(watches);
        assert_served_at_once(&cluster);
    }
}

#[test]
fn a_watcher_that_closes_its_sending_side_is_gone_and_other_clients_get_their_answer() {
    let cluster = Cluster::start(1);
    cluster.put(1, "a", "value");
    for path in ["/a", "/-/kv?values=true", "/-/snapshot"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut stream = TcpStream::connect(cluster.address(1)).expect("connect");
        stream.write_all(request.as_bytes()).expect("a request");
        stream.shutdown(Shutdown::Write).expect("shut down");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let ends = match path {
            "/-/snapshot" => answer.ends_with("\r\n0\r\n\r\n"),
            _ => answer.contains("value"),
        };
        assert!(ends, "{path}: {answer}");
    }
    let mut stream = TcpStream::connect(cluster.address(1)).expect("connect");
    stream
        .write_all(b"GET /-/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("a request");
    let mut start = [0; 12];
    stream.read_exact(&mut start).expect("a head");
    assert_eq!(&start, b"HTTP/1.1 200");
    let begun = Instant::now();
    stream.shutdown(Shutdown::Write).expect("shut down");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn the_connection_that_has_been_idle_longest_gives_way() {
    let cluster = small(&[]);
    let open = |_| Connection::open(cluster.address(1)).expect("connect");
    let mut clients: Vec<Connection> = (0..8).map(open).collect();
    for client in clients.iter_mut().rev() {
        let answer = client.send("GET", "/a", &[], b"").expect("an answer");
        assert_eq!(answer.status, 404);
    }
    // Now the last one has been idle for longest.
    let mut newer: Vec<Connection> = (0..4).map(open).collect();
    let last = newer.last_mut().expect("a connection");
    assert_eq!(
        last.send("GET", "/a", &[], b"").expect("an answer").status,
        404
    );
    for (position, client) in clients.iter_mut().enumerate() {
        let served = client.send("GET", "/a", &[], b"").is_ok();
        assert_eq!(served, position < 4, "{position}");
    }
}

/// The processor time of the member.
fn processor_seconds(cluster: &Cluster) -> f64 {
    let shown = http::request(cluster.address(1), "GET", "/-/metrics", &[], b"");
    let text = shown.expect("metrics").text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
    line.and_then(|line| line.parse().ok()).expect("a number")
}

#[test]
fn lists_and_hashes_in_a_loop_take_half_of_a_processor() {
    const KEYS: usize = 100_000;
    let cluster = Cluster::start_with(1, &["--request-timeout", "60s"]);
    for page in 0..KEYS / 1_000 {
        let pairs = (0..1_000).map(|key| format!("\"key-{page}-{key}\":\"value\""));
        let body = format!("{{{}}}", pairs.collect::<Vec<_>>().join(","));
        let answer = cluster.send(1, "POST", "/key", &[], body.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let (address, stop) = (cluster.address(1), AtomicBool::new(false));
    let (spent, took) = std::thread::scope(|scope| {
        let _stop = crate::harness::SetOnDrop(&stop);
        for path in ["/-/kv?limit=10&consistency=stale", "/-/hash"].repeat(2) {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = http::request(address, "GET", path, &[], b"");
                    assert_eq!(answer.expect("an answer").status, 200);
                }
            });
        }
        // What they had not used is used up.
        std::thread::sleep(Duration::from_secs(1));
        let (before, begun) = (processor_seconds(&cluster), Instant::now());
        std::thread::sleep(Duration::from_secs(3));
        (processor_seconds(&cluster) - before, begun.elapsed())
    });
    let share = spent / took.as_secs_f64();
    // The rest of the member takes some, too.
    assert!(share < 0.75, "{share}");
    assert!(share > 0.1, "{share}");
}

/// Slow readers of one text: the answer to this path, which is far larger than what sockets hold.
fn slow_readers(cluster: &Cluster, path: &str, count: usize) -> Vec<Connection> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let readers = (0..count).map(|_| {
        let mut reader = Connection::open(cluster.address(1)).expect("connect");
        reader.write(request.as_bytes()).expect("send");
        let head = reader.head().expect("a head");
        assert_eq!(head.status, 200, "{head:?}");
        reader
    });
    readers.collect()
}

#[test]
fn slow_readers_of_one_text_leave_room_for_others() {
    let cluster = Cluster::start(1);
    // Each byte takes six bytes as an escape, so 43 texts would be more than the budget of 256 MiB.
    cluster.put(1, "a", vec![1; 1_000_000]);
    cluster.put(1, "b", "small");
    let _pairs = slow_readers(&cluster, "/key/a", 100);
    let _lists = slow_readers(&cluster, "/-/kv?values=true&limit=1", 100);
    for path in [
        "/key/b",
        "/-/kv?values=true&after=a",
        "/-/kv?values=true&limit=1&after=",
    ] {
        let response = cluster.send(1, "GET", path, &[], b"");
        assert_eq!(response.status, 200, "{path}: {response:?}");
    }
}
