//! The Procfile's lines, run one by one as goreman would.

use crate::harness::{BINARY, Cluster, Node};
use crate::ports::{free_port, is_free};
use std::path::Path;

/// `name: command` lines; goreman ignores lines that begin with `#`.
fn processes(procfile: &str) -> Vec<(String, Vec<String>)> {
    let lines = procfile.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, command) = line.split_once(':').expect("name: command");
            let words = command.split_whitespace().map(str::to_owned);
            (name.trim().to_owned(), words.collect())
        })
        .collect()
}

#[test]
fn the_procfile_runs_a_cluster_of_three() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Procfile");
    let mut text = std::fs::read_to_string(path).expect("read the Procfile");
    let mut ports = [[12_379, 12_380], [22_379, 22_380], [32_379, 32_380]];
    // Somebody may run the example on this machine right now: then other ports stand in.
    for port in ports.iter_mut().flatten() {
        assert!(
            text.contains(&port.to_string()),
            "the Procfile uses port {port}"
        );
        if !is_free(*port) {
            let other = free_port();
            text = text.replace(&port.to_string(), &other.to_string());
            *port = other;
        }
    }
    let processes = processes(&text);
    let names: Vec<&str> = processes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["raftkvd1", "raftkvd2", "raftkvd3"]);

    // Only the directory, the clean-up and the questions are the harness's; the nodes come from the Procfile.
    let mut cluster = Cluster::prepare(0, &[]);
    for (id, (_, words)) in (1..).zip(&processes) {
        let (program, arguments) = words.split_first().expect("a command");
        assert_eq!(program, "target/release/raftkvd");
        assert!(Path::new(BINARY).ends_with("raftkvd"));
        let [peer_port, port] = ports[id as usize - 1];
        let data_dir = cluster.path().join(format!("raftkvd-{id}"));
        let node = Node::with_arguments(
            id,
            port,
            peer_port,
            cluster.path(),
            data_dir,
            arguments.to_vec(),
        );
        cluster.nodes.insert(id, node);
    }
    cluster.start_all();
    cluster.put(1, "foo", "bar");
    cluster.assert_value(2, "foo", "bar");
    cluster.put(3, "foo", "baz");
    cluster.assert_value(1, "foo", "baz");
    for node in cluster.nodes.values() {
        assert!(
            node.data_dir.is_dir(),
            "the default is raftkvd-<id> in the working directory"
        );
    }
    // As `goreman run stop raftkvd2` and `start` do.
    cluster.node(2).kill();
    cluster.put(1, "foo", "without 2");
    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.assert_value(2, "foo", "without 2");
}
