//! Section `tls`: clusters with TLS on both ports beside the same without TLS.

use crate::cell::{self, Cell, median};
use crate::daemons::Cluster;
use crate::kernel;
use crate::options::Options;
use crate::request::{Kind, Requests, VALUE_BYTES};
use crate::response::Parser;
use crate::server::Server;
use crate::stream::Stream;
use crate::targets;
use crate::verdicts::Verdicts;
use std::io::IoSlice;
use std::path::Path;

const NODES: [usize; 2] = [1, 3];
const KINDS: [Kind; 2] = [Kind::Put, Kind::Get];
const CONNECTIONS: [usize; 2] = [64, 256];
/// Connections that exist at one time while each request makes its own.
const NEW_CONNECTIONS: usize = 64;
const LARGE_BYTES: usize = 1 << 20;
const LARGE_CONNECTIONS: usize = 16;
/// Few, because each is in the memory of eight processes, and in their snapshots.
const LARGE_KEYS: usize = 16;
/// Of the CPU seconds for 100,000 requests: what they are for one request in milliseconds.
const TO_MS: f64 = 1e-2;
/// Runs in one round: of small values, of new connections and of large values, each without TLS and with TLS.
pub const RUNS: usize = 2 * (NODES.len() * (KINDS.len() * CONNECTIONS.len() + 1) + 1);
/// The memory of idle connections is measured at so many new members in one round.
pub const MEMBERS: usize = 2;

/// What is compared: plaintext first.
struct Pair {
    nodes: usize,
    clusters: [Cluster; 2],
}

impl Pair {
    fn start(dir: &Path, nodes: usize) -> Pair {
        let clusters = [
            Cluster::start(&dir.join(format!("plain-{nodes}")), nodes),
            Cluster::start_with_tls(&dir.join(format!("tls-{nodes}")), nodes),
        ];
        Pair { nodes, clusters }
    }

    /// The leader of each.
    fn servers(&mut self) -> [Server; 2] {
        ["plaintext", "TLS"].map(|name| {
            let cluster = &mut self.clusters[usize::from(name == "TLS")];
            cluster.wait_until_settled();
            cluster.server(name, cluster.leader(), &[0])
        })
    }

    fn members(&self) -> &'static str {
        if self.nodes == 1 {
            "1 member"
        } else {
            "3 members"
        }
    }
}

pub fn run(dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    introduce(options);
    let mut pairs = NODES.map(|nodes| Pair::start(dir, nodes));
    for pair in &mut pairs {
        let fill = Requests::new(Kind::Put, options.keys, VALUE_BYTES);
        for server in pair.servers() {
            cell::fill(&server, &fill);
        }
        for kind in KINDS {
            let requests = Requests::new(kind, options.keys, VALUE_BYTES);
            for connections in CONNECTIONS {
                small(pair, &requests, connections, options, verdicts);
            }
        }
    }
    new_connections(&mut pairs[0], options);
    for pair in &mut pairs {
        large(pair, options);
    }
    drop(pairs);
    idle(dir, options);
}

fn introduce(options: &Options) {
    println!(
        "\nTLS 1.3 on both ports beside plaintext; the client has a certificate. Values of {VALUE_BYTES} B, {} keys, all \
         through the leader.",
        options.keys
    );
    println!(
        "ratio: of req/s to those of plaintext. The generator encrypts too, and shares the processors with the members,"
    );
    println!(
        "so the ratio holds its part as well. CPU: of all members together, and x: its ratio to that of plaintext, which"
    );
    println!("does not depend on the generator. g: the CPU time of the generator.");
}

/// One table of small values.
fn small(
    pair: &mut Pair,
    requests: &Requests,
    connections: usize,
    options: &Options,
    verdicts: &mut Verdicts,
) {
    let cells = measure(&pair.servers(), requests, connections, false, options);
    let title = format!(
        "{}, {}, {connections} connections",
        requests.kind.name(),
        pair.members()
    );
    let target = targets::of_tls(requests.kind, connections, pair.nodes);
    let verdict = target.map_or(String::new(), |target| {
        verdicts.at_least(&format!("{title}: TLS"), rate_ratio(&cells), target, "")
    });
    table(&title, &cells, &verdict);
}

/// Each request on a connection of its own: handshakes.
fn new_connections(pair: &mut Pair, options: &Options) {
    let requests = Requests::new(Kind::Stale, options.keys, VALUE_BYTES);
    let cells = measure(&pair.servers(), &requests, NEW_CONNECTIONS, true, options);
    let title = format!(
        "new connections: a GET stale on each, {}, {NEW_CONNECTIONS} at one time",
        pair.members()
    );
    table(&title, &cells, "");
    let [plain, tls] = cells.each_ref().map(members_cpu);
    println!(
        "    {:.0} handshakes a second, both sides proved by certificates; each costs the member {:.2} ms",
        rate(&cells[1]),
        (tls - plain) * TO_MS,
    );
}

