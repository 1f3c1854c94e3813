//! The `meta` file: who this data directory belongs to.
//!
//! A small file, rewritten as a whole and atomically on every change ([`replace_file`]): a crash leaves the old
//! contents or the new ones. All numbers little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `rkvdmeta` |
//! | 8 | 4 | format version, 2 |
//! | 12 | 4 | state: 1 the first start is not complete, 2 in use, 3 a restore is not complete |
//! | 16 | 8 | member id |
//! | 24 | 8 | cluster id, 0 while none has let this member in |
//! | 32 | 8 | incarnation |
//! | 40 | 8 | boot |
//! | 48 | 8 | index of the entry that removed this member, 0 if none |
//! | 56 | 4 | sum of: 1 the first start was to join a cluster, 2 this is an older copy of a member's directory |
//! | 60 | 4 | length *u* of this member's peer URL |
//! | 64 | *u* | this member's peer URL |
//! | | 4 | number of listed members |
//! | | | each: its id (8), the length of its peer URL (4), its peer URL |
//! | | 4 | number of URLs at which it was to ask to join |
//! | | | each: its length (4), the URL |
//! | | 4 | CRC32C of all before |
//!
//! The URL and the list are what a start goes by that is given neither. The URL follows the table of members; the list is
//! that of the first start, and changes only while nobody has been added by it.
//!
//! The setters are for several threads; each is durable when it returns, and changes nothing when it fails. Readers
//! never wait for the disk: the raft loop is one of them.

#[cfg(test)]
mod tests;

use super::data_dir::DataDir;
use super::disk::{Disk, DiskError, replace_file};
use super::error::StorageError;
use super::format::{FORMAT_VERSION, u32_at, u64_at};
use crate::limits;
use crate::mutants::{Mutant, is_planted};
use crate::peer_url::PeerUrl;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"rkvdmeta";
/// What every version has before its CRC, at least.
const HEAD_BYTES: usize = 56;
const CRC_BYTES: usize = 4;
const STATE_STARTING: u32 = 1;
const STATE_IN_USE: u32 = 2;
const STATE_RESTORING: u32 = 3;
const FLAG_JOINS: u32 = 1;
const FLAG_OLDER_COPY: u32 = 2;

/// Who this data directory belongs to.
pub struct Meta {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Held while a change is written, so that there is one at a time. Taken before `contents`.
    writing: Mutex<()>,
    /// What is durable. Held to copy and to replace it only.
    contents: Mutex<Contents>,
}

/// What the first start was given, for all later ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Where the other members reach this one.
    pub url: Option<PeerUrl>,
    /// The first members of its cluster, if it was given a list.
    pub list: BTreeMap<u64, PeerUrl>,
    /// It was to join a cluster that runs.
    pub joins: bool,
    /// Where clients reach the members that it was to ask for that.
    pub join_by: Vec<PeerUrl>,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    state: u32,
    member: u64,
    cluster: u64,
    incarnation: u64,
    boot: u64,
    removed: u64,
    older_copy: bool,
    given: Given,
}

impl Meta {
    /// Begins the first start: from now on, until [`Meta::complete_first_start`], what is in the directory is
    /// leftovers of a first start that did not complete. `cluster` gives the id of the cluster that begins with this
    /// incarnation, 0: none does. Durable on return.
    pub(super) fn create(
        dir: &DataDir,
        member: u64,
        cluster: fn(u64) -> u64,
        given: Given,
    ) -> Result<Meta, DiskError> {
        Meta::begin(STATE_STARTING, dir, member, cluster, given)
    }

    /// Begins a restore. The same, but only another restore clears what is left of it: a start would begin with an
    /// empty map instead of the restored one.
    pub(super) fn create_restoring(
        dir: &DataDir,
        member: u64,
        cluster: fn(u64) -> u64,
        given: Given,
    ) -> Result<Meta, DiskError> {
        Meta::begin(STATE_RESTORING, dir, member, cluster, given)
    }

    fn begin(
        state: u32,
        dir: &DataDir,
        member: u64,
        cluster: fn(u64) -> u64,
        given: Given,
    ) -> Result<Meta, DiskError> {
        let incarnation = dir.disk().random()?.max(1);
        let contents = Contents {
            state,
            member,
            cluster: cluster(incarnation),
            incarnation,
            boot: 0,
            removed: 0,
            older_copy: false,
            given,
        };
        let meta = Meta {
            disk: dir.disk().clone(),
            path: dir.meta_path(),
            writing: Mutex::new(()),
            contents: Mutex::new(contents.clone()),
        };
        meta.write(&contents)?;
        Ok(meta)
    }

