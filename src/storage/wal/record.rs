//! Batches and records: the bytes of the WAL.
//!
//! [`Wal::save`](super::Wal::save) writes *batches*: each with a single write, and synced before the next batch is
//! written. A batch is atomic: after a crash it counts as a whole or not at all. Its offset in the segment is a
//! multiple of 8:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC32C of bytes 4..24, seeded by the segment's salt and the batch's offset in the segment |
//! | 4 | 4 | body length *n*, without padding |
//! | 8 | 4 | body CRC of the batch before; in the first batch of a segment: CRC of the segment's header |
//! | 12 | 4 | body CRC: CRC32C of bytes 24..end, seeded by the field before |
//! | 16 | 4 | number of 512-byte sectors of the segment that are all zero within this batch by its own contents |
//! | 20 | 4 | `rkvB` |
//! | 24 | *n* | records |
//! | 24 + *n* | 0..7 | zeros, so that the batch ends at a multiple of 8 |
//! | end - 1 | 1 | `0xA5` |
//!
//! A record, with little-endian numbers:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | payload length |
//! | 4 | 1 | type: 1 entry, 2 hard state, 3 mark |
//! | 5 | | payload |
//!
//! | type | payload |
//! |---|---|
//! | entry | raft's `Entry` as protobuf |
//! | hard state | term u64, vote u64, commit u64 |
//! | mark | index u64, term u64, hard state (24 bytes), installed u8 (0 or 1) |
//!
//! # Torn or corrupt
//!
//! A crash in the middle of a write leaves a damaged last batch. That batch was never acknowledged, and is dropped. The
//! same damage to a batch that *was* synced is corruption, and such a batch must never be dropped. Three things
//! distinguish the two cases:
//!
//! - The head has its own CRC, which depends on the salt and the place, and on nothing before the batch. A later batch
//!   is therefore found by trying every multiple of 8 after the damage. Since a batch is synced before the next is
//!   written, a later batch proves that the damaged batch is corrupt. A client's value can't imitate a head: the client
//!   would have to know the salt.
//! - Before a batch is written, its place holds zeros, and a disk does not change a sector that it has not written. A
//!   torn batch therefore has a *hole*: a sector that is zero although it should not be, or a missing end. The head has
//!   the number of sectors that are zero by their contents, and the last byte is never zero. A batch with a wrong CRC
//!   and without a hole was written completely and damaged later.
//! - Every entry up to the commit index of the hard state has to be present (see `recovery/mod.rs`).
//!
//! One case remains undetected: the last batch was synced, later loses a whole sector to zeros, and none of its entries
//! was known to be committed. The bytes are then the same as after a torn write.

use crate::limits;
use crate::storage::format::{u32_at, u64_at};
use crate::storage::state::Mark;
use crc32c::{crc32c, crc32c_append};
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};

/// Bytes of a batch's head.
pub const HEAD_BYTES: usize = 24;
/// Batches start at multiples of this.
pub const ALIGNMENT: u64 = 8;
/// The unit in which a disk keeps either the old or the new bytes. Larger disk sectors are multiples of this.
pub const SECTOR_BYTES: u64 = 512;

const HEAD_MARKER: &[u8; 4] = b"rkvB";
const TAIL: u8 = 0xA5;
const RECORD_HEAD_BYTES: usize = 5;
const TYPE_ENTRY: u8 = 1;
const TYPE_HARD_STATE: u8 = 2;
const TYPE_MARK: u8 = 3;

/// The longest batch that recovery accepts: a batch is closed as soon as a record makes it reach its target size.
const BATCH_BYTES_LIMIT: usize = limits::BATCH_BYTES_TARGET + limits::RECORD_BYTES_MAX + 4096;

/// One record of the WAL.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// An entry. It replaces all entries of the log from its index on.
    Entry(Entry),
    /// The newest hard state.
    HardState(HardState),
    /// A snapshot from which a restart may continue.
    Mark(Mark),
}

