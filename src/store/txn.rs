//! Transactions: several writes at one index of the log, all of them or none.
//!
//! A transaction locks all shards that it writes before it changes the first, in the order of their numbers, while
//! readers lock one shard at a time. A reader that has read one key of the transaction therefore finds each of the
//! other keys as the transaction left it, or newer. The new entries are created before the locks are taken, since that
//! takes long.

use super::Store;
use super::change::holds;
use super::content::{Content, Old};
use super::entry::Entry;
use super::map::Map;
use crate::command::outcome::{FailedCheck, Outcome};
use crate::command::{Command, Transaction, Write};

/// A write that is ready for its table.
struct PendingWrite<'a> {
    /// Index of the write in the transaction.
    position: usize,
    shard: usize,
    hash: u64,
    key: &'a [u8],
    /// `None` removes the key.
    entry: Option<Entry>,
}

/// The combined changes of all writes.
struct Sum {
    existed: Box<[bool]>,
    keys: i64,
    bytes: i64,
    /// The old entries, to be freed after the locks are released.
    previous: Vec<Entry>,
}

impl Store {
    /// Applies a transaction at the index of its entry. Its checks are decided here, like the conditions of a single
    /// write.
    pub(super) fn apply_transaction(&self, command: &Command, index: u64) -> Outcome {
        let nothing = Transaction::new();
        let transaction = command.transaction.as_ref().unwrap_or(&nothing);
        let failed: Box<[FailedCheck]> = self.failed_checks(transaction).collect();
        if !failed.is_empty() {
            return Outcome::ChecksFailed(failed);
        }
        let map = &*self.map;
        let writes = transaction.writes.iter().enumerate();
        let mut steps: Vec<PendingWrite> = writes
            .map(|(position, write)| map.step(position, write, index))
            .collect();
        steps.sort_unstable_by_key(|step| (step.shard, step.position));
        let mut sum = Sum {
            existed: vec![false; steps.len()].into(),
            keys: 0,
            bytes: 0,
            previous: Vec::new(),
        };
        let parts = || steps.chunk_by(|a, b| a.shard == b.shard);
        let mut locks: Vec<_> = parts()
            .map(|part| map.shards[part[0].shard].lock())
            .collect();
        let parts = steps.chunk_by_mut(|a, b| a.shard == b.shard);
        for (part, content) in parts.zip(&mut locks) {
            for step in part {
                step.take(map, content, index, &mut sum);
            }
        }
        drop(locks);
        drop(sum.previous);
        self.count(index, sum.keys, sum.bytes);
        Outcome::Transacted {
            index,
            existed: sum.existed,
        }
    }

    fn failed_checks(&self, transaction: &Transaction) -> impl Iterator<Item = FailedCheck> {
        let checks = transaction.checks.iter().enumerate();
        checks.filter_map(|(position, check)| {
            let current = self.get(&check.key).map(|value| value.index);
            let (if_match, if_none_match) = (&check.if_match, &check.if_none_match);
            let fails = !holds(if_match.as_ref(), if_none_match.as_ref(), current);
            fails.then_some(FailedCheck { position, current })
        })
    }
}

impl Map {
    fn step<'a>(&self, position: usize, write: &'a Write, index: u64) -> PendingWrite<'a> {
        let key = &*write.key;
        let hash = self.hasher.hash(key);
        // Always copy: a slice would keep the whole entry alive, with the values of all other keys.
        let entry = (!write.delete).then(|| Entry::new(key, index, &write.value));
        PendingWrite {
            position,
            shard: self.shard_of(hash),
            hash,
            key,
            entry,
        }
    }
}

