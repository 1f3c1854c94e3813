//! Section `failover`: how long writes stand still when the leader dies, and when it is told to stop.
//!
//! A client writes all the time through a member that survives. The time between two writes that were acknowledged is
//! what an outage is to it.

use crate::daemons::Cluster;
use crate::http::Connection;
use crate::options::Options;
use crate::process::PATIENCE;
use crate::table;
use crate::targets::{HANDOVER_MS, KILL_MS};
use crate::verdicts::Verdicts;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The client has written for so long when the leader goes, and goes on for so long when it is over.
const BEFORE: Duration = Duration::from_millis(200);
const AFTER: Duration = Duration::from_millis(100);
/// After a write that failed.
const PAUSE: Duration = Duration::from_millis(1);

pub fn run(dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    let mut cluster = Cluster::start(&dir.join("three"), 3);
    let (mut kills, mut handovers, mut failed) = (Vec::new(), Vec::new(), 0);
    for round in 0..options.events {
        let (took, errors) = kill(&mut cluster, round);
        kills.push(took);
        failed += errors;
    }
    let kill_errors = std::mem::take(&mut failed);
    for round in 0..options.events {
        let (took, errors) = hand_over(&mut cluster, round);
        handovers.push(took);
        failed += errors;
    }
    table::times_head(&format!(
        "failover: 3 nodes, default timeouts, a client that writes through a survivor, {} times",
        options.events
    ));
    let what = "kill -9 of the leader to the next acknowledged write";
    let verdict = verdicts.at_most(what, crate::cell::median(kills.clone()), KILL_MS, "ms");
    table::times(what, &kills, &verdict);
    let what = "SIGTERM of the leader, longest gap between writes";
    let median = crate::cell::median(handovers.clone());
    let verdict = verdicts.at_most(what, median, HANDOVER_MS, "ms");
    table::times(what, &handovers, &verdict);
    println!("writes that were answered by an error: {kill_errors} at kills, {failed} at SIGTERMs");
}

/// Milliseconds from the kill to the end of the pause in writes, and how many writes failed.
fn kill(cluster: &mut Cluster, round: usize) -> (f64, usize) {
    let leader = cluster.leader();
    let client = Client::start(survivor(cluster, leader, round));
    std::thread::sleep(BEFORE);
    let process = cluster.members[leader].take();
    let killed = Instant::now();
    process.kill();
    client.wait_for_write_after(Instant::now());
    let writes = client.stop();
    // A write that the leader had committed may be acknowledged just after the kill, so the pause is what counts and
    // not the first acknowledgement.
    let (_, end) = writes.longest_gap_after(killed);
    restart(cluster, leader);
    (milliseconds(end - killed), writes.errors)
}

/// Milliseconds of the longest pause in writes from the signal on, and how many writes failed.
fn hand_over(cluster: &mut Cluster, round: usize) -> (f64, usize) {
    let leader = cluster.leader();
    let client = Client::start(survivor(cluster, leader, round));
    std::thread::sleep(BEFORE);
    let process = cluster.members[leader].take();
    let signalled = Instant::now();
    process.terminate();
    let status = process.wait();
    assert!(status.success(), "after SIGTERM it ends with 0: {status}");
    client.wait_for_write_after(Instant::now());
    let writes = client.stop();
    let (begin, end) = writes.longest_gap_after(signalled);
    restart(cluster, leader);
    (milliseconds(end - begin), writes.errors)
}

/// Now the one, now the other: one of them is to be the next leader.
fn survivor(cluster: &Cluster, leader: usize, round: usize) -> SocketAddr {
    cluster.members[(leader + 1 + round % 2) % 3].address
}

fn restart(cluster: &mut Cluster, member: usize) {
    cluster.members[member].start();
    cluster.wait_until_settled();
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A thread that writes, one write after the other.
struct Client {
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Writes>>,
    thread: JoinHandle<()>,
}

/// What it saw: when each write was begun and acknowledged.
#[derive(Default, Clone)]
struct Writes {
    acknowledged: Vec<(Instant, Instant)>,
    errors: usize,
}

impl Client {
    fn start(address: SocketAddr) -> Client {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(Mutex::new(Writes::default()));
        let thread = std::thread::spawn({
            let (stop, writes) = (stop.clone(), writes.clone());
            move || write_all_the_time(address, &stop, &writes)
        });
        Client {
            stop,
            writes,
            thread,
        }
    }

    /// Until one was acknowledged that was begun then or later.
    fn wait_for_write_after(&self, moment: Instant) {
        let begin = Instant::now();
        loop {
            let writes = self.writes.lock().expect("the client runs");
            let last = writes.acknowledged.last();
            if last.is_some_and(|(begun, _)| *begun >= moment) {
                break;
            }
            drop(writes);
            assert!(begin.elapsed() < PATIENCE, "no write is acknowledged");
            std::thread::sleep(PAUSE);
        }
        std::thread::sleep(AFTER);
    }

    fn stop(self) -> Writes {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the client ends");
        let writes = self.writes.lock().expect("the client has ended");
        writes.clone()
    }
}

fn write_all_the_time(address: SocketAddr, stop: &AtomicBool, writes: &Mutex<Writes>) {
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answered = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::impatient(address, PATIENCE),
        }
        .and_then(|mut open| {
            let response = open.send("PUT", "/failover", &[], b"value")?;
            Ok((open, response.status))
        });
        let ended = Instant::now();
        let mut writes = writes.lock().expect("nobody panics with it");
        match answered {
            Ok((open, 204)) => {
                connection = Some(open);
                writes.acknowledged.push((begun, ended));
            }
            _ => {
                writes.errors += 1;
                drop(writes);
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Writes {
    /// The longest time between two acknowledgements of which the second came after this moment.
    fn longest_gap_after(&self, moment: Instant) -> (Instant, Instant) {
        let ends: Vec<Instant> = self.acknowledged.iter().map(|(_, end)| *end).collect();
        ends.windows(2)
            .map(|pair| (pair[0], pair[1]))
            .filter(|(_, end)| *end > moment)
            .max_by_key(|(begin, end)| *end - *begin)
            .expect("the client has written before and after")
    }
}
