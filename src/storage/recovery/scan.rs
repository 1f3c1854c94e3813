//! Reads the segments of the WAL in order, and checks that they form one chain.

use super::log::ScannedLog;
use crate::storage::data_dir::DataDir;
use crate::storage::error::StorageError;
use crate::storage::meta::Meta;
use crate::storage::wal::read_back::{BatchIndex, BatchPlace, Effect};
use crate::storage::wal::segment::{BatchStep, Name, SegmentReader};

/// The contents of all segments.
pub(super) struct Scan {
    pub(super) log: ScannedLog,
    pub(super) index: BatchIndex,
    pub(super) names: Vec<Name>,
    pub(super) last: SegmentReader,
    pub(super) torn_tail: bool,
}

pub(super) fn scan(
    dir: &DataDir,
    meta: &Meta,
    log: impl FnOnce(u64) -> ScannedLog,
) -> Result<Scan, StorageError> {
    let (disk, wal_dir) = (&**dir.disk(), &*dir.wal_path());
    let mut names: Vec<Name> = disk
        .list(wal_dir)?
        .iter()
        .filter_map(|name| Name::parse(name))
        .collect();
    names.sort();
    let Some(first) = names.first() else {
        return Err(StorageError::corrupt(wal_dir, 0, "there is no segment"));
    };
    let mut log = log(first.first_index);
    let mut index = BatchIndex::default();
    let mut last: Option<SegmentReader> = None;
    let mut torn_tail = false;
    for (at, name) in names.iter().enumerate() {
        let mut reader = SegmentReader::open(disk, wal_dir, *name)?;
        check_identity(&reader, meta)?;
        if let Some(before) = &last {
            check_succession(before, &reader, &log)?;
        }
        index.begin(*name, reader.offset());
        torn_tail = read_batches(&mut reader, &mut log, &mut index, at + 1 == names.len())?;
        if reader.is_unused() {
            let (path, offset) = (reader.path(), reader.offset());
            return Err(StorageError::corrupt(
                path,
                offset,
                "the first batch is missing",
            ));
        }
        last = Some(reader);
    }
    Ok(Scan {
        log,
        index,
        names,
        last: last.expect("there is a segment"),
        torn_tail,
    })
}

/// Reads a segment to its end. Returns whether the end is torn in a way that a crash explains.
fn read_batches(
    reader: &mut SegmentReader,
    log: &mut ScannedLog,
    index: &mut BatchIndex,
    is_last: bool,
) -> Result<bool, StorageError> {
    loop {
        let place = BatchPlace {
            sequence: reader.header().name.sequence,
            offset: reader.offset(),
            previous: reader.crc(),
        };
        let mut effect = Effect::default();
        let hole = match reader.next(&mut |record| log.apply(record, &mut effect))? {
            BatchStep::Batch => {
                index.add(place, &effect, reader.offset());
                continue;
            }
            BatchStep::End => return Ok(false),
            BatchStep::Damaged { hole } => hole,
        };
        let corrupt = |why: &str| StorageError::corrupt(reader.path(), reader.offset(), why);
        if !is_last {
            return Err(corrupt("a batch is damaged, and later segments exist"));
        }
        if !hole {
            return Err(corrupt(
                "a batch is damaged, although it was written completely",
            ));
        }
        let offset = reader.offset();
        if let Some(later) = reader.later_batch()? {
            return Err(StorageError::corrupt(
                reader.path(),
                offset,
                &format!("a batch is damaged, and a later batch follows at byte {later}"),
            ));
        }
        return Ok(true);
    }
}

fn check_identity(reader: &SegmentReader, meta: &Meta) -> Result<(), StorageError> {
    let header = reader.header();
    // The first segments of an empty member were created before a cluster added it.
    let known = header.cluster == 0 || header.cluster == meta.cluster();
    if header.member == meta.member() && known {
        return Ok(());
    }
    Err(StorageError::WrongIdentity {
        path: reader.path().to_owned(),
        why: format!(
            "it belongs to member {} of cluster {:016x}, the data directory to member {} of cluster {:016x}",
            header.member,
            header.cluster,
            meta.member(),
            meta.cluster()
        ),
    })
}

fn check_succession(
    before: &SegmentReader,
    reader: &SegmentReader,
    log: &ScannedLog,
) -> Result<(), StorageError> {
    let header = reader.header();
    let corrupt = |why: &str| Err(StorageError::corrupt(reader.path(), 0, why));
    if Some(header.name.sequence) != before.header().name.sequence.checked_add(1) {
        return corrupt("the segment before it is missing");
    }
    if header.previous != before.crc() || header.name.first_index != log.state.last + 1 {
        return Err(StorageError::corrupt(
            before.path(),
            before.offset(),
            &format!(
                "its end is missing: the next segment, {}, does not continue it",
                header.name.file_name()
            ),
        ));
    }
    Ok(())
}