    /// Reads the file; `None` when there is none.
    pub(super) fn load(dir: &DataDir) -> Result<Option<Meta>, StorageError> {
        let path = dir.meta_path();
        let Some(file) = dir.disk().open(&path)? else {
            return Ok(None);
        };
        let len = file.len()?;
        if len > limits::META_BYTES_MAX as u64 {
            return Err(corrupt(&path, 0, "it is longer than it may be"));
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        let contents = decode(&path, &bytes)?;
        Ok(Some(Meta {
            disk: dir.disk().clone(),
            path,
            writing: Mutex::new(()),
            contents: Mutex::new(contents),
        }))
    }

    /// Whether the first start was completed.
    pub fn in_use(&self) -> bool {
        self.lock().state == STATE_IN_USE
    }

    /// Whether this is what a restore left that did not complete.
    pub fn is_restoring(&self) -> bool {
        self.lock().state == STATE_RESTORING
    }

    /// Completes the first start, as its last step. Durable on return.
    pub(super) fn complete_first_start(&self) -> Result<(), DiskError> {
        self.change(|contents| {
            contents.state = STATE_IN_USE;
            contents.boot = 1;
        })
    }

    /// Counts a start. Durable on return.
    pub(super) fn next_boot(&self) -> Result<(), DiskError> {
        if is_planted(Mutant::BootNumberAgain) {
            self.lock().boot += 1;
            return Ok(());
        }
        self.change(|contents| contents.boot += 1)
    }

    /// Index of the entry that removed this member.
    pub fn removed(&self) -> Option<u64> {
        match self.lock().removed {
            0 => None,
            index => Some(index),
        }
    }

    /// The cluster knows a later start of this member than this directory has: see [`Meta::mark_older_copy`].
    pub fn is_older_copy(&self) -> bool {
        self.lock().older_copy
    }

    /// The id of the member whose directory this is.
    pub fn member(&self) -> u64 {
        self.lock().member
    }

    /// The cluster's id, 0 while none has let this member in.
    pub fn cluster(&self) -> u64 {
        self.lock().cluster
    }

    /// A random number, made with the data directory: tells it from every other that claims the same id. Never 0.
    pub fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    /// What a start goes by that is given nothing.
    pub fn given(&self) -> Given {
        self.lock().given.clone()
    }

    /// The table of members has this URL for this member. Durable on return.
    pub fn set_url(&self, url: &PeerUrl) -> Result<(), DiskError> {
        self.change(|contents| contents.given.url = Some(url.clone()))
    }

    /// Takes another list: nobody has been added by the one before. Durable on return.
    pub fn set_list(&self, list: &BTreeMap<u64, PeerUrl>) -> Result<(), DiskError> {
        self.change(|contents| contents.given.list = list.clone())
    }

    /// A start of a member that no cluster has let in is given this. Durable on return.
    pub fn set_given(&self, given: Given) -> Result<(), DiskError> {
        self.change(|contents| contents.given = given)
    }

    /// The number of this start of the process, from 1.
    pub fn boot(&self) -> u64 {
        self.lock().boot
    }

    /// A cluster sends this member its first state. Durable on return.
    pub fn pin_cluster(&self, cluster: u64) -> Result<(), DiskError> {
        self.change(|contents| {
            assert!(
                contents.cluster == 0 || contents.cluster == cluster,
                "the cluster is pinned to {:016x} and can't become {cluster:016x}",
                contents.cluster
            );
            contents.cluster = cluster;
        })
    }

    /// The entry with this index removed this member: it never starts again from this directory. Durable on return.
    pub fn mark_removed(&self, index: u64) -> Result<(), DiskError> {
        self.change(|contents| contents.removed = index)
    }

    /// The cluster knows a later start of this member: it never starts again from this directory. Without the mark its
    /// starts would soon have overtaken the one that is known, and it would be taken for the newest. Durable on return.
    pub fn mark_older_copy(&self) -> Result<(), DiskError> {
        self.change(|contents| contents.older_copy = true)
    }

    /// Nothing is written when nothing changes. The memory changes after the file, so that nobody is told what is not
    /// durable.
    fn change(&self, change: impl FnOnce(&mut Contents)) -> Result<(), DiskError> {
        let _writing = self.writing.lock();
        let contents = self.lock().clone();
        let mut changed = contents.clone();
        change(&mut changed);
        if changed != contents {
            self.write(&changed)?;
            *self.lock() = changed;
        }
        Ok(())
    }

    fn write(&self, contents: &Contents) -> Result<(), DiskError> {
        replace_file(&*self.disk, &self.path, &encode(contents))
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lock().fmt(f)
    }
}

fn encode(contents: &Contents) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&contents.state.to_le_bytes());
    for field in [
        contents.member,
        contents.cluster,
        contents.incarnation,
        contents.boot,
        contents.removed,
    ] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    let Given {
        url,
        list,
        joins,
        join_by,
    } = &contents.given;
    let flags = u32::from(*joins) * FLAG_JOINS + u32::from(contents.older_copy) * FLAG_OLDER_COPY;
    bytes.extend_from_slice(&flags.to_le_bytes());
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    let own = url.as_ref().map(PeerUrl::to_string);
    text(&mut bytes, &own.unwrap_or_default());
    bytes.extend_from_slice(&(list.len() as u32).to_le_bytes());
    for (id, url) in list {
        bytes.extend_from_slice(&id.to_le_bytes());
        text(&mut bytes, &url.to_string());
    }
    bytes.extend_from_slice(&(join_by.len() as u32).to_le_bytes());
    for url in join_by {
        text(&mut bytes, &url.to_string());
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    // A command line is far shorter.
    assert!(
        bytes.len() <= limits::META_BYTES_MAX,
        "{} bytes of at most {}, {} members are listed",
        bytes.len(),
        limits::META_BYTES_MAX,
        list.len()
    );
    bytes
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Contents, StorageError> {
    if bytes.len() < HEAD_BYTES + CRC_BYTES {
        return Err(corrupt(path, bytes.len() as u64, "it is too short"));
    }
    let end = bytes.len() - CRC_BYTES;
    if &bytes[..8] != MAGIC {
        return Err(corrupt(path, 0, "it does not begin with its magic number"));
    }
    // The CRC first: it is at the same place in every version, and a version that it does not cover means nothing.
    if crc32c::crc32c(&bytes[..end]) != u32_at(bytes, end) {
        return Err(corrupt(path, end as u64, "its CRC does not match"));
    }
    super::error::check_version(path, u32_at(bytes, 8))?;
    let state = u32_at(bytes, 12);
    if !matches!(state, STATE_STARTING | STATE_IN_USE | STATE_RESTORING) {
        return Err(corrupt(path, 12, "its state is unknown"));
    }
    let why = "its flags or peer URLs do not decode";
    let (older_copy, given) = decode_given(&bytes[HEAD_BYTES..end])
        .ok_or_else(|| corrupt(path, HEAD_BYTES as u64, why))?;
    Ok(Contents {
        state,
        member: u64_at(bytes, 16),
        cluster: u64_at(bytes, 24),
        incarnation: u64_at(bytes, 32),
        boot: u64_at(bytes, 40),
        removed: u64_at(bytes, 48),
        older_copy,
        given,
    })
}

/// Reads what is behind the fixed fields, to its end: whether it is an older copy, and what the first start was given.
/// `None`: it is something else.
fn decode_given(mut bytes: &[u8]) -> Option<(bool, Given)> {
    let flags = take_number(&mut bytes)?;
    if flags & !(FLAG_JOINS | FLAG_OLDER_COPY) != 0 {
        return None;
    }
    let joins = flags & FLAG_JOINS != 0;
    let url = match take_text(&mut bytes)? {
        "" => None,
        url => Some(url.parse().ok()?),
    };
    let mut list = BTreeMap::new();
    for _ in 0..take_number(&mut bytes)? {
        let (id, rest) = bytes.split_first_chunk()?;
        bytes = rest;
        let url = take_text(&mut bytes)?.parse().ok()?;
        list.insert(u64::from_le_bytes(*id), url);
    }
    let mut join_by = Vec::new();
    for _ in 0..take_number(&mut bytes)? {
        join_by.push(take_text(&mut bytes)?.parse().ok()?);
    }
    let given = Given {
        url,
        list,
        joins,
        join_by,
    };
    let older_copy = flags & FLAG_OLDER_COPY != 0;
    bytes.is_empty().then_some((older_copy, given))
}

fn take_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let len = take_number(bytes)? as usize;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

fn corrupt(path: &Path, offset: u64, why: &str) -> StorageError {
    StorageError::corrupt(path, offset, why)
}
