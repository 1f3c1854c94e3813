//! The socket of a client, as hyper uses it.
//!
//! hyper reads and writes through this module, which adds these rules:
//! - It disconnects a client that takes no byte of its response.
//! - A stream without end (a watch) ends when its client has closed the connection, or its sending side: hyper itself
//!   would notice only at the next event. While any other response is sent, a client may close its sending side.
//! - A connection that ends while the client still sends stays open for reading for a moment. If it were closed at
//!   once, the kernel would send a reset, which can destroy the response on its way.
//! - The bytes of incomplete heads are limited over all connections.
//! - In HTTP/1.0, a stream has neither a length nor a last chunk, so the end of the connection is the end of the
//!   stream. If a stream breaks off, its connection therefore ends with a reset, also when this process is killed.

use super::heads::Heads;
use super::slots::Progress;
use crate::limits;
use crate::tls::{self, Stream};
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// State that a connection's socket, its requests and its task share.
pub(super) struct ConnectionState {
    /// Whether the connection may give way to another.
    pub(super) progress: Arc<Progress>,
    /// The head of the next request, as far as it has arrived.
    pub(super) heads: Heads,
    /// The API is processing a request.
    pub(super) busy: AtomicBool,
    /// A request was answered before its whole body was read, so the connection ends.
    pub(super) unread: AtomicBool,
    /// A response whose end is the end of the connection is being sent.
    pub(super) ends_response: AtomicBool,
    /// A stream without end is being sent.
    pub(super) is_endless: AtomicBool,
    /// The first byte on the connection starts a TLS handshake, in the place of a request.
    pub(super) speaks_tls: AtomicBool,
    /// The process is stopping.
    pub(super) stopping: AtomicBool,
    /// Notified when the process is stopping and the request was answered.
    pub(super) answered: Notify,
}

impl ConnectionState {
    pub(super) fn new(
        progress: Arc<Progress>,
        all_head_bytes: Arc<AtomicUsize>,
    ) -> ConnectionState {
        ConnectionState {
            progress,
            heads: Heads::new(all_head_bytes),
            busy: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            ends_response: AtomicBool::new(false),
            is_endless: AtomicBool::new(false),
            speaks_tls: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            answered: Notify::new(),
        }
    }
}

