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
//! - After a failed operation the state of the file or directory is unknown. Callers never retry: the kernel may have
//!   dropped the dirty pages and report success for the next sync.

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fdatasync, flock};
use rustix::io::{Errno, retry_on_intr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
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
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError>;
    /// Creates a file if it does not exist, and locks it against other processes until the result is dropped. `None` if
    /// another process holds the lock.
    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError>;
    /// Eight random bytes, for salts and incarnations. The disk provides them so that a simulated disk makes all of
    /// storage deterministic.
    fn random(&self) -> Result<u64, DiskError>;
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
    /// Length in bytes.
    fn len(&self) -> Result<u64, DiskError>;
    /// Whether the length is 0.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
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

/// The file systems of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

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
        match OpenOptions::new().read(true).write(true).open(path) {
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
        let file = options
            .open(path)
            .map_err(|e| DiskError::new("create", path, e))?;
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
        std::fs::create_dir_all(dir).map_err(|e| DiskError::new("create directory", dir, e))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| DiskError::new("sync directory", dir, e))
    }

    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        let wrap = |e| DiskError::new("lock", path, e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(wrap)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock::new(file))),
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
        match File::open(path) {
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

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        refused("sync directory", dir)
    }

    /// A shared lock: several reading processes may hold it. If the file does not exist, no process has ever held the
    /// lock.
    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        let wrap = |e| DiskError::new("lock", path, e);
        let file = match File::open(path) {
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
pub fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = path.with_extension("tmp");
    let mut file = disk.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent(path))
}

/// The directory that contains a path's last component.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
