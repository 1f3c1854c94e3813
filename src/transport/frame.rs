//! Frames: the layout of messages on a stream between two peers.
//!
//! ```text
//! offset  size  field
//!      0     4  length of the payload, little endian, 1 to FRAME_BYTES_MAX
//!      4     4  CRC32C of the payload, little endian
//!      8     n  payload: messages, each as a varint length and a protobuf `eraftpb.Message`
//! ```
//!
//! Invariants:
//! - A length field causes no allocation. The reader's buffer grows only as bytes arrive.
//! - No part of a frame is decoded before the checksum of the frame was verified.
//! - A frame is delivered as a whole or, on any fault, not at all. After a fault the connection ends, because the start
//!   of the next frame can't be trusted either.
//!
//! RUSTSEC-2024-0437 says that protobuf's decoder recurses on nested groups without a limit. The decoder of version
//! 2.28 refuses a group within a group, and a test of the fuzz targets (tests/fuzz/) checks that.

use crate::limits::{FRAME_BYTES_MAX, FRAME_BYTES_TARGET, FRAME_DATA_APART_BYTES};
use bytes::{Buf as _, Bytes, BytesMut};
use protobuf::rt::compute_raw_varint32_size;
use protobuf::wire_format::WireTypeLengthDelimited;
use protobuf::{CodedInputStream, CodedOutputStream, Message as _, ProtobufError, ProtobufResult};
use raft::eraftpb::{Entry, Message, MessageType};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes of the header, which precedes the payload.
pub(super) const HEADER_BYTES: usize = 8;

/// Buffer space that is reserved before every read.
const READ_BYTES: usize = 64 << 10;

/// Why a frame, or a message in a frame, was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame claims {0} bytes, 1 to {FRAME_BYTES_MAX} are allowed")]
    Length(usize),
    #[error("the checksum of a frame is wrong")]
    Checksum,
    #[error("a frame does not decode: {0}")]
    Undecodable(#[from] ProtobufError),
    #[error("a message goes from {from} to {to}, on a stream from {peer} to {me}")]
    Misdirected {
        from: u64,
        to: u64,
        peer: u64,
        me: u64,
    },
    #[error("a message of type {0:?} has no place on this connection")]
    WrongType(MessageType),
}

/// An outgoing frame. The data of large entries is shared with the log and not copied into the frame.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// Shared data, each with the number of bytes of `bytes` that precede it.
    apart: Vec<(usize, Bytes)>,
}

