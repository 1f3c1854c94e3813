//! Tests of the map, with and without concurrent freezes.

use super::map::{KeyHasher, shard_of};
use super::*;
use crate::command::Etags;
use crate::limits;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

fn put(key: &[u8], value: &[u8]) -> Command {
    let mut command = Command::new();
    command.kind = Kind::Put;
    command.key = Bytes::copy_from_slice(key);
    command.value = Bytes::copy_from_slice(value);
    command
}

fn delete(key: &[u8]) -> Command {
    let mut command = put(key, b"");
    command.kind = Kind::Delete;
    command
}

fn any() -> Etags {
    let mut etags = Etags::new();
    etags.any = true;
    etags
}

fn indexes(indexes: &[u64]) -> Etags {
    let mut etags = Etags::new();
    etags.indexes = indexes.to_vec();
    etags
}

type Content = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

fn content(frozen: Frozen) -> Content {
    let mut content = BTreeMap::new();
    let Ok(()) = frozen.visit(|key, index, value| {
        let before = content.insert(key.to_vec(), (index, value.to_vec()));
        assert_eq!(before, None, "{key:?} was visited twice");
        Ok::<(), Infallible>(())
    });
    content
}

/// Number of entries that are kept for freezes.
fn replaced(store: &Store) -> usize {
    let shards = store.map.shards.iter();
    let replaced = shards.map(|shard| shard.read().replaced.as_ref().map_or(0, |old| old.0.len()));
    replaced.sum()
}

