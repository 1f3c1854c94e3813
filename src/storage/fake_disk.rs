//! A disk in memory for the tests of storage. It counts operations, stops at a chosen one as a crash does, and then
//! shows what a real disk might hold: of unsynced sectors and names any combination of old and new.

use super::disk::{Disk, DiskError, DiskFile, Lock};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

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

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

impl NameChange {
    fn dir(&self) -> &Path {
        let (NameChange::Create(path, _) | NameChange::Rename(path, ..) | NameChange::Remove(path)) =
            self;
        path.parent().unwrap()
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Create(path, content) => {
                names.insert(path.clone(), *content);
            }
            NameChange::Rename(from, to, content) => {
                names.remove(from);
                names.insert(to.clone(), *content);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Debug)]
struct State {
    contents: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    pending: Vec<NameChange>,
    random: Random,
    operations: u64,
    counts: BTreeMap<&'static str, u64>,
    crash_at: Option<u64>,
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
                contents: Vec::new(),
                names: BTreeMap::new(),
                synced_names: BTreeMap::new(),
                pending: Vec::new(),
                random: Random(seed),
                operations: 0,
                counts: BTreeMap::new(),
                crash_at: None,
            })),
        }
    }

    /// From the n-th changing operation on, counted from 1 over the disk's life, everything fails and has no effect.
    pub fn crash_at(&self, operation: u64) {
        self.lock().crash_at = Some(operation);
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How often each kind of operation was done since the last call.
    pub fn take_counts(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.lock().counts)
    }

    /// What a machine finds after the power was off.
    pub fn after_power_loss(&self, seed: u64) -> FakeDisk {
        let state = self.lock();
        let mut random = Random(seed);
        let disk = FakeDisk::new(seed ^ 0xd15c);
        {
            let mut new = disk.lock();
            new.names = state.synced_names.clone();
            for change in &state.pending {
                if random.below(2) == 0 {
                    change.apply(&mut new.names);
                }
            }
            new.contents = state
                .contents
                .iter()
                .map(|content| {
                    let bytes = lose_unsynced(content, &mut random);
                    Content {
                        now: bytes.clone(),
                        synced: bytes,
                    }
                })
                .collect();
            new.synced_names = new.names.clone();
        }
        disk
    }

    /// What a process finds that is started after another was killed: everything, but it is not yet durable.
    pub fn after_kill(&self) -> FakeDisk {
        let disk = FakeDisk::new(1);
        {
            let state = self.lock();
            let mut new = disk.lock();
            new.contents = state.contents.clone();
            new.names = state.names.clone();
            new.synced_names = state.synced_names.clone();
            new.pending = state.pending.clone();
            new.random = state.random;
        }
        disk
    }

    /// The bytes of a file.
    pub fn read(&self, path: &Path) -> Vec<u8> {
        let state = self.lock();
        state.contents[state.names[path]].now.clone()
    }

    /// Changes the bytes of a file behind everybody's back, durably.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let at = state.names[path];
        change(&mut state.contents[at].now);
        state.contents[at].synced = state.contents[at].now.clone();
    }

    /// Paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn operate(
        &self,
        action: &'static str,
        path: &Path,
    ) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.lock();
        state.operations += 1;
        if state.crash_at.is_some_and(|at| state.operations >= at) {
            return Err(DiskError::new(action, path, io::Error::other("crashed")));
        }
        *state.counts.entry(action).or_default() += 1;
        Ok(state)
    }
}

fn lose_unsynced(content: &Content, random: &mut Random) -> Vec<u8> {
    let (old, new) = (&content.synced, &content.now);
    if old == new {
        return new.clone();
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

struct FakeFile {
    disk: FakeDisk,
    path: PathBuf,
    content: usize,
}

impl Disk for FakeDisk {
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        let content = self.lock().names.get(path).copied();
        Ok(content.map(|content| {
            Box::new(FakeFile {
                disk: self.clone(),
                path: path.to_owned(),
                content,
            }) as Box<dyn DiskFile>
        }))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut state = self.operate("create", path)?;
        let content = state.contents.len();
        state.contents.push(Content::default());
        let change = NameChange::Create(path.to_owned(), content);
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(Box::new(FakeFile {
            disk: self.clone(),
            path: path.to_owned(),
            content,
        }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let state = self.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut state = self.operate("rename", from)?;
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), state.names[from]);
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.operate("remove", path)?;
        let change = NameChange::Remove(path.to_owned());
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(())
    }

    fn create_dir_all(&self, _: &Path) -> Result<(), DiskError> {
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let mut state = self.operate("sync_dir", dir)?;
        let (durable, rest) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.dir() == dir);
        for change in durable {
            change.apply(&mut state.synced_names);
        }
        state.pending = rest;
        Ok(())
    }

    fn lock(&self, _: &Path) -> Result<Option<Lock>, DiskError> {
        Ok(Some(Lock::new(())))
    }

    fn random(&self) -> Result<u64, DiskError> {
        Ok(FakeDisk::lock(self).random.next())
    }
}

impl DiskFile for FakeFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let state = self.disk.lock();
        let bytes = &state.contents[self.content].now;
        let from = (offset as usize).min(bytes.len());
        let count = buffer.len().min(bytes.len() - from);
        buffer[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let crashing = self.disk.operate("write", &self.path).map(drop);
        let mut state = self.disk.lock();
        if crashing.is_err() && state.crash_at != Some(state.operations) {
            return crashing;
        }
        // The write at which the crash happens may have reached the kernel; what of it reached the disk is settled
        // later.
        let now = &mut state.contents[self.content].now;
        let (from, end) = (offset as usize, offset as usize + bytes.len());
        if now.len() < end {
            now.resize(end, 0);
        }
        now[from..end].copy_from_slice(bytes);
        crashing
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        let mut state = self.disk.operate("sync", &self.path)?;
        let content = &mut state.contents[self.content];
        content.synced = content.now.clone();
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> Result<(), DiskError> {
        let mut state = self.disk.operate("set_len", &self.path)?;
        state.contents[self.content].now.resize(len as usize, 0);
        Ok(())
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        let mut state = self.disk.operate("allocate", &self.path)?;
        let now = &mut state.contents[self.content].now;
        let len = now.len().max(len as usize);
        now.resize(len, 0);
        Ok(())
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.disk.lock().contents[self.content].now.len() as u64)
    }
}
