//! The `meta` file: the member, the cluster and the incarnation that a data directory belongs to.
//!
//! The file is small. Every change replaces the whole file atomically ([`replace_file`]), so a crash leaves either the
//! old contents or the new contents. All numbers are little-endian:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `rkvdmeta` |
//! | 8 | 4 | format version, 2 |
//! | 12 | 4 | state: 1 first start not complete or undone, 2 in use, 3 restore not complete |
//! | 16 | 8 | member id |
//! | 24 | 8 | cluster id, 0 until a cluster adds this member |
//! | 32 | 8 | incarnation |
//! | 40 | 8 | boot |
//! | 48 | 8 | index of the entry that removed this member, 0 if none |
//! | 56 | 4 | sum of: 1 the first start joins a cluster, 2 this is an older copy of a member's directory |
//! | 60 | 4 | length *u* of this member's peer URL |
//! | 64 | *u* | this member's peer URL |
//! | | 4 | number of listed members |
//! | | | for each: id (8), length of the peer URL (4), peer URL |
//! | | 4 | number of URLs at which the first start asks to join |
//! | | | for each: length (4), URL |
//! | | 4 | CRC32C of all fields before |
//!
//! A start that is given neither the URL nor the list on its command line uses those of this file. The URL follows the
//! table of members. The list is that of the first start. It changes only while no member of the list has been added.
//!
//! A second file of the same length, `meta.tmp`, is kept beside `meta`. The next change is written into `meta.tmp`, so
//! that a start on a full disk can still store its boot number. A change that makes the file longer is refused if there
//! is no room for a second file of the new length.
//!
//! Several threads may call the setters. Each change is durable when the setter returns. A setter that fails leaves the
//! contents in memory as they were, and the file with either the old or the new contents. Readers never wait for the
//! disk: the raft loop is one of them.

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
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"rkvdmeta";
/// Minimum bytes before the CRC in every format version.
const HEAD_BYTES: usize = 56;
const CRC_BYTES: usize = 4;
const STATE_STARTING: u32 = 1;
const STATE_IN_USE: u32 = 2;
const STATE_RESTORING: u32 = 3;
const FLAG_JOINS: u32 = 1;
const FLAG_OLDER_COPY: u32 = 2;

/// The `meta` file, in memory and on disk.
pub struct Meta {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Held while a change is written, so that changes happen one at a time. Lock order: `writing`, then `contents`.
    writing: Mutex<()>,
    /// The durable contents. Locked only to copy or replace them.
    contents: Mutex<Contents>,
}

