//! Full disks: what a node takes without room, what it refuses, and who leads then.

use super::*;
use crate::storage::LogRoom;
use crate::storage::wal::NextSegment;

const FULL: LogRoom = LogRoom {
    end: 0,
    next: NextSegment::Denied,
    margin: 1_000,
};

fn fill(cluster: &mut Cluster, id: u64) {
    cluster.node(id).set_log_room(FULL);
    assert!(cluster.node(id).disk_is_full());
}

fn empty(cluster: &mut Cluster, id: u64) {
    cluster.node(id).set_log_room(LogRoom::UNLIMITED);
    assert!(!cluster.node(id).disk_is_full());
}

#[track_caller]
fn assert_refused(outcome: &mut oneshot::Receiver<Outcome>) {
    let refused = Outcome::NotProposed(NotProposed::DiskFull);
    assert_eq!(outcome.try_recv(), Ok(Some(refused)));
}

#[test]
fn a_full_leader_refuses_writes_and_hands_leadership_to_a_member_with_room() {
    let (mut cluster, leader) = Cluster::elected(3);
    fill(&mut cluster, leader);
    let last = cluster.last(leader);
    assert_refused(&mut cluster.put(leader, "a"));
    // What a follower forwards is not taken either, and is sent again to the next leader.
    let follower = cluster.follower(leader);
    let mut forwarded = cluster.put(follower, "b");
    cluster.settle();
    assert_eq!(cluster.last(leader), last);
    cluster.tick_until(|cluster| cluster.see(follower).raw.raft.leader_id != leader);
    cluster.tick(20);
    applied(&mut forwarded);
    assert!(!cluster.see(leader).is_leader());
    assert_eq!(cluster.last(leader), last + 1, "only the empty entry");
    empty(&mut cluster, leader);
    cluster.tick(20);
    cluster.write(leader, "c");
    cluster.tick(5);
    cluster.assert_same_maps();
}

#[test]
fn a_full_follower_refuses_writes_and_takes_them_again_when_there_is_room() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    fill(&mut cluster, follower);
    assert_refused(&mut cluster.put(follower, "a"));
    cluster.write(leader, "b");
    cluster.tick(10);
    assert!(!cluster.has(follower, "b") && cluster.has(leader, "b"));
    empty(&mut cluster, follower);
    cluster.tick(10);
    cluster.write(follower, "c");
    cluster.tick(5);
    cluster.assert_same_maps();
}

#[test]
fn a_full_follower_acknowledges_entries_that_it_holds() {
    let (mut cluster, leader) = Cluster::elected(2);
    let follower = cluster.follower(leader);
    // The acknowledgements are lost, and the leader forgets what it has sent.
    cluster.cut = vec![(follower, leader)];
    let mut held = cluster.put(leader, "a");
    cluster.settle();
    assert_eq!(cluster.last(follower), cluster.last(leader));
    fill(&mut cluster, follower);
    cluster.node(leader).unreachable(follower);
    let mut waits = cluster.put(leader, "b");
    cluster.cut.clear();
    cluster.tick(10);
    applied(&mut held);
    assert_eq!(waits.try_recv(), Ok(None));
    assert_eq!(cluster.last(follower), cluster.last(leader) - 1);
    empty(&mut cluster, follower);
    cluster.tick(5);
    applied(&mut waits);
    cluster.assert_same_maps();
}

#[test]
fn one_entry_may_exceed_the_room_while_the_next_segment_is_kept() {
    let (mut cluster, leader) = Cluster::elected(2);
    let follower = cluster.follower(leader);
    let before = cluster.see(follower).room.spent();
    cluster.write(leader, "a");
    cluster.tick(5);
    let spent = cluster.see(follower).room.spent();
    let one = spent - before;
    let last = cluster.last(follower);
    cluster.host(follower).slow_disk = true;
    cluster.node(follower).set_log_room(LogRoom {
        end: spent + one + one / 2,
        next: NextSegment::Kept,
        margin: 0,
    });
    for key in ["b", "c", "d"] {
        drop(cluster.put(leader, key));
        cluster.settle();
    }
    assert_eq!(cluster.last(follower), last + 2);
    cluster.node(follower).set_log_room(LogRoom::UNLIMITED);
    cluster.host(follower).slow_disk = false;
    cluster.tick(10);
    cluster.assert_same_maps();
}

#[test]
fn a_disk_stays_full_until_the_log_gets_its_next_segment() {
    let (mut cluster, leader) = Cluster::elected(1);
    let spent = cluster.see(leader).room.spent();
    let denied = |end| LogRoom {
        end,
        next: NextSegment::Denied,
        margin: 100,
    };
    let node = cluster.node(leader);
    node.set_log_room(denied(spent + 201));
    assert!(!node.disk_is_full());
    node.set_log_room(denied(spent + 199));
    assert!(node.disk_is_full());
    node.set_log_room(denied(spent + 201));
    assert!(node.disk_is_full());
    empty(&mut cluster, leader);
}

