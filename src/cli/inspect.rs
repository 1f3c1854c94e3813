//! `raftkvd inspect`: prints what a data directory, a WAL segment, a snapshot or a `meta` file holds, and checks every
//! CRC. It changes nothing, and asks no daemon.
//!
//! A directory is read file by file, and a damaged file does not end the inspection. Then the code of a start judges
//! the directory as a whole. That last step is left out while a process uses the directory, because files come and go
//! meanwhile. For a damaged file, the output says up to which byte the file is good. The exit code is 4 if anything is
//! corrupt, and otherwise that of the first error.

use crate::command::{ReplicatedState, SnapshotHeader};
use crate::exit_code::ExitCode;
use crate::logging::progress::{ProgressReport, Unit};
use crate::logging::{Log, one_line};
use crate::storage::inspect;
use crate::storage::inspect::{FileKind, SegmentContents, SnapshotContents};
use crate::storage::{DataDir, Disk, Given, Meta, ReadOnlyDisk, SPARE, StorageError};
use crate::store::MapHash;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const WHAT_TO_NAME: &str = "name a data directory, one of its files, or a backup";

/// Inspects a path. Prints the findings to `out` and the errors to stderr. Returns the exit code.
pub fn run(path: &Path, out: &mut dyn Write, log: &Log) -> io::Result<ExitCode> {
    let mut report = Report {
        disk: Arc::new(ReadOnlyDisk),
        out,
        log,
        exit_code: ExitCode::Success,
        live: false,
        sound: Vec::new(),
        unsound: Vec::new(),
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => report.directory(path)?,
        Ok(found) if !found.is_file() => {
            log.tell(&format!(
                "{} is not a regular file; {WHAT_TO_NAME}",
                path.display()
            ));
            return Ok(ExitCode::Usage);
        }
        Ok(_) => {
            // A process may be writing the file.
            let dir = path.parent().and_then(Path::parent);
            report.live = dir.is_some_and(|dir| report.is_in_use(dir));
            report.file(path)?;
        }
        Err(error) => {
            log.tell(&format!(
                "can't read {}: {error}; {WHAT_TO_NAME}",
                path.display()
            ));
            return Ok(ExitCode::Usage);
        }
    }
    Ok(report.exit_code)
}

struct Report<'a> {
    disk: Arc<dyn Disk>,
    out: &'a mut dyn Write,
    log: &'a Log,
    exit_code: ExitCode,
    /// A process uses the data directory.
    live: bool,
    /// Header and size of each snapshot without an error.
    sound: Vec<(SnapshotHeader, u64)>,
    /// Each snapshot with an error, and the error.
    unsound: Vec<(PathBuf, StorageError)>,
}

