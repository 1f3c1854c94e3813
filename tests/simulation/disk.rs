//! A disk in memory, for the tests of storage (which include this file) and for the simulation.
//!
//! It counts and names every operation that changes something, stops before or after a chosen one as a crash does,
//! lets a chosen one fail, fills up, and then shows what a real disk might hold after the power was off. What that may
//! be is the contract in `storage/disk.rs`:
//! - Of bytes that were not synced, each sector of 512 holds the old or the new ones; a file that was growing ends
//!   anywhere.
//! - Of names (creations of files and directories, renames, removals) whose directory was not synced, any combination
//!   is there. What is in a directory goes when the directory's own name does.
//! - After a sync has failed, the kernel calls the bytes clean: a later sync succeeds and does not write them.
//!
//! Everything is decided by seeds; nothing depends on time or on the machine.

// It is part of several test targets, and not each needs all of it.
#![allow(dead_code)]

use raftkvd::storage::disk::{Disk, DiskDirectory, DiskError, DiskFile, Lock};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

thread_local! {
    /// Microseconds that syncs have taken on this thread: see [`FakeDisk::set_sync_micros`].
    pub static BUSY: Cell<u64> = const { Cell::new(0) };
}

/// SplitMix64: the same seed, the same numbers.
#[derive(Debug, Clone, Copy)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// An operation that changes something: what a crash can come before or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    CreateDir,
    Create,
    Write,
    Allocate,
    Truncate,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

impl Operation {
    /// As storage names it in its errors.
    fn verb(self) -> &'static str {
        match self {
            Operation::CreateDir => "create directory",
            Operation::Create => "create",
            Operation::Write => "write",
            Operation::Allocate => "allocate",
            Operation::Truncate => "shorten",
            Operation::Sync => "fdatasync",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
            Operation::SyncDir => "sync directory",
        }
    }
}

/// What the disk does at a chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops before it: the operation has no effect, and neither has any later one.
    CrashBefore,
    /// The machine stops after it: it has its effect, but nobody learns of it.
    CrashAfter,
    /// It fails with an input/output error, and the disk goes on. Of a write, a part may have been done; what a sync
    /// should have made durable may be so or not, and no later sync tries again.
    Fail,
    /// It fails because there is no room for it, and has no effect.
    Full,
}

/// What a crash takes of everything that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All bytes and all names.
    Everything,
    /// Nothing: all was written in time.
    Nothing,
    /// The bytes, but not the names.
    Bytes,
    /// The names, but not the bytes.
    Names,
    /// Any combination of names, and of each file any combination of sectors, drawn from this seed.
    Torn(u64),
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// The next sync writes this part of `now`, and its length. Outside of it the two may differ as well: there a
    /// sync has failed.
    dirty: Range<usize>,
    /// Handles that are open.
    open: usize,
}

impl Content {
    fn touch(&mut self, part: Range<usize>) {
        if self.dirty.is_empty() {
            self.dirty = part;
        } else {
            self.dirty = self.dirty.start.min(part.start)..self.dirty.end.max(part.end);
        }
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let (from, end) = (offset, offset + bytes.len());
        let old = self.now.len();
        if old < end {
            self.now.resize(end, 0);
        }
        self.now[from..end].copy_from_slice(bytes);
        self.touch(from.min(old)..end);
    }

    fn set_len(&mut self, len: usize) {
        let old = self.now.len();
        self.now.resize(len, 0);
        self.touch(old.min(len)..old.max(len));
    }

    fn sync(&mut self) {
        self.synced.resize(self.now.len(), 0);
        let part = self.dirty.start..self.dirty.end.min(self.now.len());
        if !part.is_empty() {
            self.synced[part.clone()].copy_from_slice(&self.now[part]);
        }
        self.dirty = 0..0;
    }

    /// What a crash leaves.
    fn after(&self, loss: Loss, random: &mut Random) -> Content {
        let bytes = match loss {
            Loss::Everything | Loss::Bytes => self.synced.clone(),
            Loss::Nothing | Loss::Names => self.now.clone(),
            Loss::Torn(_) => torn(&self.synced, &self.now, random),
        };
        Content {
            now: bytes.clone(),
            synced: bytes,
            ..Content::default()
        }
    }
}

