//! Entry points for the fuzzers, which are separate crates (`tests/fuzz/`). The parsers behind the entry points stay
//! private, so that nothing else depends on them.

pub use super::frame::Carries;
use super::frame::{self, Frames};
use super::handshake;
use hyper::HeaderMap;
use raft::eraftpb::Message;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, ReadBuf};

/// A reader that returns its bytes in pieces and is always ready.
struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.piece.min(self.bytes.len()).min(buffer.remaining());
        let (now, rest) = self.bytes.split_at(count);
        buffer.put_slice(now);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

/// Reads what peer 2 sends to member 1 on one connection, in pieces of `piece` bytes.
pub fn stream(bytes: &[u8], piece: usize, carries: Carries) -> Result<Vec<Message>, String> {
    let mut from = Pieces {
        bytes,
        piece: piece.max(1),
    };
    let (mut frames, mut messages) = (Frames::default(), Vec::new());
    loop {
        while let Some(payload) = frames.take().map_err(|e| e.to_string())? {
            messages.extend(frame::decode(&payload, 2, 1, carries).map_err(|e| e.to_string())?);
        }
        let fill = pin!(frames.fill(&mut from));
        match fill.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(0)) => return Ok(messages),
            Poll::Ready(Ok(_)) => {}
            other => panic!("memory neither fails nor makes wait: {other:?}"),
        }
    }
}

/// Encodes messages as one frame.
pub fn encode(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(messages, &mut bytes);
    bytes
}

/// Reads the head of a handshake, as a request and as an answer, and writes the result as headers again.
pub fn handshake(headers: &HeaderMap) -> Option<HeaderMap> {
    if let Ok(answer) = handshake::read_answer(headers) {
        let mut written = HeaderMap::new();
        handshake::write_answer(&answer, &mut written);
        assert_eq!(handshake::read_answer(&written).ok(), Some(answer));
    }
    let claims = handshake::read(headers).ok()?;
    let mut written = HeaderMap::new();
    handshake::write(&claims, &mut written);
    assert_eq!(handshake::read(&written).ok(), Some(claims));
    Some(written)
}

/// Reads the body of a refusal. Returns whether it was valid.
pub fn refusal(body: &[u8]) -> bool {
    handshake::parse_refusal(body, handshake::Trust::Known).is_some()
}
