//! Checking a snapshot file while it arrives from somewhere that may send anything: block by block, so that the first wrong
//! byte ends it, and no more than one block is kept.

use super::read::{Unusable, check_footer, entries, parse_header};
use super::{BLOCK_BYTES_LIMIT, BLOCK_HEAD_BYTES, FOOTER_BYTES, HEADER_START_BYTES, block_crc};
use crate::command::SnapshotHeader;
use crate::limits;
use crate::storage::error::StorageError;
use crate::storage::format::u32_at;
use crc32c::crc32c;
use std::path::{Path, PathBuf};

/// What of the file comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    HeaderStart,
    Header,
    BlockHead,
    Block,
    Footer,
    Nothing,
}

/// Takes the bytes of a file in their order. That it is whole, and that no key stands twice, is for who reads the
/// whole file to say.
#[derive(Debug)]
pub struct ArrivingSnapshot {
    path: PathBuf,
    next: Part,
    /// Of the part that comes next.
    buffer: Vec<u8>,
    /// As many bytes as make it complete.
    needed: usize,
    /// Where the part starts.
    start: u64,
    header: SnapshotHeader,
    crc: u32,
    entries: u64,
    blocks: u64,
}

/// A file that has arrived whole, and whose every CRC is right.
#[derive(Debug, Clone, PartialEq)]
pub struct ArrivedSnapshot {
    /// The header of the file.
    pub header: SnapshotHeader,
    /// The number of keys.
    pub entries: u64,
    /// The size of the file.
    pub bytes: u64,
}

impl ArrivingSnapshot {
    /// Nothing has arrived. Errors name this path.
    pub fn new(path: &Path) -> ArrivingSnapshot {
        ArrivingSnapshot {
            path: path.to_owned(),
            next: Part::HeaderStart,
            buffer: Vec::new(),
            needed: HEADER_START_BYTES,
            start: 0,
            header: SnapshotHeader::default(),
            crc: 0,
            entries: 0,
            blocks: 0,
        }
    }

    /// Takes the next bytes. After an error nothing is to be taken any more.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            if self.next == Part::Nothing {
                return Err(self.corrupt("something follows its footer"));
            }
            let missing = self.needed - self.buffer.len();
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == self.needed {
                self.complete()?;
            }
        }
        Ok(())
    }

    /// The file, if all of it has arrived.
    pub fn end(self) -> Result<ArrivedSnapshot, StorageError> {
        if self.next != Part::Nothing {
            return Err(self.corrupt("it ends too early"));
        }
        Ok(ArrivedSnapshot {
            header: self.header,
            entries: self.entries,
            bytes: self.start,
        })
    }

    /// A part is complete.
    fn complete(&mut self) -> Result<(), StorageError> {
        match self.next {
            Part::HeaderStart => {
                let len = u32_at(&self.buffer, 12) as usize;
                if len > limits::SNAPSHOT_HEADER_BYTES_MAX {
                    return Err(self.corrupt("its header claims to be longer than it may be"));
                }
                self.go_on(Part::Header, len + 4);
            }
            Part::Header => {
                self.header = parse_header(&self.path, &self.buffer)?;
                self.crc = crc32c(&self.buffer[..self.buffer.len() - 4]);
                self.expect_block();
            }
            Part::BlockHead => match u32_at(&self.buffer, 0) as usize {
                0 => self.go_on(Part::Footer, FOOTER_BYTES - BLOCK_HEAD_BYTES),
                payload if payload > BLOCK_BYTES_LIMIT => {
                    return Err(self.corrupt("a block claims to be longer than it may be"));
                }
                payload => self.go_on(Part::Block, payload),
            },
            Part::Block => {
                self.check_block()?;
                self.expect_block();
            }
            Part::Footer => {
                let counted = (self.entries, self.blocks);
                check_footer(self.crc, &self.buffer, counted).map_err(|why| self.corrupt(why))?;
                self.start += self.buffer.len() as u64;
                self.next = Part::Nothing;
            }
            Part::Nothing => {}
        }
        Ok(())
    }

    fn check_block(&mut self) -> Result<(), StorageError> {
        self.crc = block_crc(self.crc, &self.buffer);
        if self.crc != u32_at(&self.buffer, 8) {
            return Err(self.corrupt("the CRC of a block does not match"));
        }
        for entry in entries(&self.buffer, self.header.index) {
            match entry {
                Ok(_) => {}
                Err(Unusable::Wrong(why)) => return Err(self.corrupt(why)),
                Err(Unusable::Later(later)) => {
                    let path = self.path.clone();
                    return Err(StorageError::Later { path, later });
                }
            }
        }
        self.entries += u64::from(u32_at(&self.buffer, 4));
        self.blocks += 1;
        Ok(())
    }

    /// The rest of a part of which the first bytes are there.
    fn go_on(&mut self, part: Part, bytes: usize) {
        self.next = part;
        self.needed += bytes;
    }

    fn expect_block(&mut self) {
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        self.next = Part::BlockHead;
        self.needed = BLOCK_HEAD_BYTES;
    }

    fn corrupt(&self, why: &str) -> StorageError {
        StorageError::corrupt(&self.path, self.start, why)
    }
}
