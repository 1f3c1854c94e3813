//! Connections: limits, clients that misbehave, and stopping.

use super::*;

fn impatient() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(300),
        ..limits()
    }
}

#[test]
fn too_large_a_body_is_refused_before_it_is_read() {
    let cluster = Cluster::start();
    for (header, body) in [
        ("Content-Length: 100001", &b""[..]),
        ("Content-Length: 99999999999999", b"abc"),
        ("Content-Length: 100001\r\nExpect: 100-continue", b""),
    ] {
        let mut client = cluster.connect();
        client.write(format!("PUT /a HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n").as_bytes());
        client.write(body);
        let refused = client.receive("PUT");
        assert_eq!(refused.status, 413, "{header}");
        assert!(refused.text().contains("at most 100000 bytes"));
        assert_eq!(refused.header("connection"), Some("close"));
        client
            .reader
            .get_mut()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        assert_eq!(client.rest(), b"");
    }
    assert_eq!(cluster.put("/a", &[b'x'; 100_000]).status, 204);
}

#[test]
fn a_chunked_body_is_cut_off_at_the_limit() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..11 {
        client.write(b"2710\r\n");
        client.write(&[b'x'; 10_000]);
        client.write(b"\r\n");
    }
    assert_eq!(client.receive("PUT").status, 413);
    assert_eq!(cluster.get("/a").status, 404);
}

#[test]
fn a_client_that_goes_on_sending_still_gets_its_refusal() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n");
    // This is far more than the socket buffers hold. Without lingering, the write would fail and the response would be
    // lost.
    for _ in 0..1_000 {
        client.write(&[b'x'; 10_000]);
    }
    assert_eq!(client.receive("PUT").status, 413);
}

#[test]
fn expect_continue_is_answered_when_the_body_is_wanted() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client.write(
        b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.receive("PUT").status, 100);
    client.write(b"abc");
    assert_eq!(client.receive("PUT").status, 204);
}

#[test]
fn a_body_that_does_not_come_is_503() {
    let cluster = Cluster::with(Limits {
        request_timeout: Duration::from_millis(300),
        ..limits()
    });
    let mut client = cluster.connect();
    client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nab");
    let slow = client.receive("PUT");
    assert_eq!(slow.status, 503);
    assert_eq!(slow.header("x-raftkvd-outcome"), Some("none"));
    assert_eq!(slow.header("connection"), Some("close"));
    assert!(slow.text().contains("safe to send it again"));
    assert_eq!(cluster.get("/a").status, 404);
}

#[test]
fn a_body_that_breaks_off_writes_nothing() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nab");
    client
        .reader
        .get_mut()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    client.rest();
    let mut client = cluster.connect();
    client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert_eq!(client.receive("PUT").status, 400);
    assert_eq!(cluster.get("/a").status, 404);
    assert!(
        cluster.deadlines.lock().unwrap().len() <= 2,
        "only the reads came to the node"
    );
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let cluster = Cluster::with(impatient());
    for start in ["", "GET /a HT", "GET /a HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut client = cluster.connect();
        client.write(start.as_bytes());
        assert_eq!(client.rest(), b"", "{start:?}");
    }
    // An idle connection that was used before is closed too.
    let mut client = cluster.connect();
    assert_eq!(client.send("GET", "/a", &[], b"").status, 404);
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_thousand_half_open_connections_do_not_stop_a_request() {
    let cluster = Cluster::start();
    let half_open: Vec<Client> = (0..1_000)
        .map(|i| {
            let mut client = cluster.connect();
            if i % 2 == 0 {
                client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Le");
            }
            client
        })
        .collect();
    assert_eq!(cluster.put("/a", b"1").status, 204);
    assert_eq!(cluster.get("/a").body, b"1");
    drop(half_open);
}

#[test]
fn an_idle_connection_gives_way_to_one_beyond_the_limit() {
    let cluster = Cluster::with(Limits {
        connections_max: 2,
        ..limits()
    });
    let mut first = cluster.connect();
    let mut second = cluster.connect();
    assert_eq!(first.send("GET", "/a", &[], b"").status, 404);
    second.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n1");
    let mut third = cluster.connect();
    assert_eq!(third.send("GET", "/a", &[], b"").status, 404);
    assert_eq!(first.rest(), b"");
    second.write(b"2");
    assert_eq!(second.receive("PUT").status, 204);
    assert_eq!(second.send("GET", "/a", &[], b"").body, b"12");
}

/// Connections on which a request is under way until the test ends.
fn take_all_slots(cluster: &Cluster, count: usize) -> Vec<Client> {
    let begin = |_| {
        let mut client = cluster.connect();
        client.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.receive("PUT").status, 100);
        client
    };
    (0..count).map(begin).collect()
}

#[test]
fn probes_are_answered_with_all_slots_taken_and_other_requests_are_refused() {
    let cluster = Cluster::with(Limits {
        connections_max: 4,
        spare_connections_max: 2,
        ..limits()
    });
    let mut busy = take_all_slots(&cluster, 4);
    // Connections that send nothing take no spare slot from the others.
    let silent: Vec<Client> = (0..10).map(|_| cluster.connect()).collect();
    for target in ["/-/live", "/-/ready"].repeat(5) {
        let begun = StdInstant::now();
        let mut probe = cluster.connect();
        let answer = probe.send("GET", target, &[], b"");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "{target}: {took:?}");
    }
    for (method, target) in [("GET", "/a"), ("PUT", "/a"), ("GET", "/-/status")] {
        let mut other = cluster.connect();
        let refused = other.send(method, target, &["Accept: application/json"], b"");
        assert_eq!(refused.status, 503, "{method} {target}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("x-raftkvd-outcome"), Some("none"));
        let problem: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(problem["code"], "too-many-connections");
        assert_eq!(other.rest(), b"");
    }
    drop(silent);
    busy[0].write(b"12");
    assert_eq!(busy[0].receive("PUT").status, 204);
    eventually("an idle connection gives way again", || {
        cluster.get("/a").body == b"12"
    });
}