fn torn(old: &[u8], new: &[u8], random: &mut Random) -> Vec<u8> {
    if old == new {
        return new.to_vec();
    }
    let (short, long) = (old.len().min(new.len()), old.len().max(new.len()));
    let len = match random.below(3) {
        0 => old.len(),
        1 => new.len(),
        _ if old.len() < new.len() => short + random.below((long - short) as u64) as usize,
        _ => new.len(),
    };
    // Often nothing or everything was written; in between any combination.
    let chance = [0, 1, 1, 2, 3, 4][random.below(6) as usize];
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let source = if random.below(4) < chance { new } else { old };
        let sector = (bytes.len() / SECTOR + 1) * SECTOR;
        let end = sector.min(len);
        let held = source.len().clamp(bytes.len(), end);
        bytes.extend_from_slice(&source[bytes.len().min(source.len())..held.min(source.len())]);
        bytes.resize(end, 0);
    }
    bytes
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

/// By their bytes: to compare paths piece by piece took a thirtieth of a simulation. A directory comes before what is in
/// it in this order as well.
type Names = BTreeMap<Name, Node>;
type Name = Arc<OsStr>;

fn name(path: &Path) -> Name {
    Arc::from(path.as_os_str())
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(Name, Node),
    Rename(Name, Name, Node),
    Remove(Name),
}

impl NameChange {
    fn dir(&self) -> &Path {
        let (NameChange::Create(path, _) | NameChange::Rename(path, ..) | NameChange::Remove(path)) =
            self;
        Path::new(path).parent().unwrap()
    }

    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Debug)]
struct State {
    contents: BTreeMap<u64, Content>,
    next_content: u64,
    names: Names,
    synced_names: Names,
    pending: Vec<NameChange>,
    locked: BTreeSet<PathBuf>,
    random: Random,
    operations: u64,
    counts: BTreeMap<Operation, u64>,
    journal: Option<Vec<(Operation, PathBuf)>>,
    faults: BTreeMap<u64, Fault>,
    armed: Option<(Operation, Fault)>,
    /// Each operation of this kind meets the fault.
    lasting: Option<(Operation, Fault)>,
    crashed: bool,
    /// Operations that met a fault.
    failures: u64,
    /// Bytes that all files together may have.
    capacity: Option<u64>,
    /// No file and no directory can be opened.
    lacks_descriptors: bool,
    /// No file can be read or looked at.
    lacks_memory: bool,
    /// What a sync takes.
    sync_micros: u64,
}

impl State {
    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn used(&self) -> u64 {
        let sizes = self.names.values().map(|node| match node {
            Node::Dir => 0,
            Node::File(id) => self.contents[id].now.len() as u64,
        });
        sizes.sum()
    }

    /// Bytes by which files can still grow.
    fn free(&self) -> u64 {
        self.capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Forgets what no name and no handle leads to, not even after a crash.
    fn forget_unreachable(&mut self) {
        let pending = self.pending.iter().filter_map(|change| match change {
            NameChange::Create(_, node) | NameChange::Rename(.., node) => Some(node),
            NameChange::Remove(_) => None,
        });
        let mut named: Vec<u64> = (self.names.values())
            .chain(self.synced_names.values())
            .chain(pending)
            .filter_map(|node| match node {
                Node::Dir => None,
                Node::File(id) => Some(*id),
            })
            .collect();
        named.sort_unstable();
        self.contents
            .retain(|id, content| content.open > 0 || named.binary_search(id).is_ok());
    }
}

/// The disk; clones share it.
#[derive(Debug, Clone)]
pub struct FakeDisk {
    state: Arc<Mutex<State>>,
}

impl FakeDisk {
    pub fn new(seed: u64) -> FakeDisk {
        FakeDisk {
            state: Arc::new(Mutex::new(State {
                contents: BTreeMap::new(),
                next_content: 0,
                names: Names::new(),
                synced_names: Names::new(),
                pending: Vec::new(),
                locked: BTreeSet::new(),
                random: Random(seed),
                operations: 0,
                counts: BTreeMap::new(),
                journal: None,
                faults: BTreeMap::new(),
                armed: None,
                lasting: None,
                crashed: false,
                failures: 0,
                capacity: None,
                lacks_descriptors: false,
                lacks_memory: false,
                sync_micros: 0,
            })),
        }
    }