#[test]
fn a_put_is_read_back_with_its_index_until_it_is_deleted() {
    let store = Store::new();
    assert_eq!(store.get(b"k"), None);
    assert_eq!(
        store.apply(&put(b"k", b"one"), 5),
        Outcome::Applied { index: 5 }
    );
    store.apply(&put(b"k", b"three"), 6);
    let value = store.get(b"k").unwrap();
    assert_eq!((value.index, &*value.bytes), (6, &b"three"[..]));
    assert_eq!((store.len(), store.bytes()), (1, 6));
    assert_eq!(store.apply(&delete(b"k"), 7), Outcome::Applied { index: 7 });
    assert_eq!(store.apply(&delete(b"k"), 8), Outcome::Applied { index: 8 });
    assert_eq!(store.get(b"k"), None);
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[test]
fn conditions_are_decided_as_http_says() {
    let failed = |current| Outcome::ConditionFailed { current };
    // (if_match, if_none_match, key exists with index 5, holds)
    let table = [
        (None, None, true, true),
        (Some(any()), None, true, true),
        (Some(any()), None, false, false),
        (Some(indexes(&[4, 5])), None, true, true),
        (Some(indexes(&[4])), None, true, false),
        (Some(indexes(&[5])), None, false, false),
        (Some(indexes(&[])), None, true, false),
        (None, Some(any()), true, false),
        (None, Some(any()), false, true),
        (None, Some(indexes(&[5])), true, false),
        (None, Some(indexes(&[4])), true, true),
        (None, Some(indexes(&[])), true, true),
        (None, Some(indexes(&[5])), false, true),
        (Some(indexes(&[5])), Some(indexes(&[4])), true, true),
        (Some(indexes(&[5])), Some(indexes(&[5])), true, false),
    ];
    for (if_match, if_none_match, exists, holds) in table {
        for mut command in [put(b"k", b"new"), delete(b"k")] {
            let store = Store::new();
            if exists {
                store.apply(&put(b"k", b"old"), 5);
            }
            let before = store.get(b"k");
            command.if_match = if_match.clone().into();
            command.if_none_match = if_none_match.clone().into();
            let outcome = store.apply(&command, 9);
            if holds {
                assert_eq!(outcome, Outcome::Applied { index: 9 }, "{command:?}");
            } else {
                assert_eq!(outcome, failed(exists.then_some(5)), "{command:?}");
                assert_eq!(store.get(b"k"), before, "{command:?}");
            }
        }
    }
}

#[test]
fn a_frozen_map_does_not_see_later_writes() {
    let store = Store::new();
    for i in 0..1000_u64 {
        store.apply(&put(&i.to_be_bytes(), b"before"), i + 1);
    }
    let frozen = store.freeze();
    for i in 0..1000_u64 {
        match i % 3 {
            0 => store.apply(&put(&i.to_be_bytes(), b"after"), 2000 + i),
            1 => store.apply(&delete(&i.to_be_bytes()), 2000 + i),
            _ => store.apply(&put(format!("new {i}").as_bytes(), b"x"), 2000 + i),
        };
    }
    let content = content(frozen);
    assert_eq!(content.len(), 1000);
    for i in 0..1000_u64 {
        assert_eq!(
            content[&i.to_be_bytes().to_vec()],
            (i + 1, b"before".to_vec())
        );
    }
    assert_eq!(replaced(&store), 0, "no freeze needs them any more");
    assert_eq!(store.len(), self::content(store.freeze()).len() as u64);
    assert_eq!(&*store.get(&0_u64.to_be_bytes()).unwrap().bytes, b"after");
    assert_eq!(store.get(&1_u64.to_be_bytes()), None);
}

#[test]
fn only_entries_that_a_freeze_still_has_to_see_are_kept_and_only_once() {
    let store = Store::new();
    store.apply(&put(b"a", b"1"), 1);
    let frozen = store.freeze();
    store.apply(&put(b"a", b"2"), 2);
    assert_eq!(replaced(&store), 1);
    // This key did not exist when the map was frozen.
    store.apply(&put(b"a", b"3"), 3);
    store.apply(&put(b"b", b"1"), 4);
    store.apply(&delete(b"b"), 5);
    assert_eq!(replaced(&store), 1);
    let again = store.freeze();
    store.apply(&delete(b"a"), 6);
    assert_eq!(replaced(&store), 2);
    // The other freeze may still need an entry that this one no longer needs.
    drop(frozen);
    assert_eq!(replaced(&store), 1);
    let found = content(again);
    assert_eq!(found, [(b"a".to_vec(), (3, b"3".to_vec()))].into());
    assert_eq!(replaced(&store), 0);
    store.apply(&put(b"a", b"4"), 7);
    assert_eq!(replaced(&store), 0);
}

#[test]
fn a_shard_that_was_visited_keeps_nothing() {
    let store = Store::with_shards(4);
    for i in 0..100_u64 {
        store.apply(&put(&i.to_be_bytes(), b"before"), i + 1);
    }
    let mut index = 100;
    let mut found = 0;
    let Ok(()) = store.freeze().visit(|key, _, value| {
        assert_eq!(value, b"before");
        found += 1;
        // The shard of this key is already copied, so this write replaces in place.
        let before = replaced(&store);
        index += 1;
        store.apply(&put(key, b"behind"), index);
        assert_eq!(replaced(&store), before);
        Ok::<(), Infallible>(())
    });
    assert_eq!((found, replaced(&store)), (100, 0));
}

#[test]
fn a_visitor_that_fails_leaves_nothing_behind() {
    let store = Store::new();
    for i in 0..100_u64 {
        store.apply(&put(&i.to_be_bytes(), b"before"), i + 1);
    }
    let frozen = store.freeze();
    for i in 0..100_u64 {
        store.apply(&put(&i.to_be_bytes(), b"behind"), i + 101);
    }
    assert_eq!(replaced(&store), 100);
    assert_eq!(frozen.visit(|_, _, _| Err("enough")), Err("enough"));
    assert_eq!(replaced(&store), 0);
}

#[test]
fn a_frozen_map_outlives_the_map_that_replaces_it() {
    let store = Store::with_shards(4);
    for i in 0..100_u64 {
        store.apply(&put(&i.to_be_bytes(), b"before"), i + 1);
    }
    let before = content(store.freeze());
    let (first, second) = (store.freeze(), store.freeze());
    store.apply(&delete(&7_u64.to_be_bytes()), 101);
    for _ in 0..2 {
        // Some entries are unchanged, and some are other keys with low indexes.
        let restore = store.begin_restore(100);
        for i in 50..150_u64 {
            assert!(restore.insert(&i.to_be_bytes(), i / 2 + 1, b"restored"));
        }
        store.replace(restore);
    }
    store.apply(&put(&60_u64.to_be_bytes(), b"behind"), 200);
    assert_eq!(content(first), before);
    assert_eq!(content(second), before);
    let now = content(store.freeze());
    assert_eq!(now.len(), 100);
    assert_eq!(
        now[&60_u64.to_be_bytes().to_vec()],
        (200, b"behind".to_vec())
    );
    assert_eq!(replaced(&store), 0);
}

#[test]
fn a_restored_map_replaces_everything() {
    let from = Store::new();
    for i in 0..500_u64 {
        from.apply(&put(&i.to_be_bytes(), &vec![i as u8; i as usize]), i + 1);
    }
    let to = Store::new();
    to.apply(&put(b"gone", b"x"), 1);
    let restore = to.begin_restore(100);
    let Ok(()) = from.freeze().visit(|key, index, value| {
        assert!(restore.insert(key, index, value));
        Ok::<(), Infallible>(())
    });
    assert!(!restore.insert(&9_u64.to_be_bytes(), 2, b"another one"));
    assert!(
        to.get(b"gone").is_some(),
        "the old map serves until it is replaced"
    );
    to.replace(restore);
    assert_eq!(content(to.freeze()), content(from.freeze()));
    assert_eq!((to.len(), to.bytes()), (from.len(), from.bytes()));
    assert_eq!(to.get(b"gone"), None);
}

#[test]
fn only_large_values_stay_slices_of_their_frame() {
    let frame = Bytes::from(vec![1; 2 * limits::ENTRY_BYTES_MAX]);
    let within = |value: &Bytes| frame.as_ptr_range().contains(&value.as_ptr());
    for (length, kept) in [(100, false), (limits::ENTRY_BYTES_MAX + 1, true)] {
        let store = Store::new();
        let mut command = put(b"k", b"");
        command.value = frame.slice(10..10 + length);
        store.apply(&command, 1);
        let value = store.get(b"k").unwrap();
        assert_eq!(within(&value.bytes), kept);
        assert_eq!(value.bytes, command.value);
    }
}

type Item<'a> = (&'a [u8], u64, &'a [u8]);

fn filled(entries: &[Item]) -> u64 {
    let store = Store::new();
    for (key, index, value) in entries {
        store.apply(&put(key, value), *index);
    }
    store.freeze().hash(|| Ok::<(), Infallible>(())).unwrap()
}

#[test]
fn maps_have_the_same_hash_if_and_only_if_they_hold_the_same() {
    let names: Vec<Vec<u8>> = (0..100_u64).map(|i| i.to_be_bytes().to_vec()).collect();
    let mut entries: Vec<Item> = (1..)
        .zip(&names)
        .map(|(index, name)| (name.as_slice(), index, name.as_slice()))
        .collect();
    let hash = filled(&entries);
    entries.reverse();
    assert_eq!(filled(&entries), hash, "another way to the same map");
    let changed: [&[Item]; 9] = [
        &[],
        &[(b"", 1, b"")],
        &[(b"a", 1, b"b")],
        &[(b"a", 2, b"b")],
        &[(b"b", 1, b"a")],
        &[(b"ab", 1, b"")],
        &[(b"", 1, b"ab")],
        &[(b"a", 1, b"b\0")],
        &[(b"a", 1, b"x"), (b"b", 2, b"y")],
    ];
    let mut hashes: Vec<u64> = changed.iter().map(|entries| filled(entries)).collect();
    hashes.push(filled(&[(b"a", 1, b"y"), (b"b", 2, b"x")]));
    hashes.push(filled(&[(b"a", 2, b"x"), (b"b", 1, b"y")]));
    for length in 0..64 {
        hashes.push(filled(&[(b"zeros", 1, &[0; 64][..length])]));
        hashes.push(filled(&[(b"one bit", 1, &(1_u64 << length).to_le_bytes())]));
    }
    let all = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), all, "two different maps have one hash");
    // Members of different builds compare their hashes, so the algorithm must not change.
    assert_eq!(filled(&[]), 0);
    assert_eq!(
        filled(&[(b"key", 7, b"a value of 19 bytes")]),
        0x471f_8e65_82a7_5d7f
    );
}

