//! Whom a data directory knows as members, before anything of it is used: so that a list of members can be compared with
//! it. Nothing is changed, and nothing is judged: a start does that later.
//!
//! The log counts to its end, committed or not. Its last changes may be undone later; then an id is taken for one that
//! was a member, or an unformed cluster for one that has added somebody: both are on the safe side.

use super::data_dir::DataDir;
use super::error::StorageError;
use super::meta::Meta;
use super::recovery;
use super::snapshot;
use super::wal::record::Record;
use super::wal::segment::{BatchStep, Name, SegmentReader};
use crate::command::Command;
use crate::members::{Decision, Members};
use std::collections::BTreeMap;

impl DataDir {
    /// The members in the newest good snapshot, and its index. `None`: no cluster has let this member in.
    pub fn snapshot_members(&self, meta: &Meta) -> Result<Option<(u64, Members)>, StorageError> {
        let mut newest: Option<(u64, Members)> = None;
        let (disk, dir) = (self.disk(), self.snap_path());
        for name in disk.list(&dir)? {
            if snapshot::parse_file_name(&name).is_none() {
                continue;
            }
            let header = match snapshot::read_header(&**disk, &dir.join(name)) {
                Err(StorageError::Corrupt { .. }) => continue,
                header => header?,
            };
            let is_older = (newest.as_ref()).is_some_and(|(index, _)| *index >= header.index);
            if header.cluster != meta.cluster() || is_older {
                continue;
            }
            if let Ok(members) = Members::from_state(header.get_state()) {
                newest = Some((header.index, members));
            }
        }
        Ok(newest)
    }

    /// The same members after all that stands in the log behind the snapshot of this index. It reads the whole log.
    pub fn known_members(&self, index: u64, mut members: Members) -> Result<Members, StorageError> {
        let (disk, dir) = (self.disk(), self.wal_path());
        let names = disk.list(&dir)?;
        let mut names: Vec<Name> = names.iter().filter_map(|name| Name::parse(name)).collect();
        names.sort();
        let mut changes: BTreeMap<u64, Command> = BTreeMap::new();
        let mut visit = |record| {
            if let Record::Entry(entry) = record {
                // What was read from there on was never committed.
                changes.split_off(&entry.index);
                if let Some(change) = recovery::change_of_members(&entry) {
                    changes.insert(entry.index, change);
                }
            }
            Ok(())
        };
        for name in names {
            let mut reader = SegmentReader::open(&**disk, &dir, name)?;
            while reader.next(&mut visit)? == BatchStep::Batch {}
        }
        for (at, change) in changes.range(index + 1..) {
            if let Ok(Decision::Change(_)) = members.decide(change) {
                members.apply(change, *at);
            }
        }
        Ok(members)
    }
}
