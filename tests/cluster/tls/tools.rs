//! Other programs with TLS: openssl, curl, nginx and HAProxy; and `raftkvd backup`. A program that is not installed is
//! skipped.

use super::{certificates, metric};
use crate::certificates::client;
use crate::harness::{Cluster, daemon, run_to_end};
use crate::http::{self, Connection};
use crate::process::Ended;
use crate::proxied::{Proxy, run};
use crate::skipped::skipped;
use raftkvd::certificates::Order;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether this program is installed. These arguments make it print its version.
fn has(program: &str, version: &str) -> bool {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = command.arg(version).status();
    if started.is_err() {
        skipped(program);
    }
    started.is_ok()
}

/// Whether `openssl s_client` with these arguments completes a handshake, and the text that it prints.
fn handshake(address: SocketAddr, ca: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            "-brief",
            "-verify_return_error",
            "-connect",
            &address.to_string(),
        ])
        .arg("-CAfile")
        .arg(ca)
        .args(arguments)
        .stdin(Stdio::null());
    let ended = run_to_end(&mut command);
    (ended.code == Some(0), ended.stdout + &ended.stderr)
}

#[test]
fn openssl_speaks_tls_1_3_and_1_2_only_where_it_is_allowed() {
    if !has("openssl", "version") {
        return;
    }
    let mut cluster = Cluster::start_secure(1, &[]);
    let files = certificates(&cluster).of_member(1);
    let (ca, own, key) = (
        files.join("ca.pem"),
        files.join("member.pem"),
        files.join("member.key"),
    );
    let own = [
        "-cert",
        own.to_str().expect("UTF-8"),
        "-key",
        key.to_str().expect("UTF-8"),
    ];
    let check = |cluster: &Cluster, clients_take_1_2: bool| {
        let node = &cluster.nodes[&1];
        for (address, takes_1_2) in [(node.address, clients_take_1_2), (node.peer_address, false)] {
            let old = [&["-tls1_2"][..], &own].concat();
            let (done, said) = handshake(address, &ca, &old);
            assert_eq!(done, takes_1_2, "{address}: {said}");
            assert_eq!(said.contains("TLSv1.2"), takes_1_2, "{address}: {said}");
            let new = [&["-tls1_3"][..], &own].concat();
            let (done, said) = handshake(address, &ca, &new);
            assert!(done && said.contains("TLSv1.3"), "{address}: {said}");
            for old in ["-tls1_1", "-tls1"] {
                let (done, said) = handshake(address, &ca, &[old, "-cipher", "ALL:@SECLEVEL=0"]);
                assert!(!done, "{address}: {said}");
            }
        }
    };
    check(&cluster, false);
    super::wait_line(&cluster, 1, "it speaks an older version of TLS only");
    cluster.node(1).kill();
    cluster.node(1).set_flag("--tls-min", "1.2");
    cluster.start_all();
    check(&cluster, true);
    // With 1.2 a client without a certificate has no more rights than with 1.3.
    let answer = curl(
        &cluster,
        &["--tls-max", "1.2", "--cacert", &ca.display().to_string()],
        "localhost",
        "/a",
    );
    assert!(
        answer
            .stdout
            .contains("this request needs the certificate of a client"),
        "{answer:?}"
    );
}

/// `curl` with these arguments.
fn curl(cluster: &Cluster, arguments: &[&str], host: &str, path: &str) -> Ended {
    let mut command = Command::new("curl");
    let url = format!("https://{host}:{}{path}", cluster.address(1).port());
    run_to_end(
        command
            .args(["-sS", "--max-time", "10"])
            .args(arguments)
            .arg(url),
    )
}

#[test]
fn curl_works_by_name_and_by_address_and_says_what_is_missing() {
    if !has("curl", "--version") {
        return;
    }
    let cluster = Cluster::start_secure(1, &[]);
    let admin = certificates(&cluster).of_client("admin");
    let [ca, cert, key] =
        ["ca.pem", "client.pem", "client.key"].map(|file| admin.join(file).display().to_string());
    let whole = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    for host in ["localhost", "127.0.0.1"] {
        let put = [&whole[..], &["-X", "PUT", "-d", host]].concat();
        let ended = curl(&cluster, &put, host, "/a");
        assert_eq!((ended.code, &*ended.stdout), (Some(0), ""), "{ended:?}");
        let ended = curl(&cluster, &whole, host, "/a");
        assert_eq!((ended.code, &*ended.stdout), (Some(0), host), "{ended:?}");
    }
    let ended = curl(&cluster, &["--cacert", &ca], "localhost", "/a");
    let line = "this request needs the certificate of a client: curl --cacert ca.pem --cert client.pem --key client.key\n";
    assert_eq!((ended.code, &*ended.stdout), (Some(0), line), "{ended:?}");
    let ended = curl(&cluster, &["--cacert", &ca], "localhost", "/-/live");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = curl(&cluster, &[], "localhost", "/a");
    assert_eq!(ended.code, Some(60), "{ended:?}");
    assert!(ended.stderr.contains("certificate"), "{ended:?}");
    // The line that the member prints at its start works as it is.
    let said = cluster.nodes[&1].last_log();
    let (_, hello) = said
        .split_once(": try ")
        .expect("a line that says what to try");
    let (put, rest) = hello.split_once(" and then ").expect("two commands");
    for command in [put, rest.lines().next().expect("a line")] {
        let mut words = command.split(' ');
        let ended = run_to_end(
            Command::new(words.next().expect("curl"))
                .arg("-sS")
                .args(words),
        );
        assert_eq!(
            (ended.code, &*ended.stderr),
            (Some(0), ""),
            "{command}: {ended:?}"
        );
    }
    assert_eq!(cluster.get(1, "greeting"), Some(b"hello".to_vec()));
}