fn large(pair: &mut Pair, options: &Options) {
    let requests = Requests::new(Kind::Put, LARGE_KEYS, LARGE_BYTES);
    let cells = measure(
        &pair.servers(),
        &requests,
        LARGE_CONNECTIONS,
        false,
        options,
    );
    let title = format!(
        "PUT of 1 MiB, {}, {LARGE_CONNECTIONS} connections",
        pair.members()
    );
    table(&title, &cells, "");
    let [plain, tls] = cells.each_ref().map(|cell| members_cpu(cell) * TO_MS);
    println!(
        "    CPU time of the members for one MiB: {plain:.2} ms, with TLS {tls:.2} ms ({:+.2} ms)",
        tls - plain
    );
}

/// Rounds in turn without TLS and with TLS.
fn measure(
    servers: &[Server; 2],
    requests: &Requests,
    connections: usize,
    per_request: bool,
    options: &Options,
) -> [Cell; 2] {
    let mut cells = [Cell::default(), Cell::default()];
    for _ in 0..options.rounds {
        for (server, cell) in servers.iter().zip(&mut cells) {
            let mut connecting = server.connecting();
            connecting.per_request = per_request;
            let round = cell::measure_by(server, connecting, requests, connections, options);
            cell.0.push(round);
        }
    }
    cells
}

fn rate(cell: &Cell) -> f64 {
    cell.median(|round| round.rate)
}

fn rate_ratio([plain, tls]: &[Cell; 2]) -> f64 {
    ratio(rate(tls), rate(plain))
}

/// 0 where a round was too short to measure anything.
fn ratio(tls: f64, plain: f64) -> f64 {
    if plain > 0.0 { tls / plain } else { 0.0 }
}

/// CPU seconds for 100,000 requests.
fn members_cpu(cell: &Cell) -> f64 {
    cell.median(|round| round.cpu.iter().sum())
}

fn table(title: &str, cells: &[Cell; 2], verdict: &str) {
    println!("\n==== {title}");
    println!(
        "{:<10}{:>9}{:>5}{:>7} {:<16}{:>8}{:>8}{:>8}{:>5}  CPU s/100k",
        "", "req/s", "+-%", "ratio", "target", "p50 us", "p99 us", "p99.9", "err"
    );
    let [plain, _] = cells;
    for (name, cell) in ["plaintext", "TLS"].into_iter().zip(cells) {
        let is_tls = name == "TLS";
        let of_rates = match is_tls {
            true => format!("{:.2}", rate_ratio(cells)),
            false => String::new(),
        };
        let of_cpu = match is_tls {
            true => format!(" x{:.2}", ratio(members_cpu(cell), members_cpu(plain))),
            false => String::new(),
        };
        println!(
            "{name:<10}{:>9.0}{:>5.0}{of_rates:>7} {:<16}{:>8.0}{:>8.0}{:>8.0}{:>5}  {:.2}{of_cpu} g{:.2}",
            rate(cell),
            cell.spread() * 100.0,
            if is_tls { verdict } else { "" },
            cell.median(|round| round.p50_us),
            cell.median(|round| round.p99_us),
            cell.median(|round| round.p999_us),
            cell.errors(),
            members_cpu(cell),
            cell.median(|round| round.generator_cpu),
        );
        if let Some(why) = cell.first_error() {
            println!("    the first error: {why}");
        }
    }
}

/// What idle connections of clients hold, each at a member that has just started.
fn idle(dir: &Path, options: &Options) {
    let count = options.idle_connections;
    println!("\n==== memory of {count} idle connections, each after one answer");
    println!("{:<10}{:>19}", "", "KiB a connection");
    let mut grown = [Vec::new(), Vec::new()];
    for round in 0..options.rounds {
        let dir = dir.join(format!("idle-{round}"));
        let plain = Cluster::start(&dir.join("plain"), 1);
        grown[0].push(growth(&plain, count));
        drop(plain);
        let tls = Cluster::start_with_tls(&dir.join("tls"), 1);
        grown[1].push(growth(&tls, count));
    }
    for (name, bytes) in ["plaintext", "TLS"].into_iter().zip(grown) {
        let kibibytes = median(bytes) / count as f64 / 1024.0;
        println!("{name:<10}{kibibytes:>19.1}");
    }
}

/// Bytes by which so many connections let the only member grow.
fn growth(cluster: &Cluster, count: usize) -> f64 {
    let server = cluster.server("", 0, &[0]);
    let resident = || kernel::resident_bytes(server.pids[0]) as f64;
    // What is allocated once must not count.
    let first = connect_and_ask(&server);
    let before = resident();
    let streams: Vec<_> = (0..count).map(|_| connect_and_ask(&server)).collect();
    let grown = resident() - before;
    drop((first, streams));
    grown
}

/// A connection on which one request was answered.
fn connect_and_ask(server: &Server) -> Stream {
    let request = b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let stream = Stream::connect(server.addresses[0], &server.tls);
    let mut stream = stream.expect("connect to a member");
    let blocking = stream.socket().set_nonblocking(false);
    blocking.expect("wait for the answer");
    let sent = stream.write(&[IoSlice::new(request), IoSlice::new(b"")]);
    assert_eq!(sent.expect("ask a member"), request.len());
    let (mut parser, mut buffer) = (Parser::default(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).expect("read the answer");
        assert!(count > 0, "the member closed the connection");
        let answer = parser.feed(&buffer[..count]).expect("read the answer");
        if answer.is_some() {
            return stream;
        }
    }
}
