//! Strangers at the peer port that speak its protocol, and say that they are members: nobody ends, elections go on, and
//! nothing of it is left when they are gone.
//!
//! Without authentication whoever reaches the port and knows the cluster's id and the receiver's incarnation may say that
//! it was bound later than the receiver knows. That is believed until it can be judged, so its messages reach raft; none of
//! them may end a process.

use crate::harness::{
    Cluster, PATIENCE, PATIENT, daemon, eventually, leader_and_followers, require, run_to_end,
};
use crate::http::{Connection, Response};
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};
use raftkvd::command::{self, Batch, Command};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// No member has it.
const INCARNATION: u64 = 0xbad;
/// Beyond all that is applied.
const LATER: u64 = 1_000_000_000_000;

/// What a stranger claims.
#[derive(Debug, Clone, Copy)]
pub struct Claims {
    pub cluster: u64,
    pub from: u64,
    pub to: u64,
    pub bound: u64,
    /// What it says of the receiver's incarnation; 0: nothing.
    pub receiver: u64,
}

/// The answer to these claims, and the connection.
fn shake_hands(address: SocketAddr, claims: Claims, lane: &str) -> (Response, Connection) {
    let mut connection =
        Connection::impatient(address, Duration::from_secs(5)).expect("connect to the peer port");
    let answer = claim(&mut connection, claims, lane).expect("an answer");
    (answer, connection)
}

/// Makes these claims on a connection.
pub fn claim(connection: &mut Connection, claims: Claims, lane: &str) -> io::Result<Response> {
    let (cluster, incarnation) = (
        format!("{:016x}", claims.cluster),
        format!("{INCARNATION:016x}"),
    );
    let [from, to, bound] = [claims.from, claims.to, claims.bound].map(|n| n.to_string());
    let receiver = format!("formed elsewhere {:016x}", claims.receiver);
    let mut headers = vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "raftkvd/2"),
        ("raftkvd-version", "2"),
        ("raftkvd-cluster", &*cluster),
        ("raftkvd-from", &from),
        ("raftkvd-to", &to),
        ("raftkvd-incarnation", &incarnation),
        ("raftkvd-bound", &bound),
        ("raftkvd-run", "0000000000000001"),
        ("raftkvd-url", "http://127.0.0.1:9"),
        ("raftkvd-commands", "2"),
        ("raftkvd-lane", lane),
    ];
    if claims.receiver != 0 {
        headers.push(("raftkvd-receiver", &receiver));
    }
    connection.send("POST", "/raft/stream", &headers, b"")
}

/// Messages in one frame.
fn frame(messages: &[Message]) -> Vec<u8> {
    let mut payload = Vec::new();
    for message in messages {
        let bytes = message.write_length_delimited_to_bytes();
        payload.extend(bytes.expect("a message"));
    }
    let length = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c(&payload).to_le_bytes();
    [&length[..], &crc, &payload].concat()
}

fn message(kind: MessageType, claims: Claims, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (claims.from, claims.to, term);
    message
}

/// The incarnation of a member, which nobody else tells.
pub fn incarnation_of(cluster: &Cluster, id: u64) -> u64 {
    let mut command = daemon(cluster.path());
    let ended = run_to_end(command.arg("inspect").arg(&cluster.nodes[&id].data_dir));
    let (_, rest) = ended.stdout.split_once("incarnation ").expect("it is told");
    u64::from_str_radix(&rest[..16], 16).expect("hexadecimal digits")
}

pub fn cluster_id(cluster: &Cluster) -> u64 {
    let id = cluster.nodes[&1].status().expect("status").cluster;
    u64::from_str_radix(id.trim_matches('"'), 16).expect("an id in hexadecimal digits")
}