impl Outgoing {
    /// Replaces the frame by one with these messages, and empties `messages`. The messages must fit (see [`fits`]).
    pub(super) fn fill(&mut self, messages: &mut Vec<Message>) {
        self.clear();
        self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
        for message in messages.drain(..) {
            if message.entries.iter().any(goes_apart) {
                self.push_with_data_apart(message);
            } else {
                self.code(|stream| message.write_length_delimited_to(stream));
            }
        }
        let (mut length, mut checksum) = (0, 0);
        for piece in self.pieces() {
            // The first piece holds at least the header.
            let payload = &piece[if length == 0 { HEADER_BYTES } else { 0 }..];
            length += payload.len();
            checksum = crc32c::crc32c_append(checksum, payload);
        }
        assert!(
            (1..=FRAME_BYTES_MAX).contains(&length),
            "a frame of {length} bytes was made, 1 to {FRAME_BYTES_MAX} are allowed"
        );
        self.bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        self.bytes[4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Drops the frame after it was written or given up.
    pub(super) fn clear(&mut self) {
        self.apart.clear();
        self.bytes.clear();
        // Returns the memory that one huge frame needed.
        self.bytes.shrink_to(2 * FRAME_BYTES_TARGET);
    }

    /// The bytes of the frame, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut before = 0;
        let apart = self.apart.iter().flat_map(move |(at, data)| {
            let own = &self.bytes[std::mem::replace(&mut before, *at)..*at];
            [own, &**data]
        });
        let rest = self.apart.last().map_or(0, |(at, _)| *at);
        apart.chain(std::iter::once(&self.bytes[rest..]))
    }

    /// protobuf allows the fields of a message in any order, and a repeated field in several parts. So this function
    /// writes everything but the entries first. Then it writes each entry with its data as the last field.
    fn push_with_data_apart(&mut self, mut message: Message) {
        let entries = message.take_entries().into_iter().map(|mut entry| {
            let data = match goes_apart(&entry) {
                true => std::mem::take(&mut entry.data),
                false => Bytes::new(),
            };
            let of_data = if data.is_empty() {
                0
            } else {
                field_bytes(data.len())
            };
            let size = entry.compute_size() as usize + of_data;
            (entry, data, size)
        });
        let entries: Vec<_> = entries.collect();
        let of_entries = entries.iter().map(|(.., size)| field_bytes(*size));
        let size = message.compute_size() as usize + of_entries.sum::<usize>();
        self.code(|stream| {
            stream.write_raw_varint32(size as u32)?;
            message.write_to_with_cached_sizes(stream)
        });
        for (entry, data, size) in entries {
            self.code(|stream| {
                stream.write_tag(ENTRIES_FIELD, WireTypeLengthDelimited)?;
                stream.write_raw_varint32(size as u32)?;
                entry.write_to_with_cached_sizes(stream)?;
                if !data.is_empty() {
                    stream.write_tag(DATA_FIELD, WireTypeLengthDelimited)?;
                    stream.write_raw_varint32(data.len() as u32)?;
                }
                Ok(())
            });
            if !data.is_empty() {
                self.apart.push((self.bytes.len(), data));
            }
        }
    }

    fn code(&mut self, write: impl FnOnce(&mut CodedOutputStream<'_>) -> ProtobufResult<()>) {
        let mut stream = CodedOutputStream::vec(&mut self.bytes);
        write(&mut stream)
            .and_then(|()| stream.flush())
            .expect("memory takes every byte, and a raft message has no required fields");
    }
}

/// `eraftpb.Message.entries`.
const ENTRIES_FIELD: u32 = 7;
/// `eraftpb.Entry.data`.
const DATA_FIELD: u32 = 4;

fn goes_apart(entry: &Entry) -> bool {
    entry.data.len() >= FRAME_DATA_APART_BYTES
}

/// Size of a field with `bytes` bytes of content, with its tag (one byte, because its number is below 16) and its
/// length.
fn field_bytes(bytes: usize) -> usize {
    1 + compute_raw_varint32_size(bytes as u32) as usize + bytes
}

/// Appends one frame with these messages to `out`. The messages must fit (see [`fits`]).
pub(super) fn encode(messages: &[Message], out: &mut Vec<u8>) {
    let mut frame = Outgoing::default();
    frame.fill(&mut messages.to_vec());
    out.extend(frame.pieces().flatten());
}

/// Whether a message of this encoded size fits into a frame: alone, or as the last message after less than
/// `FRAME_BYTES_TARGET` bytes. The limit leaves room for the length prefixes too.
pub(super) fn fits(message_bytes: usize) -> bool {
    message_bytes <= FRAME_BYTES_MAX - 2 * FRAME_BYTES_TARGET
}

/// The encoded size of a message in bytes.
pub(super) fn encoded(message: &Message) -> usize {
    message.compute_size() as usize
}

/// Extracts frames from bytes as they arrive.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// Appends bytes that have arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The number of bytes that have arrived and belong to no extracted frame.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The bytes after the last extracted frame.
    pub(super) fn into_rest(self) -> Bytes {
        self.buffer.freeze()
    }

    /// Extracts the payload of the next frame, if the frame is complete and its checksum is correct.
    pub(super) fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let checksum = self.buffer.get_u32_le();
        let payload = self.buffer.split_to(length).freeze();
        if crc32c::crc32c(&payload) != checksum {
            return Err(FrameError::Checksum);
        }
        Ok(Some(payload))
    }

