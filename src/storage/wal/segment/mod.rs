//! Segments: the files of the WAL, `wal/%016x-%016x.wal` (sequence, first index).
//!
//! A segment is created at its full size, filled with zeros, and written from start to end, batch by batch
//! (`record.rs`). It is never reused. The bytes after its last batch are always zero, except for a torn batch after a
//! crash. Its header, with little-endian numbers:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | `rkvdwal` and a zero |
//! | 8 | 4 | format version, 2 |
//! | 12 | 4 | body CRC of the last batch of the segment before; 0 in the first segment |
//! | 16 | 8 | cluster id; 0 if an empty member created the segment |
//! | 24 | 8 | member id |
//! | 32 | 8 | sequence, from 0, without gaps |
//! | 40 | 8 | first index: one after the end of the log at the creation of the segment |
//! | 48 | 8 | salt, random |
//! | 56 | 8 | length of the file at its creation; it never gets shorter |
//! | 64 | 4 | CRC32C of bytes 0..64; the seed of the first batch |
//! | 68 | 4 | `rkvS` |
//! | 72 | | batches; the first one repeats the current marks and the hard state |
//! | | | zeros |
//!
//! A segment is made of the spare segment (`spare.rs`), which gets a header and a first batch. It is synced and renamed
//! before any other batch is written. Earlier segments can therefore be deleted as soon as their entries are not
//! needed, and a crash leaves either a whole segment or no segment. A segment without its first batch, or shorter than
//! at its creation, is damaged. If shorter files were accepted, a truncated file could pass for a torn tail.

mod reader;
mod spare;
mod window;
mod writer;

pub use reader::{BatchStep, SegmentReader};
pub use spare::{Begun, FIRST_BYTES_MAX, Naming, SPARE, Spare};
pub use writer::SegmentWriter;

use crate::storage::format::{FORMAT_VERSION, parse_numbers, u32_at};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 72;

const MAGIC: &[u8; 8] = b"rkvdwal\0";
const END_MARKER: &[u8; 4] = b"rkvS";
const CRC_AT: usize = 64;
const MARKER_AT: usize = 68;
/// The end of the names of files that are not part of the log. Earlier versions created each segment under such a name.
pub const TEMPORARY: &str = ".tmp";

/// The two numbers in a segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Position among the segments, from 0.
    pub sequence: u64,
    /// One after the index of the log's last entry at the creation of the segment.
    pub first_index: u64,
}

impl Name {
    /// The name of the file.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.wal", self.sequence, self.first_index)
    }

    /// Parses a file name. `None` if it is not the name of a segment.
    pub fn parse(name: &str) -> Option<Name> {
        let (sequence, first_index) = parse_numbers(name.strip_suffix(".wal")?)?;
        Some(Name {
            sequence,
            first_index,
        })
    }
}

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sequence and first index.
    pub name: Name,
    /// Body CRC of the last batch of the segment before.
    pub previous: u32,
    /// Cluster id, 0 if an empty member created the segment.
    pub cluster: u64,
    /// Member id.
    pub member: u64,
    /// Random, so that bytes of another file are never accepted as a batch of this file.
    pub salt: u64,
    /// Length of the file at its creation, in bytes.
    pub len: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous.to_le_bytes());
        let fields = [
            self.cluster,
            self.member,
            self.name.sequence,
            self.name.first_index,
            self.salt,
            self.len,
        ];
        for (place, field) in bytes[16..CRC_AT].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..MARKER_AT].copy_from_slice(&crc.to_le_bytes());
        bytes[MARKER_AT..].copy_from_slice(END_MARKER);
        bytes
    }

    fn crc(&self) -> u32 {
        u32_at(&self.encode(), CRC_AT)
    }
}
