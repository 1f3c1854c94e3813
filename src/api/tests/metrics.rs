//! What a scrape shows while something is wrong. `tests/cluster/metrics.rs` checks the OpenMetrics format.

use super::*;

#[track_caller]
fn scrape(cluster: &Cluster) -> String {
    let response = cluster.get("/-/metrics");
    assert_eq!(response.status, 200, "{response:?}");
    String::from_utf8(response.body).unwrap()
}

#[track_caller]
fn assert_shows(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "no {line} in\n{text}");
    }
}

#[test]
fn failures_count_by_the_code_that_the_client_was_given() {
    let cluster = Cluster::start();
    cluster.set(Mode::Refuse(NotProposed::NoLeader));
    cluster.put("/a", b"1");
    cluster.put("/a", b"1");
    cluster.send("DELETE", "/-/members/4", &[], b"");
    cluster.get("/a");
    cluster.set(Mode::Drop);
    cluster.put("/a", b"1");
    cluster.set(Mode::Serve);
    cluster.put("/a", b"1");
    let text = scrape(&cluster);
    assert_shows(
        &text,
        &[
            "raftkvd_proposals_failed_total{reason=\"no-leader\"} 3",
            "raftkvd_proposals_failed_total{reason=\"unknown-outcome\"} 1",
            "raftkvd_proposals_failed_total{reason=\"queue-full\"} 0",
            "raftkvd_reads_failed_total{reason=\"no-leader\"} 1",
            "raftkvd_http_requests_total{method=\"PUT\",code=\"503\"} 2",
            "raftkvd_http_requests_total{method=\"PUT\",code=\"504\"} 1",
            "raftkvd_http_requests_total{method=\"PUT\",code=\"204\"} 1",
        ],
    );
    // The series of every possible reason exist from the start, under the same name.
    for why in [
        NotProposed::NoLeader,
        NotProposed::NotTaken,
        NotProposed::NoQuorum,
        NotProposed::QueueFull,
        NotProposed::Stopping,
    ] {
        cluster.set(Mode::Refuse(why));
        match why {
            NotProposed::NoQuorum => cluster.get("/a"),
            _ => cluster.put("/a", b"1"),
        };
    }
    cluster.set(Mode::Serve);
    let families = |text: &str| text.matches("_failed_total{").count();
    assert_eq!(families(&scrape(&cluster)), families(&text));
}

#[test]
fn a_loop_that_is_stuck_leaves_the_rest_of_a_scrape() {
    let cluster = Cluster::with(Limits {
        request_timeout: Duration::from_millis(300),
        ..limits()
    });
    cluster.put("/a", b"1");
    assert_shows(&scrape(&cluster), &["raftkvd_live 1", "raftkvd_term 2"]);
    cluster.set(Mode::Silent);
    let text = scrape(&cluster);
    assert_shows(
        &text,
        &[
            "raftkvd_live 0",
            "raftkvd_store_keys 1",
            "raftkvd_replaying 0",
        ],
    );
    assert!(!text.contains("raftkvd_term"), "{text}");
    let accept = "Accept: application/openmetrics-text";
    let open = cluster.send("GET", "/-/metrics", &[accept], b"");
    assert!(open.body.ends_with(b"# EOF\n"), "{open:?}");
}

#[test]
fn while_the_snapshot_is_loaded_there_are_metrics_and_none_of_what_is_not_there_yet() {
    let replay = Arc::new(Replay::new());
    let cluster = Cluster::replaying(limits(), Arc::clone(&replay));
    let text = scrape(&cluster);
    assert_shows(&text, &["raftkvd_live 1", "raftkvd_replaying 1"]);
    for missing in ["raftkvd_term", "raftkvd_has_leader", "raftkvd_store_keys"] {
        assert!(!text.contains(missing), "{text}");
    }
    assert!(text.contains("process_start_time_seconds "), "{text}");
    replay.begin_log(10, 110, &Logger::root(slog::Discard, slog::o!()));
    let text = scrape(&cluster);
    assert_shows(&text, &["raftkvd_replaying 1", "raftkvd_has_leader 1"]);
    replay.applied(110);
    assert_shows(&scrape(&cluster), &["raftkvd_replaying 0"]);
}
