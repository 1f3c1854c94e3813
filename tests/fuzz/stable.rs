//! What the fuzzers do, as plain tests on a stable compiler: every file of their corpora, and bytes drawn by proptest,
//! at random and by changing files of the corpora. `PROPTEST_CASES` sets how many.
//!
//! A case that ever failed is kept as a file of its corpus.

mod allocation;
mod bodies;
#[path = "../simulation/disk.rs"]
mod disk;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::path::Path;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let files = std::fs::read_dir(dir.join(target)).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    // The same order everywhere, or a seed would mean something else.
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// Places to change, and what to put there: bytes that replace as many, or more, or fewer.
type Edits = Vec<(prop::sample::Index, u8, Vec<u8>)>;

fn edit(bytes: &mut Vec<u8>, edits: &Edits) {
    for (at, removed, put) in edits {
        let from = at.index(bytes.len() + 1);
        let end = bytes.len().min(from + usize::from(*removed));
        bytes.splice(from..end, put.iter().copied());
    }
}

/// A length or a number at its limits, or any bytes.
fn put() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..6),
        Just(vec![0xff; 4]),
        Just(vec![0xff; 8]),
        Just(vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        Just(vec![0; 4]),
    ]
}

fn check(target: &str, body: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() >= 4, "{} files", corpus.len());
    for file in &corpus {
        body(file);
    }
    let changed = (
        prop::sample::select(corpus),
        vec((any::<prop::sample::Index>(), 0..5u8, put()), 0..4),
    );
    let changed = changed.prop_map(|(mut bytes, edits)| {
        edit(&mut bytes, &edits);
        bytes
    });
    let bytes = prop_oneof![1 => vec(any::<u8>(), 0..300), 2 => changed];
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&bytes, |bytes| {
            body(&bytes);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn peer_frames() {
    check("peer_frames", bodies::peer_frames);
}

#[test]
fn wal() {
    check("wal", bodies::wal);
}

#[test]
fn snapshot() {
    check("snapshot", bodies::snapshot);
}

#[test]
fn commands() {
    check("commands", bodies::commands);
}

#[test]
fn http() {
    check("http", bodies::http);
}

#[test]
fn certificate() {
    check("certificate", bodies::certificate);
}

#[test]
fn json() {
    check("json", bodies::json);
}

#[test]
#[should_panic(expected = "bytes were allocated")]
fn an_allocation_beyond_the_limit_is_noticed() {
    allocation::bounded(1000, || drop(std::hint::black_box(vec![0u8; 1001])));
}

/// Groups within groups: the decoder would call itself for each.
#[test]
fn no_depth_of_groups_exhausts_the_stack() {
    // The first one is field 31, which no message has.
    let mut groups = vec![0x0b; 1 << 20];
    groups[..2].copy_from_slice(&[0xfb, 0x01]);
    bodies::commands(&groups);
    // In a frame; in a frame's message; in a command of a batch; in a snapshot's header.
    for mode in [0, 1, 2, 3] {
        bodies::peer_frames(&[&[mode], &groups[..]].concat());
    }
    let length = [0x80, 0x80, 0x40];
    bodies::peer_frames(&[&[1], &length[..], &groups[..]].concat());
    bodies::commands(&[&[0x1a], &length[..], &groups[..]].concat());
    bodies::snapshot(&[&[2, 255], &groups[..]].concat());
    bodies::wal(&[&[2, 0, 0, 16, 0, 1], &groups[..]].concat());
}