/// Every member that ran goes on, and takes a write.
#[track_caller]
fn assert_all_serve(cluster: &mut Cluster, ids: &[u64]) {
    for &id in ids {
        cluster.node(id).assert_alive();
        eventually("it takes a write", PATIENCE, || {
            let put = cluster.send(id, "PUT", "/foo", &[], id.to_string().as_bytes());
            require(put.status == 204, || format!("node {id}: {put:?}"))
        });
        cluster.node(id).assert_alive();
    }
}

#[test]
fn strangers_that_do_not_know_the_cluster_are_refused_and_learn_nothing_of_it() {
    const STRANGERS: u64 = 1_500;
    let mut cluster = Cluster::start(3);
    cluster.put(1, "foo", "bar");
    let known = format!("{:016x}", cluster_id(&cluster));
    let leader = cluster.leader();
    let term = cluster.nodes[&leader].status().expect("status").term;
    let strangers = (1..=3).chain(100..100 + STRANGERS);
    for from in strangers {
        let to = from % 3 + 1;
        let address = cluster.nodes[&to].peer_address;
        for (number, bound) in [(0xdead, LATER), (0, 0)] {
            let claims = Claims {
                cluster: number,
                from,
                to,
                bound,
                receiver: 0,
            };
            let (answer, _) = shake_hands(address, claims, "control");
            assert!(
                [409, 410].contains(&answer.status),
                "{claims:?}: {answer:?}"
            );
            let said = format!("{:?} {}", answer.headers, answer.text());
            for secret in [&*known, "raftkvd-cluster", "raftkvd-incarnation"] {
                assert!(!said.contains(secret), "{claims:?}: {said}");
            }
            // Neither an index, nor whether there is or was such a member.
            let reason = match number {
                0 => "\"detail\":\"undisclosed\",\"formed\":true,\"reason\":\"not-a-member\"",
                _ => "\"detail\":false,\"formed\":true,\"reason\":\"wrong-cluster\"",
            };
            let bare = format!("{{\"applied\":0,\"by\":{to},{reason}}}\n");
            assert_eq!(answer.text(), bare, "{claims:?}");
        }
    }
    let status = cluster.nodes[&leader].status().expect("status");
    assert_eq!((status.leader, status.term), (leader, term), "no election");
    // And a real one can still be added.
    let joiner = cluster.lay_out_joiner();
    cluster.add_member(1, joiner);
    cluster.node(joiner).start();
    cluster.node(joiner).wait_ready();
    cluster.wait_voters(1, &[1, 2, 3, 4]);
    assert_all_serve(&mut cluster, &[1, 2, 3, 4]);
}

#[test]
fn strangers_that_claim_later_lives_of_all_members_keep_nobody_from_electing() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    cluster.put(1, "foo", "bar");
    let number = cluster_id(&cluster);
    let incarnations = [1, 2, 3].map(|id| incarnation_of(&cluster, id));
    let shake_all = |cluster: &Cluster| {
        let mut open = Vec::new();
        for from in [1, 2, 3, 77] {
            for to in (1..=3).filter(|to| *to != from) {
                let node = &cluster.nodes[&to];
                let mut claims = Claims {
                    cluster: number,
                    from,
                    to,
                    bound: LATER,
                    receiver: 0,
                };
                // Who does not know the receiver is no member.
                let (answer, _) = shake_hands(node.peer_address, claims, "control");
                assert_eq!(answer.status, 409, "{claims:?}: {answer:?}");
                claims.receiver = incarnations[to as usize - 1];
                for lane in ["control", "append"] {
                    let (answer, connection) = shake_hands(node.peer_address, claims, lane);
                    assert_eq!(answer.status, 101, "{claims:?}: {answer:?}");
                    open.push(connection);
                }
            }
        }
        open
    };
    let open = shake_all(&cluster);
    assert_all_serve(&mut cluster, &[1, 2, 3]);
    // With them, and after they have gone.
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.node(leader).kill();
    assert_all_serve(&mut cluster, &followers);
    cluster.node(leader).start();
    cluster.node(leader).wait_ready();
    let again = shake_all(&cluster);
    assert_all_serve(&mut cluster, &[1, 2, 3]);
    drop((open, again));
    cluster.kill_all();
    cluster.start_all();
    assert_all_serve(&mut cluster, &[1, 2, 3]);
    let leader = cluster.leader();
    cluster.node(leader).kill();
    let others = cluster.others(leader);
    assert_all_serve(&mut cluster, &others);
}

