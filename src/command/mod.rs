//! The data of log entries: the protobuf types generated from `raftkvd.proto`, and their encoding.
//!
//! The data of a normal entry is a [`Batch`]: the commands of many clients share one entry. A conf change entry has a
//! batch with exactly one command in its context.
//!
//! Invariants:
//! - An encoded batch is never empty. Raft-rs turns a refused conf change into an entry without data, so "no data" has
//!   to mean "nothing to apply".
//! - A batch writes no key twice, neither by two commands nor within one transaction. The ETag of a key is the index of
//!   the entry that wrote it, and two values must not share an ETag.

use crate::numbers::NodeId;
use bytes::Bytes;
use protobuf::{CodedInputStream, Message as _, ProtobufError};
use raft::eraftpb::{Entry, EntryType};
use version::Later;

pub mod outcome;
pub mod proposal;
pub mod version;

// The generated code predates some lints.
#[allow(
    clippy::all,
    clippy::too_many_lines,
    rustdoc::all,
    missing_docs,
    unused
)]
#[allow(mismatched_lifetime_syntaxes, renamed_and_removed_lints)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::raftkvd::{
    Batch, Check, Command, Etags, Extents, Kind, Listed, Member, RemovedMember, ReplicatedState,
    RevokedKey, Session, SnapshotHeader, Transaction, Unsettled, Write,
};

/// Approximate memory of one check or write of a transaction, besides its key and value.
const OPERATION_BYTES: usize = 64;

impl Command {
    /// The bytes of keys and values that count towards the limits.
    pub fn payload_bytes(&self) -> usize {
        let single = self.key.len() + self.value.len();
        self.transaction.as_ref().map_or(single, |transaction| {
            let checks = transaction.checks.iter().map(|check| check.key.len());
            let writes = transaction.writes.iter();
            let writes = writes.map(|write| write.key.len() + write.value.len());
            checks
                .chain(writes)
                .map(|bytes| bytes + OPERATION_BYTES)
                .sum()
        })
    }

    /// The keys that the command may write.
    pub fn written_keys(&self) -> impl Iterator<Item = &Bytes> {
        let single = (self.kind != Kind::Transaction).then_some(&self.key);
        let writes = self.transaction.iter().flat_map(|t| t.writes.iter());
        single.into_iter().chain(writes.map(|write| &write.key))
    }
}

/// Encodes a batch for an entry.
pub fn encode(batch: &Batch) -> Bytes {
    assert!(
        !batch.commands.is_empty(),
        "a batch of member {} has no command: an empty entry means nothing to apply",
        batch.member
    );
    Bytes::from(
        batch
            .write_to_bytes()
            .expect("a batch has no required field that could be missing"),
    )
}

/// Why this build can't decode the data of an entry.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The data is not a batch.
    #[error(transparent)]
    Malformed(#[from] ProtobufError),
    /// A later version has written the data.
    #[error("it {0}")]
    Later(#[from] Later),
}

/// Decodes the data of an entry. Succeeds only if this build knows everything in it. Keys and values are slices of
/// `data` and keep it alive.
pub fn decode(data: &Bytes) -> Result<Batch, DecodeError> {
    let mut stream = CodedInputStream::from_carllerche_bytes(data);
    let mut batch = Batch::new();
    batch.merge_from(&mut stream)?;
    stream.check_eof()?;
    version::check_batch(&batch)?;
    Ok(batch)
}

/// Decodes the batch of an entry. Succeeds only if this build knows everything in it. `None` if the entry has no data.
pub fn of_entry(entry: &Entry) -> Result<Option<Batch>, DecodeError> {
    version::check_entry(entry)?;
    let data = match entry.get_entry_type() {
        EntryType::EntryNormal => &entry.data,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => &entry.context,
    };
    match data.is_empty() {
        true => Ok(None),
        false => decode(data).map(Some),
    }
}

/// The member and the incarnation that proposed a batch. Decodes only these two fields.
pub fn proposer(data: &Bytes) -> Option<(NodeId, u64)> {
    let mut stream = CodedInputStream::from_carllerche_bytes(data);
    // Fields are encoded in the order of their numbers, and a field with value 0 is omitted. Neither of these two is 0.
    let (field, _) = stream.read_tag_unpack().ok()?;
    let member = stream.read_uint64().ok().filter(|_| field == 1)?;
    let (field, _) = stream.read_tag_unpack().ok()?;
    let incarnation = stream.read_fixed64().ok().filter(|_| field == 2)?;
    Some((member, incarnation))
}
