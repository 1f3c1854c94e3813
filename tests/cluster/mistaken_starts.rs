//! Starts with a wrong or a missing option: the member says what is wrong, and the corrected start works at once.

use crate::harness::{Cluster, PATIENCE, eventually, require};
use crate::ports::free_port;

/// Its arguments without its list: it is a lone member at its peer URL.
fn leave_alone(cluster: &mut Cluster, id: u64, data_dir: &str) {
    let node = cluster.node(id);
    let at = node.arguments.iter().position(|a| a == "--cluster");
    let at = at.expect("it has its list");
    node.arguments.drain(at..at + 2);
    let url = node.url();
    node.set_flag("--peer-url", &url);
    node.set_flag("--data-dir", data_dir);
}

/// A cluster of the members 2 and 3, and the lone member 1, which is not started.
fn two_beside_one() -> Cluster {
    let mut cluster = Cluster::start(3);
    cluster.remove_member(2, 1);
    assert_eq!(cluster.node(1).exit_code(PATIENCE), Some(0));
    leave_alone(&mut cluster, 1, "alone");
    cluster
}

/// Waits until a node's newest start has logged this.
#[track_caller]
fn wait_log(cluster: &Cluster, id: u64, text: &str) {
    eventually(text, PATIENCE, || {
        let log = cluster.nodes[&id].last_log();
        require(log.contains(text), || log)
    });
}

/// Waits until a node says this to a client that asks whether it is ready.
#[track_caller]
fn wait_said(cluster: &mut Cluster, id: u64, code: &str, text: &str) {
    eventually(text, PATIENCE, || {
        let why = cluster.node(id).wait_closed(code);
        require(why.contains(text), || why)
    });
}

#[test]
fn a_lone_member_that_is_awaited_elsewhere_ends_before_any_client_has_written_to_it() {
    let mut cluster = two_beside_one();
    cluster.add_member(2, 1);
    cluster.node(1).start_expecting_exit(5);
    let log = cluster.nodes[&1].last_log();
    assert!(log.contains("did you forget --join?"), "{log}");
    // The command in the line works at the first try.
    let asked = cluster.client_url(2);
    cluster.node(1).set_flag("--join", &asked);
    cluster.node(1).set_flag("--data-dir", "joins");
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.wait_voters(2, &[1, 2, 3]);
}

#[test]
fn a_lone_member_with_writes_goes_on_when_another_cluster_awaits_it() {
    let mut cluster = two_beside_one();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.put(1, "name", "value");
    cluster.add_member(2, 1);
    wait_log(&cluster, 1, "and goes on; did you forget --join?");
    cluster.put(1, "name", "other");
    // A restart, which reads the write from the log, changes nothing.
    cluster.node(1).kill();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    wait_log(&cluster, 1, "and goes on; did you forget --join?");
    cluster.assert_value(1, "name", "other");
}

#[test]
fn a_joiner_says_through_whom_it_joins_and_why_it_is_not_added() {
    let mut cluster = Cluster::start(1);
    cluster.lay_out_alone(2, &[1]);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let peer = cluster.nodes[&1].url();
    let own = cluster.client_url(2);
    let unknown = "http://name.invalid:1".to_owned();
    for (asked, reason) in [
        (&nobody, "connect: Connection refused"),
        (
            &peer,
            "this is the peer URL of a member; give --join the URL",
        ),
        (
            &own,
            "this is the URL of this member itself; give --join the",
        ),
        (&unknown, "connect: "),
    ] {
        cluster.node(2).set_flag("--join", asked);
        cluster.node(2).start();
        let through =
            format!("joining through {asked}: member 2 is not added yet: {asked}: {reason}");
        wait_said(&mut cluster, 2, "joining", &through);
        let address = cluster.address(2);
        // Not what to do, which the log has said already.
        let waits = through.split("; ").next().expect("a line");
        let listening = format!("is listening at http://{address}; {waits}");
        wait_log(&cluster, 2, &listening);
        cluster.node(2).kill();
    }
    // A start that repeats nothing says where the URL comes from.
    cluster.node(2).set_flag("--join", &nobody);
    cluster.node(2).start();
    cluster.node(2).wait_closed("joining");
    cluster.node(2).kill();
    let node = cluster.node(2);
    let at = node.arguments.iter().position(|a| a == "--join");
    let at = at.expect("it joins");
    node.arguments.drain(at..at + 2);
    node.start();
    let through = format!("joining through {nobody} (from the data directory): member 2 is not");
    wait_said(&mut cluster, 2, "joining", &through);
    wait_log(&cluster, 2, &through);
    // With the right URL it joins.
    cluster.node(2).kill();
    let right = cluster.client_url(1);
    cluster.node(2).set_flag("--join", &right);
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.wait_voters(1, &[1, 2]);
}

