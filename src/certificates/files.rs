//! Files and directories that only their owner can read, and their names.
//!
//! Every file gets its contents before it gets its name: a new directory is filled under another name and then renamed,
//! and a file is replaced by a rename. A run that is interrupted leaves a name that ends in `.part`, which nothing reads.

use super::random::random_bytes;
use crate::exit_code::ExitCode;
use rustix::fs::OFlags;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The certificates of the CA that a member or a client trusts. During a rotation there are two in the file.
pub const CA_FILE: &str = "ca.pem";
/// The key of the CA.
pub const CA_KEY_FILE: &str = "ca.key";
/// The certificate of a member.
pub const MEMBER_FILE: &str = "member.pem";
/// The key of a member.
pub const MEMBER_KEY_FILE: &str = "member.key";
/// The certificate of a client.
pub const CLIENT_FILE: &str = "client.pem";
/// The key of a client.
pub const CLIENT_KEY_FILE: &str = "client.key";

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A file or a directory can't be used.
#[derive(Debug, Error)]
#[error("can't {action} {}: {source}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> FileError {
        FileError {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// Whether something else has the name already.
    pub fn is_taken(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
        )
    }

    /// The reason alone, for a caller that names the file itself.
    pub fn into_source(self) -> io::Error {
        self.source
    }

    /// The exit code distinguishes a failed disk from a wrong path and from missing permissions.
    pub fn exit_code(&self) -> ExitCode {
        use io::ErrorKind::{
            InvalidInput, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
        };
        let of_path = [
            InvalidInput,
            NotADirectory,
            NotFound,
            PermissionDenied,
            ReadOnlyFilesystem,
            io::ErrorKind::IsADirectory,
            io::ErrorKind::InvalidFilename,
        ];
        match self.is_taken() || of_path.contains(&self.source.kind()) {
            true => ExitCode::Usage,
            false => ExitCode::DiskFailed,
        }
    }
}

/// Reads a regular file. Does not wait for a pipe, and does not read a large file.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let wrap = |error| FileError::new("read", path, error);
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(wrap)?;
    let metadata = file.metadata().map_err(wrap)?;
    let refused = |why: &str| wrap(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !metadata.is_file() {
        return Err(refused("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let limit = FILE_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(wrap)?;
    match bytes.len() > FILE_BYTES_MAX {
        true => Err(refused("it is too large for a file of certificates")),
        false => Ok(bytes),
    }
}

/// Writes a file that does not exist yet. Durable on return, apart from its name.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        // The umask may have removed permissions of the owner.
        set_mode(path, FILE_MODE)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| FileError::new("write", path, error))
}

/// Replaces a file, or makes it. At any time, and after a crash, the path has the old or the new contents.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = part_of(path)?;
    let written = write_new(&temporary, bytes).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        // The error that is reported came first.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Renames a file or a directory. Durable on return.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|error| FileError::new("make", to, error))?;
    sync_directory(parent(to))
}

/// A new directory that has a temporary name until it is complete. Dropping an incomplete one removes it.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    /// Whether the directory has its name.
    is_finished: bool,
}

impl Unfinished {
    /// Makes a directory beside the path that the directory gets.
    pub fn beside(path: &Path) -> Result<Unfinished, FileError> {
        let path = part_of(path)?;
        make_directory(&path)?;
        Ok(Unfinished {
            path,
            is_finished: false,
        })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory its name, if nothing has that name or only an empty directory.
    pub fn finish(mut self, path: &Path) -> Result<(), FileError> {
        sync_directory(&self.path)?;
        rename(&self.path, path)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            // Its name is random, so this run has made everything in it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes a directory that does not exist yet.
pub fn make_directory(path: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().mode(DIRECTORY_MODE).create(path);
    let made = made.and_then(|()| set_mode(path, DIRECTORY_MODE));
    made.map_err(|error| FileError::new("make", path, error))
}

/// Makes the missing directories above a path.
pub fn make_directories_above(path: &Path) -> Result<(), FileError> {
    let above = parent(path);
    let missing = above
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err());
    let missing: Vec<&Path> = missing.collect();
    missing.into_iter().rev().try_for_each(make_directory)
}

/// Makes renames into a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|error| FileError::new("sync", path, error))
}

/// The names in a directory, sorted. Names that are not UTF-8 are left out, because raftkvd makes none.
pub fn names(path: &Path) -> Result<Vec<String>, FileError> {
    let wrap = |error| FileError::new("list", path, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(wrap)? {
        if let Ok(name) = entry.map_err(wrap)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A name beside the path that no other run uses.
fn part_of(path: &Path) -> Result<PathBuf, FileError> {
    let random = random_bytes::<8>().map_err(|error| FileError::new("make", path, error))?;
    let random = u64::from_le_bytes(random);
    let name = path.file_name().unwrap_or_default();
    let mut part = name.to_owned();
    part.push(format!(".{random:016x}.part"));
    Ok(path.with_file_name(part))
}

/// File systems such as FAT have no modes. Files there are used as they are.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    match fs::set_permissions(path, Permissions::from_mode(mode)) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        set => set,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_appears_complete_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("a/b/target");
        make_directories_above(&target).unwrap();
        let unfinished = Unfinished::beside(&target).unwrap();
        write_new(&unfinished.path().join("file"), b"x").unwrap();
        assert!(!target.exists());
        let path = unfinished.path().to_owned();
        unfinished.finish(&target).unwrap();
        assert!(!path.exists());
        assert_eq!(names(&target).unwrap(), ["file"]);
        assert_eq!((mode(&target), mode(&target.join("file"))), (0o700, 0o600));
        assert_eq!(mode(&home.path().join("a")), 0o700);
        // A second one finds the name taken, and leaves nothing.
        let second = Unfinished::beside(&target).unwrap();
        write_new(&second.path().join("other"), b"x").unwrap();
        let error = second.finish(&target).unwrap_err();
        assert!(error.is_taken(), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert_eq!(names(&home.path().join("a/b")).unwrap(), ["target"]);
        assert_eq!(names(&target).unwrap(), ["file"]);
    }

    #[test]
    fn a_file_is_replaced_at_once_and_written_only_once() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        write_new(&path, b"first").unwrap();
        assert!(write_new(&path, b"second").unwrap_err().is_taken());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"third").unwrap();
        assert_eq!(
            (read(&path).unwrap(), mode(&path)),
            (b"third".to_vec(), 0o600)
        );
        assert_eq!(names(home.path()).unwrap(), ["file"]);
        replace(&home.path().join("no/file"), b"").unwrap_err();
    }

    #[test]
    fn only_regular_files_of_a_reasonable_size_are_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, vec![b' '; FILE_BYTES_MAX]).unwrap();
        assert_eq!(read(&path).unwrap().len(), FILE_BYTES_MAX);
        fs::write(&path, vec![b' '; FILE_BYTES_MAX + 1]).unwrap();
        for path in [
            &path,
            home.path(),
            Path::new("/dev/null"),
            &home.path().join("no"),
        ] {
            let error = read(path).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Usage, "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