/// A batch under construction, in a buffer that is reused.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    /// Empties the batch for reuse.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEAD_BYTES, 0);
        // Do not keep the memory of one huge batch forever.
        self.bytes.shrink_to(limits::BATCH_BYTES_TARGET);
    }

    /// Number of bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the batch has no record.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() <= HEAD_BYTES
    }

    /// Adds an entry.
    pub fn entry(&mut self, entry: &Entry) {
        self.record(TYPE_ENTRY, |bytes| {
            entry
                .write_to_vec(bytes)
                .expect("an entry has no required field that could be missing");
        });
    }

    /// Adds a hard state.
    pub fn hard_state(&mut self, hard_state: &HardState) {
        self.record(TYPE_HARD_STATE, |bytes| push_hard_state(bytes, hard_state));
    }

    /// Adds a mark.
    pub fn mark(&mut self, mark: &Mark) {
        self.record(TYPE_MARK, |bytes| {
            bytes.extend_from_slice(&mark.index.to_le_bytes());
            bytes.extend_from_slice(&mark.term.to_le_bytes());
            push_hard_state(bytes, &mark.hard_state);
            bytes.push(u8::from(mark.installed));
        });
    }

    fn record(&mut self, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0, 0, 0, kind]);
        payload(&mut self.bytes);
        let len = self.bytes.len() - start - RECORD_HEAD_BYTES;
        assert!(
            len <= limits::RECORD_BYTES_MAX,
            "a record of {len} bytes, the limit is {}",
            limits::RECORD_BYTES_MAX
        );
        self.bytes[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    }

    /// Completes the batch for `offset` in the segment with this salt, after the batch with the body CRC `previous`.
    /// Returns the body CRC of this batch.
    pub fn finish(&mut self, salt: u64, offset: u64, previous: u32) -> u32 {
        assert!(!self.is_empty(), "a batch without records");
        assert_eq!(offset % ALIGNMENT, 0, "a batch at {offset}");
        let body = self.bytes.len() - HEAD_BYTES;
        self.bytes.resize(batch_bytes(body) - 1, 0);
        self.bytes.push(TAIL);
        let crc = crc32c_append(previous, &self.bytes[HEAD_BYTES..]);
        self.bytes[4..8].copy_from_slice(&(body as u32).to_le_bytes());
        self.bytes[8..12].copy_from_slice(&previous.to_le_bytes());
        self.bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        self.bytes[20..24].copy_from_slice(HEAD_MARKER);
        // The head never contains a zero sector, so the count is right although the count and the head's CRC are still
        // missing.
        let zero = zero_sectors(&self.bytes, offset);
        self.bytes[16..20].copy_from_slice(&zero.to_le_bytes());
        let head_crc = head_crc(&self.bytes[..HEAD_BYTES], salt, offset);
        self.bytes[0..4].copy_from_slice(&head_crc.to_le_bytes());
        crc
    }

    /// The bytes of a completed batch. The caller may append bytes that are written at the same time.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

/// The head of a batch, with a valid CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Length of the records in bytes.
    pub body: usize,
    /// Body CRC of the batch before.
    pub previous: u32,
    /// Body CRC of this batch.
    pub crc: u32,
    /// Number of sectors that are zero by the batch's contents.
    pub zero_sectors: u32,
}

impl Head {
    /// Decodes a head at an offset of the segment with this salt. `None` if there is no valid head.
    pub fn decode(bytes: &[u8], salt: u64, offset: u64) -> Option<Head> {
        if &bytes[20..24] != HEAD_MARKER || u32_at(bytes, 0) != head_crc(bytes, salt, offset) {
            return None;
        }
        let body = u32_at(bytes, 4) as usize;
        // The CRC protects the length against damage. The limit protects against a file that was made by hand.
        if body == 0 || body > BATCH_BYTES_LIMIT {
            return None;
        }
        Some(Head {
            body,
            previous: u32_at(bytes, 8),
            crc: u32_at(bytes, 12),
            zero_sectors: u32_at(bytes, 16),
        })
    }

    /// Length of the whole batch in bytes.
    pub fn batch_bytes(&self) -> usize {
        batch_bytes(self.body)
    }

