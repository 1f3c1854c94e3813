//! The bytes of incomplete heads of requests: how many one connection holds, and all connections together.
//!
//! hyper reads ahead. One read can bring the end of a request and the start of the next head, which waits in hyper's
//! buffer until the request is answered. hyper does not say how many bytes these are. So they are estimated: of the
//! bytes that have arrived, a head takes at least the bytes of its parts, and a body the bytes that were announced. What
//! is left of the last read belongs to the next head.
//!
//! Invariant: the estimate is never too low. It is too high by the spaces in a head and, after a chunked body, by a part
//! of one read, unless that read ends with the body.

use crate::limits;
use hyper::Request;
use hyper::body::Body;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The share of one connection. Its socket and its requests use it in turns, never at the same time.
pub(super) struct Heads {
    /// Bytes of the head of the next request that have arrived.
    own: AtomicUsize,
    /// The same, for all connections together.
    all: Arc<AtomicUsize>,
    /// The size of the last read.
    last_read: AtomicUsize,
    /// The last read ended as a whole head, and a whole chunked body, does.
    ends_whole: AtomicBool,
    /// Bytes of the body of the current request that have not arrived, or [`CHUNKED`].
    body_left: AtomicU64,
}

/// The length of the body is known only at its end.
const CHUNKED: u64 = u64::MAX;

impl Heads {
    pub(super) fn new(all: Arc<AtomicUsize>) -> Heads {
        Heads {
            own: AtomicUsize::new(0),
            all,
            last_read: AtomicUsize::new(0),
            ends_whole: AtomicBool::new(false),
            body_left: AtomicU64::new(0),
        }
    }

    /// Counts the bytes of one read by hyper.
    pub(super) fn arrived(&self, bytes: &[u8]) {
        let count = bytes.len();
        self.ends_whole.store(bytes.ends_with(b"\r\n\r\n"), Relaxed);
        self.last_read.store(count, Relaxed);
        let body_left = self.body_left.load(Relaxed);
        let body = body_left.min(count as u64);
        if body_left != CHUNKED {
            self.body_left.store(body_left - body, Relaxed);
        }
        self.count(count - body as usize);
    }

    /// Returns an error if the heads of all connections are too large together, and the head on this connection is not
    /// small.
    pub(super) fn check(&self) -> io::Result<()> {
        let own = self.own.load(Relaxed);
        match own > limits::HEAD_SMALL_BYTES && self.all.load(Relaxed) > limits::HEADS_BYTES_MAX {
            true => Err(io::Error::other("too many incomplete heads of requests")),
            false => Ok(()),
        }
    }

    /// The head of this request is complete.
    pub(super) fn complete<B: Body>(&self, request: &Request<B>) {
        let body = request.body().size_hint().exact();
        self.taken(least_bytes(request), body.unwrap_or(CHUNKED));
    }

    /// hyper has taken a head of at least this length out of its buffer, and takes this body next.
    fn taken(&self, head: usize, body: u64) {
        let own = self.own.load(Relaxed);
        let rest = own.saturating_sub(head);
        let rest = rest.min(self.last_read.load(Relaxed));
        let part = body.min(rest as u64);
        let body_left = if body == CHUNKED { body } else { body - part };
        self.body_left.store(body_left, Relaxed);
        self.release(own - (rest - part as usize));
    }

    /// The request was answered. What it left unread, if anything, is not read as a head.
    pub(super) fn answered(&self) {
        let is_chunked = self.body_left.swap(0, Relaxed) == CHUNKED;
        if is_chunked && !self.ends_whole.load(Relaxed) {
            self.count(self.last_read.load(Relaxed));
        }
    }

    fn count(&self, bytes: usize) {
        if bytes > 0 {
            self.own.fetch_add(bytes, Relaxed);
            self.all.fetch_add(bytes, Relaxed);
        }
    }

    fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.own.fetch_sub(bytes, Relaxed);
            self.all.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for Heads {
    fn drop(&mut self) {
        self.release(self.own.load(Relaxed));
    }
}

/// The least length of the head of this request.
fn least_bytes<B>(request: &Request<B>) -> usize {
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let line = request.method().as_str().len() + target + "  HTTP/1.1\r\n".len();
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + ":\r\n".len());
    line + fields.sum::<usize>() + "\r\n".len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET /key?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n";

    fn get() -> usize {
        let request = Request::builder().uri("/key?a=b");
        let request = request.header("Host", "localhost").body(()).unwrap();
        let least = least_bytes(&request);
        assert_eq!(least, GET.len() - 1, "without the space");
        least
    }

    fn heads() -> (Heads, Arc<AtomicUsize>) {
        let all = Arc::new(AtomicUsize::new(0));
        (Heads::new(Arc::clone(&all)), all)
    }

    fn arrive(heads: &Heads, count: usize) {
        heads.arrived(&vec![b'x'; count]);
    }

    #[test]
    fn a_complete_head_counts_no_more() {
        let (heads, all) = heads();
        arrive(&heads, 10);
        assert_eq!(all.load(Relaxed), 10);
        for _ in 0..1_000 {
            arrive(&heads, GET.len() - 10);
            heads.taken(get(), 0);
            heads.answered();
            // The spaces add up, to one read at most.
            assert!(all.load(Relaxed) < GET.len(), "{all:?}");
            arrive(&heads, 10);
        }
        drop(heads);
        assert_eq!(all.load(Relaxed), 0);
    }

    #[test]
    fn the_start_of_the_next_head_counts_behind_a_request_and_behind_its_body() {
        let (heads, all) = heads();
        arrive(&heads, GET.len() + 5_000);
        heads.taken(get(), 0);
        assert_eq!(all.load(Relaxed), 5_001);
        heads.answered();
        // The bytes that came first are the head of a request with a body, whose last bytes bring the next head.
        arrive(&heads, 50);
        heads.taken(5_001, 20_050);
        assert_eq!(all.load(Relaxed), 0);
        arrive(&heads, 15_000);
        assert_eq!(all.load(Relaxed), 0);
        arrive(&heads, 5_000 + 6_000);
        assert_eq!(all.load(Relaxed), 6_000);
        heads.answered();
        assert!(heads.check().is_ok());
        all.fetch_add(limits::HEADS_BYTES_MAX, Relaxed);
        assert!(heads.check().is_err());
    }

    #[test]
    fn behind_a_chunked_body_the_whole_last_read_counts() {
        let (heads, all) = heads();
        arrive(&heads, GET.len());
        heads.taken(get(), CHUNKED);
        arrive(&heads, 60_000);
        arrive(&heads, 7_000);
        assert_eq!(all.load(Relaxed), 0);
        heads.answered();
        assert_eq!(all.load(Relaxed), 7_000);
        // An idle connection after a chunked body holds no head.
        heads.taken(7_000, CHUNKED);
        heads.arrived(&[&[b'x'; 7_000][..], b"\r\n0\r\n\r\n"].concat());
        heads.answered();
        assert_eq!(all.load(Relaxed), 0);
    }
}
