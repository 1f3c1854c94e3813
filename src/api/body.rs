//! Request bodies: read before the deadline, up to a length limit, and within a memory budget that all connections
//! share.

use super::error_code::Code;
use super::reply::{self, Reply, RequestKind};
use crate::command::outcome::NotProposed;
use crate::limits;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

pub(super) struct Body {
    source: Incoming,
    ended: bool,
}

/// A body that was read, with its share of the budget. Dropping the value returns the share.
pub(super) struct ReceivedBody<'a> {
    pub(super) bytes: Bytes,
    pub(super) _share: SemaphorePermit<'a>,
}

impl Body {
    /// Wraps a body of which nothing was read yet.
    pub(super) fn new(source: Incoming) -> Body {
        Body {
            ended: source.is_end_stream(),
            source,
        }
    }

    /// Whether a part of the body was not read.
    pub(super) fn is_unread(&self) -> bool {
        !self.ended
    }

    /// Reads the whole body, which may have up to `limit` bytes.
    pub(super) async fn receive<'a>(
        &mut self,
        budget: &'a Semaphore,
        limit: usize,
        kind: RequestKind,
        deadline: Instant,
    ) -> Result<ReceivedBody<'a>, Box<Reply>> {
        let too_large = || {
            reply::error(
                Code::TooLarge,
                format!(
                    "the body is too large, at most {limit} bytes are allowed; send a smaller one"
                ),
            )
        };
        let full = || reply::not_proposed(kind, NotProposed::QueueFull);
        let announced = self.source.size_hint().lower();
        if announced > limit as u64 {
            return Err(too_large());
        }
        let mut share = budget.try_acquire_many(0).map_err(|_| full())?;
        // Most bodies arrive in one piece, which needs no buffer.
        let mut only = Bytes::new();
        let mut joined = Vec::new();
        while !self.ended {
            let frame = match timeout_at(deadline, self.source.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                Ok(Some(Err(_))) => {
                    return Err(reply::error(
                        Code::BadBody,
                        "the body is incomplete or malformed; send the whole of it again",
                    ));
                }
                Err(_) => return Err(too_slow()),
            };
            self.ended = self.source.is_end_stream();
            // Trailers have no meaning in this API.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let length = only.len() + joined.len() + data.len();
            if length > limit {
                return Err(too_large());
            }
            // The share grows with the bytes received, not with the announced length: a client must send bytes to
            // occupy the budget. The cast is safe, because a frame is far shorter than 4 GiB.
            let part = budget.try_acquire_many(data.len() as u32);
            share.merge(part.map_err(|_| full())?);
            if length == data.len() {
                only = data;
                continue;
            }
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut only));
            }
            grow(&mut joined, data.len(), announced as usize);
            joined.extend_from_slice(&data);
        }
        let bytes = if !joined.is_empty() {
            Bytes::from(joined)
        } else if only.len() <= limits::BODY_COPY_BYTES_MAX {
            // `only` is a slice of the connection's read buffer. The copy frees that buffer for the next request.
            Bytes::copy_from_slice(&only)
        } else {
            only
        };
        Ok(ReceivedBody {
            bytes,
            _share: share,
        })
    }
}

/// Makes room for `more` bytes. The buffer grows with the bytes that have arrived, and not at once to the announced
/// length: memory that is only reserved counts against the limit of the address space. Each step at most doubles the
/// buffer. The last step ends at the announced length, if there is one.
fn grow(buffer: &mut Vec<u8>, more: usize, announced: usize) {
    let length = buffer.len() + more;
    if length > buffer.capacity() {
        let whole = match announced >= length {
            true => (2 * buffer.len()).min(announced),
            false => 2 * buffer.len(),
        };
        let whole = whole.max(length);
        buffer.reserve_exact(whole - buffer.len());
    }
}

fn too_slow() -> Box<Reply> {
    let mut reply = reply::error(
        Code::TooSlow,
        "not written: the body did not come in time; it is safe to send it again",
    );
    reply::set_outcome(&mut reply, "none");
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_with_what_arrives_and_ends_at_the_announced_length() {
        let (announced, piece) = (64 << 20, [0; 10_000]);
        let mut buffer = Vec::new();
        let mut largest = 0;
        while buffer.len() < announced {
            let piece = &piece[..piece.len().min(announced - buffer.len())];
            grow(&mut buffer, piece.len(), announced);
            buffer.extend_from_slice(piece);
            largest = largest.max(buffer.capacity());
            assert!(
                buffer.capacity() <= 2 * buffer.len(),
                "{} of {}",
                buffer.len(),
                buffer.capacity()
            );
        }
        assert_eq!(largest, announced);
    }
}
