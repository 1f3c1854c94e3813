//! Sends a snapshot: the transfer, its pace, and the pause after a failure.

use crate::channels::notice::Notice;
use crate::limits;
use crate::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_QUEUED};
use crate::peer_url::PeerUrl;
use crate::transport::dial::{self, DialError};
use crate::transport::files::{FileError, OutgoingSnapshot};
use crate::transport::frame::{self, encoded};
use crate::transport::handshake::Trust;
use crate::transport::peers::{SnapshotLane, Trouble};
use crate::transport::state::TransportState;
use crate::workers::{Stopped, on_a_thread};
use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use raft::eraftpb::Message;
use slog::{Logger, info, o, warn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

/// A snapshot on its way to a peer.
pub(in crate::transport) struct SnapshotTransfer {
    pub report: TransferReport,
    pub url: PeerUrl,
    pub retired: watch::Receiver<bool>,
    pub message: Message,
}

/// Reports the end of a transfer when this value is dropped, so that no code path can forget the report. Without a
/// report, the leader would never send anything to that peer again.
pub(in crate::transport) struct TransferReport {
    shared: Arc<TransportState>,
    to: u64,
    lane: Arc<SnapshotLane>,
    ok: bool,
}

impl TransferReport {
    pub(in crate::transport) fn new(
        shared: &Arc<TransportState>,
        to: u64,
        lane: &Arc<SnapshotLane>,
    ) -> TransferReport {
        TransferReport {
            shared: shared.clone(),
            to,
            lane: lane.clone(),
            ok: false,
        }
    }
}

impl Drop for TransferReport {
    fn drop(&mut self) {
        // The slot must be free before the report: the answer to the report may be the next snapshot, which needs the
        // slot.
        self.lane.leave();
        let (to, ok) = (self.to, self.ok);
        self.shared.inbox.notice(Notice::SnapshotSent { to, ok });
    }
}

/// Why a snapshot did not reach its receiver.
#[derive(Debug, thiserror::Error)]
enum SnapshotSendError {
    #[error("the peer was removed, or this member stops")]
    Retired,
    #[error("open the snapshot: {0}")]
    Open(FileError),
    #[error("its message of {0} bytes is too long")]
    Message(usize),
    #[error("no progress for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error(transparent)]
    Failed(#[from] DialError),
    #[error("the machine refuses a thread: {0}")]
    NoThread(io::Error),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl SnapshotTransfer {
    pub(in crate::transport) async fn run(mut self, shared: Arc<TransportState>) {
        let to = self.report.to;
        let index = self.message.get_snapshot().get_metadata().index;
        let logger = shared.logger.new(o!("member" => to, "index" => index));
        let since = Instant::now();
        let mut retired = self.retired.clone();
        let sent = tokio::select! {
            biased;
            _ = retired.wait_for(|retired| *retired) => Err(SnapshotSendError::Retired),
            sent = self.send(&shared, &logger) => sent,
        };
        match sent {
            Ok(bytes) => {
                self.report.ok = true;
                shared.metrics.snapshots.sent.add(since.elapsed(), bytes);
                *self.report.lane.trouble() = Trouble::default();
                info!(logger, "sent a snapshot"; "bytes" => bytes,
                    "ms" => since.elapsed().as_millis() as u64);
            }
            Err(SnapshotSendError::Retired) => {
                info!(logger, "did not send a snapshot"; "error" => %SnapshotSendError::Retired);
            }
            Err(error) => {
                shared.metrics.snapshots.sends_failed.inc();
                let pause = self.failed(&error, shared.limits.snapshot_pause, &logger);
                // The report follows the pause, because raft answers the report with the next attempt.
                let _ = timeout(pause, retired.wait_for(|retired| *retired)).await;
            }
        }
    }

    /// Logs a failure, unless the same failure was logged last. Returns the pause before the next attempt.
    fn failed(&self, error: &SnapshotSendError, first: Duration, logger: &Logger) -> Duration {
        let text = error.to_string();
        let mut trouble = self.report.lane.trouble();
        trouble.pause = next_pause(trouble.pause, error, first);
        if trouble.logged.as_ref() != Some(&text) {
            warn!(logger, "did not send a snapshot"; "error" => &text);
            trouble.logged = Some(text);
        }
        trouble.pause
    }

    async fn send(
        &mut self,
        shared: &Arc<TransportState>,
        logger: &Logger,
    ) -> Result<u64, SnapshotSendError> {
        let message = std::mem::take(&mut self.message);
        if !frame::fits(encoded(&message)) {
            return Err(SnapshotSendError::Message(encoded(&message)));
        }
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let files = shared.snapshots.clone();
        let (pieces, rest) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUED);
        let (opened, file_bytes) = oneshot::channel();
        let pace = shared.limits.snapshot_pace;
        // The reader ends by itself: at the end of the file, or when the body was dropped.
        let reading = on_a_thread("send", move || match files.open(index, term) {
            Ok(source) => {
                if opened.send(Ok(source.bytes())).is_ok() {
                    read_file(source, Pace::new(pace), &pieces);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        });
        drop(reading.map_err(|error| {
            shared.metrics.shortages.threads_refused.inc();
            SnapshotSendError::NoThread(error)
        })?);
        let file_bytes = file_bytes.await.map_err(|_| Stopped)?;
        let file_bytes = file_bytes.map_err(SnapshotSendError::Open)?;
        let mut head = Vec::new();
        frame::encode(&[message], &mut head);

        info!(logger, "sending a snapshot"; "bytes" => file_bytes);
        let total = head.len() as u64 + file_bytes;
        let sent = Arc::new(watch::Sender::new(0));
        let body = FileBody {
            head: Some(Bytes::from(head)),
            rest,
            left: total,
            total,
            sent: sent.clone(),
        };
        let to = self.report.to;
        let stall = shared.limits.snapshot_stall;
        let (stream, _) = dial::connect(shared, to, &self.url, stall).await?;
        let claims = shared.claims_to_dial(to, &self.url);
        let request = dial::request(&claims, &self.url, "/raft/snapshot", body)?;
        let exchange = dial::exchange(stream, request, async |response| {
            if response.status() == StatusCode::NO_CONTENT {
                return Ok(());
            }
            Err(dial::read_refusal(response, Trust::Claimed).await)
        });
        tokio::select! {
            outcome = exchange => outcome?,
            limit = stalled(&sent, total, shared.limits.snapshot_stall) => {
                return Err(SnapshotSendError::Stalled(limit));
            }
        }
        Ok(file_bytes)
    }
}

/// The pause after a failure. A receiver with a full disk writes most of the file before it notices. So the pause grows
/// while the receiver has such a fault.
fn next_pause(last: Duration, error: &SnapshotSendError, first: Duration) -> Duration {
    match error {
        SnapshotSendError::Failed(DialError::Troubled(_)) => {
            (last * 2).clamp(first, limits::SNAPSHOT_PAUSE_MAX.max(first))
        }
        _ => first,
    }
}

/// Completes when no byte was sent for `limit`. After the last byte, completes when the receiver takes too long to
/// finish.
async fn stalled(sent: &watch::Sender<u64>, total: u64, limit: Duration) -> Duration {
    let mut sent = sent.subscribe();
    loop {
        let complete = *sent.borrow_and_update() == total;
        let limit = if complete {
            limits::SNAPSHOT_FINISH_TIMEOUT
        } else {
            limit
        };
        if timeout(limit, sent.changed()).await.is_err() {
            return limit;
        }
    }
}

/// Reads a file piece by piece while the receiver of the pieces exists.
fn read_file(
    mut source: Box<dyn OutgoingSnapshot>,
    mut pace: Pace,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) {
    let mut left = source.bytes();
    while left > 0 {
        std::thread::sleep(pace.wait(std::time::Instant::now()));
        let mut piece = BytesMut::zeroed(left.min(SNAPSHOT_CHUNK_BYTES as u64) as usize);
        let read = match source.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                piece.truncate(count);
                left -= count as u64;
                pace.add(count);
                Ok(piece.freeze())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        if pieces.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

/// Limits a transfer to a number of bytes per second.
struct Pace {
    bytes_per_second: u64,
    /// The time at which everything sent so far would have been sent at that pace.
    due: std::time::Instant,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Pace {
        Pace {
            bytes_per_second,
            due: std::time::Instant::now(),
        }
    }

    fn add(&mut self, bytes: usize) {
        self.due += Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
    }

    /// How long to wait before the next piece.
    fn wait(&mut self, now: std::time::Instant) -> Duration {
        if let Some(earliest) = now.checked_sub(limits::SNAPSHOT_BURST) {
            self.due = self.due.max(earliest);
        }
        self.due.saturating_duration_since(now)
    }
}

/// The body of the request. Its length is declared, so that the receiver can distinguish a whole file from a cut file.
struct FileBody {
    head: Option<Bytes>,
    rest: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    total: u64,
    sent: Arc<watch::Sender<u64>>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = match self.head.take() {
            Some(head) => head,
            None => match ready!(self.rest.poll_recv(context)) {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            },
        };
        self.left -= piece.len() as u64;
        self.sent.send_replace(self.total - self.left);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_while_the_receiver_has_trouble() {
        let first = limits::PEER_BACKOFF_MAX;
        let full = SnapshotSendError::Failed(DialError::Troubled("the disk is full".to_owned()));
        let mut last = Duration::ZERO;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            last = next_pause(last, &full, first);
            assert_eq!(last.as_secs(), seconds);
        }
        let silent = SnapshotSendError::Failed(DialError::Silent);
        assert_eq!(next_pause(last, &silent, first), first);
    }

    #[test]
    fn a_transfer_keeps_its_pace_and_makes_little_good() {
        let mut pace = Pace::new(1_000_000);
        let begun = pace.due;
        let ms = Duration::from_millis;
        assert_eq!(pace.wait(begun), Duration::ZERO);
        pace.add(250_000);
        assert_eq!(pace.wait(begun), ms(250));
        assert_eq!(pace.wait(begun + ms(250)), Duration::ZERO);
        // The transfer was held up for ten seconds.
        let later = begun + ms(10_250);
        assert_eq!(pace.wait(later), Duration::ZERO);
        pace.add(250_000);
        assert_eq!(pace.wait(later), ms(250) - limits::SNAPSHOT_BURST);
    }
}
