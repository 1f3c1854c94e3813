//! Starts on a directory that exists: by what it holds, and by options that fit it. Others end with 2.

use crate::harness::{Cluster, PATIENCE, PATIENT, daemon, eventually, require, run_to_end};
use crate::ports::free_port;
use crate::process::Node;
use rustix::process::Signal;

/// From its next start on it is given its data directory and its client port, and nothing else but these.
fn say_only(node: &mut Node, more: &[&str]) {
    let (port, dir) = (node.address.port().to_string(), node.data_dir.clone());
    let dir = dir.to_str().expect("UTF-8").to_owned();
    let arguments = [&["--port", &port, "--data-dir", &dir], more].concat();
    node.arguments = arguments.into_iter().map(str::to_owned).collect();
}

fn stop(node: &mut Node) {
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(PATIENCE), Some(0));
}

fn list(urls: &[String]) -> String {
    urls.join(",")
}

fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.values().map(Node::url).collect()
}

/// The start ends with 2, and one line says all of this.
#[track_caller]
fn assert_refused(node: &mut Node, says: &[&str]) {
    node.start_expecting_exit(2);
    let said = node.last_log();
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    for words in says {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}

#[test]
fn after_its_first_start_a_member_needs_its_directory_and_nothing_else() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    cluster.put(1, "foo", "bar");
    cluster.kill_all();
    for id in 1..=3 {
        say_only(cluster.node(id), &PATIENT);
    }
    cluster.start_all();
    for id in 1..=3 {
        cluster.assert_value(id, "foo", "bar");
        cluster.put(id, "by", id.to_string());
        let said = cluster.nodes[&id].last_log();
        assert!(!said.contains("differs"), "nothing to warn of:\n{said}");
    }
}

#[test]
fn a_move_is_remembered_whoever_has_said_it() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    for (id, by_an_operator) in [(2, false), (3, true)] {
        stop(cluster.node(id));
        cluster.node(id).move_to(free_port());
        let url = cluster.nodes[&id].url();
        if by_an_operator {
            // It runs where it was, and hears of it.
            cluster.node(id).start();
            say_only(cluster.node(id), &["--peer-url", &url]);
            let path = format!("/-/members/{id}");
            eventually("it is moved", PATIENCE, || {
                let answer = cluster.send(1, "PUT", &path, &[], url.as_bytes());
                require(answer.status == 204, || format!("{answer:?}"))
            });
        } else {
            say_only(cluster.node(id), &["--peer-url", &url]);
            cluster.node(id).start();
        }
        eventually("its directory knows where it is", PATIENCE, || {
            let mut command = daemon(cluster.path());
            let ended = run_to_end(command.arg("inspect").arg(&cluster.nodes[&id].data_dir));
            require(
                ended.stdout.contains(&format!("its peer URL is {url}\n")),
                || ended.stdout,
            )
        });
        cluster.node(id).kill();
        say_only(cluster.node(id), &PATIENT);
        cluster.node(id).start();
        cluster.node(id).wait_ready();
        let listening = std::net::TcpStream::connect(cluster.nodes[&id].peer_address);
        assert!(listening.is_ok(), "it listens where it was moved to");
        cluster.put(id, "by", id.to_string());
    }
    cluster.node(1).kill();
    cluster.put(2, "foo", "bar");
    cluster.assert_value(3, "foo", "bar");
}

