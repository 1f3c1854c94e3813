//! `GET /-/metrics`, read by a parser of OpenMetrics that is not of those who wrote it.

use crate::harness::{Cluster, PATIENCE, eventually, leader_and_followers, require};
use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{
    HistogramValue, MetricsExposition, OpenMetricsType as Type, OpenMetricsValue as Value,
};
use std::collections::BTreeSet;

/// What one scrape of one member has shown.
struct Scrape {
    text: String,
    parsed: MetricsExposition<Type, Value>,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

#[track_caller]
fn scrape(cluster: &Cluster, id: u64) -> Scrape {
    // As Prometheus asks.
    let accept =
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
    let response = cluster.send(id, "GET", "/-/metrics", &[("Accept", accept)], b"");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(
        response.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let text = String::from_utf8(response.body).expect("metrics are UTF-8");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let parsed = parse_openmetrics(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    Scrape { text, parsed }
}

impl Scrape {
    /// The samples of a family, each with its labels.
    fn samples(&self, family: &str) -> Vec<(Vec<(String, String)>, &Value)> {
        let Some(family) = self.parsed.families.get(family) else {
            return Vec::new();
        };
        let samples = family.iter_samples().map(|sample| {
            let labels = sample.get_labelset().expect("samples have labels");
            let labels = labels.iter().map(|(k, v)| (k.clone(), v.clone()));
            let mut labels: Vec<_> = labels.collect();
            labels.sort();
            (labels, &sample.value)
        });
        samples.collect()
    }

    fn find(&self, family: &str, labels: Labels) -> Option<&Value> {
        let owned = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        let mut wanted: Vec<_> = owned.collect();
        wanted.sort();
        let samples = self.samples(family);
        samples
            .into_iter()
            .find_map(|(labels, value)| (labels == wanted).then_some(value))
    }

    #[track_caller]
    fn gauge(&self, family: &str) -> f64 {
        match self.find(family, &[]) {
            Some(Value::Gauge(number)) => number.as_f64(),
            other => panic!("{family} is {other:?} in\n{}", self.text),
        }
    }

    /// 0 for what has not occurred.
    #[track_caller]
    fn counter(&self, family: &str, labels: Labels) -> f64 {
        match self.find(family, labels) {
            Some(Value::Counter(counter)) => counter.value.as_f64(),
            None => 0.0,
            other => panic!("{family} is {other:?} in\n{}", self.text),
        }
    }

    #[track_caller]
    fn histogram(&self, family: &str, labels: Labels) -> &HistogramValue {
        match self.find(family, labels) {
            Some(Value::Histogram(histogram)) => histogram,
            other => panic!("{family} {labels:?} is {other:?} in\n{}", self.text),
        }
    }

    #[track_caller]
    fn count(&self, family: &str, labels: Labels) -> u64 {
        self.histogram(family, labels)
            .count
            .expect("it has a count")
    }

    #[track_caller]
    fn sum(&self, family: &str, labels: Labels) -> f64 {
        self.histogram(family, labels)
            .sum
            .expect("it has a sum")
            .as_f64()
    }

    fn requests(&self, method: &str, code: &str) -> f64 {
        let labels = [("method", method), ("code", code)];
        self.counter("raftkvd_http_requests", &labels)
    }

    /// Ids of the peers that some series is about.
    fn peers(&self) -> Vec<String> {
        let mut peers = Vec::new();
        for family in self.parsed.families.keys() {
            for (labels, _) in self.samples(family) {
                peers.extend(
                    labels
                        .into_iter()
                        .filter(|(k, _)| k == "peer")
                        .map(|(_, v)| v),
                );
            }
        }
        peers.sort();
        peers.dedup();
        peers
    }
}

/// What only grows is in `later` at least what it was in `earlier`.
#[track_caller]
fn assert_grows(earlier: &Scrape, later: &Scrape) {
    for family in earlier.parsed.families.keys() {
        for (labels, before) in earlier.samples(family) {
            let labels: Vec<_> = labels.iter().map(|(k, v)| (&**k, &**v)).collect();
            let after = later.find(family, &labels);
            let grows = match (before, after) {
                (Value::Counter(before), Some(Value::Counter(after))) => {
                    after.value.as_f64() >= before.value.as_f64()
                }
                (Value::Histogram(before), Some(Value::Histogram(after))) => {
                    let buckets = before.buckets.iter().zip(&after.buckets);
                    let mut counts = buckets.map(|(b, a)| (b.count.as_f64(), a.count.as_f64()));
                    after.count >= before.count && counts.all(|(before, after)| after >= before)
                }
                (Value::Counter(_) | Value::Histogram(_), _) => false,
                _ => true,
            };
            assert!(grows, "{family} {labels:?}: {before:?}, then {after:?}");
        }
    }
}

/// As many requests have a duration as were counted.
#[track_caller]
fn assert_durations_are_of_all_requests(after: &Scrape) {
    for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "other"] {
        let labels = [("method", method)];
        let count = after.count("raftkvd_http_request_duration_seconds", &labels);
        let samples = after.samples("raftkvd_http_requests");
        let of_method = samples.iter().filter(|(labels, _)| labels[1].1 == method);
        let sum: f64 = of_method
            .map(|(_, value)| match value {
                Value::Counter(counter) => counter.value.as_f64(),
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(count as f64, sum, "{method}");
    }
}

#[test]
fn counters_count_exactly_what_was_done_and_no_key_shows() {
    let cluster = Cluster::start(3);
    let (_, followers) = leader_and_followers(&cluster);
    let via = followers[0];
    let before = scrape(&cluster, via);
    for i in 0..7 {
        cluster.put(via, &format!("confidential-{i}"), "secret");
    }
    let send = |method, path| cluster.send(via, method, path, &[], b"").status;
    for _ in 0..5 {
        assert_eq!(send("GET", "/confidential-1"), 200);
    }
    for _ in 0..3 {
        assert_eq!(send("GET", "/confidential-absent"), 404);
        assert_eq!(send("HEAD", "/confidential-1"), 200);
    }
    assert_eq!(send("DELETE", "/confidential-0"), 204);
    assert_eq!(send("DELETE", "/-/confidential"), 403);
    assert_eq!(send("BREW", "/confidential-0"), 405);
    assert_eq!(send("CONFIDENTIAL", "/confidential-0"), 405);
    assert_eq!(send("GET", "/-/metrics?confidential"), 400);
    assert_eq!(send("PUT", "/-/metrics"), 403);
    assert_eq!(send("HEAD", "/-/metrics"), 200);
    let after = scrape(&cluster, via);
    for (method, code, count) in [
        ("PUT", "204", 7.0),
        // And the scrape before.
        ("GET", "200", 6.0),
        ("GET", "404", 3.0),
        ("GET", "400", 1.0),
        ("HEAD", "200", 4.0),
        ("DELETE", "204", 1.0),
        ("DELETE", "403", 1.0),
        ("PUT", "403", 1.0),
        ("other", "405", 2.0),
    ] {
        let counted = after.requests(method, code) - before.requests(method, code);
        assert_eq!(counted, count, "{method} {code}");
    }
    assert_durations_are_of_all_requests(&after);
    assert_grows(&before, &after);
    for shown in [&before, &after] {
        assert!(
            !shown.text.to_lowercase().contains("confidential"),
            "{}",
            shown.text
        );
        assert!(!shown.text.contains("secret"), "{}", shown.text);
    }
    for reason in [
        "no-leader",
        "leader-busy",
        "queue-full",
        "stopping",
        "unknown-outcome",
    ] {
        let labels = [("reason", reason)];
        assert!(
            after.find("raftkvd_proposals_failed", &labels).is_some(),
            "{}",
            after.text
        );
        assert_eq!(after.counter("raftkvd_proposals_failed", &labels), 0.0);
    }
}

#[test]
fn every_command_byte_and_sync_of_one_member_is_counted() {
    let mut cluster = Cluster::start_with(1, &["--snapshot-bytes", "64K"]);
    let before = scrape(&cluster, 1);
    assert_eq!(before.gauge("raftkvd_store_keys"), 0.0);
    let value = [7; 1_000];
    for i in 0..20 {
        cluster.put(1, &format!("key-{i:02}"), value);
    }
    let after = eventually("nothing is pending", PATIENCE, || {
        let shown = scrape(&cluster, 1);
        let pending = shown.gauge("raftkvd_proposals_pending");
        require(pending == 0.0, || format!("{pending}"))?;
        Ok(shown)
    });
    assert_eq!(after.gauge("raftkvd_store_keys"), 20.0);
    assert_eq!(after.gauge("raftkvd_store_bytes"), 20.0 * 1_006.0);
    let more = |family| after.sum(family, &[]) - before.sum(family, &[]);
    assert_eq!(more("raftkvd_entry_commands"), 20.0);
    // One after the other, so each had an entry, a batch and a sync of its own.
    assert_eq!(more("raftkvd_wal_batch_entries"), 20.0);
    let syncs = |shown: &Scrape| shown.count("raftkvd_wal_fsync_duration_seconds", &[]);
    assert!(syncs(&after) >= syncs(&before) + 20);
    let bytes = |shown: &Scrape| shown.counter("raftkvd_wal_written_bytes", &[]);
    assert!(bytes(&after) - bytes(&before) >= 20_000.0);
    let status = cluster.nodes[&1].status().expect("status");
    for (family, number) in [
        ("raftkvd_term", status.term),
        ("raftkvd_committed_index", status.committed),
        ("raftkvd_applied_index", status.applied),
        ("raftkvd_last_index", status.committed),
        ("raftkvd_has_leader", 1),
        ("raftkvd_is_leader", 1),
        ("raftkvd_live", 1),
        ("raftkvd_replaying", 0),
    ] {
        assert_eq!(after.gauge(family), number as f64, "{family}");
    }
    assert_eq!(after.counter("raftkvd_leader_changes", &[]), 1.0);
    assert!(after.peers().is_empty());

    let operation = |name: &'static str| [("operation", name)];
    let (written, loaded) = (operation("write"), operation("load"));
    for i in 0..100 {
        cluster.put(1, &format!("key-{i:02}"), value);
    }
    eventually("a snapshot was written", PATIENCE, || {
        let shown = scrape(&cluster, 1);
        let count = shown.count("raftkvd_snapshot_duration_seconds", &written);
        let bytes = shown.counter("raftkvd_snapshot_bytes", &written);
        assert_eq!(shown.count("raftkvd_snapshot_duration_seconds", &loaded), 0);
        require(count > 0 && bytes > 20_000.0, || {
            format!("{count} of {bytes} bytes")
        })
    });
    cluster.node(1).kill();
    cluster.node(1).start();
    cluster.node(1).wait_ready();
    let restarted = scrape(&cluster, 1);
    assert_eq!(
        restarted.count("raftkvd_snapshot_duration_seconds", &loaded),
        1
    );
    assert!(restarted.counter("raftkvd_snapshot_bytes", &loaded) > 20_000.0);
    assert_eq!(restarted.gauge("raftkvd_store_keys"), 100.0);
}

#[test]
fn the_members_say_alike_who_leads_and_the_leader_times_the_others() {
    let cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    cluster.put(followers[0], "a", "b");
    let of_member = |id: u64| {
        let others = (1..=3).filter(|other| *other != id);
        others.map(|id| id.to_string()).collect::<Vec<_>>()
    };
    let agree = |leader: u64| {
        let shown: Vec<Scrape> = (1..=3).map(|id| scrape(&cluster, id)).collect();
        for (id, scrape) in (1..).zip(&shown) {
            let leads = scrape.gauge("raftkvd_is_leader") == 1.0;
            let led = scrape.gauge("raftkvd_has_leader") == 1.0;
            require(led && leads == (id == leader), || scrape.text.clone())?;
            assert_eq!(scrape.peers(), of_member(id));
            let indexes = |name| scrape.gauge(name) == shown[0].gauge(name);
            let names = [
                "raftkvd_term",
                "raftkvd_last_index",
                "raftkvd_applied_index",
            ];
            require(names.into_iter().all(indexes), || scrape.text.clone())?;
        }
        Ok(shown)
    };
    let first = eventually("the members agree", PATIENCE, || agree(leader));
    eventually("the leader has timed both", PATIENCE, || {
        let shown = scrape(&cluster, leader);
        for peer in of_member(leader) {
            let labels = [("peer", &*peer)];
            let trips = shown.histogram("raftkvd_peer_round_trip_seconds", &labels);
            require(trips.count > Some(0), || format!("{peer}: {trips:?}"))?;
            for lane in ["control", "append"] {
                let labels = [("peer", &*peer), ("lane", lane)];
                assert!(shown.counter("raftkvd_peer_connections", &labels) >= 1.0);
                assert!(shown.find("raftkvd_peer_queue_bytes", &labels).is_some());
                assert!(shown.find("raftkvd_peer_queue_messages", &labels).is_some());
            }
        }
        Ok(())
    });

    let next = followers[1];
    let body = next.to_string();
    let handed = cluster.send(leader, "POST", "/-/leader", &[], body.as_bytes());
    assert_eq!(handed.status, 204, "{handed:?}");
    let second = eventually("the members agree again", PATIENCE, || agree(next));
    for (first, second) in first.iter().zip(&second) {
        let changes = |shown: &Scrape| shown.counter("raftkvd_leader_changes", &[]);
        assert!(changes(second) > changes(first), "{}", second.text);
        assert_grows(first, second);
    }
}

#[test]
fn the_series_of_a_removed_peer_end() {
    let mut cluster = Cluster::start(3);
    let (leader, followers) = leader_and_followers(&cluster);
    let (stays, goes) = (followers[0], followers[1]);
    assert!(scrape(&cluster, stays).peers().contains(&goes.to_string()));
    cluster.remove_member(leader, goes);
    for (id, other) in [(leader, stays), (stays, leader)] {
        eventually("the peer is gone", PATIENCE, || {
            let peers = scrape(&cluster, id).peers();
            require(peers == [other.to_string()], || format!("{peers:?}"))
        });
    }
    let exited = cluster.node(goes).exit_code(PATIENCE);
    assert_eq!(exited, Some(0));
}

#[test]
fn a_joiner_is_sent_a_snapshot_and_one_that_comes_back_is_connected_anew() {
    let mut cluster = Cluster::start(1);
    cluster.put(1, "a", "b");
    let joiner = cluster.lay_out_joiner();
    cluster.add_member(1, joiner);
    cluster.node(joiner).start();
    cluster.wait_voters(1, &[1, joiner]);
    for (id, operation) in [(1, "send"), (joiner, "receive"), (joiner, "load")] {
        eventually("the snapshot is counted", PATIENCE, || {
            let (shown, labels) = (scrape(&cluster, id), [("operation", operation)]);
            let count = shown.count("raftkvd_snapshot_duration_seconds", &labels);
            let bytes = shown.counter("raftkvd_snapshot_bytes", &labels);
            require(count >= 1 && bytes > 0.0, || {
                format!("{operation}: {count}, {bytes}")
            })
        });
    }

    let peer = joiner.to_string();
    let labels = [("peer", &*peer), ("lane", "control")];
    let before = scrape(&cluster, 1).counter("raftkvd_peer_connections", &labels);
    cluster.node(joiner).kill();
    eventually("messages to it are dropped", PATIENCE, || {
        let dropped = scrape(&cluster, 1).counter("raftkvd_peer_messages_dropped", &labels);
        require(dropped > 0.0, || dropped.to_string())
    });
    cluster.node(joiner).start();
    eventually("it is connected anew", PATIENCE, || {
        let again = scrape(&cluster, 1).counter("raftkvd_peer_connections", &labels);
        require(again > before, || again.to_string())
    });
}

/// The names in the first cells of the book's rows, without their labels.
fn documented(page: &str) -> impl Iterator<Item = &str> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    // Every second piece is between backticks.
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.filter_map(|name| name.split('{').next())
}

#[test]
fn every_family_has_its_type_its_unit_and_a_row_in_the_book() {
    let cluster = Cluster::start(2);
    cluster.put(1, "a", "b");
    let shown = scrape(&cluster, 1);
    let page = include_str!("../../src/docs/reference/metrics.md");
    let mut rows: BTreeSet<&str> = documented(page).collect();
    for (name, family) in &shown.parsed.families {
        assert!(!family.help.is_empty(), "{name} has no help");
        for base in ["seconds", "bytes"] {
            let named = name.ends_with(&format!("_{base}"));
            // A unit is optional, and of a histogram this parser takes none.
            let told = family.unit == base || matches!(family.family_type, Type::Histogram);
            assert!(!named || told, "{name} has the unit {:?}", family.unit);
        }
        let full = match family.family_type {
            Type::Counter => format!("{name}_total"),
            Type::Info => format!("{name}_info"),
            Type::Gauge | Type::Histogram => name.clone(),
            other => panic!("{name} is a {other}"),
        };
        assert!(rows.remove(&*full), "{full} is not in the book");
    }
    assert!(rows.is_empty(), "nobody exports {rows:?}");
    for (name, kind) in [
        ("raftkvd_build", Type::Info),
        ("raftkvd_http_requests", Type::Counter),
        ("raftkvd_http_request_duration_seconds", Type::Histogram),
        ("raftkvd_term", Type::Gauge),
        ("process_cpu_seconds", Type::Counter),
    ] {
        assert_eq!(shown.parsed.families[name].family_type, kind, "{name}");
    }
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(shown.text.contains(&version), "{}", shown.text);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("it is after 1970").as_secs_f64();
    let started = shown.gauge("process_start_time_seconds");
    assert!(
        started <= now && started > now - 600.0,
        "{started} at {now}"
    );
    if cfg!(target_os = "linux") {
        assert!(shown.gauge("process_resident_memory_bytes") > 1e6);
        let (open, max) = (
            shown.gauge("process_open_fds"),
            shown.gauge("process_max_fds"),
        );
        assert!(open > 5.0 && open < max, "{open} of {max}");
    }
    assert!(shown.counter("process_cpu_seconds", &[]) > 0.0);
}