    /// Lets the n-th operation meet a fault. They are counted from 1 over the disk's life.
    pub fn inject(&self, operation: u64, fault: Fault) {
        self.state().faults.insert(operation, fault);
    }

    /// Lets the next operation of this kind meet a fault.
    pub fn inject_at(&self, operation: Operation, fault: Fault) {
        self.state().armed = Some((operation, fault));
    }

    /// Lets each operation of this kind meet a fault, until [`FakeDisk::clear_faults`].
    pub fn inject_lasting(&self, operation: Operation, fault: Fault) {
        self.state().lasting = Some((operation, fault));
    }

    /// No fault that was injected comes any more.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.armed = None;
        state.lasting = None;
    }

    /// Only so many bytes are free from now on; `None`: any number.
    pub fn set_free(&self, bytes: Option<u64>) {
        let mut state = self.state();
        state.capacity = bytes.map(|bytes| state.used() + bytes);
    }

    /// Whether the process has no file descriptor left from now on.
    pub fn set_lacks_descriptors(&self, lacks: bool) {
        self.state().lacks_descriptors = lacks;
    }

    /// Whether the kernel has no memory to read open files from now on.
    pub fn set_lacks_memory(&self, lacks: bool) {
        self.state().lacks_memory = lacks;
    }

    /// From now on a sync takes so long. Nobody waits for it: [`BUSY`] grows.
    pub fn set_sync_micros(&self, micros: u64) {
        self.state().sync_micros = micros;
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many operations have met a fault that was injected.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Whether a crash that was injected has come.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// How often each kind of operation was done since the last call.
    pub fn take_counts(&self) -> BTreeMap<Operation, u64> {
        std::mem::take(&mut self.state().counts)
    }

    /// Begins to keep a list of all operations.
    pub fn keep_journal(&self) {
        self.state().journal = Some(Vec::new());
    }

    /// The operations since [`FakeDisk::keep_journal`].
    pub fn journal(&self) -> Vec<(Operation, PathBuf)> {
        self.state().journal.clone().unwrap_or_default()
    }

    /// What a machine finds after the power was off, in any combination that this seed draws.
    pub fn after_power_loss(&self, seed: u64) -> FakeDisk {
        self.after_crash(Loss::Torn(seed))
    }

    /// What a machine finds after the power was off. This disk stays as it is.
    pub fn after_crash(&self, loss: Loss) -> FakeDisk {
        let seed = if let Loss::Torn(seed) = loss { seed } else { 0 };
        let mut random = Random(seed);
        let disk = FakeDisk::new(seed ^ 0xd15c);
        {
            let state = self.state();
            let mut new = disk.state();
            // No two machines may draw the same numbers from here on.
            new.random.0 ^= state.random.0;
            new.names = state.synced_names.clone();
            for change in &state.pending {
                let kept = match loss {
                    Loss::Everything | Loss::Names => false,
                    Loss::Nothing | Loss::Bytes => true,
                    Loss::Torn(_) => random.below(2) == 0,
                };
                if kept {
                    change.apply(&mut new.names);
                }
            }
            remove_orphans(&mut new.names);
            let contents = state.contents.iter();
            new.contents = contents
                .map(|(id, content)| (*id, content.after(loss, &mut random)))
                .collect();
            new.next_content = state.next_content;
            new.capacity = state.capacity;
            new.synced_names = new.names.clone();
            new.forget_unreachable();
        }
        disk
    }

    /// What is drawn from here on follows from this seed: a copy of a disk must not draw what the disk itself draws.
    pub fn reseed(&self, seed: u64) {
        self.state().random = Random(seed);
    }

    /// What a process finds that is started after another was killed: everything, but it is not yet durable.
    pub fn after_kill(&self) -> FakeDisk {
        let disk = FakeDisk::new(1);
        {
            let state = self.state();
            let mut new = disk.state();
            new.contents = state.contents.clone();
            for content in new.contents.values_mut() {
                content.open = 0;
            }
            new.next_content = state.next_content;
            new.names = state.names.clone();
            new.synced_names = state.synced_names.clone();
            new.pending = state.pending.clone();
            new.random = state.random;
            new.capacity = state.capacity;
            new.forget_unreachable();
        }
        disk
    }

    /// The same for disks that look the same to whoever reads them and would lose the same in a crash.
    pub fn fingerprint(&self) -> u64 {
        let state = self.state();
        let mut hasher = DefaultHasher::new();
        let mut hash = |names: &Names| {
            for (path, node) in names {
                path.hash(&mut hasher);
                if let Node::File(id) = node {
                    let content = &state.contents[id];
                    (&content.now, &content.synced).hash(&mut hasher);
                }
            }
            names.len().hash(&mut hasher);
        };
        hash(&state.names);
        hash(&state.synced_names);
        hasher.finish()
    }

    /// The bytes of a file.
    pub fn read(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.contents[&file_at(&state.names, path)].now.clone()
    }

    /// Changes the bytes of a file behind everybody's back, durably.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let id = file_at(&state.names, path);
        let content = state.contents.get_mut(&id).unwrap();
        change(&mut content.now);
        content.synced = content.now.clone();
        content.dirty = 0..0;
    }

