//! Crashes at every operation: acknowledged data is present afterwards.

use super::*;

/// Saves like those of raft, drawn from a seed: appends, conflicts, votes, snapshots of both kinds.
struct Script {
    random: Random,
    now: Expected,
    /// Excludes what waits for the next sync.
    durable: Expected,
}

impl Script {
    fn next(&mut self, opened: &Opened) -> Result<Vec<Save>, DiskError> {
        let mut saves = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let mut save = Save::default();
            let HardState {
                mut term,
                mut vote,
                mut commit,
                ..
            } = self.now.hard_state.clone();
            match self.random.below(12) {
                0 => {
                    term += 1;
                    vote = 1 + self.random.below(3);
                    save.sync = true;
                }
                1 => commit += self.random.below(self.now.last() - commit + 1),
                2 if commit > self.now.snapshot => {
                    let index = commit - self.random.below(commit - self.now.snapshot);
                    write_snapshot(opened, index, 1)?;
                    save = mark(index, 1, hard_state(term, vote, commit), false);
                }
                3 if self.random.below(3) == 0 => {
                    let index = commit + 1 + self.random.below(20);
                    write_snapshot(opened, index, 1)?;
                    commit = index;
                    save = mark(index, 1, hard_state(term, vote, commit), true);
                }
                _ => {
                    let last = self.now.last();
                    let conflict = self.random.below(8) == 0;
                    let back = if conflict { last - commit } else { 0 };
                    let first = last + 1 - self.random.below(back + 1);
                    for index in first..first + 1 + self.random.below(3) {
                        let len = [0, 10, 100, 600, 2500][self.random.below(5) as usize];
                        let byte = self.random.below(2) as u8 * 7;
                        save.entries.push(entry(index, term, vec![byte; len]));
                    }
                    save.sync = true;
                }
            }
            if save.mark.is_none() && self.random.below(2) == 0 || save.entries.is_empty() {
                save.hard_state = Some(hard_state(term, vote, commit));
            }
            self.now.save(&save);
            saves.push(save);
        }
        if saves.iter().any(|save| save.sync) {
            self.durable = self.now.clone();
        }
        Ok(saves)
    }
}