/// What somebody sends that wants to do harm, in the term of the receiver.
fn harmful(claims: Claims, term: u64) -> Vec<Message> {
    use MessageType::*;
    let mut all = Vec::new();
    let mut heartbeat = message(MsgHeartbeat, claims, term + 1);
    heartbeat.commit = 1_000_000_000;
    // Twice, as one that has to be believed.
    all.extend([heartbeat.clone(), heartbeat.clone()]);
    heartbeat.term = term;
    all.extend([heartbeat.clone(), heartbeat]);
    for kind in [
        MsgHeartbeat,
        MsgAppend,
        MsgRequestVote,
        MsgRequestPreVote,
        MsgAppendResponse,
        MsgHeartbeatResponse,
        MsgRequestVoteResponse,
        MsgReadIndexResp,
        MsgTimeoutNow,
        MsgTransferLeader,
        MsgPropose,
    ] {
        for term in [0, term, u64::MAX] {
            let mut forged = message(kind, claims, term);
            all.push(forged.clone());
            (forged.index, forged.commit) = (u64::MAX, u64::MAX);
            (forged.log_term, forged.reject_hint) = (u64::MAX, u64::MAX);
            all.push(forged);
        }
    }
    let mut append = message(MsgAppend, claims, term);
    (append.index, append.log_term) = (1, term + 7);
    let mut entry = Entry::default();
    (entry.index, entry.term) = (2, term + 7);
    append.mut_entries().push(entry);
    all.push(append);
    all.push(forged_session(claims));
    all
}

/// A write that would use up all starts of a member.
fn forged_session(claims: Claims) -> Message {
    let mut command = Command::new();
    (command.sequence, command.key) = (u64::MAX, b"forged".as_slice().into());
    let mut batch = Batch::new();
    (batch.member, batch.incarnation) = (claims.from, INCARNATION);
    (batch.boot, batch.run) = (u64::MAX, 1);
    batch.commands.push(command);
    let mut entry = Entry::default();
    entry.data = command::encode(&batch);
    let mut propose = message(MessageType::MsgPropose, claims, 0);
    propose.mut_entries().push(entry);
    propose
}

#[test]
fn forged_messages_end_nobody_and_leave_nothing_behind() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    cluster.put(1, "foo", "bar");
    let number = cluster_id(&cluster);
    for from in [2, 1, 3, 77] {
        for to in (1..=3).filter(|to| *to != from) {
            let claims = Claims {
                cluster: number,
                from,
                to,
                bound: LATER,
                receiver: incarnation_of(&cluster, to),
            };
            let node = &cluster.nodes[&to];
            let term = node.status().expect("status").term;
            let (answer, mut control) = shake_hands(node.peer_address, claims, "control");
            assert_eq!(answer.status, 101, "{claims:?}: {answer:?}");
            for forged in harmful(claims, term) {
                // It may have been thrown out by now.
                let _ = control.write(&frame(&[forged]));
            }
            assert_all_serve(&mut cluster, &[1, 2, 3]);
        }
    }
    for id in 1..=3 {
        assert_eq!(cluster.get(id, "forged"), None);
        let term = cluster.nodes[&id].status().expect("status").term;
        assert!(term < 10_000, "the term has grown to {term}");
    }
    cluster.kill_all();
    cluster.start_all();
    assert_all_serve(&mut cluster, &[1, 2, 3]);
    cluster.assert_hashes_agree(&[1, 2, 3]);
}