#[test]
fn keys_are_spread_over_shards_and_within_them() {
    let hasher = KeyHasher::new();
    let mut counts = [0; SHARDS];
    for i in 0..100 * SHARDS as u64 {
        counts[shard_of(hasher.hash(&i.to_be_bytes()), SHARDS)] += 1;
    }
    assert!(counts.iter().all(|n| (20..300).contains(n)), "{counts:?}");
    // The lowest bits, which a table uses first, still differ between keys of one shard.
    let of_one_shard = (0..).map(|i: u64| hasher.hash(&i.to_be_bytes()));
    let lowest: BTreeSet<u64> = of_one_shard
        .filter(|hash| shard_of(*hash, SHARDS) == 0)
        .take(100)
        .map(|hash| hash % 1024)
        .collect();
    assert!(lowest.len() > 70, "{} of 100", lowest.len());
}

#[test]
fn a_value_may_change_between_small_and_large() {
    let store = Store::new();
    let lengths = [
        0,
        1,
        limits::SMALL_BYTES_MAX - 1,
        limits::SMALL_BYTES_MAX,
        limits::ENTRY_BYTES_MAX,
        limits::ENTRY_BYTES_MAX + 1,
    ];
    let mut index = 0;
    for first in lengths {
        for second in lengths {
            for length in [first, second] {
                index += 1;
                let value = vec![index as u8; length];
                store.apply(&put(b"k", &value), index);
                let read = store.get(b"k").unwrap();
                assert_eq!((read.index, &*read.bytes), (index, &*value));
                assert_eq!((store.len(), store.bytes()), (1, 1 + length as u64));
            }
        }
    }
    // A key whose length does not fit into the head of a small entry.
    let long = vec![b'l'; 70_000];
    store.apply(&put(&long, b"v"), 99);
    assert_eq!(&*store.get(&long).unwrap().bytes, b"v");
    store.apply(&delete(&long), 100);
    store.apply(&delete(b"k"), 101);
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[test]
fn a_value_that_was_read_stays_as_it_was_read() {
    for length in [8, limits::SMALL_BYTES_MAX + 1] {
        let store = Store::new();
        store.apply(&put(b"k", &vec![1; length]), 1);
        let read = store.get(b"k").unwrap();
        store.apply(&put(b"k", &vec![2; length]), 2);
        assert_eq!((read.index, &*read.bytes), (1, &*vec![1; length]));
    }
}

#[test]
fn writes_without_effect_keep_nothing() {
    let store = Store::new();
    store.apply(&put(b"a", b"1"), 1);
    let frozen = store.freeze();
    let mut refused = put(b"a", b"2");
    refused.if_match = Some(indexes(&[9])).into();
    let current = Some(1);
    assert_eq!(
        store.apply(&refused, 2),
        Outcome::ConditionFailed { current }
    );
    for i in 0..100_u64 {
        store.apply(&delete(&i.to_be_bytes()), 3 + i);
    }
    assert_eq!(replaced(&store), 0);
    drop(frozen);
}

#[test]
fn every_freeze_sees_the_map_at_its_own_index() {
    const KEYS: u64 = 300;
    let store = Store::with_shards(16);
    let mut now = Content::new();
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let mut live: Vec<(Frozen, Content)> = Vec::new();
    for index in 1..20_000_u64 {
        let key = below(KEYS).to_be_bytes();
        let length = [8, 8, 8, 5, limits::SMALL_BYTES_MAX + 1][below(5) as usize];
        let value = vec![index as u8; length];
        if below(4) == 0 {
            store.apply(&delete(&key), index);
            now.remove(&key[..]);
        } else {
            store.apply(&put(&key, &value), index);
            now.insert(key.to_vec(), (index, value));
        }
        match below(200) {
            0..4 if live.len() < 4 => live.push((store.freeze(), now.clone())),
            4..6 if !live.is_empty() => {
                let (frozen, then) = live.swap_remove(below(live.len() as u64) as usize);
                assert!(content(frozen) == then, "at {index}");
            }
            6 if !live.is_empty() => drop(live.swap_remove(0)),
            _ => {}
        }
        if live.is_empty() {
            assert_eq!(replaced(&store), 0);
        }
    }
    assert!(content(store.freeze()) == now);
}

#[test]
fn a_snapshot_is_whole_while_another_thread_writes() {
    let store = Arc::new(Store::with_shards(64));
    for i in 0..5_000_u64 {
        store.apply(&put(&i.to_be_bytes(), &1_u64.to_be_bytes()), 1);
    }
    let mut index = 1_u64;
    for _ in 0..20 {
        let frozen = store.freeze();
        let sum = std::thread::spawn(move || {
            let (mut entries, mut newest) = (0, 0);
            let Ok(()) = frozen.visit(|_, index, value| {
                assert_eq!(value, index.to_be_bytes());
                entries += 1;
                newest = newest.max(index);
                Ok::<(), Infallible>(())
            });
            (entries, newest)
        });
        let then = index;
        while !sum.is_finished() {
            index += 1;
            let key = index.wrapping_mul(7_919) % 5_000;
            store.apply(&put(&key.to_be_bytes(), &index.to_be_bytes()), index);
        }
        let (entries, newest) = sum.join().unwrap();
        assert_eq!((entries, newest), (5_000, then));
        assert_eq!(replaced(&store), 0);
    }
}

#[test]
fn readers_see_value_and_index_of_the_same_write_while_others_are_applied() {
    let store = Arc::new(Store::new());
    store.apply(&put(b"k", &1_u64.to_be_bytes()), 1);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                let mut newest = 0;
                while newest < 20_000 {
                    let value = store.get(b"k").unwrap();
                    assert_eq!(&*value.bytes, value.index.to_be_bytes());
                    assert!(value.index >= newest, "time went backwards");
                    newest = value.index;
                }
            })
        })
        .collect();
    let mut frozen = None;
    for index in 2..=20_000_u64 {
        store.apply(&put(b"k", &index.to_be_bytes()), index);
        if index % 100 == 0 {
            frozen = Some(store.freeze());
        }
    }
    drop(frozen);
    for reader in readers {
        reader.join().unwrap();
    }
}