/// The options of the first start, which later starts may omit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// The peer URL of this member.
    pub url: Option<PeerUrl>,
    /// The first members of its cluster, if the first start had a list.
    pub list: BTreeMap<u64, PeerUrl>,
    /// The first start joins a running cluster.
    pub joins: bool,
    /// The client URLs of the members that the first start asks to add this member.
    pub join_by: Vec<PeerUrl>,
}

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
    /// The first step of a first start. Until [`Meta::complete_first_start`], all other files in the directory count
    /// as leftovers of a first start that did not complete. `cluster` maps the new incarnation to the id of the cluster
    /// that it starts, or to 0 if the member starts no cluster. Durable on return.
    pub(super) fn create(
        dir: &DataDir,
        member: u64,
        cluster: fn(u64) -> u64,
        given: Given,
    ) -> Result<Meta, DiskError> {
        Meta::begin(STATE_STARTING, dir, member, cluster, given)
    }

    /// Like [`Meta::create`], for a restore. Only another restore clears the leftovers: a start would serve an empty
    /// map instead of the restored one.
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

    /// Reads the file. `None` if it does not exist.
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

    /// Whether the first start or the restore is complete.
    pub fn in_use(&self) -> bool {
        self.lock().state == STATE_IN_USE
    }

    /// Whether the directory is left over from a restore that did not complete.
    pub fn is_restoring(&self) -> bool {
        self.lock().state == STATE_RESTORING
    }

    /// The last step of a first start and of a restore. Durable on return.
    pub(super) fn complete_first_start(&self) -> Result<(), DiskError> {
        self.change(|contents| {
            contents.state = STATE_IN_USE;
            contents.boot = 1;
        })
    }

    /// Increments the boot number. Durable on return.
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

    /// Whether the cluster knows a later start of this member than this directory does: see [`Meta::mark_older_copy`].
    pub fn is_older_copy(&self) -> bool {
        self.lock().older_copy
    }

    /// The id of the member that the directory belongs to.
    pub fn member(&self) -> u64 {
        self.lock().member
    }

    /// The cluster id. 0 until a cluster adds this member.
    pub fn cluster(&self) -> u64 {
        self.lock().cluster
    }

    /// A random number, drawn when the data directory is created. It distinguishes the directory from any other with
    /// the same member id. Never 0.
    pub fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    /// The options that a start uses when its command line omits them.
    pub fn given(&self) -> Given {
        self.lock().given.clone()
    }

    /// Stores the URL that the table of members has for this member. Durable on return.
    pub fn set_url(&self, url: &PeerUrl) -> Result<(), DiskError> {
        self.change(|contents| contents.given.url = Some(url.clone()))
    }

    /// Replaces the list of first members. Allowed only while no member of the old list has been added. Durable on
    /// return.
    pub fn set_list(&self, list: &BTreeMap<u64, PeerUrl>) -> Result<(), DiskError> {
        self.change(|contents| contents.given.list = list.clone())
    }

    /// Stores the options of a start. Allowed only while no cluster has added this member. Durable on return.
    pub fn set_given(&self, given: Given) -> Result<(), DiskError> {
        self.change(|contents| contents.given = given)
    }

    /// The number of this start of the process, from 1.
    pub fn boot(&self) -> u64 {
        self.lock().boot
    }

    /// Stores the cluster id, before the first state that a cluster sends to this member is installed. Durable on
    /// return.
    pub fn pin_cluster(&self, cluster: u64) -> Result<(), DiskError> {
        self.change_if(|contents| {
            if contents.state != STATE_IN_USE {
                // The first start was undone, and the next start clears the directory.
                return Err(DiskError::new("write", &self.path, Errno::CANCELED));
            }
            assert!(
                contents.cluster == 0 || contents.cluster == cluster,
                "the cluster id is {:016x} and can't change to {cluster:016x}",
                contents.cluster
            );
            contents.cluster = cluster;
            Ok(())
        })
    }

    /// Undoes the first start of a member that no cluster has let in and that can't be added as it is: the next start is a
    /// first start again, with whatever id and options it has. Durable on return.
    pub fn undo_first_start(&self) -> Result<(), DiskError> {
        self.change(|contents| {
            if contents.cluster == 0 && contents.state == STATE_IN_USE {
                contents.state = STATE_STARTING;
            }
        })
    }

    /// Stores the index of the entry that removed this member, which then never starts again from this directory.
    /// Durable on return.
    pub fn mark_removed(&self, index: u64) -> Result<(), DiskError> {
        self.change(|contents| contents.removed = index)
    }

    /// Stores that the cluster knows a later start of this member, which then never starts again from this directory.
    /// Without this mark, further starts of the copy would soon exceed the boot number that the cluster knows, and the
    /// copy would pass for the newest directory. Durable on return.
    pub fn mark_older_copy(&self) -> Result<(), DiskError> {
        self.change(|contents| contents.older_copy = true)
    }

    fn change(&self, change: impl FnOnce(&mut Contents)) -> Result<(), DiskError> {
        self.change_if(|contents| {
            change(contents);
            Ok(())
        })
    }

    /// Writes the file only if the contents change, and nothing if the change is refused. The contents in memory change
    /// after the file, so that readers see only durable contents. A change that depends on the contents has to look at
    /// those that it gets: other contents may be about to change.
    fn change_if(
        &self,
        change: impl FnOnce(&mut Contents) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let _writing = self.writing.lock();
        let contents = self.lock().clone();
        let mut changed = contents.clone();
        change(&mut changed)?;
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
    // A command line is far shorter than the limit.
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
        return Err(corrupt(
            path,
            0,
            "it does not start with the magic number of `meta`",
        ));
    }
    // Check the CRC first: it is at the same place in every version. A version field that the CRC does not cover means
    // nothing.
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

/// Decodes the fields that follow the fixed ones, up to their end: whether the directory is an older copy, and the
/// options of the first start. `None` if the bytes are not valid.
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