#[test]
fn one_member_and_then_three_in_one_directory_do_not_become_two_clusters() {
    // As the walkthroughs of the book, but for the ports: with default directories, one after the other.
    let mut cluster = Cluster::prepare(3, &[]);
    let urls = urls(&cluster);
    for id in 1..=3 {
        let data_dir = cluster.path().join(format!("raftkvd-{id}"));
        let node = cluster.node(id);
        node.data_dir = data_dir;
        let port = node.address.port();
        let line = format!("--id {id} --port {port} --cluster {}", list(&urls));
        node.arguments = line.split(' ').map(str::to_owned).collect();
    }
    let three = cluster.nodes[&1].arguments.clone();
    let (alone, port) = (free_port(), cluster.nodes[&1].address.port());
    let one = format!("--peer-url http://127.0.0.1:{alone} --port {port}");
    cluster.node(1).arguments = one.split(' ').map(str::to_owned).collect();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.put(1, "foo", "precious");
    stop(cluster.node(1));

    cluster.node(1).arguments = three;
    let holds = format!(
        "a cluster of one at http://127.0.0.1:{alone}, but --cluster lists members 2, 3, which"
    );
    let says = [
        "raftkvd-1 holds member 1 of cluster ",
        &holds,
        "rm -r raftkvd-[0-9]*",
        "leave out --cluster",
    ];
    assert_refused(cluster.node(1), &says);
    for id in [2, 3] {
        cluster.node(id).start();
        cluster.node(id).wait_closed("forming");
    }
    // The one goes on, without any options but where clients connect.
    let three = std::mem::replace(
        &mut cluster.node(1).arguments,
        vec!["--port".to_owned(), port.to_string()],
    );
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    cluster.assert_value(1, "foo", "precious");
    for id in [2, 3] {
        let refused = cluster.send(id, "PUT", "/foo", &[], b"split");
        assert_eq!(refused.status, 503, "{refused:?}");
    }
    // What the line says to remove is enough.
    cluster.kill_all();
    for id in 1..=3 {
        cluster.node(id).wipe();
    }
    cluster.node(1).arguments = three;
    cluster.start_all();
    cluster.put(2, "foo", "three");
    cluster.assert_value(1, "foo", "three");
}

#[test]
fn lists_of_the_same_cluster_are_taken_at_any_time_and_those_of_another_are_refused() {
    let mut cluster = Cluster::start_with(3, &PATIENT);
    let before = urls(&cluster);
    // 2 moves, 4 is added, 3 is removed.
    stop(cluster.node(2));
    cluster.node(2).move_to(free_port());
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    let id = cluster.lay_out_joiner();
    cluster.add_member(1, id);
    cluster.node(id).start();
    cluster.node(id).wait_ready();
    cluster.wait_voters(1, &[1, 2, 3, 4]);
    let after = urls(&cluster);
    cluster.remove_member(1, 3);
    assert_eq!(cluster.node(3).exit_code(PATIENCE), Some(0));

    let mut of_another = after.clone();
    of_another.push(format!("http://127.0.0.1:{}", free_port()));
    let elsewhere = |own: usize, count: usize| -> Vec<String> {
        let url = |at: usize| match at == own {
            true => format!("http://127.0.0.1:{}", free_port()),
            false => format!("http://127.0.0.1:{}", 1 + at),
        };
        (0..count).map(url).collect()
    };
    for id in [1, 4] {
        stop(cluster.node(id));
        // One without the own entry says nothing of where this member is.
        for fits in [&after[..], &before[..], &before[..1]] {
            cluster.node(id).set_flag("--cluster", &fits.join(","));
            cluster.node(id).start();
            cluster.node(id).wait_ready();
            cluster.put(id, "foo", fits.join(","));
            stop(cluster.node(id));
        }
        cluster.node(id).set_flag("--cluster", &list(&of_another));
        assert_refused(
            cluster.node(id),
            &["a cluster of 3 at ", "--cluster lists member 5,"],
        );
        let strange = elsewhere(id as usize - 1, 2);
        cluster.node(id).set_flag("--cluster", &list(&strange));
        assert_refused(
            cluster.node(id),
            &["a cluster of 3 at ", "none of its members"],
        );
        cluster.node(id).set_flag("--cluster", &list(&after));
        cluster.node(id).start();
        cluster.node(id).wait_ready();
    }
    cluster.wait_voters(1, &[1, 2, 4]);
}