    /// Reads once, as many bytes as are available. `Ok(0)` is the end of the stream.
    pub(super) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        // The buffer grows at most by its current content or by `READ_BYTES`. Memory is therefore at most twice what
        // has arrived, plus `READ_BYTES`.
        let missing = match self.length() {
            Ok(Some(length)) => (HEADER_BYTES + length).saturating_sub(self.buffer.len()),
            _ => 0,
        };
        let room = missing.min(self.buffer.len()).max(READ_BYTES);
        self.buffer.reserve(room);
        from.read_buf(&mut self.buffer).await
    }

    /// Length of the next frame's payload, if its header has arrived.
    fn length(&self) -> Result<Option<usize>, FrameError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let length = (&self.buffer[..4]).get_u32_le() as usize;
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(FrameError::Length(length));
        }
        Ok(Some(length))
    }
}

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// A stream: all messages of peers except snapshots.
    Messages,
    /// A snapshot transfer: the message of a snapshot.
    Snapshot,
}

/// Decodes the messages of a frame. raft-rs trusts `from` and `to` blindly, so this function checks both. It also
/// checks the type: raft-rs would obey a local message (a tick, a report) even if a peer sent it.
pub(super) fn decode(
    payload: &Bytes,
    peer: u64,
    me: u64,
    carries: Carries,
) -> Result<Vec<Message>, FrameError> {
    let mut stream = CodedInputStream::from_carllerche_bytes(payload);
    let mut messages = Vec::new();
    while !stream.eof()? {
        let message: Message = stream.read_message()?;
        if message.from != peer || message.to != me {
            let (from, to) = (message.from, message.to);
            return Err(FrameError::Misdirected { from, to, peer, me });
        }
        let local = matches!(
            message.get_msg_type(),
            MessageType::MsgHup
                | MessageType::MsgBeat
                | MessageType::MsgUnreachable
                | MessageType::MsgSnapStatus
                | MessageType::MsgCheckQuorum
        );
        let carried = match message.get_msg_type() {
            MessageType::MsgSnapshot => Carries::Snapshot,
            _ => Carries::Messages,
        };
        if local || carried != carries {
            return Err(FrameError::WrongType(message.get_msg_type()));
        }
        messages.push(message);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u64) -> Message {
        let mut message = Message {
            from: 2,
            to: 1,
            index,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgHeartbeat);
        message
    }

    #[test]
    fn frames_survive_arriving_byte_by_byte() {
        let mut bytes = Vec::new();
        encode(&[message(1), message(2)], &mut bytes);
        encode(&[message(3)], &mut bytes);
        let (mut frames, mut got) = (Frames::default(), Vec::new());
        for byte in bytes {
            frames.push(&[byte]);
            while let Some(payload) = frames.take().unwrap() {
                got.extend(decode(&payload, 2, 1, Carries::Messages).unwrap());
            }
        }
        assert_eq!(got, [message(1), message(2), message(3)]);
        assert!(frames.into_rest().is_empty());
    }

    #[test]
    fn damaged_frames_are_errors() {
        let mut good = Vec::new();
        encode(&[message(1)], &mut good);
        for (at, value) in [(0, 0), (3, 0xff), (5, good[5] ^ 1), (good.len() - 1, 0x55)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            if at == 0 {
                bytes[..4].fill(0);
            }
            let mut frames = Frames::default();
            frames.push(&bytes);
            frames.take().unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_length_field_allocates_nothing() {
        let mut frames = Frames::default();
        let header = [(FRAME_BYTES_MAX as u32).to_le_bytes(), [0; 4]].concat();
        frames.push(&header);
        let mut rest: &[u8] = &[7; 100];
        frames.fill(&mut rest).await.unwrap();
        assert!(frames.take().unwrap().is_none());
        assert!(
            frames.buffer.capacity() <= 2 * READ_BYTES,
            "{} bytes were allocated",
            frames.buffer.capacity()
        );
    }

    #[test]
    fn messages_that_do_not_belong_here_are_refused() {
        let payload = |change: fn(&mut Message)| {
            let mut out = message(1);
            change(&mut out);
            Bytes::from(out.write_length_delimited_to_bytes().unwrap())
        };
        let decode = |payload: &Bytes| decode(payload, 2, 1, Carries::Messages);
        decode(&payload(|_| ())).unwrap();
        decode(&payload(|m| m.from = 3)).unwrap_err();
        decode(&payload(|m| m.to = 3)).unwrap_err();
        for kind in [
            MessageType::MsgHup,
            MessageType::MsgBeat,
            MessageType::MsgUnreachable,
            MessageType::MsgSnapStatus,
            MessageType::MsgCheckQuorum,
            MessageType::MsgSnapshot,
        ] {
            let mut out = message(1);
            out.set_msg_type(kind);
            let bytes = Bytes::from(out.write_length_delimited_to_bytes().unwrap());
            decode(&bytes).unwrap_err();
        }
        decode(&Bytes::from_static(b"\x05abc")).unwrap_err();
        // An unknown type decodes as the first type, MsgHup, so it is refused too.
        decode(&Bytes::from_static(b"\x06\x08\x7f\x10\x01\x18\x02")).unwrap_err();
    }

    #[test]
    fn data_that_goes_apart_arrives_as_if_it_did_not() {
        let sizes = [
            0,
            1,
            FRAME_DATA_APART_BYTES - 1,
            FRAME_DATA_APART_BYTES,
            3 << 20,
            0,
            FRAME_DATA_APART_BYTES,
        ];
        let mut append = message(1);
        append.set_msg_type(MessageType::MsgAppend);
        append.commit = 7;
        for (index, size) in (1..).zip(sizes) {
            let mut entry = Entry::default();
            entry.index = index;
            entry.term = 300;
            entry.data = Bytes::from(vec![index as u8; size]);
            entry.context = Bytes::from_static(b"context");
            append.mut_entries().push(entry);
        }
        append.mut_entries().push(Entry::default());
        for messages in [
            vec![append.clone()],
            vec![message(2), append.clone(), message(3), append],
        ] {
            let mut frame = Outgoing::default();
            // A frame that was filled before leaves nothing behind.
            frame.fill(&mut messages.clone());
            frame.fill(&mut messages.clone());
            let data = messages.iter().flat_map(|m| m.entries.iter());
            let apart: Vec<_> = data.filter(|entry| goes_apart(entry)).collect();
            assert_eq!(frame.apart.len(), apart.len());
            for (entry, (_, data)) in apart.iter().zip(&frame.apart) {
                assert_eq!(entry.data.as_ptr(), data.as_ptr(), "it was copied");
            }
            let mut frames = Frames::default();
            frame.pieces().for_each(|piece| frames.push(piece));
            let payload = frames.take().unwrap().unwrap();
            assert_eq!(decode(&payload, 2, 1, Carries::Messages).unwrap(), messages);
            assert!(frames.into_rest().is_empty());
        }
    }

    #[test]
    fn entries_are_slices_of_the_frame() {
        let mut append = message(1);
        append.set_msg_type(MessageType::MsgAppend);
        let entry = raft::eraftpb::Entry {
            data: Bytes::from(vec![9; 1000]),
            ..Default::default()
        };
        append.mut_entries().push(entry);
        let payload = Bytes::from(append.write_length_delimited_to_bytes().unwrap());
        let got = decode(&payload, 2, 1, Carries::Messages).unwrap();
        let data = got[0].entries[0].data.as_ptr();
        assert!(payload.as_ptr_range().contains(&data));
    }
}