impl Report<'_> {
    /// Prints an error to stderr and continues. The exit code for corruption replaces any other. Otherwise the first
    /// error sets the exit code.
    fn found(&mut self, error: &StorageError) -> io::Result<()> {
        // The lines that are already printed about the file must come before the error.
        self.out.flush()?;
        self.log.tell(&error.without_advice());
        let code = error.exit_code();
        if self.exit_code == ExitCode::Success || code == ExitCode::Corrupt {
            self.exit_code = code;
        }
        Ok(())
    }

    fn data_dir(&self, path: &Path) -> DataDir {
        DataDir::new(self.disk.clone(), path)
    }

    fn is_in_use(&self, dir: &Path) -> bool {
        let dir = match dir.as_os_str().is_empty() {
            true => Path::new("."),
            false => dir,
        };
        // If the lock can't be read, the directory counts as unused. Files that can't be read are reported later
        // anyway.
        inspect::is_in_use(&self.data_dir(dir)).unwrap_or(false)
    }

    fn directory(&mut self, dir: &Path) -> io::Result<()> {
        let names = match self.disk.list(dir) {
            Ok(names) => names,
            Err(error) => return self.found(&error.into()),
        };
        if !names
            .iter()
            .any(|n| ["meta", "wal", "snap"].contains(&&**n))
        {
            let path = dir.display();
            self.log.tell(&format!(
                "{path} is not a data directory: it has no meta, wal/ or snap/; {WHAT_TO_NAME}"
            ));
            self.exit_code = ExitCode::Usage;
            return Ok(());
        }
        self.live = self.is_in_use(dir);
        writeln!(self.out, "{}", dir.display())?;
        if self.live {
            let what = "  a process uses it: each file is checked by itself, and not whether they fit together";
            writeln!(self.out, "{what}")?;
        }
        let meta = match inspect::meta(&self.data_dir(dir)) {
            Ok(meta) => meta,
            Err(error) => {
                self.found(&error)?;
                None
            }
        };
        if let Some(meta) = &meta {
            self.meta(&dir.join("meta"), meta)?;
        }
        for part in ["wal", "snap"] {
            let mut names = match self.disk.list(&dir.join(part)) {
                Ok(names) => names,
                Err(error) => {
                    self.found(&error.into())?;
                    continue;
                }
            };
            names.sort();
            for name in names {
                let path = dir.join(part).join(&name);
                if name.ends_with(".wal") || name.ends_with(".snap") || name == SPARE {
                    self.file(&path)?;
                } else if self.live {
                    writeln!(
                        self.out,
                        "{}\n  not in use yet, or left over",
                        path.display()
                    )?;
                } else {
                    writeln!(self.out, "{}\n  left over, not used", path.display())?;
                }
            }
        }
        match meta {
            // A process may have started to use the directory meanwhile.
            Some(meta) if !self.live && !self.is_in_use(dir) => self.verdict(dir, meta),
            _ => Ok(()),
        }
    }

    /// Prints what a start on this directory would do.
    fn verdict(&mut self, dir: &Path, meta: Meta) -> io::Result<()> {
        if meta.is_restoring() {
            let what = "a restore was not completed: a start refuses, another restore begins again";
            return writeln!(self.out, "{what}");
        }
        if !meta.in_use() {
            let what = "the first start was not completed: the next one begins again";
            return writeln!(self.out, "{what}");
        }
        if let Some(index) = meta.removed() {
            let what = "a start refuses: this member was removed from the cluster by entry";
            return writeln!(self.out, "{what} {index}");
        }
        if meta.is_older_copy() {
            let what = "a start refuses: this is an older copy of the member's directory";
            return writeln!(self.out, "{what}");
        }
        let unsound = std::mem::take(&mut self.unsound);
        let verdict = match inspect::verdict(&self.data_dir(dir), meta, &self.sound, unsound) {
            Ok(verdict) => verdict,
            Err(error) => {
                // Damage was reported with its file. Files that do not fit together were not reported yet.
                if self.exit_code == ExitCode::Success {
                    self.found(&error)?;
                }
                let code = error.exit_code();
                return writeln!(self.out, "a start refuses it, with exit code {code}");
            }
        };
        let hard_state = &verdict.recovered.hard_state;
        let begin = verdict.recovered.snapshot.as_ref();
        let snapshot = begin.map_or(0, |meta| meta.index);
        let log = match verdict.last > snapshot {
            true => format!("entries {} to {}", snapshot + 1, verdict.last),
            false => "no entries".to_owned(),
        };
        writeln!(
            self.out,
            "a start begins with snapshot {snapshot} and {log}, committed {}, term {}, vote {}",
            hard_state.commit, hard_state.term, hard_state.vote,
        )?;
        let state = begin.map(|meta| &meta.state);
        let formed = formation(state, verdict.formed, hard_state.commit);
        writeln!(self.out, "{formed}")?;
        if let Some((index, later)) = verdict.later {
            let when = match index <= hard_state.commit {
                true => "",
                false => ", once that is committed",
            };
            writeln!(
                self.out,
                "this version ends at entry {index} with exit code 8{when}: it needs command version {}",
                later.needed
            )?;
        }
        if verdict.torn {
            let what =
                "the end of the log was torn by a crash, which is no loss: a start cuts it off";
            writeln!(self.out, "{what}")?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default();
        if name == SPARE {
            return writeln!(self.out, "{}\n  room for the next segment", path.display());
        }
        if name == "meta.tmp" {
            return writeln!(
                self.out,
                "{}\n  room for the next change of meta",
                path.display()
            );
        }
        let kind = match inspect::kind(&*self.disk, path) {
            Ok(kind) => kind,
            Err(error) => return self.found(&error),
        };
        match kind {
            Some(FileKind::Snapshot) => self.snapshot(path),
            Some(FileKind::Segment) => self.segment(path),
            Some(FileKind::Meta) if path.file_name().is_some_and(|name| name == "meta") => {
                let dir: PathBuf = path.parent().map_or(PathBuf::new(), Path::to_owned);
                match inspect::meta(&self.data_dir(&dir)) {
                    Ok(Some(meta)) => self.meta(path, &meta),
                    Ok(None) => Ok(()),
                    Err(error) => self.found(&error),
                }
            }
            _ if self.live && !path.exists() => Ok(()),
            _ => self.found(&StorageError::Corrupt {
                path: path.to_owned(),
                offset: 0,
                why: "it does not start like a snapshot, a WAL segment or a meta file".to_owned(),
            }),
        }
    }

    /// Reports a file that could not be read to its end, and up to which byte it is good. A file that was deleted
    /// meanwhile is no error.
    fn damaged(&mut self, path: &Path, good: u64, error: &StorageError) -> io::Result<()> {
        if self.live && !path.exists() {
            return writeln!(
                self.out,
                "  deleted meanwhile, as it is not needed any more"
            );
        }
        self.found(error)?;
        match error {
            StorageError::Corrupt { .. } => {
                writeln!(self.out, "  good up to byte {good}, and then corrupt")
            }
            _ => Ok(()),
        }
    }

    fn meta(&mut self, path: &Path, meta: &Meta) -> io::Result<()> {
        writeln!(
            self.out,
            "{}\n  member {} of {}, incarnation {:016x}, starts {}",
            path.display(),
            meta.member(),
            match meta.cluster() {
                0 => "no cluster yet".to_owned(),
                cluster => format!("cluster {cluster:016x}"),
            },
            meta.incarnation(),
            meta.boot(),
        )?;
        let Given { url, list, .. } = meta.given();
        if let Some(url) = url {
            writeln!(self.out, "  its peer URL is {url}")?;
        }
        if !list.is_empty() {
            let list = list.iter().map(|(id, url)| format!("{id} at {url}"));
            let list = list.collect::<Vec<_>>().join(", ");
            writeln!(self.out, "  first members: {list}")?;
        }
        Ok(())
    }

    fn segment(&mut self, path: &Path) -> io::Result<()> {
        let mut contents = SegmentContents::default();
        let read = inspect::segment(&*self.disk, path, self.live, &mut contents);
        writeln!(self.out, "{}", path.display())?;
        if let Some(header) = &contents.header {
            writeln!(
                self.out,
                "  segment {} of member {} of cluster {:016x}, {} of {} bytes used",
                header.name.sequence, header.member, header.cluster, contents.end, header.len,
            )?;
            let indexes = contents
                .indexes
                .map_or(String::new(), |(low, high)| format!(" ({low} to {high})"));
            writeln!(
                self.out,
                "  {} batches, {} entries{indexes}, committed {}, term {}, vote {}",
                contents.batches,
                contents.entries,
                contents.hard_state.commit,
                contents.hard_state.term,
                contents.hard_state.vote,
            )?;
        }
        for (index, term) in &contents.marks {
            let what = "  marks the snapshot of index";
            writeln!(self.out, "{what} {index}, term {term}")?;
        }
        if contents.torn {
            writeln!(
                self.out,
                "  torn behind byte {}, as by a crash; nobody relied on what was there if this is the last segment",
                contents.end
            )?;
        }
        let entries: Vec<_> = contents.later.iter().collect();
        if let Some((first, _)) = entries.first() {
            let most = entries.iter().map(|(_, later)| *later);
            let later = most.max_by_key(|later| later.needed);
            let count = entries.len();
            let what = "of them only a later version knows, the first is entry";
            writeln!(self.out, "  {count} {what} {first}")?;
            if let Some(later) = later {
                let path = path.to_owned();
                self.found(&StorageError::Later { path, later })?;
            }
        }
        match read {
            Ok(()) => Ok(()),
            Err(error) => self.damaged(path, contents.end, &error),
        }
    }

    fn snapshot(&mut self, path: &Path) -> io::Result<()> {
        let mut contents = SnapshotContents::default();
        let mut progress =
            ProgressReport::of_command("checking a snapshot", Unit::Bytes, self.log.logger());
        let mut hash = MapHash::default();
        let visit = |key: &[u8], index, value: &[u8]| hash.add(key, index, value);
        let report = |done, total| progress.at(done, total);
        let read = inspect::snapshot(&*self.disk, path, &mut contents, visit, report);
        drop(progress);
        self.log.flush();
        let read = read.and_then(|()| self.check_name(path, &contents));
        let SnapshotContents { header, .. } = &contents;
        writeln!(self.out, "{}", path.display())?;
        if header.index > 0 {
            writeln!(
                self.out,
                "  snapshot of index {}, term {}, of cluster {:016x}, {} bytes",
                header.index, header.term, header.cluster, contents.bytes,
            )?;
            let what = match &read {
                Ok(()) => format!("every CRC is right, hash {:016x}", hash.value()),
                Err(_) => "as far as it is good".to_owned(),
            };
            writeln!(
                self.out,
                "  {}, {} bytes of keys and values, {what}",
                inspect::keys(contents.entries),
                contents.entry_bytes,
            )?;
            self.members(header)?;
        }
        match read {
            Ok(()) => {
                self.sound.push((contents.header, contents.bytes));
                Ok(())
            }
            Err(error) => {
                self.damaged(path, contents.bytes, &error)?;
                self.unsound.push((path.to_owned(), error));
                Ok(())
            }
        }
    }

    /// Checks that a snapshot with the name of a snapshot in a data directory has the header that its name promises.
    fn check_name(&self, path: &Path, contents: &SnapshotContents) -> Result<(), StorageError> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if inspect::is_snapshot_name(name) && name != inspect::snapshot_name(&contents.header) {
            return Err(StorageError::Corrupt {
                path: path.to_owned(),
                offset: 0,
                why: "its header does not fit its name".to_owned(),
            });
        }
        Ok(())
    }

    fn members(&mut self, header: &SnapshotHeader) -> io::Result<()> {
        let state = header.get_state();
        if !state.forming.is_empty() {
            let listed = state.forming.iter();
            let listed = listed.map(|l| format!("{} at {}", l.id, one_line(&l.url)));
            writeln!(
                self.out,
                "  unformed, its first members are to be {}",
                listed.collect::<Vec<_>>().join(", ")
            )?;
        }
        for member in state.members.iter() {
            let role = if member.learner { "learner" } else { "voter" };
            let bound = match member.incarnation {
                0 => "open".to_owned(),
                incarnation => format!(
                    "bound to {incarnation:016x} by entry {}",
                    member.bound_index
                ),
            };
            writeln!(
                self.out,
                "  member {} at {}, {role}, added by entry {}, {bound}",
                member.id,
                one_line(&member.url),
                member.added_index,
            )?;
        }
        for removed in state.removed.iter() {
            writeln!(
                self.out,
                "  member {} was removed by entry {}",
                removed.id, removed.removed_index
            )?;
        }
        if state.forgotten_index > 0 {
            let what = "  other members were removed by entries up to";
            writeln!(self.out, "{what} {}", state.forgotten_index)?;
        }
        for revoked in state.revoked_keys.iter() {
            let key = revoked.key_fingerprint.iter();
            let key: String = key.map(|byte| format!("{byte:02x}")).collect();
            let (member, index) = (revoked.member, revoked.revoked_index);
            let what = format!("of member {member}, revoked by entry {index}");
            writeln!(self.out, "  key {key} {what}")?;
        }
        Ok(())
    }
}