/// Runs a script until the disk crashes or the script ends. Returns the acknowledged state, and the state that the save
/// would have reached that failed.
fn run(disk: &FakeDisk, seed: u64, rounds: u64) -> (Expected, Expected) {
    let mut script = Script {
        random: Random(seed),
        now: Expected::new(),
        durable: Expected::new(),
    };
    let Ok(mut opened) = start(disk, SMALL) else {
        return (Expected::new(), Expected::new());
    };
    for _ in 0..rounds {
        let acknowledged = script.durable.clone();
        let result = script
            .next(&opened)
            .and_then(|saves| opened.wal.save(&saves))
            .and_then(|()| opened.wal.purge(u64::MAX))
            .and_then(Purge::remove_at_once);
        if result.is_err() {
            return (acknowledged, script.durable);
        }
    }
    (script.durable.clone(), script.durable)
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_acknowledged() {
    let mut torn = 0;
    for seed in 0..3 {
        let whole = FakeDisk::new(seed);
        run(&whole, seed, 60);
        for operation in 1..=whole.operations() + 1 {
            let disk = FakeDisk::new(seed);
            disk.inject(operation, Fault::CrashBefore);
            let (acknowledged, next) = run(&disk, seed, 60);
            for loss in 0..3 {
                let name = format!("seed {seed}, operation {operation}, loss {loss}");
                let after = disk.after_power_loss(loss * 1000 + operation);
                let mut opened = start(&after, SMALL).unwrap_or_else(|e| panic!("{name}: {e}"));
                let found = Expected::of(&opened.recovered);
                assert!(
                    found == acknowledged || found == next,
                    "{name}: found {found:?}, acknowledged {acknowledged:?}, next {next:?}"
                );
                torn += files(&after, "broken").len();
                // The member continues from there, and the damage does not reappear.
                let last = found.last();
                let save = append([entry(last + 1, 99, vec![9; 700])]);
                opened.wal.save(&[save]).unwrap();
                let again = start(&after.after_power_loss(1), SMALL)
                    .unwrap_or_else(|e| panic!("{name}, again: {e}"));
                let mut expected = found;
                expected.entries.push(entry(last + 1, 99, vec![9; 700]));
                assert_eq!(Expected::of(&again.recovered), expected, "{name}");
            }
        }
    }
    assert!(
        torn > 20,
        "only {torn} tails were torn: the test tests little"
    );
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    for operation in (1..400).step_by(7) {
        let disk = FakeDisk::new(5);
        disk.inject(operation, Fault::CrashBefore);
        let (acknowledged, next) = run(&disk, 5, 60);
        for again in 1..20 {
            let after = disk.after_power_loss(operation);
            after.inject(again, Fault::CrashBefore);
            let complete = start(&after, SMALL).is_ok();
            let after = after.after_power_loss(again);
            let opened = start(&after, SMALL).unwrap();
            let found = Expected::of(&opened.recovered);
            assert!(
                found == acknowledged || found == next,
                "operation {operation}, then {again}: found {found:?}, acknowledged {acknowledged:?}"
            );
            if complete {
                break;
            }
        }
    }
}

#[test]
fn data_found_by_a_restart_after_a_kill_is_durable() {
    for operation in 20..300 {
        let disk = FakeDisk::new(6);
        disk.inject(operation, Fault::CrashBefore);
        run(&disk, 6, 60);
        let killed = disk.after_kill();
        let mut opened = start(&killed, SMALL).unwrap();
        let mut found = Expected::of(&opened.recovered);
        let boot = opened.meta.boot();
        let check = |found: &Expected| {
            for loss in 0..3 {
                let after = start(&killed.after_power_loss(loss), SMALL).unwrap();
                assert_eq!(&Expected::of(&after.recovered), found);
                assert!(after.meta.boot() > boot);
            }
        };
        check(&found);
        // The next write is durable too. It goes to a segment that the killed process may have created.
        let save = append([entry(found.last() + 1, 99, vec![])]);
        opened.wal.save(std::slice::from_ref(&save)).unwrap();
        found.save(&save);
        check(&found);
    }
}

#[test]
fn an_interrupted_first_start_is_repeated() {
    let whole = FakeDisk::new(3);
    drop(start(&whole, LARGE).unwrap());
    for operation in 1..=whole.operations() {
        let disk = FakeDisk::new(3);
        disk.inject(operation, Fault::CrashBefore);
        assert!(start(&disk, LARGE).is_err());
        for loss in 0..8 {
            let after = disk.after_power_loss(loss);
            let opened = start(&after, LARGE)
                .unwrap_or_else(|e| panic!("operation {operation}, loss {loss}: {e}"));
            assert_eq!(Expected::of(&opened.recovered), Expected::new());
            let again = start(&after.after_power_loss(loss), LARGE).unwrap();
            assert!(!again.first_start);
            assert_eq!(Expected::of(&again.recovered), Expected::new());
        }
    }
}

#[test]
fn the_directories_above_the_data_directory_are_durable_too() {
    let data = Path::new("/var/lib/raftkvd/data");
    let open = |disk: &FakeDisk| {
        let dir = DataDir::new(Arc::new(disk.clone()), data);
        let _lock = dir.lock()?;
        dir.open_with(4, Start::Empty, LARGE, &logger())
    };
    let whole = FakeDisk::new(1);
    open(&whole).unwrap();
    for operation in 1..=whole.operations() {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            // A killed process may have left directories whose names are not durable yet.
            let disk = FakeDisk::new(1);
            disk.inject(operation, fault);
            open(&disk).unwrap_err();
            let disk = disk.after_kill();
            let boot = open(&disk).unwrap().meta.boot();
            let again = open(&disk.after_crash(Loss::Everything)).unwrap();
            assert_eq!(
                again.meta.boot(),
                boot + 1,
                "{fault:?} {operation}: it repeated the first start"
            );
        }
    }
}
