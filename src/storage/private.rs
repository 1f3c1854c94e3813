//! Who may read a data directory: its owner alone. What is made gets modes 0700 and 0600 from the disk; here a start looks
//! at what is there already.
//!
//! The directory itself may be a symbolic link, as systemd makes one for `DynamicUser`. Nothing inside may be: a link there
//! would have this process read, write or cut a file that is somewhere else.

use super::data_dir::DataDir;
use super::disk::{Attributes, DiskError, FileKind};
use super::error::StorageError;
use super::snapshot;
use super::wal::segment;
use slog::{Logger, warn};
use std::io;
use std::path::{Path, PathBuf};

/// Directories for all users, such as `/tmp`, have this bit in their mode.
const STICKY: u32 = 0o1000;

/// What others could read, and what they still can.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// Files and directories whose mode was set, so that others can't any more.
    pub closed: usize,
    /// Why the data directory itself keeps its mode: it is not for the member alone.
    pub shared: Option<String>,
    /// The first whose mode is for its owner to set, who is root; and the user of this process.
    pub of_root: Option<(PathBuf, u32)>,
    /// The first whose mode the file system does not set, with its reason.
    pub refused: Option<String>,
}

impl Exposed {
    /// Logs what the owner of the data directory has to know.
    pub fn tell(&self, dir: &Path, logger: &Logger) {
        for line in self.lines(dir) {
            warn!(logger, "{}", line);
        }
    }