/// How far the cluster of a data directory has formed. `state` is that of the snapshot, `entry` is the index of the
/// entry `Formed` in the log, and `committed` is the commit index. An operator who lost a disk while a cluster formed
/// needs this line: as long as no directory has the entry, no client was answered with success.
fn formation(state: Option<&ReplicatedState>, entry: Option<u64>, committed: u64) -> String {
    match (state, entry) {
        (None, _) => "empty: no cluster has let this member in".to_owned(),
        (Some(state), _) if state.forming.is_empty() => "formed".to_owned(),
        (Some(_), Some(index)) if index <= committed => format!("formed, by entry {index}"),
        (Some(_), Some(index)) => format!("Formed is in the log, not committed: entry {index}"),
        (Some(_), None) => "unformed: Formed is not in the log".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{self, Batch, Command};
    use crate::storage::{Mark, Opened, RealDisk, Save, Start};
    use raft::eraftpb::{Entry, EntryType, HardState};

    fn inspect(path: &Path, out: &mut dyn Write) -> io::Result<ExitCode> {
        let log = Log::start(crate::logging::LogOptions::COMMAND)?;
        run(path, out, &log)
    }

    fn open(dir: &Path, start: Start) -> Opened {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let disk = Arc::new(RealDisk);
        DataDir::new(disk, dir).open(1, start, &logger).unwrap()
    }

    fn first(count: u64) -> Start {
        let url = |id| format!("http://a:{id}").parse().unwrap();
        Start::First((1..=count).map(|id| (id, url(id))).collect())
    }

    fn formed(index: u64) -> Entry {
        let mut command = Command::new();
        command.kind = command::Kind::Formed;
        let mut batch = Batch::new();
        batch.commands.push(command);
        Entry {
            entry_type: EntryType::EntryConfChange,
            index,
            term: 1,
            context: command::encode(&batch),
            ..Entry::default()
        }
    }

    fn save(opened: &mut Opened, entries: Vec<Entry>, commit: u64) {
        let hard_state = HardState {
            term: 1,
            commit,
            ..HardState::default()
        };
        let save = Save {
            entries,
            hard_state: Some(hard_state),
            sync: true,
            ..Save::default()
        };
        opened.wal.save(&[save]).unwrap();
    }

    fn inspected(dir: &Path) -> String {
        let mut out = Vec::new();
        assert_eq!(inspect(dir, &mut out).unwrap(), 0);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_tells_how_far_a_cluster_has_formed() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path(), first(3));
        let incarnation = format!("{:016x}", opened.meta.incarnation());
        let text = inspected(dir.path());
        assert!(
            text.contains("\nunformed: Formed is not in the log\n"),
            "{text}"
        );
        let row = format!(
            "member 1 at http://a:1, voter, added by entry 1, bound to {incarnation} by entry 1"
        );
        assert!(text.contains(&row), "{text}");
        assert!(
            text.contains("to be 1 at http://a:1, 2 at http://a:2, 3 at"),
            "{text}"
        );

        save(&mut opened, vec![formed(2)], 1);
        let text = inspected(dir.path());
        assert!(
            text.contains("\nFormed is in the log, not committed: entry 2\n"),
            "{text}"
        );
        // Another leader's entry in its place.
        let other = Entry {
            index: 2,
            term: 1,
            ..Entry::default()
        };
        save(&mut opened, vec![other], 1);
        assert!(inspected(dir.path()).contains("\nunformed"));
        save(&mut opened, vec![formed(3)], 3);
        let text = inspected(dir.path());
        assert!(text.contains("\nformed, by entry 3\n"), "{text}");
    }

    fn later(index: u64, needed: u64, kind: EntryType) -> Entry {
        let mut batch = Batch::new();
        batch.version = needed;
        batch.commands.push(Command::new());
        let data = command::encode(&batch);
        let mut entry = Entry {
            entry_type: kind,
            index,
            term: 1,
            ..Entry::default()
        };
        match kind {
            EntryType::EntryNormal => entry.data = data,
            _ => entry.context = data,
        }
        entry
    }

    #[test]
    fn entries_that_only_a_later_version_knows_are_told_with_exit_code_8() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path(), first(1));
        let inspect = || {
            let mut out = Vec::new();
            let code = inspect(dir.path(), &mut out).unwrap();
            (code, String::from_utf8(out).unwrap())
        };
        let normal = later(2, 0, EntryType::EntryNormal);
        let entries = vec![
            normal,
            later(3, 8, EntryType::EntryNormal),
            later(4, 9, EntryType::EntryConfChange),
        ];
        save(&mut opened, entries, 2);
        let (code, text) = inspect();
        assert_eq!(code, 8, "{text}");
        let line = "\n  2 of them only a later version knows, the first is entry 3\n";
        assert!(text.contains(line), "{text}");
        let line = "\nthis version ends at entry 3 with exit code 8, once that is committed: it needs command version 8\n";
        assert!(text.contains(line), "{text}");

        // Another leader's entry in their place.
        save(&mut opened, vec![later(3, 0, EntryType::EntryNormal)], 3);
        let (code, text) = inspect();
        assert_eq!(code, 0, "{text}");
        assert!(!text.contains("later"), "{text}");

        save(
            &mut opened,
            vec![later(4, 9, EntryType::EntryConfChange)],
            4,
        );
        let (code, text) = inspect();
        assert_eq!(code, 8, "{text}");
        let line = "\nthis version ends at entry 4 with exit code 8: it needs command version 9\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_start_is_not_said_to_begin_before_a_snapshot_that_only_a_later_version_knows() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path(), first(1));
        save(&mut opened, vec![later(2, 0, EntryType::EntryNormal)], 2);
        let mut meta = opened.recovered.snapshot.clone().unwrap();
        meta.index = 2;
        meta.state.version = 9;
        let (snapshots, cluster) = (opened.snapshots.clone(), opened.meta.cluster());
        let nothing = std::iter::empty::<(&[u8], u64, &[u8])>();
        snapshots.write(&meta, cluster, nothing).unwrap();
        let hard_state = HardState {
            term: 1,
            commit: 2,
            ..HardState::default()
        };
        let mark = Mark {
            index: 2,
            term: meta.term,
            hard_state,
            installed: false,
        };
        let save = Save {
            mark: Some(mark),
            sync: true,
            ..Save::default()
        };
        opened.wal.save(&[save]).unwrap();
        let mut out = Vec::new();
        let code = inspect(dir.path(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(code, 8, "{text}");
        let line = "\na start refuses it, with exit code 8\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_cluster_of_one_has_formed_and_an_empty_member_is_of_none() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), first(1));
        assert!(inspected(dir.path()).ends_with("\nformed\n"));
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), Start::Empty);
        let text = inspected(dir.path());
        assert!(
            text.contains("member 1 of no cluster yet, incarnation"),
            "{text}"
        );
        assert!(
            text.ends_with("\nempty: no cluster has let this member in\n"),
            "{text}"
        );
    }
}
