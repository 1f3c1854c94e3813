//! The disk as storage sees it: two small traits, and their implementation on the real disk.
//!
//! All file access of storage goes through [`Disk`] and [`DiskFile`]. A simulator can therefore enumerate every
//! operation, crash between any two of them, and lose what was not synced. No other module opens the files of a data
//! directory.
//!
//! The file formats of storage rely on this contract:
//! - Written bytes and the file's length are durable once [`DiskFile::sync`] has returned. If a crash comes earlier,
//!   each 512-byte sector (counted from the start of the file) holds either its old contents or the written ones, in
//!   any combination. A file that was growing may end at any byte.
//! - A creation, rename or removal is durable once [`Disk::sync_dir`] of its directory has returned. If a crash comes
//!   earlier, each of them has either happened or not, in any combination. A rename is never half done.
//! - After a failed write or sync the state of the file or directory is unknown. Callers never retry: the kernel may have
//!   dropped the dirty pages and report success for the next sync.
//! - After a failed removal, the file may or may not be gone. Callers may retry the removal.
//! - An operation that fails for want of a file descriptor has no effect. Callers may retry the operation.

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, fdatasync, flock, fstatvfs};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

/// An operation on the disk failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct DiskError {
    /// The operation that failed, as a verb in the present tense.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: io::Error,
}

impl DiskError {
    /// Adds the operation and the path to an error of the operating system.
    pub fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> DiskError {
        DiskError {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// There is no space left. Unlike other errors, this may be temporary.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// The disk is full, or the process or the machine has no file descriptor or memory left. The operation has had no
    /// effect, and may work later.
    pub fn is_shortage(&self) -> bool {
        let number = self.source.raw_os_error().map(Errno::from_raw_os_error);
        let is_used_up = matches!(
            number,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
        );
        is_used_up || self.is_full()
    }

    /// There is no such file.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// A mode can't be set, because the file system has none or the file is another user's.
    pub fn refuses_mode(&self) -> bool {
        refuses_mode(&self.source)
    }
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading and writing; `None` when there is no such file.
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError>;
    /// Creates an empty file for reading and writing, and replaces an existing file. The name is not durable yet.
    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError>;
    /// Names of the files and directories in a directory, unsorted. Empty if the directory does not exist.
    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError>;
    /// Renames a file within its directory, atomically, and replaces an existing file. Not durable yet.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;
    /// Removes a file. Not durable yet.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;
    /// Creates a directory and its missing parents. Not durable yet.
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError>;
    /// Opens a directory, so that its names can be made durable without another file descriptor.
    fn open_dir(&self, dir: &Path) -> Result<Box<dyn DiskDirectory>, DiskError>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.open_dir(dir)?.sync()
    }
    /// Kind, owner and mode of a file or directory; a symbolic link is not followed. `None` if it does not exist, or if
    /// this disk has no such attributes.
    fn attributes(&self, _path: &Path) -> Result<Option<Attributes>, DiskError> {
        Ok(None)
    }
    /// Sets the mode of a file or directory. An error for which [`DiskError::refuses_mode`] leaves it usable.
    fn set_mode(&self, _path: &Path, _mode: u32) -> Result<(), DiskError> {
        Ok(())
    }
    /// Creates a file if it does not exist, and locks it against other processes until the result is dropped. `None` if
    /// another process holds the lock.
    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError>;
    /// Eight random bytes, for salts and incarnations. The disk provides them so that a simulated disk makes all of
    /// storage deterministic.
    fn random(&self) -> Result<u64, DiskError>;
}

/// An open directory.
pub trait DiskDirectory: Send + Sync {
    /// Makes the names in the directory durable.
    fn sync(&self) -> Result<(), DiskError>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads at an offset. Returns fewer bytes than requested only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError>;
    /// Writes all bytes at an offset. Not durable yet.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError>;
    /// Makes written bytes and the length durable (fdatasync).
    fn sync(&mut self) -> Result<(), DiskError>;
    /// Extends the file with zeros to at least `len` and reserves its blocks if the file system supports that. Not
    /// durable yet.
    fn allocate(&mut self, len: u64) -> Result<(), DiskError>;
    /// Shortens the file to `len` bytes. Not durable yet. Needs no room.
    fn truncate(&mut self, len: u64) -> Result<(), DiskError>;
    /// The file has been renamed. Errors name it so from now on.
    fn set_path(&mut self, path: &Path);
    /// Length in bytes.
    fn len(&self) -> Result<u64, DiskError>;
    /// Whether the length is 0.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a pipe or a socket.
    Other,
}

/// Who may do what with a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: FileKind,
    /// The user that it belongs to.
    pub owner: u32,
    /// The user that this process runs as.
    pub user: u32,
    /// Its mode.
    pub mode: u32,
}

