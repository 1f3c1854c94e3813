//! `--tls DIR` on both ports of the real binary.
//!
//! | file | |
//! |---|---|
//! | `serving` | clusters with TLS, members that join, and switching a cluster over and back |
//! | `rights` | what each certificate allows, and what is allowed without one |
//! | `refused` | certificates that are refused, and handshakes that never end |
//! | `plaintext` | plaintext to a port with TLS, and TLS to a port without |
//! | `bad_files` | directories with which a member does not start |
//! | `reload` | files that change while a member runs |
//! | `revocation` | removed members and replaced keys |
//! | `rotation` | renewals and a new CA under load |
//! | `tools` | openssl, curl, nginx and HAProxy |

mod bad_files;
mod plaintext;
mod refused;
mod reload;
mod revocation;
mod rights;
mod rotation;
mod serving;
mod tools;

use crate::certificates::Certificates;
use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::http::{Connection, Response};
use rustls::ClientConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longer than a handshake may take.
const SHORT: Duration = Duration::from_secs(10);

fn certificates(cluster: &Cluster) -> &Certificates {
    cluster.certificates.as_ref().expect("it has TLS")
}

/// One request with these certificates. An answer with an error is in JSON.
fn ask(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    method: &str,
    path: &str,
    body: &[u8],
) -> io::Result<Response> {
    let mut connection = Connection::tls(address, SHORT, config.clone())?;
    connection.send(method, path, &[("Accept", "application/json")], body)
}

/// The status of an answer, and the code in it.
fn status_and_code(response: &Response) -> (u16, String) {
    let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let code = problem["code"].as_str().unwrap_or_default();
    (response.status, code.to_owned())
}

/// The value of a series, as the metrics of a member have it.
fn metric(cluster: &Cluster, id: u64, series: &str) -> u64 {
    let text = cluster.send(id, "GET", "/-/metrics", &[], b"").text();
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = found.unwrap_or_else(|| panic!("no series {series} in {text}"));
    value.parse::<f64>().expect("a number") as u64
}

/// Waits until the log since the newest start has this text in this many lines.
#[track_caller]
fn wait_lines(cluster: &Cluster, id: u64, text: &str, count: usize) {
    let what = format!("node {id} logs {text:?} {count} times");
    eventually(&what, PATIENCE, || {
        let said = cluster.nodes[&id].last_log();
        require(lines_with(&said, text) == count, || said)
    });
}

/// Waits until the log since the newest start has this text.
#[track_caller]
fn wait_line(cluster: &Cluster, id: u64, text: &str) {
    let what = format!("node {id} logs {text:?}");
    eventually(&what, PATIENCE, || {
        let said = cluster.nodes[&id].last_log();
        require(said.contains(text), || said)
    });
}

fn lines_with(said: &str, text: &str) -> usize {
    said.lines().filter(|line| line.contains(text)).count()
}