#[test]
fn one_address_gets_a_quarter_of_the_slots() {
    let cluster = Cluster::with(Limits {
        connections_max: 8,
        address_max: 0,
        ..limits()
    });
    let busy = take_all_slots(&cluster, 2);
    let refused = cluster.get("/a");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("this address"), "{refused:?}");
    assert_eq!(cluster.get("/-/live").status, 200);
    drop(busy);
    eventually("the slots are free", || cluster.get("/a").status == 404);
}

#[test]
fn incomplete_heads_are_bounded_over_all_connections_and_small_ones_pass() {
    let cluster = Cluster::start();
    let head = format!(
        "GET /a HTTP/1.1\r\nHost: localhost\r\nx: {}",
        "y".repeat(60 << 10)
    );
    let count = crate::limits::HEADS_BYTES_MAX / head.len() + 100;
    let mut clients: Vec<Client> = (0..count).map(|_| cluster.connect()).collect();
    let mut cut = 0;
    for client in &mut clients {
        let stream = client.reader.get_mut();
        cut += usize::from(stream.write_all(head.as_bytes()).is_err());
    }
    eventually("the last are cut off", || {
        let patience = Some(Duration::from_millis(1));
        let ended = |client: &mut Client| {
            let stream = client.reader.get_mut();
            stream.set_read_timeout(patience).unwrap();
            match stream.read(&mut [0]) {
                Ok(count) => count == 0,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        };
        cut += clients.extract_if(.., ended).count();
        cut >= 90
    });
    assert_eq!(cluster.put("/a", b"1").status, 204);
    // The rest of a head that was taken still counts as the same request.
    let client = &mut clients[0];
    client
        .reader
        .get_mut()
        .set_read_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    client.write(b"\r\n\r\n");
    assert_eq!(client.receive("GET").body, b"1");
    drop(clients);
    eventually("there is room again", || {
        let mut client = cluster.connect();
        client.write(format!("{head}\r\n\r\n").as_bytes());
        client.receive("GET").body == b"1"
    });
}

#[test]
fn requests_share_a_connection_and_may_be_pipelined() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    for i in 0..100 {
        let body = format!("value {i}");
        assert_eq!(client.send("PUT", "/a", &[], body.as_bytes()).status, 204);
        assert_eq!(client.send("GET", "/a", &[], b"").body, body.as_bytes());
        assert_eq!(client.send("GET", "/absent", &[], b"").status, 404);
    }
    client.write(b"PUT /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1GET /b HTTP/1.1\r\nHost: localhost\r\n\r\nDELETE /b HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.receive("PUT").status, 204);
    assert_eq!(client.receive("GET").body, b"1");
    assert_eq!(client.receive("DELETE").status, 204);
}

#[test]
fn a_client_that_shuts_down_its_side_still_gets_the_response() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client.write(b"PUT /a HTTP/1.0\r\nContent-Length: 1\r\n\r\n1");
    client
        .reader
        .get_mut()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    assert_eq!(client.receive("PUT").status, 204);
    assert_eq!(client.rest(), b"");
}

#[test]
fn garbage_is_refused_and_the_server_goes_on() {
    let cluster = Cluster::start();
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let long_header = format!(
        "GET /a HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n",
        "a".repeat(500_000)
    );
    let many_headers = format!(
        "GET /a HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "x: y\r\n".repeat(1_000)
    );
    for (bytes, status) in [
        (&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\r\n\r\n"[..], 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /a HTTP/9.9\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (
            b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
            400,
        ),
        (
            b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        (
            b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (long_path.as_bytes(), 414),
        (long_header.as_bytes(), 431),
        (many_headers.as_bytes(), 431),
    ] {
        let mut client = cluster.connect();
        client.write(bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(client.receive("GET").status, status, "{shown:?}");
    }
    assert_eq!(cluster.put("/a", b"1").status, 204);
}

#[test]
fn stopping_answers_what_is_under_way_and_closes_what_is_idle() {
    let mut cluster = Cluster::start();
    assert_eq!(cluster.put("/b", b"1").status, 204);
    let mut idle = cluster.connect();
    assert_eq!(idle.send("GET", "/a", &[], b"").status, 404);
    let mut unused = cluster.connect();
    let mut half_sent = cluster.connect();
    half_sent.write(b"GET /a HT");
    cluster.set(Mode::Silent);
    let asked = cluster.deadlines.lock().unwrap().len();
    let mut busy = cluster.connect();
    busy.write(b"GET /-/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut writing = cluster.connect();
    writing.write(b"PUT /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n1");
    let mut reading = cluster.connect();
    // The read is of another key than the write, because the order of the two requests is undefined.
    reading.write(b"GET /b HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the read is with the node", || {
        cluster.deadlines.lock().unwrap().len() > asked
    });
    let began = StdInstant::now();
    cluster.stop();
    assert_eq!(idle.rest(), b"");
    assert_eq!(unused.rest(), b"");
    assert_eq!(half_sent.rest(), b"");
    assert!(
        TcpStream::connect(cluster.address).is_err(),
        "nobody listens any more"
    );
    cluster.set(Mode::Serve);
    writing.write(b"2");
    assert_eq!(writing.receive("PUT").status, 204);
    assert_eq!(busy.receive("GET").status, 200);
    assert_eq!(reading.receive("GET").status, 200);
    cluster.wait();
    assert!(began.elapsed() < Duration::from_secs(10));
}