impl Attributes {
    /// This process may set its mode.
    pub fn is_own(&self) -> bool {
        self.owner == self.user
    }
}

/// A held lock on a file, released when dropped.
pub struct Lock {
    _held: Box<dyn Send + Sync>,
}

impl Lock {
    /// Dropping `held` releases the lock.
    pub fn new(held: impl Send + Sync + 'static) -> Lock {
        Lock {
            _held: Box::new(held),
        }
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

/// The file systems of this machine. Only the owner may read what it creates. It does not follow a symbolic link in the
/// place of a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

/// Modes of what is made, whatever the umask.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Opens a regular file. Anything else is refused, and not waited for as a pipe would be.
fn open_regular(options: &mut OpenOptions, flags: OFlags, path: &Path) -> io::Result<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.custom_flags(flags.bits() as i32).mode(FILE_MODE);
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )),
    }
}

/// Takes from the mode of a new file what the umask has left, or an older file of this name had.
fn make_private(file: &File) -> io::Result<()> {
    let mode = file.metadata()?.permissions().mode() & 0o777;
    match mode == FILE_MODE {
        true => Ok(()),
        false => as_far_as_possible(file.set_permissions(Permissions::from_mode(FILE_MODE))),
    }
}

/// The file system has no modes, as some network file systems and all FAT file systems, or the file belongs to another
/// user. Reading and writing still work. So a caller goes on, and reports what others may read.
fn refuses_mode(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS))
}

fn as_far_as_possible(set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error) if refuses_mode(&error) => Ok(()),
        set => set,
    }
}