/// Room for small entries on a full disk.
fn leave_little(cluster: &mut Cluster, id: u64) {
    let spent = cluster.see(id).room.spent();
    cluster.node(id).set_log_room(LogRoom {
        end: spent + 3_000,
        next: NextSegment::Denied,
        margin: 100,
    });
    assert!(!cluster.node(id).disk_is_full());
}

fn put_large(cluster: &mut Cluster, id: u64) -> oneshot::Receiver<Outcome> {
    let mut command = Command::new();
    command.key = "large".into();
    command.value = vec![b'v'; 10_000].into();
    cluster.propose(id, command)
}

#[test]
fn a_leader_that_refuses_a_large_write_says_so_and_hands_over() {
    let (mut cluster, leader) = Cluster::elected(3);
    leave_little(&mut cluster, leader);
    assert_refused(&mut put_large(&mut cluster, leader));
    assert!(cluster.see(leader).disk_is_full());
    // Small ones fit.
    cluster.write(leader, "a");
    cluster.tick_until(|cluster| !cluster.see(leader).is_leader());
    empty(&mut cluster, leader);
    cluster.tick(20);
    let mut outcome = put_large(&mut cluster, leader);
    cluster.settle();
    applied(&mut outcome);
    cluster.tick(5);
    cluster.assert_same_maps();
}

#[test]
fn a_large_write_that_is_sent_again_without_room_lets_small_ones_pass() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    // It is lost on its way to the leader.
    cluster.cut = vec![(follower, leader)];
    let mut large = put_large(&mut cluster, follower);
    cluster.settle();
    cluster.cut.clear();
    leave_little(&mut cluster, follower);
    cluster.tick(20);
    let mut small = cluster.put(follower, "a");
    cluster.settle();
    applied(&mut small);
    // The small one has overtaken it: it can't be applied any more.
    cluster.tick(2);
    assert_refused(&mut large);
    assert!(cluster.see(follower).disk_is_full());
}

#[test]
fn reads_do_not_send_a_full_follower_the_same_entries_again_and_again() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    fill(&mut cluster, follower);
    let last = cluster.last(leader);
    cluster.write(leader, "a");
    cluster.tick(10);
    let entry = cluster.see(leader).raw.raft.raft_log.entries(
        last + 1,
        None,
        raft::GetEntriesContext::empty(false),
    );
    let bytes = entry.expect("it is in memory")[0].data.len();
    let before = cluster.append_bytes[&follower];
    for _ in 0..50 {
        // The leader asks the member that it has heard from last.
        cluster.node(leader).note_heard(follower);
        let mut read = cluster.read(leader);
        cluster.settle();
        done(&mut read);
    }
    let sent = cluster.append_bytes[&follower] - before;
    assert!(sent <= bytes, "{sent} bytes of entries for 50 reads");
    // It is probed with every regular heartbeat, and takes the entry as soon as there is room.
    let before = cluster.append_bytes[&follower];
    cluster.tick(10);
    let sent = cluster.append_bytes[&follower] - before;
    assert!((bytes..=10 * bytes).contains(&sent), "{sent}");
    empty(&mut cluster, follower);
    cluster.tick(5);
    cluster.assert_same_maps();
}

#[test]
fn with_all_disks_full_elections_and_reads_go_on() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.write(leader, "a");
    cluster.tick(5);
    for id in 1..=3 {
        fill(&mut cluster, id);
    }
    cluster.restart(leader);
    fill(&mut cluster, leader);
    let next = cluster.elect();
    let mut read = cluster.read(next);
    cluster.settle();
    done(&mut read);
    assert_refused(&mut cluster.put(next, "b"));
    // They hand leadership round, ever less often.
    let before = cluster.term(next);
    cluster.tick(2_000);
    let elections = cluster.term(next) - before;
    assert!((1..60).contains(&elections), "{elections}");
    for id in 1..=3 {
        empty(&mut cluster, id);
    }
    cluster.write(1, "c");
    cluster.tick(5);
    cluster.assert_same_maps();
}

#[test]
fn an_append_is_cut_before_the_entry_for_which_there_is_no_room() {
    let (mut cluster, leader) = Cluster::elected(2);
    let follower = cluster.follower(leader);
    cluster.cut = vec![(leader, follower)];
    let mut outcomes: Vec<_> = (0..4)
        .map(|i| cluster.put(leader, &format!("k{i}")))
        .collect();
    cluster.settle();
    let last = cluster.last(follower);
    let spent = cluster.see(follower).room.spent();
    cluster.node(follower).set_log_room(LogRoom {
        end: spent + 500,
        next: NextSegment::Awaited,
        margin: 0,
    });
    cluster.cut.clear();
    cluster.tick(10);
    let taken = cluster.last(follower) - last;
    assert!((1..4).contains(&taken), "{taken}");
    empty(&mut cluster, follower);
    cluster.tick(10);
    outcomes
        .iter_mut()
        .for_each(|outcome| assert!(applied(outcome) > 0));
    cluster.assert_same_maps();
}