#[test]
fn a_refused_join_leaves_nothing_in_the_way_of_a_corrected_one() {
    let mut cluster = Cluster::grow(2, &[]);
    cluster.lay_out_alone(3, &[1]);
    cluster.node(3).set_flag("--id", "2");
    cluster.node(3).start_expecting_exit(2);
    let log = cluster.nodes[&3].last_log();
    assert!(log.contains("needs an id of its own"), "{log}");
    // The same data directory, with the right id.
    cluster.node(3).set_flag("--id", "3");
    cluster.node(3).start();
    cluster.node(3).wait_ready();
    cluster.wait_voters(1, &[1, 2, 3]);
}

#[test]
fn a_first_member_that_was_started_with_join_by_mistake_forms_in_the_same_directory() {
    let mut cluster = Cluster::prepare(2, &[]);
    cluster.node(1).arguments.push("--join".to_owned());
    cluster.node(1).start();
    wait_said(
        &mut cluster,
        1,
        "joining",
        "to create a cluster instead, start member 1 without --join",
    );
    cluster.node(1).kill();
    cluster.node(1).arguments.pop();
    cluster.start_all();
    cluster.put(2, "name", "value");
    cluster.assert_value(1, "name", "value");
    // From now on the directory is that of a member.
    cluster.kill_all();
    cluster.start_all();
    cluster.assert_value(1, "name", "value");
}

#[test]
fn a_join_in_the_directory_of_a_cluster_that_never_formed_is_refused() {
    let mut cluster = Cluster::prepare(2, &[]);
    cluster.node(1).start();
    cluster.node(1).wait_closed("forming");
    cluster.node(1).kill();
    cluster.node(1).set_flag("--join", "http://127.0.0.1:1");
    cluster.node(1).start_expecting_exit(2);
    let log = cluster.nodes[&1].last_log();
    let text = "has never formed, so --join has no effect there; to join a cluster, keep ";
    assert!(log.contains(text), "{log}");
    // Without that member, the cluster continues to form.
    let node = cluster.node(1);
    let at = node.arguments.iter().position(|a| a == "--join");
    let at = at.expect("it joins");
    node.arguments.drain(at..at + 2);
    cluster.start_all();
    cluster.put(2, "name", "value");
}

#[test]
fn a_typo_in_one_of_the_lists_is_named_with_both_urls() {
    let mut cluster = Cluster::prepare(2, &[]);
    let listed = cluster.nodes[&2].url();
    let actual = format!("http://127.0.0.1:{}", free_port());
    cluster.node(2).replace_in_arguments(&listed, &actual);
    cluster.node(1).start();
    cluster.node(2).start();
    let both = format!("gives its peer URL as {actual}, but --cluster has {listed} here: correct");
    wait_said(&mut cluster, 1, "forming", &both);
    wait_log(
        &cluster,
        1,
        &format!("it gives {actual}, and here it is {listed}"),
    );
    // The answer to the member does not contain the URL that the other one knows.
    let own =
        format!("its id was added at another peer URL, and this member gives {actual}: correct");
    wait_said(&mut cluster, 2, "forming", &own);
    cluster.node(2).kill();
    cluster.node(2).replace_in_arguments(&actual, &listed);
    cluster.start_all();
    cluster.put(2, "name", "value");
}

#[test]
fn a_member_that_was_moved_to_a_wrong_url_says_so_and_its_next_start_is_there() {
    let mut cluster = Cluster::grow(3, &[]);
    let served = cluster.nodes[&2].url();
    cluster.node(2).kill();
    let node = cluster.node(2);
    let at = node.arguments.iter().position(|a| a == "--peer-url");
    let at = at.expect("it has its URL");
    node.arguments.drain(at..at + 2);
    node.start();
    node.wait_ready();
    node.move_to(free_port());
    let wrong = cluster.nodes[&2].url();
    let answer = cluster.send(1, "PUT", "/-/members/2", &[], wrong.as_bytes());
    assert_eq!(answer.status, 204, "{answer:?}");
    let said = format!("know this member at {wrong}, but it listens for peers at {served}");
    wait_log(
        &cluster,
        2,
        &format!("WARN the other members {said}: start it again"),
    );
    // Without connections from before the move, no other member reaches this one.
    cluster.node(3).kill();
    cluster.node(1).kill();
    cluster.node(1).start();
    let ready = |cluster: &Cluster, id: u64, text: &str| {
        eventually(text, PATIENCE, || {
            let response = cluster.send(id, "GET", "/-/ready", &[], b"");
            require(response.text().contains(text), || format!("{response:?}"))
        });
    };
    ready(&cluster, 2, &format!("; the other members {said}"));
    ready(&cluster, 1, &format!("start member 2 ({wrong})"));
    cluster.node(2).kill();
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.put(2, "name", "value");
}