    /// Paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        let state = self.state();
        let files = state.names.iter().filter(|(_, node)| **node != Node::Dir);
        files.map(|(path, _)| PathBuf::from(&**path)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed still drops its files.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_state(
        &self,
        action: &'static str,
        path: &Path,
    ) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.state();
        if state.crashed {
            return Err(stopped(action, path));
        }
        Ok(state)
    }

    /// The state, for an operation that needs a file descriptor.
    fn opening_state(
        &self,
        action: &'static str,
        path: &Path,
    ) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.read_state(action, path)?;
        match state.lacks_descriptors {
            true => Err(DiskError::new(action, path, errno(EMFILE))),
            false => Ok(state),
        }
    }

    /// The state, for an operation on an open file that needs memory.
    fn reading_state(
        &self,
        action: &'static str,
        path: &Path,
    ) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.read_state(action, path)?;
        match state.lacks_memory {
            true => Err(DiskError::new(action, path, errno(ENOMEM))),
            false => Ok(state),
        }
    }

    /// Counts an operation and lets it meet its fault. `full` does it; `partial` does what may be done of one that
    /// fails. An operation that has no effect without a fault either, as the file system refuses it, is an error of
    /// `full`.
    fn operate<T>(
        &self,
        operation: Operation,
        path: &Path,
        full: impl FnOnce(&mut State) -> Result<T, io::Error>,
        partial: impl FnOnce(&mut State),
    ) -> Result<T, DiskError> {
        let mut state = self.read_state(operation.verb(), path)?;
        state.operations += 1;
        *state.counts.entry(operation).or_default() += 1;
        if operation == Operation::Sync {
            BUSY.set(BUSY.get() + state.sync_micros);
        }
        if let Some(journal) = &mut state.journal {
            journal.push((operation, path.to_owned()));
        }
        let fault = state.faults.get(&state.operations).copied();
        let armed = state.armed.take_if(|(armed, _)| *armed == operation);
        let lasting = state.lasting.filter(|(kind, _)| *kind == operation);
        let fault = fault.or(armed.or(lasting).map(|(_, fault)| fault));
        state.failures += u64::from(fault.is_some());
        match fault {
            None => full(&mut state).map_err(|e| DiskError::new(operation.verb(), path, e)),
            Some(Fault::CrashBefore) => {
                state.crashed = true;
                Err(stopped(operation.verb(), path))
            }
            Some(Fault::CrashAfter) => {
                let lost = full(&mut state);
                state.crashed = true;
                // A handle that is dropped locks the state.
                drop(state);
                drop(lost);
                Err(stopped(operation.verb(), path))
            }
            Some(Fault::Fail) => {
                partial(&mut state);
                Err(DiskError::new(operation.verb(), path, errno(EIO)))
            }
            Some(Fault::Full) => Err(DiskError::new(operation.verb(), path, errno(ENOSPC))),
        }
    }

    fn handle(&self, state: &mut State, path: &Path, content: u64) -> Box<dyn DiskFile> {
        state.contents.get_mut(&content).unwrap().open += 1;
        Box::new(FakeFile {
            disk: self.clone(),
            path: path.to_owned(),
            content,
        })
    }
}

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn stopped(action: &'static str, path: &Path) -> DiskError {
    DiskError::new(action, path, io::Error::other("the machine has stopped"))
}