/// Creates a directory; what has been made meanwhile by another process is as good.
fn create_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(dir) {
        Ok(()) => {
            let mode = Permissions::from_mode(DIRECTORY_MODE);
            as_far_as_possible(std::fs::set_permissions(dir, mode))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
/// The unit in which `stat` counts the blocks of a file.
const STAT_BLOCK_BYTES: u64 = 512;

struct RealFile {
    file: File,
    path: PathBuf,
}

impl RealFile {
    fn wrap<T>(
        &self,
        action: &'static str,
        result: Result<T, impl Into<io::Error>>,
    ) -> Result<T, DiskError> {
        result.map_err(|e| DiskError::new(action, &self.path, e))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        let options = &mut OpenOptions::new();
        match open_regular(options.read(true).write(true), OFlags::NOFOLLOW, path) {
            Ok(file) => Ok(Some(Box::new(RealFile {
                file,
                path: path.to_owned(),
            }))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(DiskError::new("open", path, e)),
        }
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = open_regular(&mut options, OFlags::NOFOLLOW, path).and_then(|file| {
            make_private(&file)?;
            Ok(file)
        });
        let file = file.map_err(|e| DiskError::new("create", path, e))?;
        Ok(Box::new(RealFile {
            file,
            path: path.to_owned(),
        }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let wrap = |e| DiskError::new("list", dir, e);
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(wrap(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            // Storage writes only ASCII names, so a name that this conversion changes is not a file of storage.
            names.push(
                entry
                    .map_err(wrap)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        std::fs::rename(from, to).map_err(|e| DiskError::new("rename", from, e))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        std::fs::remove_file(path).map_err(|e| DiskError::new("remove", path, e))
    }

    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<&Path> = dir.ancestors().take_while(missing).collect();
        let made = missing.iter().rev().try_for_each(|dir| create_dir(dir));
        let made = made.and_then(|()| match dir.is_dir() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        made.map_err(|e| DiskError::new("create directory", dir, e))
    }

    fn open_dir(&self, dir: &Path) -> Result<Box<dyn DiskDirectory>, DiskError> {
        let file = File::open(dir).map_err(|e| DiskError::new("open directory", dir, e))?;
        Ok(Box::new(RealDirectory(RealFile {
            file,
            path: dir.to_owned(),
        })))
    }

    fn attributes(&self, path: &Path) -> Result<Option<Attributes>, DiskError> {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DiskError::new("look at", path, e)),
        };
        let kind = match metadata.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Link,
            _ => FileKind::Other,
        };
        Ok(Some(Attributes {
            kind,
            owner: metadata.uid(),
            user: geteuid().as_raw(),
            mode: metadata.mode() & 0o7777,
        }))
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<(), DiskError> {
        let set = std::fs::set_permissions(path, Permissions::from_mode(mode));
        set.map_err(|e| DiskError::new("set the mode of", path, e))
    }

    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        let wrap = |e| DiskError::new("lock", path, e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = open_regular(&mut options, OFlags::NOFOLLOW, path).map_err(wrap)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Only now: the file of another process is left as it is.
                make_private(&file).map_err(wrap)?;
                Ok(Some(Lock::new(file)))
            }
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(wrap(e.into())),
        }
    }

    fn random(&self) -> Result<u64, DiskError> {
        let mut bytes = [0; 8];
        let wrap = |e: io::Error| DiskError::new("get random bytes for", Path::new("storage"), e);
        let mut filled = 0;
        while filled < bytes.len() {
            let rest = &mut bytes[filled..];
            let flags = rustix::rand::GetRandomFlags::empty();
            let read = retry_on_intr(|| rustix::rand::getrandom(&mut *rest, flags));
            filled += read.map_err(|e| wrap(e.into()))?;
        }
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Whether the file system has not even the free bytes by which a file becomes longer. An attempt to reserve them that
/// fails halfway would take all free blocks for a moment, and other writers would find none.
///
/// A file that has its length already is not judged by its blocks. A file system that can't reserve blocks, or that
/// compresses, counts fewer of them, and the file can be used all the same.
fn lacks_room(held: u64, reserved: u64, len: u64, free: impl FnOnce() -> Option<u64>) -> bool {
    held < len && free().is_some_and(|free| free < len.saturating_sub(reserved))
}

struct RealDirectory(RealFile);

impl DiskDirectory for RealDirectory {
    fn sync(&self) -> Result<(), DiskError> {
        self.0.wrap("sync directory", self.0.file.sync_all())
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.wrap("read", Err(e)),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.wrap("write", self.file.write_all_at(bytes, offset))
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.wrap("fdatasync", fdatasync(&self.file))
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        let file = self.wrap("stat", self.file.metadata())?;
        let reserved = file.blocks().saturating_mul(STAT_BLOCK_BYTES);
        if file.len() >= len && reserved >= len {
            // XFS may refuse to reserve blocks of a file again when the disk is full.
            return Ok(());
        }
        let free = || match fstatvfs(&self.file) {
            Ok(free) if free.f_blocks > 0 => Some(free.f_bavail.saturating_mul(free.f_frsize)),
            _ => None,
        };
        if lacks_room(file.len(), reserved, len, free) {
            return self.wrap("allocate", Err(Errno::NOSPC));
        }
        // Retrying after a signal is safe: a call that was interrupted can only have reserved blocks that the next call
        // reserves too.
        let reserve = || fallocate(&self.file, FallocateFlags::empty(), 0, len);
        match retry_on_intr(reserve) {
            Ok(()) => Ok(()),
            // Not every file system can reserve blocks. Without reserved blocks writes are slower, and equally safe.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let current = self.len()?;
                self.wrap("allocate", self.file.set_len(len.max(current)))
            }
            Err(e) => self.wrap("allocate", Err(e)),
        }
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        self.wrap("shorten", self.file.set_len(len))
    }

    fn set_path(&mut self, path: &Path) {
        self.path = path.to_owned();
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.wrap("stat", self.file.metadata())?.len())
    }
}

/// The file systems of this machine for commands that only read. The files may be on a read-only file system. Every
/// operation that would change the disk fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOnlyDisk;

fn refused<T>(action: &'static str, path: &Path) -> Result<T, DiskError> {
    let source = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
    Err(DiskError::new(action, path, source))
}

impl Disk for ReadOnlyDisk {
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        // A backup that was given may be a link to one.
        match open_regular(OpenOptions::new().read(true), OFlags::empty(), path) {
            Ok(file) => Ok(Some(Box::new(RealFile {
                file,
                path: path.to_owned(),
            }))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(DiskError::new("open", path, e)),
        }
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
        refused("create", path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, _to: &Path) -> Result<(), DiskError> {
        refused("rename", from)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        refused("remove", path)
    }

    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        refused("create directory", dir)
    }

    fn open_dir(&self, dir: &Path) -> Result<Box<dyn DiskDirectory>, DiskError> {
        refused("sync directory", dir)
    }

    /// A shared lock: several reading processes may hold it. If the file does not exist, no process has ever held the
    /// lock.
    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        let wrap = |e| DiskError::new("lock", path, e);
        let file = match open_regular(OpenOptions::new().read(true), OFlags::empty(), path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some(Lock::new(()))),
            Err(e) => return Err(wrap(e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(Lock::new(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(wrap(e.into())),
        }
    }

    fn random(&self) -> Result<u64, DiskError> {
        RealDisk.random()
    }
}

/// Writes a small file so that a crash leaves either the whole old file or the whole new file. Durable on return.
///
/// The order is: write the temporary file, sync it, rename it, sync the directory. If the rename came before the first
/// sync, the name could refer to an empty file after a crash. Without the last sync the caller continues with the new
/// contents, and a crash brings back the old ones.
///
/// Another temporary file with the same bytes stays: the *reserve*. The next contents are written into its blocks. So a
/// full disk can't fail a change that does not make the file longer. A longer file needs a longer reserve too. If there
/// is no room for both, nothing changes, and the reserve stays long enough for the old length. Each descriptor is opened
/// before the rename.
pub fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = path.with_extension("tmp");
    let directory = disk.open_dir(parent(path))?;
    let len = bytes.len() as u64;
    let mut file = match disk.open(&temporary)? {
        Some(mut reserve) => {
            let old = disk.open(path)?.map_or(Ok(len), |file| file.len())?;
            if old < len {
                // Blocks for the new contents, and for the part of the next reserve that the old file does not free.
                reserve.allocate(len + (len - old))?;
            }
            reserve
        }
        None => disk.create(&temporary)?,
    };
    file.write_at(bytes, 0)?;
    if file.len()? > len {
        file.truncate(len)?;
    }
    file.sync()?;
    drop(file);
    disk.rename(&temporary, path)?;
    // The blocks of the old file are free now.
    let kept = disk.create(&temporary).and_then(|mut file| {
        file.write_at(bytes, 0)?;
        file.sync()
    });
    if kept.is_err() {
        // Without this file, the next change needs room on the disk.
        let _ = disk.remove(&temporary);
    }
    directory.sync()
}

/// The directory that contains a path's last component.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_mode_can_not_be_set_is_used_as_it_is() {
        // As FAT and some network file systems, /proc has modes that nobody can set.
        let path = Path::new("/proc/self/status");
        let Ok(file) = File::open(path) else {
            return;
        };
        let error = RealDisk.set_mode(path, FILE_MODE).unwrap_err();
        assert!(error.refuses_mode(), "{error}");
        make_private(&file).unwrap();
        let missing = RealDisk.set_mode(Path::new("/proc/no/such/file"), FILE_MODE);
        assert!(!missing.unwrap_err().refuses_mode());
    }

    #[test]
    fn only_a_file_that_becomes_longer_needs_free_blocks() {
        let short = |held, reserved, free| lacks_room(held, reserved, 1000, || free);
        // A new file, and one whose start is reserved.
        assert!(short(0, 0, Some(999)) && !short(0, 0, Some(1000)));
        assert!(short(400, 400, Some(599)) && !short(400, 400, Some(600)));
        assert!(
            !short(0, 0, None),
            "the file system does not say what is free"
        );
        // A segment on a file system that reserves no blocks, or that compresses.
        assert!(!short(1000, 0, Some(0)) && !short(1000, 300, Some(500)));
    }

    #[test]
    fn the_lock_file_of_another_process_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = RealDisk.lock(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(RealDisk.lock(&path).unwrap().is_none());
        let mode = || RealDisk.attributes(&path).unwrap().unwrap().mode;
        assert_eq!(mode(), 0o644);
        drop(held);
        assert!(RealDisk.lock(&path).unwrap().is_some());
        assert_eq!(mode(), FILE_MODE);
    }
}