impl PendingWrite<'_> {
    /// Carries out the write in its shard.
    fn take(&mut self, map: &Map, content: &mut Content, index: u64, sum: &mut Sum) {
        let size = |entry: &Entry| {
            let (key, _, value) = entry.parts();
            (key.len() + value.len()) as i64
        };
        if let Some(entry) = &self.entry {
            sum.keys += 1;
            sum.bytes += size(entry);
        }
        let found = content
            .table
            .find_entry(self.hash, |entry| entry.key() == self.key);
        let previous = match (found, self.entry.take()) {
            (Ok(mut place), Some(entry)) => std::mem::replace(place.get_mut(), entry),
            (Ok(place), None) => place.remove().0,
            (Err(absent), Some(entry)) => {
                let hasher = &map.hasher;
                let table = absent.into_table();
                table.insert_unique(self.hash, entry, |entry| hasher.hash(entry.key()));
                return;
            }
            (Err(_), None) => return,
        };
        sum.existed[self.position] = true;
        sum.keys -= 1;
        sum.bytes -= size(&previous);
        if map.freezes.want(self.shard, previous.index(), index) {
            let replaced = content.replaced.get_or_insert_default();
            replaced.0.push(Old {
                entry: previous,
                until: index,
            });
        } else {
            sum.previous.push(previous);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Check, Etags, Kind};
    use crate::limits;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn transaction(checks: Vec<Check>, writes: &[(&str, Option<&str>)]) -> Command {
        let mut body = Transaction::new();
        body.checks = checks.into();
        for (key, value) in writes {
            let mut write = Write::new();
            write.key = (*key).to_owned().into();
            write.delete = value.is_none();
            write.value = value.unwrap_or_default().to_owned().into();
            body.writes.push(write);
        }
        let mut command = Command::new();
        command.kind = Kind::Transaction;
        command.transaction = Some(body).into();
        command
    }

    fn check(key: &str, if_match: Option<Etags>, if_none_match: Option<Etags>) -> Check {
        let mut check = Check::new();
        check.key = key.to_owned().into();
        check.if_match = if_match.into();
        check.if_none_match = if_none_match.into();
        check
    }

    fn etag(index: u64) -> Option<Etags> {
        let mut etags = Etags::new();
        etags.indexes.push(index);
        Some(etags)
    }

    fn any() -> Option<Etags> {
        let mut etags = Etags::new();
        etags.any = true;
        Some(etags)
    }

    fn index(store: &Store, key: &str) -> Option<u64> {
        store.get(key.as_bytes()).map(|value| value.index)
    }

    #[test]
    fn all_writes_have_one_index_and_each_outcome_is_reported() {
        let store = Store::new();
        let large = "x".repeat(limits::SMALL_BYTES_MAX);
        let writes = [("a", Some("1")), ("b", Some(&*large)), ("c", None)];
        let done = |index, existed: &[bool]| Outcome::Transacted {
            index,
            existed: existed.into(),
        };
        let outcome = store.apply(&transaction(vec![], &writes), 5);
        assert_eq!(outcome, done(5, &[false; 3]));
        assert_eq!(
            ["a", "b", "c"].map(|key| index(&store, key)),
            [Some(5), Some(5), None]
        );
        assert_eq!(&*store.get(b"b").unwrap().bytes, large.as_bytes());
        assert_eq!((store.len(), store.bytes()), (2, 3 + large.len() as u64));
        let writes = [("c", Some("")), ("b", None), ("a", Some("two"))];
        let frozen = store.freeze();
        let outcome = store.apply(&transaction(vec![], &writes), 6);
        assert_eq!(outcome, done(6, &[false, true, true]));
        assert_eq!(
            ["a", "b", "c"].map(|key| index(&store, key)),
            [Some(6), None, Some(6)]
        );
        assert_eq!((store.len(), store.bytes()), (2, 5));
        let mut held = Vec::new();
        let Ok(()) = frozen.visit(|key, index, _| {
            held.push((key.to_vec(), index));
            Ok::<(), std::convert::Infallible>(())
        });
        held.sort();
        assert_eq!(held, [(b"a".to_vec(), 5), (b"b".to_vec(), 5)]);
    }

    #[test]
    fn nothing_is_written_if_a_check_fails_and_all_failed_checks_are_reported() {
        let store = Store::new();
        store.apply(&transaction(vec![], &[("a", Some("1"))]), 5);
        let writes = [("a", Some("2")), ("b", Some("2"))];
        let good = || {
            vec![
                check("a", etag(5), None),
                check("a", any(), None),
                check("b", None, any()),
            ]
        };
        let bad = [
            check("b", etag(5), None),
            check("a", None, any()),
            check("a", etag(4), None),
        ];
        let mut checks = good();
        checks.extend(bad);
        let fails = |position, current| FailedCheck { position, current };
        let failed = [fails(3, None), fails(4, Some(5)), fails(5, Some(5))];
        assert_eq!(
            store.apply(&transaction(checks, &writes), 6),
            Outcome::ChecksFailed(failed.into())
        );
        assert_eq!(["a", "b"].map(|key| index(&store, key)), [Some(5), None]);
        assert!(matches!(
            store.apply(&transaction(good(), &writes), 7),
            Outcome::Transacted { index: 7, .. }
        ));
        assert_eq!(["a", "b"].map(|key| index(&store, key)), [Some(7), Some(7)]);
    }

    #[test]
    fn readers_never_see_half_of_a_transaction() {
        let keys: Vec<String> = (0..12).map(|i| format!("key-{i}")).collect();
        let all = |value: Option<&'static str>| {
            keys.iter()
                .map(move |key| (&**key, value))
                .collect::<Vec<_>>()
        };
        let store = Store::with_shards(64);
        store.apply(&transaction(vec![], &all(Some("x"))), 2);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (store, keys, done) = (&store, &keys, &done);
                scope.spawn(move || {
                    let mut newest = 0;
                    for i in (0..keys.len()).cycle() {
                        // Read in both directions: with and against the order in which shards are locked.
                        let i = if reader == 0 { i } else { keys.len() - 1 - i };
                        let value = store
                            .get(keys[i].as_bytes())
                            .expect("it is put in every entry");
                        assert!(value.index >= newest, "{} after {newest}", value.index);
                        newest = value.index;
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            let range = super::super::Range {
                limit: keys.len(),
                ..Default::default()
            };
            let mut frozen = None;
            for index in 3..10_000 {
                let value = if index % 2 == 0 { "x" } else { "longer" };
                store.apply(&transaction(vec![], &all(Some(value))), index);
                match index % 100 {
                    // Keep entries for a freeze part of the time.
                    0 => frozen = Some(store.freeze()),
                    50 => frozen = None,
                    _ => {}
                }
                if index % 1_000 == 0 {
                    let page = store.freeze().least(&range, || false).unwrap();
                    assert!(page.entries.iter().all(|entry| entry.index == index));
                }
            }
            drop(frozen);
            done.store(true, Ordering::Relaxed);
        });
    }
}