fn file_at(names: &Names, path: &Path) -> u64 {
    match names.get(path.as_os_str()) {
        Some(Node::File(id)) => *id,
        other => panic!("{} is {other:?}", path.display()),
    }
}

/// The root is always there.
fn is_dir(names: &Names, path: &Path) -> bool {
    path.parent().is_none() || names.get(path.as_os_str()) == Some(&Node::Dir)
}

/// Removes what stands in a directory that is not there.
fn remove_orphans(names: &mut Names) {
    let mut kept = Names::new();
    // A directory comes before what is in it.
    for (path, node) in std::mem::take(names) {
        if is_dir(&kept, Path::new(&path).parent().unwrap()) {
            kept.insert(path, node);
        }
    }
    *names = kept;
}

impl Disk for FakeDisk {
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        let mut state = self.opening_state("open", path)?;
        match state.names.get(path.as_os_str()).copied() {
            Some(Node::File(content)) => Ok(Some(self.handle(&mut state, path, content))),
            Some(Node::Dir) => panic!("{} is a directory", path.display()),
            None => Ok(None),
        }
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
        drop(self.opening_state("create", path)?);
        let create = |state: &mut State| {
            if !is_dir(&state.names, path.parent().unwrap()) {
                return Err(errno(ENOENT));
            }
            // A file that exists is emptied, and a crash may bring its bytes back.
            if let Some(Node::File(content)) = state.names.get(path.as_os_str()).copied() {
                state.contents.get_mut(&content).unwrap().set_len(0);
                return Ok(self.handle(state, path, content));
            }
            let content = state.next_content;
            state.next_content += 1;
            state.contents.insert(content, Content::default());
            state.change(NameChange::Create(name(path), Node::File(content)));
            Ok(self.handle(state, path, content))
        };
        self.operate(Operation::Create, path, create, |_| ())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let state = self.opening_state("list", dir)?;
        let from = (Bound::Included(dir.as_os_str()), Bound::Unbounded);
        let from = state.names.range::<OsStr, _>(from);
        let under = dir.as_os_str().as_encoded_bytes();
        let inside = from
            .map(|(path, _)| Path::new(&**path))
            .take_while(|path| path.as_os_str().as_encoded_bytes().starts_with(under))
            .filter(|path| path.parent() == Some(dir));
        Ok(inside
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        assert_eq!(from.parent(), to.parent(), "a rename between directories");
        let rename = |state: &mut State| {
            let node = state.names.get(from.as_os_str());
            let node = *node.ok_or_else(|| errno(ENOENT))?;
            state.change(NameChange::Rename(name(from), name(to), node));
            Ok(())
        };
        self.operate(Operation::Rename, from, rename, |_| ())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let remove = |state: &mut State| {
            match state.names.get(path.as_os_str()) {
                Some(Node::File(_)) => state.change(NameChange::Remove(name(path))),
                Some(Node::Dir) => panic!("{} is a directory", path.display()),
                None => return Err(errno(ENOENT)),
            }
            Ok(())
        };
        // What failed may have happened.
        self.operate(Operation::Remove, path, remove, |state| {
            let is_file = matches!(state.names.get(path.as_os_str()), Some(Node::File(_)));
            if is_file && state.random.below(2) == 0 {
                state.change(NameChange::Remove(name(path)));
            }
        })
    }

    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        let mut missing: Vec<&Path> = dir.ancestors().collect();
        {
            let state = self.read_state("create directory", dir)?;
            missing.retain(|dir| !is_dir(&state.names, dir));
        }
        for dir in missing.into_iter().rev() {
            let create = |state: &mut State| {
                state.change(NameChange::Create(name(dir), Node::Dir));
                Ok(())
            };
            self.operate(Operation::CreateDir, dir, create, |_| ())?;
        }
        Ok(())
    }

    fn open_dir(&self, dir: &Path) -> Result<Box<dyn DiskDirectory>, DiskError> {
        drop(self.opening_state("open directory", dir)?);
        Ok(Box::new(FakeDirectory {
            disk: self.clone(),
            path: dir.to_owned(),
        }))
    }

    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        let state = self.read_state("lock", path)?;
        let exists = state.names.contains_key(path.as_os_str());
        drop(state);
        if !exists {
            self.create(path)?;
        }
        let mut state = self.read_state("lock", path)?;
        if !state.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Lock::new(FakeLock {
            disk: self.clone(),
            path: path.to_owned(),
        })))
    }

    fn random(&self) -> Result<u64, DiskError> {
        Ok(self.state().random.next())
    }
}