/// `raftkvd backup` with these arguments, into a file of this name.
fn back_up(cluster: &Cluster, file: &str, arguments: &[&str]) -> Ended {
    let url = cluster.client_url(1);
    run_to_end(
        daemon(cluster.path())
            .args(["backup", &url, file])
            .args(arguments),
    )
}

#[test]
fn a_backup_needs_the_certificate_of_an_administrator() {
    let cluster = Cluster::start_secure(1, &[]);
    for number in 0..20_u8 {
        cluster.put(1, &format!("key-{number}"), vec![number; 1_000_000]);
    }
    let shown = certificates(&cluster)
        .of_client("admin")
        .display()
        .to_string();
    let [ca, cert, key] =
        ["ca.pem", "client.pem", "client.key"].map(|file| format!("{shown}/{file}"));
    let ended = back_up(&cluster, "one", &["--tls", &shown]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = back_up(
        &cluster,
        "two",
        &["--cacert", &ca, "--cert", &cert, "--key", &key],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(cluster.path().join("one").exists() && cluster.path().join("two").exists());
}

#[test]
fn a_backup_by_https_without_certificates_warns_that_nothing_is_encrypted() {
    let cluster = Cluster::start(1);
    let url = cluster.client_url(1).replace("http://", "https://");
    let ended = run_to_end(daemon(cluster.path()).args(["backup", &url, "one"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let line =
        "the URL is an https:// URL, but without --tls DIR or --cacert FILE nothing is encrypted";
    assert!(ended.stderr.contains(line), "{ended:?}");
}

#[test]
fn a_backup_that_is_not_given_says_why_in_one_line() {
    let cluster = Cluster::start_secure(1, &[]);
    let shown = certificates(&cluster)
        .of_client("admin")
        .display()
        .to_string();
    let [ca, cert, key] =
        ["ca.pem", "client.pem", "client.key"].map(|file| format!("{shown}/{file}"));
    let member = certificates(&cluster).of_member(1).display().to_string();
    let forged = certificates(&cluster)
        .forge(&client("ops"))
        .display()
        .to_string();
    for (arguments, code, line) in [
        (
            &["--cacert", &ca][..],
            1,
            "this member asks for the certificate of a client; give --tls DIR, or --cert FILE and --key FILE",
        ),
        (
            &["--tls", &member][..],
            1,
            "the certificate of member 1 allows only the addition of member 1; use that of a client",
        ),
        (
            &["--cacert", &ca, "--cert", &cert][..],
            2,
            "--cert needs the key of the certificate: give --key too",
        ),
        (
            &["--cert", &cert, "--key", &key][..],
            2,
            "--cert and --key need the CA of the member: give --cacert too",
        ),
        (
            &[
                "--cacert",
                &ca,
                "--cert",
                &format!("{forged}/client.pem"),
                "--key",
                &format!("{forged}/client.key"),
            ][..],
            1,
            "it refuses this side: none of the CAs that it trusts has signed our certificate",
        ),
        (&["--tls", &forged][..], 2, "no CA in ca.pem has signed it"),
        (&["--tls", "/nowhere"][..], 2, "can't read /nowhere/"),
    ] {
        let ended = back_up(&cluster, "three", arguments);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert_eq!(
            ended.stderr.trim_end().lines().count(),
            1,
            "{arguments:?}: {ended:?}"
        );
        assert!(ended.stderr.contains(line), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn a_backup_of_a_member_of_another_ca_is_refused() {
    let cluster = Cluster::start_secure(1, &[]);
    let other = certificates(&cluster).forge(&Order::member(1, []));
    let other = crate::certificates::Certificates::make(&other, &[]);
    let ended = back_up(
        &cluster,
        "four",
        &["--tls", &other.of_client("admin").display().to_string()],
    );
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("its certificate is not accepted: no CA in ca.pem has signed it"),
        "{ended:?}"
    );
}

/// An nginx that speaks TLS to the member with the certificate of the administrator.
fn nginx(cluster: &Cluster, tls_to_clients: bool) -> Option<Proxy> {
    let admin = certificates(cluster).of_client("admin");
    let member = certificates(cluster).of_member(1);
    let (admin, member) = (admin.display(), member.display());
    let before = cluster.address(1);
    let front = match tls_to_clients {
        true => {
            format!("ssl_certificate {member}/member.pem; ssl_certificate_key {member}/member.key;")
        }
        false => String::new(),
    };
    let name = if tls_to_clients {
        "nginx-tls"
    } else {
        "nginx-plain"
    };
    run("nginx", name, cluster.path(), |listen| {
        let ssl = if tls_to_clients { " ssl" } else { "" };
        format!(
            "server {{ listen {listen}{ssl}; {front} location / {{ proxy_pass https://{before}; proxy_http_version 1.1;\n\
             proxy_ssl_certificate {admin}/client.pem; proxy_ssl_certificate_key {admin}/client.key;\n\
             proxy_ssl_trusted_certificate {admin}/ca.pem; proxy_ssl_verify on; proxy_ssl_name localhost;\n\
             proxy_ssl_protocols TLSv1.3; }} }}"
        )
    })
}

/// An HAProxy that does the same, or that passes TLS through.
fn haproxy(cluster: &Cluster, kind: &str) -> Option<Proxy> {
    let admin = certificates(cluster).of_client("admin");
    let member = certificates(cluster).of_member(1);
    // HAProxy reads a certificate and its key from one file.
    let both = |directory: &Path, name: &str| {
        let read =
            |end| fs::read_to_string(directory.join(format!("{name}.{end}"))).expect("read a file");
        let path = cluster.path().join(format!("{name}-both.pem"));
        fs::write(&path, read("pem") + &read("key")).expect("write a file");
        path.display().to_string()
    };
    let (client, server) = (both(&admin, "client"), both(&member, "member"));
    let before = cluster.address(1);
    let ca = admin.join("ca.pem").display().to_string();
    run(
        "haproxy",
        &format!("haproxy-{kind}"),
        cluster.path(),
        |listen| {
            let (mode, bind, to) = match kind {
                "tcp" => ("tcp", String::new(), String::new()),
                kind => {
                    let bind = if kind == "tls" {
                        format!(" ssl crt {server}")
                    } else {
                        String::new()
                    };
                    (
                        "http",
                        bind,
                        format!(
                            " ssl crt {client} ca-file {ca} verify required verifyhost localhost"
                        ),
                    )
                }
            };
            format!(
                "defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 50s\n  timeout server 50s\n\
             frontend clients\n  bind {listen}{bind}\n  default_backend members\n\
             backend members\n  server one {before}{to}\n"
            )
        },
    )
}

#[test]
fn proxies_show_the_certificate_of_an_administrator_or_pass_tls_through() {
    let cluster = Cluster::start_secure(1, &[]);
    let (admin, nobody) = (
        certificates(&cluster).admin(),
        certificates(&cluster).nobody(),
    );
    let value: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let proxies = [
        ("nginx, plain", nginx(&cluster, false), None),
        ("nginx, TLS", nginx(&cluster, true), Some(&nobody)),
        ("haproxy, plain", haproxy(&cluster, "plain"), None),
        ("haproxy, TLS", haproxy(&cluster, "tls"), Some(&nobody)),
        (
            "haproxy, TLS passed through",
            haproxy(&cluster, "tcp"),
            Some(&admin),
        ),
    ];
    for (what, proxy, config) in proxies {
        let Some(proxy) = proxy else {
            continue;
        };
        http::secure(proxy.address, config.cloned());
        let send = |method: &str, path: &str, body: &[u8]| {
            let answer = http::request(proxy.address, method, path, &[], body);
            answer.unwrap_or_else(|error| panic!("{what}: {method} {path}: {error}"))
        };
        let put = send("PUT", "/a", &value);
        assert_eq!(put.status, 204, "{what}: {put:?}");
        let got = send("GET", "/a", b"");
        assert!(got.status == 200 && got.body == value, "{what}: {got:?}");
        let status = send("GET", "/-/status", b"");
        assert_eq!(status.status, 200, "{what}: {status:?}");
        if what.ends_with("through") {
            // The rights are those of the client.
            http::secure(proxy.address, Some(nobody.clone()));
            assert_eq!(send("GET", "/a", b"").status, 403, "{what}");
        }
        http::secure(proxy.address, None);
    }
    let series = "raftkvd_tls_handshakes_failed_total{port=\"client\"}";
    assert_eq!(metric(&cluster, 1, series), 0);
}

#[test]
fn many_requests_pass_one_connection_and_large_values_arrive_whole() {
    let cluster = Cluster::start_secure(1, &[]);
    let mut connection = Connection::open(cluster.address(1)).expect("connect");
    for size in [0, 1, 16_383, 16_384, 16_385, 65_536, 1_000_000, 1 << 20] {
        let value: Vec<u8> = (0..=250).cycle().take(size).collect();
        let put = connection
            .send("PUT", "/a", &[], &value)
            .expect("an answer");
        assert_eq!(put.status, 204, "{size}: {put:?}");
        let got = connection.send("GET", "/a", &[], b"").expect("an answer");
        assert!(got.body == value, "{size}: {} bytes", got.body.len());
    }
}