#[test]
fn an_id_needs_no_list_on_its_directory_and_another_id_ends_with_5() {
    let mut cluster = Cluster::prepare(2, &[]);
    let urls = urls(&cluster);
    for id in 1..=2 {
        let data_dir = cluster.path().join(format!("raftkvd-{id}"));
        let node = cluster.node(id);
        node.data_dir = data_dir;
        let line = format!(
            "--id {id} --port {} --cluster {}",
            node.address.port(),
            list(&urls)
        );
        node.arguments = line.split(' ').map(str::to_owned).collect();
    }
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.kill_all();
    // The default of --data-dir depends on the id.
    for id in 1..=2 {
        let port = cluster.nodes[&id].address.port();
        let line = format!("--id {id} --port {port}");
        cluster.node(id).arguments = line.split(' ').map(str::to_owned).collect();
    }
    cluster.start_all();
    cluster.assert_value(2, "foo", "bar");
    cluster.kill_all();
    cluster
        .node(2)
        .arguments
        .extend(["--data-dir", "raftkvd-1"].map(str::to_owned));
    cluster.node(2).start_expecting_exit(5);

    // Nothing at all, where only another member's directory is, begins no second cluster.
    let aside = cluster.path().join("aside");
    std::fs::rename(cluster.path().join("raftkvd-1"), &aside).expect("move a directory");
    let refused = run_to_end(&mut daemon(cluster.path()));
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for words in ["raftkvd-2 holds member 2", "--id 2", "rm -r raftkvd-[0-9]*"] {
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    assert!(!cluster.path().join("raftkvd-1").exists());
}

#[test]
fn join_is_ignored_by_a_member_that_is_in_a_cluster() {
    let mut cluster = Cluster::grow(2, &PATIENT);
    let mut stranger = Cluster::prepare_beside(&cluster, 1, &[]);
    stranger.start_all();
    cluster.kill_all();
    for id in 1..=2 {
        let join = stranger.client_url(1);
        say_only(cluster.node(id), &["--join", &join]);
    }
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.assert_value(2, "foo", "bar");
    // Also without an address, and without a list.
    stop(cluster.node(2));
    say_only(cluster.node(2), &["--join"]);
    cluster.node(2).start();
    cluster.node(2).wait_ready();
}

#[test]
fn a_typo_in_the_list_is_corrected_by_starting_again_with_the_right_one() {
    // In the place of another member, and of the first itself; and with a kill right after the start with the right list.
    for (own, killed) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut cluster = Cluster::prepare(3, &PATIENT);
        let urls = urls(&cluster);
        let mut wrong = urls.clone();
        wrong[2] = format!("http://127.0.0.1:{}", free_port());
        if own {
            wrong[0] = format!("http://127.0.0.1:{}", free_port());
        }
        for id in [1, 2] {
            let node = cluster.node(id);
            node.set_flag("--cluster", &list(&wrong));
            node.start();
            node.wait_closed("forming");
        }
        cluster.kill_all();
        for id in [1, 2] {
            cluster.node(id).set_flag("--cluster", &list(&urls));
        }
        if killed {
            cluster.node(1).start();
            let meta = cluster.nodes[&1].data_dir.join("meta");
            eventually("its meta names the right list", PATIENCE, || {
                let bytes = std::fs::read(&meta).map_err(|error| error.to_string())?;
                let found = bytes
                    .windows(urls[2].len())
                    .any(|at| at == urls[2].as_bytes());
                require(found, || format!("{} bytes", bytes.len()))
            });
            cluster.node(1).kill();
            // From now on its directory says so; where it is, only what is in the log.
            if !own {
                say_only(cluster.node(1), &PATIENT);
            }
        }
        cluster.start_all();
        for id in 1..=3 {
            cluster.put(id, "foo", id.to_string());
            cluster.wait_voters(id, &[1, 2, 3]);
        }
        // It is what the directory knows from now on.
        cluster.kill_all();
        for id in 1..=3 {
            say_only(cluster.node(id), &PATIENT);
        }
        cluster.start_all();
        let status = cluster.nodes[&1].status().expect("status");
        let known: Vec<String> = status.members.iter().map(|m| m.url.clone()).collect();
        assert_eq!(known, urls);
    }
}

#[test]
fn a_listed_member_that_waits_takes_another_list_and_remembers_it() {
    let mut cluster = Cluster::prepare(2, &[]);
    let urls = urls(&cluster);
    let wrong = [format!("http://127.0.0.1:{}", free_port()), urls[1].clone()];
    cluster.node(2).set_flag("--cluster", &list(&wrong));
    cluster.node(2).start();
    let why = cluster.node(2).wait_closed("forming");
    assert!(why.contains(&wrong[0]), "{why}");
    cluster.node(2).kill();
    say_only(cluster.node(2), &[]);
    cluster.node(2).start();
    let why = cluster.node(2).wait_closed("forming");
    assert!(why.contains(&wrong[0]), "{why}");
    cluster.node(2).kill();
    cluster.node(2).set_flag("--cluster", &list(&urls));
    cluster.node(2).start();
    cluster.node(2).wait_closed("forming");
    cluster.node(2).kill();
    say_only(cluster.node(2), &[]);
    cluster.start_all();
    cluster.put(2, "foo", "bar");
}
