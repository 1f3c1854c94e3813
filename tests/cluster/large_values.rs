//! Values of the largest size that `--max-value-bytes` takes, several at a time.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use std::fs;
use std::sync::Mutex;
use std::thread;

const VALUE_BYTES: usize = 64 << 20;
const CLIENTS: usize = 6;
const ROUNDS: usize = 2;
/// What a member may have held at the most: the values that are in its map, and what the book says for all that is on
/// its way.
const MEMORY_KB_MAX: u64 = (CLIENTS * (VALUE_BYTES >> 10)) as u64 + (1_536 << 10);

/// The most that the process ever had in memory, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.expect("a number of kB")
}

fn value(client: usize, round: usize) -> Vec<u8> {
    let mut value = vec![(client * 16 + round) as u8; VALUE_BYTES];
    value[VALUE_BYTES / 2] = 0xff;
    value
}

#[test]
fn values_of_64_mib_from_several_clients_disturb_no_heartbeat() {
    let flags = ["--max-value-bytes", "64M", "--request-timeout", "20s"];
    let cluster = Cluster::start_with(3, &flags);
    let leader = cluster.leader();
    let term = cluster.nodes[&leader].status().expect("status").term;
    // By client: the round that was acknowledged last, unless a later one's outcome is unknown.
    let written = Mutex::new([None; CLIENTS]);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (cluster, written) = (&cluster, &written);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let id = (client + round) as u64 % 3 + 1;
                    let path = format!("/client-{client}");
                    let response = cluster.send(id, "PUT", &path, &[], &value(client, round));
                    let known = match response.status {
                        204 => Some(round),
                        503 => continue,
                        504 => None,
                        _ => panic!("{response:?}"),
                    };
                    written.lock().unwrap()[client] = known;
                }
            });
        }
    });
    let written = written.into_inner().unwrap();
    assert!(written.iter().any(Option::is_some), "{written:?}");
    for (client, round) in written.into_iter().enumerate() {
        if let Some(round) = round {
            let got = cluster.get(client as u64 % 3 + 1, &format!("client-{client}"));
            assert!(got == Some(value(client, round)), "client {client} differs");
        }
    }
    cluster.assert_hashes_agree(&[1, 2, 3]);
    for node in cluster.nodes.values() {
        let status = eventually("it answers", PATIENCE, || node.status());
        assert_eq!((status.leader, status.term), (leader, term), "{status:?}");
        let peak = peak_memory(node.pid());
        println!("node {}: {} MiB at the most", node.id, peak >> 10);
        let bounded = require(peak <= MEMORY_KB_MAX, || format!("{peak} KiB"));
        bounded.expect("its memory is bounded");
    }
}