    fn lines(&self, dir: &Path) -> Vec<String> {
        let dir = dir.display();
        let closed = (self.closed > 0).then(|| {
            format!(
                "other users could read the data directory {dir}: removed their permissions for {} files and directories",
                self.closed
            )
        });
        let shared = self.shared.as_ref().map(|why| {
            format!(
                "other users may list the data directory {dir}, which {why}; move the member to a directory of its own"
            )
        });
        let of_root = self.of_root.as_ref().map(|(path, user)| {
            format!(
                "other users may read the data directory, because root owns {}: run chown -R {user} {dir} as root",
                path.display()
            )
        });
        let refused = self.refused.as_ref().map(|why| {
            format!(
                "other users may read the data directory, because a mode can't be set ({why}); use a file system that has \
                 modes, or one that only this user can read"
            )
        });
        [closed, shared, of_root, refused]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl DataDir {
    /// Refuses a data directory that is another user's, or has something in the place of its files that is none. It touches
    /// nothing, and comes before anything is read.
    pub fn check_private(&self) -> Result<(), StorageError> {
        self.parts()?;
        Ok(())
    }

    /// The same, and takes what is there from the group and others. The caller holds the lock: the files of another
    /// process are left as they are.
    pub fn make_private(&self) -> Result<Exposed, StorageError> {
        let mut exposed = Exposed::default();
        let is_new = self.disk().attributes(&self.meta_path())?.is_none();
        for (path, attributes) in self.parts()? {
            if attributes.mode & 0o077 == 0 {
                continue;
            }
            if path == self.path()
                && let Some(why) = self.shared_because(&attributes)?
            {
                exposed.shared = Some(why);
            } else if attributes.is_own() {
                match self.close(&path, &attributes)? {
                    // No other user can have read data in a directory that holds no data yet.
                    None if path == self.path() && is_new => {}
                    None => exposed.closed += 1,
                    Some(why) => _ = exposed.refused.get_or_insert(why),
                }
            } else {
                let path = path.components().collect();
                exposed.of_root.get_or_insert((path, attributes.user));
            }
        }
        Ok(exposed)
    }

    /// Why the data directory itself is also for other users, so that another mode would lock them out.
    fn shared_because(&self, attributes: &Attributes) -> Result<Option<String>, DiskError> {
        if attributes.mode & STICKY != 0 {
            return Ok(Some("is sticky, so it is for all users".to_owned()));
        }
        let foreign = self.foreign_name()?;
        Ok(foreign.map(|name| format!("holds other files ({name:?})")))
    }

    /// Takes a part from the group and others. Gives the reason of the file system if that is not possible.
    fn close(&self, path: &Path, attributes: &Attributes) -> Result<Option<String>, DiskError> {
        let named = |why: &str| {
            let path: PathBuf = path.components().collect();
            Some(format!("{}: {why}", path.display()))
        };
        match self.disk().set_mode(path, attributes.mode & !0o077) {
            Err(error) if error.refuses_mode() => Ok(named(&error.source.to_string())),
            Err(error) => Err(error),
            // Some file systems ignore modes without an error.
            Ok(()) => match self.disk().attributes(path)? {
                Some(now) if now.mode & 0o077 != 0 => Ok(named("its mode has not changed")),
                _ => Ok(None),
            },
        }
    }

    /// The data directory and what is in it, as far as it is part of it.
    fn parts(&self) -> Result<Vec<(PathBuf, Attributes)>, StorageError> {
        self.find_parts().map_err(|error| match error {
            StorageError::Io(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
                StorageError::NotPrivate {
                    path: error.path.components().collect(),
                    why: format!(
                        "this user can't read it ({}); run raftkvd as the owner of the data directory, or make this user the \
                         owner with chown -R",
                        error.source
                    ),
                }
            }
            other => other,
        })
    }

    fn find_parts(&self) -> Result<Vec<(PathBuf, Attributes)>, StorageError> {
        let mut parts = Vec::new();
        if !self.is_directory()? {
            return Ok(parts);
        }
        // The directory that a link stands for.
        let directory = self.path().join(".");
        self.look_at(&directory, FileKind::Directory, &mut parts)?;
        for path in [
            self.lock_path(),
            self.meta_path(),
            self.path().join("meta.tmp"),
        ] {
            self.look_at(&path, FileKind::File, &mut parts)?;
        }
        for part in [self.wal_path(), self.snap_path()] {
            if self.look_at(&part, FileKind::Directory, &mut parts)? {
                let names = self.disk().list(&part)?;
                for name in names.iter().filter(|name| is_of_member(name)) {
                    self.look_at(&part.join(name), FileKind::File, &mut parts)?;
                }
            }
        }
        Ok(parts)
    }

    /// Whether there is a data directory. Refuses what is none, and a link that leads to none.
    fn is_directory(&self) -> Result<bool, StorageError> {
        let refused = |why: &str| {
            Err(StorageError::NotPrivate {
                path: self.path().components().collect(),
                why: format!(
                    "{why}; give --data-dir a directory, or a path at which nothing is yet"
                ),
            })
        };
        // Without a slash at its end, which would follow a link.
        let itself: PathBuf = self.path().components().collect();
        let Some(found) = self.disk().attributes(&itself)? else {
            return Ok(false);
        };
        match found.kind {
            FileKind::Directory => Ok(true),
            FileKind::File => refused("it is a regular file"),
            FileKind::Other => refused("it is a device, a pipe or a socket"),
            FileKind::Link => match self.disk().attributes(&self.path().join(".")) {
                Ok(Some(_)) => Ok(true),
                Ok(None) => refused("it is a symbolic link to a path at which nothing is"),
                Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => {
                    refused("it is a symbolic link to something that is no directory")
                }
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Gives whether there is anything.
    fn look_at(
        &self,
        path: &Path,
        expected: FileKind,
        parts: &mut Vec<(PathBuf, Attributes)>,
    ) -> Result<bool, StorageError> {
        let Some(attributes) = self.disk().attributes(path)? else {
            return Ok(false);
        };
        if let Some(mut why) = objection(&attributes, expected) {
            if path == self.lock_path() {
                why = why.replace("put the right one in its place", "raftkvd makes another");
            }
            return Err(StorageError::NotPrivate {
                path: path.components().collect(),
                why,
            });
        }
        parts.push((path.to_owned(), attributes));
        Ok(true)
    }
}

/// Whether a name in `wal/` or `snap/` is one that a member gives its files. It neither reads nor writes others.
fn is_of_member(name: &str) -> bool {
    let ends = [segment::TEMPORARY, ".broken"];
    segment::Name::parse(name).is_some()
        || snapshot::parse_file_name(name).is_some()
        || ends.iter().any(|end| name.ends_with(end))
}

/// Why it can't be used.
fn objection(attributes: &Attributes, expected: FileKind) -> Option<String> {
    let Attributes {
        kind, owner, user, ..
    } = attributes;
    match (kind, expected) {
        (FileKind::Link, _) => Some(
            "it is a symbolic link, and nothing inside a data directory may be one; put in its place what it leads to"
                .to_owned(),
        ),
        (kind, expected) if *kind != expected => Some(format!(
            "it is no {}; move it away, and put the right one in its place",
            match expected {
                FileKind::Directory => "directory",
                _ => "regular file",
            }
        )),
        _ if *owner != *user && *owner != 0 => Some(format!(
            "it belongs to user {owner}, and this process runs as user {user}; run it as its owner, or chown -R the data \
             directory"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::{Disk as _, RealDisk};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    const SEGMENT: &str = "0000000000000000-0000000000000001.wal";

    /// A data directory with open modes.
    fn open_to_all() -> (tempfile::TempDir, DataDir) {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::new(Arc::new(RealDisk), home.path().join("data"));
        for part in [dir.wal_path(), dir.snap_path()] {
            fs::create_dir_all(part).unwrap();
        }
        for file in [dir.meta_path(), dir.wal_path().join(SEGMENT)] {
            fs::write(&file, "").unwrap();
            RealDisk.set_mode(&file, 0o644).unwrap();
        }
        for directory in [dir.path(), &dir.wal_path(), &dir.snap_path()] {
            RealDisk.set_mode(directory, 0o755).unwrap();
        }
        (home, dir)
    }

    fn mode(path: impl AsRef<Path>) -> u32 {
        RealDisk.attributes(path.as_ref()).unwrap().unwrap().mode
    }

    #[test]
    fn a_directory_that_is_not_for_the_member_alone_keeps_its_mode() {
        for (mode_before, other, said) in [
            (0o755, None, None),
            (0o755, Some("lost+found"), None),
            (
                0o755,
                Some("photo.jpg"),
                Some("holds other files (\"photo.jpg\")"),
            ),
            (0o1777, None, Some("is sticky")),
        ] {
            let (_home, dir) = open_to_all();
            if let Some(other) = other {
                fs::write(dir.path().join(other), "").unwrap();
                RealDisk.set_mode(&dir.path().join(other), 0o644).unwrap();
            }
            RealDisk.set_mode(dir.path(), mode_before).unwrap();
            let exposed = dir.make_private().unwrap();
            let shared = exposed.shared.clone().unwrap_or_default();
            assert_eq!(exposed.shared.is_some(), said.is_some(), "{exposed:?}");
            assert!(shared.starts_with(said.unwrap_or_default()), "{shared}");
            let kept = if said.is_some() { mode_before } else { 0o700 };
            assert_eq!(mode(dir.path()), kept, "{exposed:?}");
            assert_eq!(exposed.closed, if said.is_some() { 4 } else { 5 });
            assert_eq!(
                (mode(dir.wal_path()), mode(dir.snap_path())),
                (0o700, 0o700)
            );
            assert_eq!(mode(dir.meta_path()), 0o600);
            if let Some(other) = other {
                assert_eq!(mode(dir.path().join(other)), 0o644, "{other}");
            }
            let again = dir.make_private().unwrap();
            assert_eq!((again.closed, again.shared), (0, exposed.shared));
        }
    }

    #[test]
    fn only_files_of_the_member_in_its_directories_are_checked() {
        let (_home, dir) = open_to_all();
        for part in [dir.wal_path(), dir.snap_path()] {
            fs::create_dir(part.join("lost+found")).unwrap();
            fs::create_dir(part.join("old")).unwrap();
            symlink("/etc/hostname", part.join("note.txt")).unwrap();
        }
        dir.make_private().unwrap();
        for name in [SEGMENT, "7.tmp", "0000000000000007-0000000000000001.snap"] {
            let path = dir.snap_path().join(name);
            symlink("/etc/hostname", &path).unwrap();
            let refused = dir.check_private().unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{refused}");
            assert!(refused.to_string().contains(name), "{refused}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_is_no_directory_is_refused_by_its_kind() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::create_dir(path("directory")).unwrap();
        symlink("missing", path("dangling")).unwrap();
        symlink("file", path("to_file")).unwrap();
        symlink("directory", path("to_directory")).unwrap();
        for (name, said) in [
            ("file", "it is a regular file"),
            ("file/", "it is a regular file"),
            ("dangling", "a path at which nothing is"),
            ("dangling/", "a path at which nothing is"),
            ("to_file", "something that is no directory"),
        ] {
            let dir = DataDir::new(Arc::new(RealDisk), path(name));
            let refused = dir.check_private().unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{name}: {refused}");
            assert!(refused.to_string().contains(said), "{name}: {refused}");
        }
        for name in ["directory", "to_directory", "nothing"] {
            let dir = DataDir::new(Arc::new(RealDisk), path(name));
            dir.check_private().unwrap();
        }
    }

    #[test]
    fn each_reason_why_others_can_read_is_a_line_with_what_to_do() {
        let exposed = Exposed {
            closed: 3,
            shared: Some("holds other files (\"a\")".to_owned()),
            of_root: Some((PathBuf::from("/data/meta"), 7)),
            refused: Some("/data/LOCK: Operation not permitted".to_owned()),
        };
        let lines = exposed.lines(Path::new("/data"));
        for (line, said) in lines.iter().zip([
            "removed their permissions for 3 files",
            "move the member to a directory of its own",
            "root owns /data/meta: run chown -R 7 /data as root",
            "(/data/LOCK: Operation not permitted); use a file system that has modes",
        ]) {
            assert!(line.contains(said), "{line}");
        }
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(Exposed::default().lines(Path::new("/data")).is_empty());
    }

    #[test]
    fn only_what_is_own_or_roots_and_of_the_right_kind_is_used() {
        let attributes = |kind, owner| Attributes {
            kind,
            owner,
            user: 7,
            mode: 0o644,
        };
        for owner in [0, 7] {
            assert_eq!(
                objection(&attributes(FileKind::File, owner), FileKind::File),
                None
            );
        }
        for (kind, owner, expected, said) in [
            (FileKind::File, 8, FileKind::File, "belongs to user 8"),
            (FileKind::Link, 7, FileKind::File, "symbolic link"),
            (FileKind::Link, 7, FileKind::Directory, "symbolic link"),
            (FileKind::Other, 7, FileKind::File, "no regular file"),
            (FileKind::File, 7, FileKind::Directory, "no directory"),
        ] {
            let why = objection(&attributes(kind, owner), expected).unwrap();
            assert!(why.contains(said), "{why}");
        }
    }
}
