//! The members that a data directory knows, read before a start uses the directory. A list of members from the command
//! line is compared with them. This module changes nothing and judges nothing: the start does that later.
//!
//! The whole log counts, including entries that are not committed. The last changes of members may be undone later. In
//! that case an id that was never added is treated as that of a former member, or a forming cluster as one that has
//! added a member. Both errors are on the safe side.

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
    /// The index of the newest valid snapshot, and the members in it. `None`: no cluster has added this member.
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

    /// `members` after all changes in the log that follow the snapshot at `index`. Reads the whole log.
    pub fn known_members(&self, index: u64, mut members: Members) -> Result<Members, StorageError> {
        let (disk, dir) = (self.disk(), self.wal_path());
        let names = disk.list(&dir)?;
        let mut names: Vec<Name> = names.iter().filter_map(|name| Name::parse(name)).collect();
        names.sort();
        let mut changes: BTreeMap<u64, Command> = BTreeMap::new();
        let mut visit = |record| {
            if let Record::Entry(entry) = record {
                // The entries read earlier with this index or a higher one were replaced, so they were never committed.
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
