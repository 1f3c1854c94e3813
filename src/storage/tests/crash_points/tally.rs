//! Restarts from a disk, crashes during these restarts, and counters of the cases tried.

use super::*;
use std::collections::HashSet;

/// The kind of file that an operation changed.
pub(super) fn role(path: &Path) -> &'static str {
    let name = path.file_name().unwrap_or_default().to_str().unwrap();
    let above = path.parent().and_then(Path::file_name);
    match (name, path.extension().and_then(|e| e.to_str())) {
        ("", _) => "/",
        ("meta.tmp", _) => "meta.tmp",
        ("LOCK", _) => "LOCK",
        (_, Some("wal")) => "*.wal",
        (_, Some("snap")) => "*.snap",
        (_, Some("broken")) => "*.broken",
        (_, Some("tmp")) if name.ends_with(".wal.tmp") => "*.wal.tmp",
        (_, Some("tmp")) => "*.tmp",
        ("data", _) => "data/",
        ("wal", _) => "wal/",
        ("snap", _) => "snap/",
        _ => panic!("{name} in {above:?}"),
    }
}

/// Counters of the cases tried, for the test's output.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) points: u64,
    pub(super) starts: u64,
    pub(super) images: HashSet<u64>,
    pub(super) recovery_points: u64,
    /// Number of starts that kept some entries only on disk.
    pub(super) left: u64,
    pub(super) sites: BTreeSet<(Operation, &'static str)>,
}

impl Tally {
    pub(super) fn note(&mut self, journal: &[(Operation, PathBuf)]) {
        let sites = journal.iter().map(|(kind, path)| (*kind, role(path)));
        self.sites.extend(sites);
    }

    /// Checks that a restart from this disk finds what the member has acknowledged, and that the member can continue
    /// and restart once more.
    pub(super) fn check(&mut self, disk: &FakeDisk, told: &Told, name: &str) {
        let before = told;
        let mut told = told.clone();
        let copy = disk.after_kill();
        let opened = told.open(&copy);
        self.starts += 1;
        let found = told.clone();
        match opened {
            Err(StorageError::Removed { .. }) => return,
            Err(error) => panic!("{name}: {error}"),
            Ok(mut opened) => {
                let all = found.durable.log.entries.len();
                self.left += u64::from(opened.recovered.entries.len() < all);
                // The state that the restart found is durable.
                let again = copy.after_crash(Loss::Everything);
                if let Err(error) = told.clone().open(&again) {
                    panic!("{name}, again: {error}");
                }
                told.append(&mut opened, &[700]).unwrap();
                if let Err(error) = told.open(&copy.after_crash(Loss::Everything)) {
                    panic!("{name}, after it went on: {error}");
                }
                self.starts += 2;
            }
        }
        if self.images.insert(disk.fingerprint()) {
            // After a kill, one start may find a change that was under way; if that start does not complete, the change
            // may be gone at the next start. After a loss of power the state is settled.
            let settled = disk.after_crash(Loss::Everything).fingerprint() == disk.fingerprint();
            let expected = if settled { &found } else { before };
            self.check_recovery(disk, expected, name);
        }
    }

    /// Checks that a crash before or after any operation of a recovery does not change what the next recovery finds.
    fn check_recovery(&mut self, disk: &FakeDisk, told: &Told, name: &str) {
        let whole = disk.after_kill();
        whole.keep_journal();
        open_as(&whole, told.member, told.start.clone(), TINY).unwrap();
        let told = Told {
            // A first start that did not complete has acknowledged nothing.
            boot: 0,
            incarnation: None,
            ..told.clone()
        };
        let journal = whole.journal();
        self.note(&journal);
        for operation in 1..=journal.len() as u64 {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                self.recovery_points += 1;
                let copy = disk.after_kill();
                copy.inject(operation, fault);
                let stopped = open_as(&copy, told.member, told.start.clone(), TINY);
                assert_eq!(stopped.unwrap_err().exit_code(), 6);
                let mut seen = HashSet::new();
                for loss in &LOSSES[..6] {
                    let after = copy.after_crash(*loss);
                    if !seen.insert(after.fingerprint()) {
                        continue;
                    }
                    self.starts += 1;
                    if let Err(error) = told.clone().open(&after) {
                        let (kind, path) = &journal[operation as usize - 1];
                        panic!(
                            "{name}, then {fault:?} {kind:?} {} and {loss:?}: {error}",
                            path.display()
                        );
                    }
                }
            }
        }
    }
}
