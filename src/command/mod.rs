//! What an entry carries: the protobuf types generated from `raftkvd.proto`, and their coding.
//!
//! A normal entry's data is a [`Batch`]: many clients' commands share one entry. A conf change entry carries in its
//! context a batch with exactly one command.
//!
//! Invariants: an encoded batch is never empty (raft-rs turns a refused conf change into an entry without data, so
//! "no data" must mean "nothing to apply"); nothing in one batch writes a key twice, neither two commands nor one
//! transaction (the ETag of a key is the index of the entry that wrote it, and has to tell two values apart).

use crate::numbers::NodeId;
use bytes::Bytes;
use protobuf::{CodedInputStream, Message as _, ProtobufError};
use raft::eraftpb::{Entry, EntryType};
use version::Later;

pub mod outcome;
pub mod proposal;
pub mod version;

// The generator is older than some lints.
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
    Batch, Check, Command, Etags, Kind, Listed, Member, RemovedMember, ReplicatedState, Session,
    SnapshotHeader, Transaction, Unsettled, Write,
};

/// What a check or a write of a transaction counts beside its key and value: about what it takes in memory.
const OPERATION_BYTES: usize = 64;

impl Command {
    /// What it counts towards the limits on bytes: its keys and values.
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

    /// The keys that it may write.
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

/// The data of an entry is of no use to this build.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is no batch.
    #[error(transparent)]
    Malformed(#[from] ProtobufError),
    /// A later version has made it.
    #[error("it {0}")]
    Later(#[from] Later),
}

/// Decodes the data of an entry, all of which this build knows then. Keys and values are slices of `data` and keep it
/// alive.
pub fn decode(data: &Bytes) -> Result<Batch, DecodeError> {
    let mut stream = CodedInputStream::from_carllerche_bytes(data);
    let mut batch = Batch::new();
    batch.merge_from(&mut stream)?;
    stream.check_eof()?;
    version::check_batch(&batch)?;
    Ok(batch)
}

/// What an entry carries, all of which this build knows then. `None`: nothing.
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

/// Who proposes the batch in this data: member and incarnation. Reads no further than it has to.
pub fn proposer(data: &Bytes) -> Option<(NodeId, u64)> {
    let mut stream = CodedInputStream::from_carllerche_bytes(data);
    // As they are encoded: by field number, and a field that is 0 is left out, which neither of the two is.
    let (field, _) = stream.read_tag_unpack().ok()?;
    let member = stream.read_uint64().ok().filter(|_| field == 1)?;
    let (field, _) = stream.read_tag_unpack().ok()?;
    let incarnation = stream.read_fixed64().ok().filter(|_| field == 2)?;
    Some((member, incarnation))
}