pub(super) struct Socket {
    stream: Stream,
    /// Nothing was read yet.
    is_fresh: bool,
    state: Arc<ConnectionState>,
    /// What the client has sent during a stream without end: the start of its next request.
    ahead: Vec<u8>,
    /// The kernel resets the connection when the socket is closed.
    resets: bool,
    /// `TCP_USER_TIMEOUT` is set.
    may_time_out: bool,
    /// Runs while the client takes no bytes.
    stalled: Option<Pin<Box<Sleep>>>,
    /// With TLS, the bytes that the kernel had taken when `stalled` was started.
    bytes_taken: Option<u64>,
    /// This side of the connection was shut down.
    is_shut_down: bool,
    /// Runs while this side is being shut down, and afterwards.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(stream: Stream, state: Arc<ConnectionState>) -> Socket {
        Socket {
            stream,
            is_fresh: true,
            state,
            ahead: Vec::new(),
            resets: false,
            may_time_out: false,
            stalled: None,
            bytes_taken: None,
            is_shut_down: false,
            lingering: None,
        }
    }

    /// If the end of the connection is the end of the response, makes the kernel reset the connection on close. Called
    /// before each write.
    fn reset_if_broken_off(&mut self) -> io::Result<()> {
        let resets = self.state.ends_response.load(Ordering::SeqCst);
        if self.resets != resets {
            set_socket_linger(self.stream.socket(), resets.then_some(Duration::ZERO))?;
            self.resets = resets;
        }
        Ok(())
    }

    /// Sets `TCP_USER_TIMEOUT`, or clears it. The option detects a vanished watcher, which may not be sent anything for
    /// long. For everything else there are other limits, and the option would be wrong: the kernel also lets its time pass
    /// while the window of a client is closed, and does not start it again when a client that reads slowly opens its
    /// window a little.
    fn set_may_time_out(&mut self, may_time_out: bool) {
        #[cfg(target_os = "linux")]
        if self.may_time_out != may_time_out {
            let time = match may_time_out {
                true => limits::CLIENT_SILENCE_MAX.as_millis() as u32,
                false => 0,
            };
            // Without the option, TCP notices a vanished client later.
            let _ = rustix::net::sockopt::set_tcp_user_timeout(self.stream.socket(), time);
        }
        self.may_time_out = may_time_out;
    }

    /// While a stream without end is sent, returns an error if the client has closed its sending side. hyper does not
    /// read meanwhile, because it has to allow other clients to do so. What the client sends is kept for hyper, up to a
    /// limit. Beyond the limit, the connection ends: nobody could notice the end of the client any more.
    fn check_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.state.is_endless.load(Ordering::SeqCst) {
            return Ok(());
        }
        loop {
            let mut space = [MaybeUninit::uninit(); 512];
            let room = limits::AHEAD_BYTES_MAX.saturating_sub(self.ahead.len());
            let room = room.min(space.len());
            if room == 0 {
                return Err(io::Error::other("the client sends too much during a watch"));
            }
            let mut buffer = ReadBuf::uninit(&mut space[..room]);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut buffer) else {
                return Ok(());
            };
            read?;
            if buffer.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead.extend_from_slice(buffer.filled());
        }
    }

    /// Limits how long a write may be pending. The kernel takes bytes whenever the client has taken some, in steps of
    /// about [`limits::UNSENT_BYTES_MAX`], so a client that reads slowly stays within the limit.
    fn watched(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            return self.wait_for_client(cx).map(Err);
        }
        // With TLS, the bytes may wait to be sent: the flush waits for that.
        if self.stream.bytes_taken().is_none() {
            self.client_takes_bytes();
        }
        written
    }

    /// The client has taken what was sent before.
    fn client_takes_bytes(&mut self) {
        self.stalled = None;
        let is_endless = self.state.is_endless.load(Ordering::SeqCst);
        self.set_may_time_out(is_endless);
    }

    /// Returns an error when the client has taken no byte for [`limits::WRITE_STALL_TIMEOUT`].
    fn wait_for_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.set_may_time_out(false);
        if let Err(error) = self.check_client(cx) {
            return Poll::Ready(error);
        }
        let taken = self.stream.bytes_taken();
        if self.bytes_taken != taken {
            self.bytes_taken = taken;
            self.stalled = None;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(limits::WRITE_STALL_TIMEOUT)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Shuts down this side. With TLS, that sends a last message, for which the kernel may have no room: then it is left
    /// out after a short time.
    fn shut_down(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(done) = Pin::new(&mut self.stream).poll_shutdown(cx) {
            return Poll::Ready(done);
        }
        self.linger().as_mut().poll(cx).map(Ok)
    }

    fn linger(&mut self) -> &mut Pin<Box<Sleep>> {
        self.lingering
            .get_or_insert_with(|| Box::pin(sleep(limits::LINGER_TIMEOUT)))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let heads = &self.state.heads;
        let is_head = self.state.progress.is_waiting();
        if is_head {
            // The start of this head may have come with the request before it.
            heads.check()?;
        }
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            heads.arrived(&self.ahead[..count]);
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if std::mem::take(&mut self.is_fresh) {
            let first = buffer.filled().get(before);
            let speaks_tls = first.is_some_and(|byte| tls::is_tls(*byte));
            self.state.speaks_tls.store(speaks_tls, Ordering::SeqCst);
        }
        let heads = &self.state.heads;
        heads.arrived(&buffer.filled()[before..]);
        Poll::Ready(if is_head { heads.check() } else { Ok(()) })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.reset_if_broken_off()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.reset_if_broken_off()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(flushed) => flushed?,
            Poll::Pending => return self.wait_for_client(cx).map(Err),
        }
        self.client_takes_bytes();
        if !self.state.unread.load(Ordering::SeqCst) {
            self.state.progress.flushed();
        }
        Poll::Ready(self.check_client(cx))
    }

    /// Shuts down this side, then discards what the client still sends, until the client closes its side too or a short
    /// time has passed.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            // hyper shuts the connection down only after a whole response.
            self.state.ends_response.store(false, Ordering::SeqCst);
            self.reset_if_broken_off()?;
            self.set_may_time_out(false);
            self.state.progress.ends();
            ready!(self.shut_down(cx))?;
            self.is_shut_down = true;
            // While the process stops, an idle client may never close its side, so there is nothing to wait for.
            if self.state.stopping.load(Ordering::SeqCst)
                && !self.state.unread.load(Ordering::SeqCst)
            {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            if self.linger().as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut space);
            // tokio's budget makes this read pending now and then, so a client that never stops sending can't occupy
            // the thread.
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::net::sockopt::tcp_user_timeout;

    #[tokio::test]
    async fn only_a_watcher_that_takes_bytes_can_time_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let _client = client.await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let state = ConnectionState::new(Arc::new(Progress::new(0)), Arc::default());
        let state = Arc::new(state);
        let mut socket = Socket::new(stream.into(), Arc::clone(&state));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut written = |socket: &mut Socket, written| {
            let _ = socket.watched(&mut cx, written);
            u64::from(tcp_user_timeout(socket.stream.socket()).unwrap())
        };
        assert_eq!(written(&mut socket, Poll::Ready(Ok(1))), 0);
        state.is_endless.store(true, Ordering::SeqCst);
        let silence = limits::CLIENT_SILENCE_MAX;
        assert!(limits::WATCH_ID_INTERVAL + silence < Duration::from_secs(60));
        let silence = silence.as_millis() as u64;
        assert_eq!(written(&mut socket, Poll::Ready(Ok(1))), silence);
        assert_eq!(written(&mut socket, Poll::Pending), 0);
        assert_eq!(written(&mut socket, Poll::Ready(Ok(1))), silence);
        state.is_endless.store(false, Ordering::SeqCst);
        assert_eq!(written(&mut socket, Poll::Ready(Ok(1))), 0);
    }
}
