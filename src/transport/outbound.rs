//! One lane to one peer: a bounded queue, and the task that writes it to the peer for as long as the peer is known.
//!
//! The task always tries to be connected, also with nothing to send: a refusal has to reach a removed member soon,
//! and the first message after a pause shall not wait for a handshake. A connection that breaks is made again at once: if
//! the peer's host refuses that, the peer's process is gone, which is worth a notice, for it may have been the leader.

use super::dial::{self, Failure};
use super::handshake::{Lane, UPGRADE};
use super::link::{Found, Link};
use super::round_trip::RoundTrip;
use super::{Shared, encoded, frame};
use crate::inbox::Notice;
use crate::{config, metrics};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE as UPGRADE_HEADER};
use hyper_util::rt::TokioIo;
use raft::eraftpb::Message;
use slog::{Logger, debug};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// Messages that wait to be written.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// There is reason to believe that the peer can be reached: a pause is cut short.
    pub(super) redial: Notify,
    metrics: metrics::Lane,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Message, usize)>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(metrics: metrics::Lane) -> Queue {
        Queue {
            waiting: Mutex::default(),
            wake: Notify::new(),
            redial: Notify::new(),
            metrics,
        }
    }

    /// Queues a message. False: it was dropped.
    pub(super) fn push(&self, message: Message) -> bool {
        let bytes = encoded(&message);
        let mut waiting = self.lock();
        // A lone message always fits, unless no frame can hold it.
        let full = waiting.messages.len() >= config::PEER_QUEUE_MESSAGES_MAX
            || (!waiting.messages.is_empty()
                && waiting.bytes + bytes > config::PEER_QUEUE_BYTES_MAX);
        if full || waiting.closed || !frame::fits(bytes) {
            self.metrics.dropped.inc();
            return false;
        }
        waiting.bytes += bytes;
        waiting.messages.push_back((message, bytes));
        self.show(&waiting);
        let first = waiting.messages.len() == 1;
        drop(waiting);
        // The task takes until the queue is empty, so only the first message has to wake it.
        if first {
            self.wake.notify_one();
        }
        true
    }

    /// Takes no further messages; the task ends once what waits is written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Moves the messages for one frame to `into`. `None`: there are none, and there will be none.
    fn take(&self, into: &mut Vec<Message>) -> Option<()> {
        let mut waiting = self.lock();
        let mut total = 0;
        while total < config::FRAME_BYTES_TARGET {
            let Some((message, bytes)) = waiting.messages.pop_front() else {
                break;
            };
            waiting.bytes -= bytes;
            total += bytes;
            into.push(message);
        }
        self.show(&waiting);
        (!into.is_empty() || !waiting.closed).then_some(())
    }

    fn clear(&self) {
        let mut waiting = self.lock();
        self.metrics.dropped.inc_by(waiting.messages.len() as u64);
        waiting.messages.clear();
        waiting.bytes = 0;
        self.show(&waiting);
    }

    fn show(&self, waiting: &Waiting) {
        self.metrics.messages.set(waiting.messages.len() as i64);
        self.metrics.bytes.set(waiting.bytes as i64);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .expect("a thread panicked while it held a peer's queue")
    }
}

/// The task of a lane.
pub(super) struct Outbound {
    pub shared: Arc<Shared>,
    pub peer: u64,
    pub url: crate::members::PeerUrl,
    pub lane: Lane,
    pub queue: Arc<Queue>,
    pub round_trip: Arc<RoundTrip>,
    pub retired: watch::Receiver<bool>,
    pub link: Arc<Link>,
    pub logger: Logger,
}

