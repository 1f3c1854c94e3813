//! Tails that are torn again or while they are cut off, and the copies of them.

use super::*;

/// Saves two batches and tears the second.
fn torn(disk: &FakeDisk, opened: &mut Opened, index: u64) {
    let entries = [index, index + 1].map(|i| append([entry(i, 1, vec![7; 900])]));
    let segment = segments(disk).pop().unwrap();
    opened.wal.save(&entries[..1]).unwrap();
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let before = end(&disk.read(&segment));
    opened.wal.save(&entries[1..]).unwrap();
    disk.tamper(&segment, |bytes| bytes[before + 200..].fill(0));
}

#[test]
fn a_failure_while_a_torn_tail_is_cut_loses_nothing() {
    // The seed of the disk decides how much of the failing operation is done.
    for seed in 0..20 {
        let disk = FakeDisk::new(seed);
        torn(&disk, &mut start(&disk, LARGE).unwrap(), 2);
        for failing in 1..30 {
            let disk = disk.after_power_loss(1);
            disk.inject(failing, Fault::Fail);
            if start(&disk, LARGE).is_err() {
                let what = format!("seed {seed}, operation {failing}");
                assert_durable_after_a_kill(&disk, &what);
            }
        }
    }
}

#[test]
fn a_second_torn_tail_does_not_replace_the_first() {
    let disk = FakeDisk::new(1);
    torn(&disk, &mut start(&disk, LARGE).unwrap(), 2);
    let mut opened = start(&disk, LARGE).unwrap();
    assert_eq!(indexes(&opened.recovered), [2]);
    torn(&disk, &mut opened, 3);
    let opened = start(&disk, LARGE).unwrap();
    assert_eq!(indexes(&opened.recovered), [2, 3]);
    assert_eq!(files(&disk, "broken").len(), 2);
}

#[test]
fn only_the_newest_copies_are_kept() {
    let kept = limits::BROKEN_FILES_KEPT;
    let disk = FakeDisk::new(1);
    let mut all = Vec::new();
    for index in 2..8 {
        torn(&disk, &mut start(&disk, LARGE).unwrap(), index);
        start(&disk, LARGE).unwrap();
        let now = files(&disk, "broken");
        all.extend(
            now.into_iter()
                .filter(|path| !all.contains(path))
                .collect::<Vec<_>>(),
        );
        assert_eq!(all.len() as u64, index - 1);
        assert_eq!(
            files(&disk, "broken"),
            all[all.len().saturating_sub(kept)..]
        );
    }
    // The same holds for damaged snapshots. These look as if earlier starts had left them.
    for index in 0..6 {
        let name = snapshot::file_name(index, 1) + ".broken";
        disk.create(&dir().join("snap").join(name)).unwrap();
    }
    start(&disk, LARGE).unwrap();
    let left = disk.list(&dir().join("snap")).unwrap();
    let left = left.iter().filter(|name| name.ends_with(".broken"));
    assert_eq!(left.count(), kept);
}
