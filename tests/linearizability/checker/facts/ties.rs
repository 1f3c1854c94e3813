//! Which write every value belongs to that was read.

use super::super::{Input, Operation, Output, told};
use super::{Gathering, KeyId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

impl<'a> Gathering<'a> {
    /// Everything that tells a value: key, ETag, value, and the operation.
    pub(super) fn values_told(&self) -> Vec<(KeyId, u64, &'a [u8], usize)> {
        let mut all = Vec::new();
        for (at, &operation) in self.operations.iter().enumerate() {
            match (&operation.input, &operation.output) {
                (Input::Get { key }, Output::Value(Some((value, etag)))) => {
                    all.push((self.id(key), *etag, &value[..], at));
                }
                (_, Output::Listed { entries, .. }) => {
                    for entry in entries {
                        if let Some(value) = &entry.value {
                            all.push((self.id(&entry.key), entry.etag, &value[..], at));
                        }
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// Finds the write behind every value that was told. Where only one write without an index can be meant, it gets
    /// the index; ETags for which several writes of the same value remain are kept with that value.
    pub(super) fn tie_values(&mut self) -> Result<(), String> {
        let values = self.values_told();
        let mut writers: HashMap<(KeyId, &[u8]), Vec<usize>> = HashMap::new();
        for at in 0..self.operations.len() {
            for (key, value) in self.writes(at) {
                if let Some(value) = value {
                    writers.entry((key, value)).or_default().push(at);
                }
            }
        }
        let none = Vec::new();
        // A transaction that is found by one of its keys has the ETag on all of them, so go on until nothing is found.
        let mut found = true;
        while found {
            found = false;
            let mut etags: BTreeMap<(KeyId, &[u8]), BTreeSet<u64>> = BTreeMap::new();
            for &(key, etag, value, _) in &values {
                if !self.written.contains_key(&(key, etag)) {
                    etags.entry((key, value)).or_default().insert(etag);
                }
            }
            for (of, mut etags) in etags {
                // Others may have been found meanwhile.
                etags.retain(|etag| !self.written.contains_key(&(of.0, *etag)));
                let writers = writers.get(&of).unwrap_or(&none);
                let mut open = writers.iter().filter(|&&at| self.is_open(at));
                if let (Some(&at), None, 1) = (open.next(), open.next(), etags.len()) {
                    self.place(at, *etags.first().expect("one"))?;
                    found = true;
                }
            }
        }
        for (key, etag, value, at) in values {
            let read = self.operations[at];
            let twice = |other: &Operation| {
                let what = format!("the ETag {etag} came with two values");
                Err(told(&what, &[other, read]))
            };
            if let Some(&owner) = self.written.get(&(key, etag)) {
                let wrote = self.writes(owner);
                let wrote = wrote.iter().find(|(of, _)| *of == key);
                if wrote.is_none_or(|(_, wrote)| *wrote != Some(value)) {
                    return twice(self.operations[owner]);
                }
                continue;
            }
            let writers = writers.get(&(key, value)).unwrap_or(&none);
            if !writers.iter().any(|&at| self.is_open(at)) {
                return Err(self.never_written(writers, read));
            }
            if self
                .tied
                .insert((key, etag), value)
                .is_some_and(|other| other != value)
            {
                return twice(read);
            }
        }
        Ok(())
    }

    /// An unknown write that is not known to have taken effect.
    pub(super) fn is_open(&self, at: usize) -> bool {
        self.operations[at].output == Output::Unknown && self.indexes[at].is_none()
    }

    pub(super) fn never_written(&self, writers: &[usize], read: &Operation) -> String {
        let mut shown: Vec<&Operation> = writers.iter().map(|&at| self.operations[at]).collect();
        let failed = |operation: &&Operation| {
            use Output::{ChecksFailed, ConditionFailed, NotApplied};
            matches!(
                operation.output,
                NotApplied | ConditionFailed(_) | ChecksFailed(_)
            )
        };
        let what = match shown.iter().all(failed) {
            _ if shown.is_empty() => "a read saw a value that nobody wrote",
            true => "a read saw a value whose write surely had no effect",
            false => "a read saw the value of a write under another ETag than its own",
        };
        shown.push(read);
        told(what, &shown)
    }
}