impl Outbound {
    pub(super) async fn run(mut self) {
        let mut pause = config::PEER_BACKOFF_MIN;
        let mut retired = self.retired.clone();
        // There was a connection, and what became of the process at its far end is not known.
        let mut lost = false;
        loop {
            let dialed = tokio::select! {
                biased;
                _ = retired.wait_for(|retired| *retired) => return self.queue.clear(),
                dialed = self.dial() => dialed,
            };
            let mut at_once = false;
            let failure = match dialed {
                Ok(stream) => {
                    self.queue.metrics.connections.inc();
                    self.link.found(self.lane, Found::Up);
                    self.tell(Notice::Connected(self.peer));
                    lost = true;
                    let since = Instant::now();
                    let Some(why) = self.write(stream).await else {
                        return;
                    };
                    // A connection that ends as soon as it was made is no reason to hurry.
                    if since.elapsed() > config::PEER_BACKOFF_MAX {
                        pause = config::PEER_BACKOFF_MIN;
                        at_once = true;
                    }
                    self.link.found(self.lane, Found::Broken(why.clone()));
                    Failure::Broken(why)
                }
                Err(failure) => {
                    self.link.found(self.lane, failure.found());
                    failure
                }
            };
            self.queue.clear();
            self.round_trip.forget();
            debug!(self.logger, "lane is not connected"; "lane" => %self.lane, "error" => %failure);
            self.shared.inbox.notice(Notice::Unreachable(self.peer));
            // Of a peer that does not answer nothing is known; but a host that does, and knows of no listener, has seen
            // its process end.
            if failure.nobody_listens() && std::mem::take(&mut lost) {
                self.tell(Notice::Gone(self.peer));
            }
            if let Failure::Refused(verdict) = failure {
                self.shared.inbox.notice(Notice::Refused(verdict));
            }
            if at_once {
                continue;
            }
            let over = timeout(pause, async {
                tokio::select! {
                    _ = retired.wait_for(|retired| *retired) => (),
                    () = self.queue.redial.notified() => (),
                }
            });
            pause = match over.await {
                Ok(()) => config::PEER_BACKOFF_MIN,
                Err(_) => (pause * 2).min(config::PEER_BACKOFF_MAX),
            };
        }
    }

    /// Makes a connection and takes it through the handshake.
    async fn dial(&self) -> Result<TcpStream, Failure> {
        let stream = dial::connect(&self.url, config::PEER_SILENCE_MAX).await?;
        let mut request = dial::request(
            &self.shared,
            self.peer,
            &self.url,
            "/raft/stream",
            Empty::<Bytes>::new(),
        )?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
        self.lane.write(headers);
        let handshake = dial::exchange(stream, request, async |mut response| {
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(dial::read_refusal(response).await);
            }
            dial::judge(&self.shared, self.peer, &response).await?;
            let upgraded = hyper::upgrade::on(&mut response).await?;
            let parts = upgraded
                .downcast::<TokioIo<TcpStream>>()
                .map_err(|_| Failure::Unexpected("with a foreign connection".to_owned()))?;
            if !parts.read_buf.is_empty() {
                return Err(Failure::Unexpected("and went on talking".to_owned()));
            }
            Ok(parts.io.into_inner())
        });
        timeout(self.shared.limits.handshake_timeout, handshake)
            .await
            .unwrap_or(Err(Failure::Silent))
    }

    /// Writes what is queued until the connection breaks (why?), or until the peer is retired (`None`).
    async fn write(&mut self, stream: TcpStream) -> Option<String> {
        let (mut read, mut write) = stream.into_split();
        // The peer says nothing on this connection, so whatever there is to read is its end. It is noticed at once,
        // also when there is nothing to write.
        let mut closed = pin!(async {
            match read.read(&mut [0; 1]).await {
                Ok(0) => "the peer closed it".to_owned(),
                Ok(_) => "the peer spoke out of turn".to_owned(),
                Err(error) => error.to_string(),
            }
        });
        let queue = &self.queue;
        let mut written = pin!(async {
            let (mut messages, mut outgoing) = (Vec::new(), frame::Outgoing::default());
            while queue.take(&mut messages).is_some() {
                if messages.is_empty() {
                    queue.wake.notified().await;
                    continue;
                }
                outgoing.fill(&mut messages);
                for piece in outgoing.pieces() {
                    write.write_all(piece).await?;
                }
                outgoing.clear();
            }
            write.shutdown().await
        });
        let ended = |result: std::io::Result<()>| result.err().map(|error| error.to_string());
        tokio::select! {
            why = &mut closed => return Some(why),
            result = &mut written => return ended(result),
            _ = self.retired.wait_for(|retired| *retired) => (),
        }
        // What was queued before the peer was removed may be just what tells it so.
        let flush = async {
            tokio::select! {
                why = closed => why,
                result = written => ended(result).unwrap_or_default(),
            }
        };
        if timeout(config::PEER_FLUSH_TIMEOUT, flush).await.is_err() {
            debug!(self.logger, "messages to a retired peer were given up"; "lane" => %self.lane);
        }
        None
    }

    /// Tells what one lane knows for both.
    fn tell(&self, notice: Notice) {
        if self.lane == Lane::Control {
            self.shared.inbox.notice(notice);
        }
    }
}