    /// Whether the body CRC of the whole batch is valid.
    pub fn verify(&self, batch: &[u8]) -> bool {
        assert_eq!(batch.len(), self.batch_bytes(), "a batch's length");
        crc32c_append(self.previous, &batch[HEAD_BYTES..]) == self.crc
    }

    /// Whether an invalid batch has a hole, so that its write may not have completed.
    pub fn has_hole(&self, batch: &[u8], offset: u64) -> bool {
        batch.last() == Some(&0) || zero_sectors(batch, offset) > self.zero_sectors
    }
}

/// Whether the bytes of an invalid head have a hole. See [`Head::has_hole`].
pub fn head_has_hole(bytes: &[u8], offset: u64) -> bool {
    bytes.last() == Some(&0) || zero_sectors(bytes, offset) > 0
}

/// Decodes the records of a verified batch. The error describes what is wrong.
pub fn decode_body(
    mut body: &[u8],
    mut visit: impl FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    while !body.is_empty() {
        if body.len() < RECORD_HEAD_BYTES {
            return Err("a record is shorter than its head".to_owned());
        }
        let len = u32_at(body, 0) as usize;
        let kind = body[4];
        let rest = &body[RECORD_HEAD_BYTES..];
        if len > limits::RECORD_BYTES_MAX || len > rest.len() {
            return Err(format!("a record claims to have {len} bytes"));
        }
        let (payload, rest) = rest.split_at(len);
        visit(decode_record(kind, payload)?)?;
        body = rest;
    }
    Ok(())
}

fn decode_record(kind: u8, payload: &[u8]) -> Result<Record, String> {
    let record = decode_fields(kind, payload)?;
    let index = match &record {
        Record::Entry(entry) => entry.index,
        Record::HardState(hard_state) => hard_state.commit,
        Record::Mark(mark) => mark.index.max(mark.hard_state.commit),
    };
    if index >= limits::INDEX_MAX {
        return Err(format!("a record has the index {index}"));
    }
    Ok(record)
}

fn decode_fields(kind: u8, payload: &[u8]) -> Result<Record, String> {
    match (kind, payload.len()) {
        (TYPE_ENTRY, _) => Entry::parse_from_bytes(payload)
            .map(Record::Entry)
            .map_err(|e| format!("an entry does not decode: {e}")),
        (TYPE_HARD_STATE, 24) => Ok(Record::HardState(hard_state_at(payload, 0))),
        (TYPE_MARK, 41) => Ok(Record::Mark(Mark {
            index: u64_at(payload, 0),
            term: u64_at(payload, 8),
            hard_state: hard_state_at(payload, 16),
            installed: payload[40] != 0,
        })),
        (_, len) => Err(format!("a record has type {kind} and {len} bytes")),
    }
}

fn batch_bytes(body: usize) -> usize {
    (HEAD_BYTES + body + 1).next_multiple_of(ALIGNMENT as usize)
}

fn head_crc(head: &[u8], salt: u64, offset: u64) -> u32 {
    let seed = crc32c_append(crc32c(&salt.to_le_bytes()), &offset.to_le_bytes());
    crc32c_append(seed, &head[4..HEAD_BYTES])
}

/// Number of the file's sectors that are all zero within `bytes`, which are at `offset` in the file.
fn zero_sectors(bytes: &[u8], offset: u64) -> u32 {
    let mut count = 0;
    let mut position = 0;
    while position < bytes.len() {
        let in_sector = ((offset + position as u64) % SECTOR_BYTES) as usize;
        let end = (position + SECTOR_BYTES as usize - in_sector).min(bytes.len());
        count += u32::from(is_zero(&bytes[position..end]));
        position = end;
    }
    count
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Comparing pieces with zeros is a memcmp, which is fast in a debug build too.
    static ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|piece| piece == &ZEROS[..piece.len()])
}

fn push_hard_state(bytes: &mut Vec<u8>, hard_state: &HardState) {
    for field in [hard_state.term, hard_state.vote, hard_state.commit] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
}