#[test]
fn a_snapshot_that_could_not_be_written_is_tried_again_after_a_pause() {
    let (mut cluster, leader) = Cluster::elected(1);
    cluster.node(leader).settings.snapshot_bytes = 1;
    cluster.write(leader, "a");
    let taken = cluster.log(leader).snapshot_index();
    assert!(taken > 1, "a snapshot is taken after every write");
    let election = cluster.node(leader).settings.election_ticks;
    // The attempt took five election timeouts.
    let begun = cluster.see(leader).now;
    cluster.node(leader).snapshots.begun_at = begun;
    cluster.tick(5 * election);
    cluster.node(leader).snapshot_failed();
    cluster.write(leader, "b");
    cluster.tick(19 * election);
    assert_eq!(cluster.log(leader).snapshot_index(), taken);
    cluster.tick(2 * election);
    assert!(cluster.log(leader).snapshot_index() > taken);
    assert_eq!(cluster.see(leader).snapshots.failures, 0);
}

#[test]
fn a_disk_that_hangs_for_long_bounds_what_waits_for_it() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = cluster.follower(leader);
    let spent = cluster.see(follower).room.spent();
    cluster.host(follower).slow_disk = true;
    // No write returns, so the log reports the same room all the time.
    cluster.node(follower).set_log_room(LogRoom {
        end: spent + 100_000,
        next: NextSegment::Kept,
        margin: 1_000,
    });
    let largest = 1_000;
    for round in 0..12_000 {
        if round % 10 == 0 {
            drop(cluster.put(leader, &format!("{round}")));
        }
        cluster.tick(1);
    }
    let bytes = |host: &Host| -> u64 { host.jobs.iter().map(|job| job.save.log_bytes()).sum() };
    let host = &cluster.hosts[&follower];
    assert!(bytes(host) <= 100_000 + largest, "{}", bytes(host));
    let jobs = host.jobs.len();
    assert!(jobs <= limits::JOBS_UNWRITTEN_MAX, "{jobs}");
    assert!(
        jobs > limits::JOBS_UNWRITTEN_MAX / 2,
        "{jobs}: too few to tell"
    );
    // The follower still answers what needs no write, and catches up when the disk works again.
    assert_eq!(cluster.leader(), leader);
    cluster.node(follower).set_log_room(LogRoom::UNLIMITED);
    cluster.host(follower).slow_disk = false;
    cluster.tick(200);
    cluster.assert_same_maps();
}

#[test]
fn a_candidate_whose_disk_hangs_bounds_what_waits_for_it() {
    let (mut cluster, leader) = Cluster::elected(3);
    let [one, two] = cluster.others(leader);
    cluster.host(one).slow_disk = true;
    // A write that hangs. While there is none, a promise that needs no write does not wait.
    cluster.write(leader, "a");
    cluster.kill(leader);
    cluster.kill(two);
    cluster.tick(30 * limits::JOBS_UNWRITTEN_MAX);
    let jobs = cluster.hosts[&one].jobs.len();
    assert!(jobs <= limits::JOBS_UNWRITTEN_MAX, "{jobs}");
    cluster.host(one).slow_disk = false;
    cluster.start(leader);
    cluster.start(two);
    let leader = cluster.elect();
    cluster.write(leader, "b");
    cluster.tick(20);
    cluster.assert_same_maps();
}

#[test]
fn a_leader_whose_disk_hangs_hands_leadership_over() {
    let (mut cluster, leader) = Cluster::elected(3);
    let election = cluster.node(leader).settings.election_ticks;
    cluster.host(leader).slow_disk = true;
    // The others store the write, and this leader applies nothing that it has not stored itself.
    let mut outcome = cluster.put(leader, "a");
    cluster.tick(3 * election);
    assert_eq!(cluster.leader(), leader, "a pause of the disk is no reason");
    cluster.tick(4 * election);
    let next = cluster.leader();
    assert!(next != 0 && next != leader, "{next}");
    cluster.write(next, "b");
    cluster.host(leader).slow_disk = false;
    cluster.tick(20);
    applied(&mut outcome);
    cluster.assert_same_maps();
}

#[test]
fn a_leader_without_a_next_segment_hands_leadership_over() {
    let (mut cluster, leader) = Cluster::elected(3);
    let election = cluster.node(leader).settings.election_ticks;
    let spent = cluster.see(leader).room.spent();
    cluster.node(leader).set_log_room(LogRoom {
        end: spent,
        next: NextSegment::Awaited,
        margin: 0,
    });
    let mut outcome = cluster.put(leader, "a");
    cluster.tick(7 * election);
    let next = cluster.leader();
    assert!(next != 0 && next != leader, "{next}");
    // It takes no entry, but hears of the leader.
    assert_eq!(cluster.see(leader).position().leader, next);
    cluster.write(next, "b");
    cluster.node(leader).set_log_room(LogRoom::UNLIMITED);
    cluster.tick(2 * election);
    applied(&mut outcome);
    cluster.assert_same_maps();
}
