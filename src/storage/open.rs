//! Opens a data directory: creates or recovers it, and refuses the directory of another member.

use super::beginning::{Beginning, Start};
use super::create::first_start;
use super::data_dir::DataDir;
use super::error::StorageError;
use super::meta::Meta;
use super::recovery::{self, Load};
use super::snapshot::Snapshots;
use super::state::Recovered;
use super::wal::{Wal, WalOptions};
use slog::{Logger, info};
use std::sync::Arc;

/// An open data directory.
#[derive(Debug)]
pub struct Opened {
    /// The member, cluster and incarnation that the directory belongs to.
    pub meta: Arc<Meta>,
    /// The write-ahead log, for the WAL thread.
    pub wal: Wal,
    /// The snapshot files of the directory.
    pub snapshots: Arc<Snapshots>,
    /// The state from which raft continues.
    pub recovered: Recovered,
    /// Whether this start created the directory.
    pub first_start: bool,
    /// A random number of this start, never 0. Processes on copies of one directory can have the same boot number, but
    /// not the same `run`.
    pub run: u64,
}

impl DataDir {
    /// Refuses [`Start::Existing`] if the directory holds no member, and a first start if it holds anything else. Changes
    /// nothing, so a caller can check before [`DataDir::lock`] creates files. [`DataDir::open`] checks again, with the lock:
    /// without it, another process may be in its first start here, which is no reason to refuse.
    pub fn check_start(&self, start: &Start) -> Result<(), StorageError> {
        match (start, Meta::load(self)?) {
            (Start::Existing(_), Some(meta)) if meta.in_use() || meta.is_restoring() => Ok(()),
            (Start::Existing(line), meta) => {
                if meta.is_none() {
                    self.check_empty()?;
                }
                Err(StorageError::NoMember(line.clone()))
            }
            (Start::First(_) | Start::Empty, None) => self.check_vacant(),
            (Start::First(_) | Start::Empty, Some(_)) => Ok(()),
        }
    }

    /// Creates (first start) or recovers the data directory of `member`. The caller holds its lock. Everything in the
    /// result is durable, including the incremented boot number.
    pub fn open(&self, member: u64, start: Start, logger: &Logger) -> Result<Opened, StorageError> {
        self.open_with(member, start, WalOptions::default(), logger)
    }

    /// [`DataDir::open`] with other WAL sizes.
    pub fn open_with(
        &self,
        member: u64,
        start: Start,
        options: WalOptions,
        logger: &Logger,
    ) -> Result<Opened, StorageError> {
        let check = &mut |snapshots: &Snapshots, index, term| {
            snapshots.load(index, term, |_, _, _| (), |_, _| ())
        };
        let beginning = Beginning::of(member, start);
        self.open_and_load(beginning, options, check, logger)
    }

    /// [`DataDir::open_with`] that also loads the snapshot during recovery, so that its file is read only once. A first
    /// start loads nothing.
    pub fn open_and_load(
        &self,
        beginning: Beginning,
        options: WalOptions,
        load: &mut Load<'_>,
        logger: &Logger,
    ) -> Result<Opened, StorageError> {
        self.check_start(&beginning.start)?;
        let member = beginning.member;
        let snapshots = Arc::new(Snapshots::new(self));
        let (meta, wal, recovered, first_start) = match Meta::load(self)? {
            Some(meta) if meta.in_use() && !is_replaced(&beginning, &meta) => {
                let meta = Arc::new(meta);
                self.check_owner(&meta, member)?;
                let (wal, recovered) =
                    recovery::recover(self, &meta, &snapshots, options, load, logger)?;
                meta.next_boot()?;
                (meta, wal, recovered, false)
            }
            Some(meta) if meta.is_restoring() => {
                return Err(StorageError::RestoreUnfinished {
                    dir: self.path().to_owned(),
                });
            }
            _ => {
                let (meta, wal, recovered) = first_start(self, beginning, &snapshots, options)?;
                info!(logger, "new data directory"; "dir" => self.path().display(), "member" => member);
                (meta, wal, recovered, true)
            }
        };
        Ok(Opened {
            meta,
            wal,
            snapshots,
            recovered,
            first_start,
            run: self.disk().random()?.max(1),
        })
    }

    /// Refuses the directory of another member, of a removed member, and an older copy of this member's directory.
    pub fn check_owner(&self, meta: &Meta, member: u64) -> Result<(), StorageError> {
        if meta.member() != member {
            return Err(StorageError::WrongIdentity {
                path: self.meta_path(),
                why: format!(
                    "the data directory belongs to member {0}, and this is member {member}; leave out --id {member} to start \
                     member {0}, or give another --data-dir",
                    meta.member()
                ),
            });
        }
        if let Some(index) = meta.removed() {
            return Err(StorageError::Removed {
                dir: self.path().to_owned(),
                member,
                index,
            });
        }
        match meta.is_older_copy() {
            true => Err(StorageError::OlderCopy {
                dir: self.path().to_owned(),
                member,
            }),
            false => Ok(()),
        }
    }
}

/// Whether a first member starts a cluster in the directory of a member that no cluster has let in. That member has never
/// stored an entry or a vote, so its files are leftovers.
fn is_replaced(beginning: &Beginning, meta: &Meta) -> bool {
    let is_unused = meta.cluster() == 0 && meta.removed().is_none() && !meta.is_older_copy();
    let founds = matches!(beginning.start, Start::First(_));
    founds && is_unused && meta.member() == beginning.member
}
