//! A disk that reports its syncs.

use super::*;
use crate::storage::disk::{DiskDirectory, DiskFile};

/// Calls an observer before every sync of a file or directory.
pub(super) struct Observed<F> {
    pub(super) disk: FakeDisk,
    pub(super) sync: Arc<F>,
}

struct ObservedFile<F> {
    file: Box<dyn DiskFile>,
    sync: Arc<F>,
}

struct ObservedDirectory<F> {
    directory: Box<dyn DiskDirectory>,
    sync: Arc<F>,
}

impl<F: Fn() + Send + Sync + 'static> Observed<F> {
    fn wrap(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(ObservedFile {
            file,
            sync: self.sync.clone(),
        })
    }
}

impl<F: Fn() + Send + Sync + 'static> Disk for Observed<F> {
    fn open(&self, path: &Path) -> Result<Option<Box<dyn DiskFile>>, DiskError> {
        Ok(self.disk.open(path)?.map(|file| self.wrap(file)))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        self.disk.create_dir_all(dir)
    }

    fn open_dir(&self, dir: &Path) -> Result<Box<dyn DiskDirectory>, DiskError> {
        Ok(Box::new(ObservedDirectory {
            directory: self.disk.open_dir(dir)?,
            sync: self.sync.clone(),
        }))
    }

    fn lock(&self, path: &Path) -> Result<Option<Lock>, DiskError> {
        Disk::lock(&self.disk, path)
    }

    fn random(&self) -> Result<u64, DiskError> {
        self.disk.random()
    }
}

impl<F: Fn() + Send + Sync> DiskDirectory for ObservedDirectory<F> {
    fn sync(&self) -> Result<(), DiskError> {
        (self.sync)();
        self.directory.sync()
    }
}

impl<F: Fn() + Send + Sync> DiskFile for ObservedFile<F> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        (self.sync)();
        self.file.sync()
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        self.file.allocate(len)
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        self.file.truncate(len)
    }

    fn set_path(&mut self, path: &Path) {
        self.file.set_path(path);
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }
}