struct FakeDirectory {
    disk: FakeDisk,
    path: PathBuf,
}

impl DiskDirectory for FakeDirectory {
    fn sync(&self) -> Result<(), DiskError> {
        let dir = &*self.path;
        let sync = |state: &mut State| {
            if !is_dir(&state.names, dir) {
                return Err(errno(ENOENT));
            }
            let (durable, rest) = std::mem::take(&mut state.pending)
                .into_iter()
                .partition::<Vec<_>, _>(|change| change.dir().as_os_str() == dir.as_os_str());
            for change in durable {
                change.apply(&mut state.synced_names);
            }
            state.pending = rest;
            state.forget_unreachable();
            Ok(())
        };
        self.disk.operate(Operation::SyncDir, dir, sync, |_| ())
    }
}

struct FakeLock {
    disk: FakeDisk,
    path: PathBuf,
}

impl Drop for FakeLock {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.path);
    }
}

struct FakeFile {
    disk: FakeDisk,
    path: PathBuf,
    content: u64,
}

impl FakeFile {
    fn operate(
        &self,
        operation: Operation,
        full: impl FnOnce(&mut Content, u64, &mut Random) -> Result<(), io::Error>,
        partial: impl FnOnce(&mut Content, &mut Random),
    ) -> Result<(), DiskError> {
        let id = self.content;
        self.disk.operate(
            operation,
            &self.path,
            |state| {
                let free = state.free();
                let content = state.contents.get_mut(&id).unwrap();
                full(content, free, &mut state.random)
            },
            |state| {
                let content = state.contents.get_mut(&id).unwrap();
                partial(content, &mut state.random);
            },
        )
    }
}

impl DiskFile for FakeFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let state = self.disk.reading_state("read", &self.path)?;
        let bytes = &state.contents[&self.content].now;
        let from = (offset as usize).min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let offset = offset as usize;
        self.operate(
            Operation::Write,
            |content, free, _| {
                let most = (content.now.len() as u64).saturating_add(free);
                let room = most.saturating_sub(offset as u64);
                if bytes.len() as u64 > room {
                    content.write(&bytes[..room as usize], offset);
                    return Err(errno(ENOSPC));
                }
                content.write(bytes, offset);
                Ok(())
            },
            |content, random| {
                let done = random.below(bytes.len() as u64 + 1) as usize;
                content.write(&bytes[..done], offset);
            },
        )
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.operate(
            Operation::Sync,
            |content, _, _| {
                content.sync();
                Ok(())
            },
            |content, random| {
                content.synced = torn(&content.synced, &content.now, random);
                content.dirty = 0..0;
            },
        )
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        self.operate(
            Operation::Allocate,
            |content, free, _| {
                let old = content.now.len() as u64;
                if len.saturating_sub(old) > free {
                    return Err(errno(ENOSPC));
                }
                if len > old {
                    content.set_len(len as usize);
                }
                Ok(())
            },
            |_, _| (),
        )
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        self.operate(
            Operation::Truncate,
            |content, _, _| {
                let shortest = content.now.len().min(len as usize);
                content.set_len(shortest);
                Ok(())
            },
            |_, _| (),
        )
    }

    fn set_path(&mut self, path: &Path) {
        self.path = path.to_owned();
    }

    fn len(&self) -> Result<u64, DiskError> {
        let state = self.disk.reading_state("stat", &self.path)?;
        Ok(state.contents[&self.content].now.len() as u64)
    }
}

impl Drop for FakeFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.contents.get_mut(&self.content).unwrap().open -= 1;
    }
}
