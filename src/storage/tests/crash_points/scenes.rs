//! Runs the lives of the script, each with the disk that the life before it left.

use super::*;

/// A life: its name, its initial disk and state, and its actions if no fault is injected.
pub(super) struct Scene {
    pub(super) name: String,
    pub(super) life: Life,
    pub(super) disk: FakeDisk,
    pub(super) told: Told,
    pub(super) journal: Vec<(Operation, PathBuf)>,
}

impl Scene {
    /// Runs the life with a fault. Returns the disk after the life, and what the member had acknowledged by then.
    pub(super) fn run(
        &self,
        operation: u64,
        fault: Fault,
    ) -> (FakeDisk, Told, Result<(), StorageError>) {
        let (disk, mut told) = (self.disk.after_kill(), self.told.clone());
        disk.inject(operation, fault);
        let result = (self.life)(&disk, &mut told);
        (disk, told, result)
    }

    /// Ends the life. Returns the disk and the state for the next life.
    fn end(&self, end: End) -> (FakeDisk, Told) {
        let last = |operation: Operation, extension: &str| {
            let is = |(other, path): &(Operation, PathBuf)| {
                *other == operation && path.extension().is_some_and(|e| e == extension)
            };
            let at = self.journal.iter().rposition(is);
            at.expect("there is such an operation") as u64 + 1
        };
        let never = self.journal.len() as u64 + 1;
        let (disk, mut told, _) = match end {
            End::Kill | End::DamagedSnapshot => self.run(never, Fault::CrashBefore),
            End::Crash(operation, extension, _) => {
                self.run(last(operation, extension), Fault::CrashAfter)
            }
            End::TornTail => self.run(last(Operation::Write, "wal"), Fault::CrashAfter),
        };
        let disk = match end {
            End::Kill => disk.after_kill(),
            End::Crash(_, _, loss) => disk.after_crash(loss),
            End::TornTail => {
                let mut torn = (0..).map(|seed| disk.after_crash(Loss::Torn(seed)));
                let is_torn = |disk: &FakeDisk| {
                    let copy = disk.after_kill();
                    told.clone().open(&copy).unwrap();
                    !files(&copy, "broken").is_empty()
                };
                torn.find(is_torn).unwrap()
            }
            End::DamagedSnapshot => {
                let disk = disk.after_kill();
                disk.tamper(&files(&disk, "snap").pop().unwrap(), |b| b[40] ^= 1);
                // Only a damaged newest snapshot makes the restart use the older snapshot.
                let opened =
                    open_as(&disk.after_kill(), told.member, told.start.clone(), TINY).unwrap();
                let found = Expected::read_back(&opened);
                assert!(found.snapshot < told.durable.log.snapshot);
                assert_eq!(found.hard_state, told.durable.log.hard_state);
                assert!(found.entries.ends_with(&told.durable.log.entries));
                assert_eq!(found.last(), told.durable.log.last());
                told.durable.log = found;
                disk
            }
        };
        (disk, told)
    }
}

pub(super) fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (name, told, lives) in [
        ("founder", Told::founder(), &FOUNDER[..]),
        ("joiner", Told::joiner(), &JOINER),
    ] {
        let (mut disk, mut told) = (FakeDisk::new(1), told);
        for (number, (life, end)) in lives.iter().enumerate() {
            let whole = disk.after_kill();
            whole.keep_journal();
            life(&whole, &mut told.clone()).unwrap();
            let scene = Scene {
                name: format!("{name}, life {}", number + 1),
                life: *life,
                disk,
                told,
                journal: whole.journal(),
            };
            (disk, told) = scene.end(*end);
            scenes.push(scene);
        }
    }
    scenes
}