fn hard_state_at(bytes: &[u8], at: usize) -> HardState {
    let mut hard_state = HardState::new();
    hard_state.term = u64_at(bytes, at);
    hard_state.vote = u64_at(bytes, at + 8);
    hard_state.commit = u64_at(bytes, at + 16);
    hard_state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let mut hard_state = HardState::new();
        hard_state.term = u64::MAX;
        hard_state.vote = 2;
        hard_state.commit = 3;
        let mut entry = Entry::new();
        entry.index = 7;
        entry.term = 5;
        entry.data = vec![0; 3000].into();
        entry.context = vec![1].into();
        let mark = Mark {
            index: 4,
            term: 5,
            hard_state: hard_state.clone(),
            installed: true,
        };
        vec![
            Record::Mark(mark),
            Record::Entry(Entry::default()),
            Record::Entry(entry),
            Record::HardState(hard_state),
        ]
    }

    fn encode(offset: u64) -> Vec<u8> {
        let mut batch = Batch::default();
        batch.clear();
        for record in records() {
            match record {
                Record::Entry(entry) => batch.entry(&entry),
                Record::HardState(hard_state) => batch.hard_state(&hard_state),
                Record::Mark(mark) => batch.mark(&mark),
            }
        }
        batch.finish(99, offset, 1);
        std::mem::take(batch.bytes_mut())
    }

    fn decode(bytes: &[u8], offset: u64) -> Option<(Head, Vec<Record>)> {
        let head = Head::decode(&bytes[..HEAD_BYTES], 99, offset)?;
        if !head.verify(bytes) {
            return None;
        }
        let mut found = Vec::new();
        decode_body(&bytes[HEAD_BYTES..HEAD_BYTES + head.body], |record| {
            found.push(record);
            Ok(())
        })
        .unwrap();
        Some((head, found))
    }

    #[test]
    fn a_batch_survives_a_round_trip_at_its_place_only() {
        for offset in [0, 8, 496, 504, 512, 1 << 40] {
            let bytes = encode(offset);
            assert_eq!(bytes.len() as u64 % ALIGNMENT, 0);
            let (head, found) = decode(&bytes, offset).unwrap();
            assert_eq!(found, records());
            assert!(head.zero_sectors >= 4, "the zeros of the value");
            assert!(!head.has_hole(&bytes, offset));
            assert_eq!(Head::decode(&bytes, 98, offset), None);
            assert_eq!(Head::decode(&bytes, 99, offset + 8), None);
        }
    }

    #[test]
    fn a_cut_or_lost_sector_is_a_hole_and_a_flip_is_none() {
        for offset in [0, 488, 496, 504, 512] {
            let good = encode(offset);
            let (head, _) = decode(&good, offset).unwrap();
            for at in 0..good.len() {
                let mut cut = good.clone();
                cut[at..].fill(0);
                let hole = match at < HEAD_BYTES {
                    true => head_has_hole(&cut[..HEAD_BYTES], offset),
                    false => head.has_hole(&cut, offset),
                };
                assert!(hole, "cut at {at}");
                for bit in 0..8 {
                    let mut flipped = good.clone();
                    flipped[at] ^= 1 << bit;
                    assert_eq!(decode(&flipped, offset), None, "bit {bit} of byte {at}");
                    let hole = match at < HEAD_BYTES {
                        true => head_has_hole(&flipped[..HEAD_BYTES], offset),
                        false => head.has_hole(&flipped, offset),
                    };
                    assert!(!hole, "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn wrong_records_are_errors() {
        for (body, why) in [
            (&[1, 0, 0][..], "shorter than its head"),
            (&[1, 0, 0, 0, 1], "claims to have 1 bytes"),
            (&[0xff, 0xff, 0xff, 0xff, 1], "claims to have 4294967295"),
            (&[0, 0, 0, 0, 9], "type 9"),
            (&[0, 0, 0, 0, 2], "type 2 and 0 bytes"),
            (&[1, 0, 0, 0, 1, 0xff], "does not decode"),
        ] {
            let error = decode_body(body, |_| Ok(())).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
