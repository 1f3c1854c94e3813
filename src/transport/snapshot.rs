//! Snapshot transfers: `POST /raft/snapshot`, whose body is one frame with the MsgSnapshot, and then the file.
//!
//! Neither side ever holds the file: a few pieces wait between it and the network. Files are read and written by
//! threads for blocking calls. A transfer that fails begins again when raft asks again.
//!
//! An empty member takes the cluster of its first snapshot, for good, if the state in it binds this very member.

use super::dial::{self, Failure};
use super::files::{FileError, SnapshotSource};
use super::frame::{self, FrameError, Frames, encoded};
use super::peers::{SnapshotLane, Trouble};
use super::state::Shared;
use crate::channels::inbox::Notice;
use crate::command::ReplicatedState;
use crate::command::version;
use crate::command::version::Later;
use crate::identity::{Claims, Reason, Standing};
use crate::limits;
use crate::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_QUEUED};
use crate::peer_url::PeerUrl;
use crate::storage::SnapshotMeta;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use protobuf::Message as _;
use raft::eraftpb::{Message, Snapshot};
use slog::{Logger, info, o, warn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout};

/// A snapshot on its way to a peer.
pub(super) struct Transfer {
    pub report: Report,
    pub url: PeerUrl,
    pub retired: watch::Receiver<bool>,
    pub message: Message,
}

/// Reports the end of a transfer when it is dropped, so that no path out of it can forget to: a leader that hears
/// nothing would never send that peer anything again.
pub(super) struct Report {
    shared: Arc<Shared>,
    to: u64,
    lane: Arc<SnapshotLane>,
    ok: bool,
}

impl Report {
    pub(super) fn new(shared: &Arc<Shared>, to: u64, lane: &Arc<SnapshotLane>) -> Report {
        Report {
            shared: shared.clone(),
            to,
            lane: lane.clone(),
            ok: false,
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // In this order: the answer to the report may be the next snapshot.
        self.lane.leave();
        let (to, ok) = (self.to, self.ok);
        self.shared.inbox.notice(Notice::SnapshotSent { to, ok });
    }
}

/// Why a snapshot did not reach its receiver.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the peer was removed, or this member stops")]
    Retired,
    #[error("open the snapshot: {0}")]
    Open(FileError),
    #[error("its message of {0} bytes is too long")]
    Message(usize),
    #[error("no progress for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error(transparent)]
    Task(#[from] JoinError),
}

impl Transfer {
    pub(super) async fn run(mut self, shared: Arc<Shared>) {
        let to = self.report.to;
        let index = self.message.get_snapshot().get_metadata().index;
        let logger = shared.logger.new(o!("peer" => to, "index" => index));
        let since = Instant::now();
        let mut retired = self.retired.clone();
        let sent = tokio::select! {
            biased;
            _ = retired.wait_for(|retired| *retired) => Err(SendError::Retired),
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
            Err(SendError::Retired) => {
                info!(logger, "did not send a snapshot"; "error" => %SendError::Retired);
            }
            Err(error) => {
                shared.metrics.snapshots.sends_failed.inc();
                let pause = self.failed(&error, shared.limits.snapshot_pause, &logger);
                // The report comes after the pause: raft answers it with the next attempt.
                let _ = timeout(pause, retired.wait_for(|retired| *retired)).await;
            }
        }
    }

    /// Logs a failure, unless it was logged already. Gives the pause before the next attempt.
    fn failed(&self, error: &SendError, first: Duration, logger: &Logger) -> Duration {
        let text = error.to_string();
        let mut trouble = self.report.lane.trouble();
        trouble.pause = next_pause(trouble.pause, error, first);
        if trouble.logged.as_ref() != Some(&text) {
            warn!(logger, "did not send a snapshot"; "error" => &text);
            trouble.logged = Some(text);
        }
        trouble.pause
    }

    async fn send(&mut self, shared: &Arc<Shared>, logger: &Logger) -> Result<u64, SendError> {
        let message = std::mem::take(&mut self.message);
        if !frame::fits(encoded(&message)) {
            return Err(SendError::Message(encoded(&message)));
        }
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let files = shared.snapshots.clone();
        let source = spawn_blocking(move || files.open(index, term))
            .await?
            .map_err(SendError::Open)?;
        let mut head = Vec::new();
        frame::encode(&[message], &mut head);

        let file_bytes = source.bytes();
        info!(logger, "sending a snapshot"; "bytes" => file_bytes);
        let total = head.len() as u64 + file_bytes;
        let (pieces, rest) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUED);
        let sent = Arc::new(watch::Sender::new(0));
        let body = FileBody {
            head: Some(Bytes::from(head)),
            rest,
            left: total,
            total,
            sent: sent.clone(),
        };
        let stream = dial::connect(&self.url, shared.limits.snapshot_stall).await?;
        let to = self.report.to;
        let claims = shared.view().claims(to, Some(&self.url));
        let request = dial::request(&claims, &self.url, "/raft/snapshot", body)?;
        // It ends by itself: with the file, or when the body is gone.
        let pace = Pace::new(shared.limits.snapshot_pace);
        drop(spawn_blocking(move || read_file(source, pace, &pieces)));
        let exchange = dial::exchange(stream, request, async |response| {
            if response.status() == StatusCode::NO_CONTENT {
                return Ok(());
            }
            Err(dial::read_refusal(response, false).await)
        });
        tokio::select! {
            outcome = exchange => outcome?,
            limit = stalled(&sent, total, shared.limits.snapshot_stall) => {
                return Err(SendError::Stalled(limit));
            }
        }
        Ok(file_bytes)
    }
}

/// A receiver whose disk is full has to write most of the file to find out, so it is asked less and less often.
fn next_pause(last: Duration, error: &SendError, first: Duration) -> Duration {
    match error {
        SendError::Failed(Failure::Troubled(_)) => {
            (last * 2).clamp(first, limits::SNAPSHOT_PAUSE_MAX.max(first))
        }
        _ => first,
    }
}

/// Done when nothing has moved for `limit`; once everything is sent, when the receiver has taken too long with it.
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

/// Reads a file piece by piece, for as long as somebody takes them.
fn read_file(
    mut source: Box<dyn SnapshotSource>,
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

/// Holds a transfer to a number of bytes a second.
struct Pace {
    bytes_per_second: u64,
    /// When what was sent so far would have been sent at that pace.
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

    /// How long to wait before going on.
    fn wait(&mut self, now: std::time::Instant) -> Duration {
        if let Some(earliest) = now.checked_sub(limits::SNAPSHOT_BURST) {
            self.due = self.due.max(earliest);
        }
        self.due.saturating_duration_since(now)
    }
}

/// The body of the request. Its length is declared, so the receiver can tell a whole file from a cut one.
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

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("another snapshot is being received")]
    Busy,
    #[error("too many messages wait for the raft loop")]
    Overloaded,
    #[error("less than {SNAPSHOT_CHUNK_BYTES} bytes came in {} s", .0.as_secs())]
    Slow(Duration),
    #[error("it was cut off")]
    Cut,
    #[error("the connection failed: {0}")]
    Broken(#[from] hyper::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(
        "its message is longer than {} bytes",
        limits::SNAPSHOT_MESSAGE_BYTES_MAX
    )]
    LongMessage,
    #[error("it begins with {0} messages, not with one")]
    Messages(usize),
    #[error("its message holds no replicated state: {0}")]
    State(#[from] protobuf::ProtobufError),
    #[error("it {0}")]
    Later(Later),
    #[error("write the snapshot: {0}")]
    File(FileError),
    #[error("the sender is no longer welcome: {0}")]
    Denied(Reason),
    #[error("the sender has no power yet")]
    Powerless,
    #[error("it is of another cluster")]
    OtherCluster,
    #[error("its state does not bind this member")]
    NotBound,
}

impl ReceiveError {
    /// The status of the answer, as far as the sender still waits for one.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            ReceiveError::Busy | ReceiveError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            ReceiveError::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
            ReceiveError::Denied(_)
            | ReceiveError::Powerless
            | ReceiveError::OtherCluster
            | ReceiveError::NotBound => StatusCode::CONFLICT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What the task that writes the file is given.
enum Piece {
    Data(Bytes),
    /// It was all: an end without this is a cut.
    End,
}

/// Receives a snapshot from a peer whose claims were accepted, and passes its message on once the file is durable.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    claims: Claims,
    standing: Standing,
    body: Incoming,
    logger: &Logger,
) -> Result<(), ReceiveError> {
    if standing == Standing::Waiting {
        return Err(ReceiveError::Powerless);
    }
    let permit = shared.receiving.clone().try_acquire_owned();
    let permit = permit.map_err(|_| ReceiveError::Busy)?;
    let begun = Instant::now();
    let mut body = Paced::new(body, shared.limits.snapshot_stall);

    let mut frames = Frames::default();
    let payload = loop {
        if let Some(payload) = frames.take()? {
            break payload;
        }
        if frames.len() > limits::SNAPSHOT_MESSAGE_BYTES_MAX {
            return Err(ReceiveError::LongMessage);
        }
        let piece = body.next().await?.ok_or(ReceiveError::Cut)?;
        frames.push(&piece);
    };
    let mut messages = frame::decode(&payload, claims.from, shared.me, true)?;
    let count = messages.len();
    let (1, Some(message)) = (count, messages.pop()) else {
        return Err(ReceiveError::Messages(count));
    };

    let promised = promised(message.get_snapshot())?;
    if shared.view().is_empty() && !binds(shared, &promised) {
        return Err(ReceiveError::NotBound);
    }
    if let Err(later) = version::check_state(&promised.state) {
        // The node has to end by it, and needs no file for that.
        let bound = standing == Standing::Bound;
        let sender = bound.then_some(claims.incarnation);
        shared.inbox.receive(vec![message], payload.len(), sender);
        return Err(ReceiveError::Later(later));
    }
    let (pieces, taken) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUED);
    let arriving = Arriving {
        promised,
        shared: shared.clone(),
        claims,
        message,
        bytes: payload.len(),
        begun,
        permit,
        logger: logger.clone(),
    };
    // By itself, because this future is dropped when the sender goes: a file that has got its name is always announced.
    let arriving = tokio::spawn(arriving.run(taken));
    let forwarded = forward(&mut body, frames.into_rest(), pieces).await;
    let arrived = arriving
        .await
        .unwrap_or_else(|error| Err(ReceiveError::File(error.into())));
    // Whichever failed first made the other fail as well; a writer that was only cut off has nothing to say.
    forwarded?;
    arrived
}

/// A snapshot whose file is being received.
struct Arriving {
    shared: Arc<Shared>,
    claims: Claims,
    message: Message,
    /// Encoded size of the message.
    bytes: usize,
    promised: SnapshotMeta,
    begun: Instant,
    permit: OwnedSemaphorePermit,
    logger: Logger,
}

impl Arriving {
    /// Writes the file from its pieces, and passes the message on.
    async fn run(self, pieces: mpsc::Receiver<Piece>) -> Result<(), ReceiveError> {
        let Arriving {
            shared,
            claims,
            message,
            bytes,
            promised,
            begun,
            permit,
            logger,
        } = self;
        let index = promised.index;
        let since = Instant::now();
        let (files, from, incarnation) = (shared.clone(), claims.from, claims.incarnation);
        let written = spawn_blocking(move || {
            // The permit is given back only when the file is closed, also if nobody waits for this any more.
            let _permit = permit;
            write_file(&files, &claims, &promised, pieces)
        });
        let (file_bytes, bound) = written
            .await
            .unwrap_or_else(|error| Err(ReceiveError::File(error.into())))?;
        let received = &shared.metrics.snapshots.received;
        received.add(begun.elapsed(), file_bytes);
        let bound = bound.then_some(incarnation);
        if !shared.inbox.receive(vec![message], bytes, bound) {
            return Err(ReceiveError::Overloaded);
        }
        info!(logger, "received a snapshot"; "peer" => from, "index" => index, "bytes" => file_bytes,
            "ms" => since.elapsed().as_millis() as u64);
        Ok(())
    }
}

/// Passes the body on to the writer. That the writer has stopped is not this side's error.
///
/// In whole pieces, so that the writer is not woken for each part of a body, which has `PEER_HEAD_BYTES_MAX` at most.
async fn forward(
    body: &mut Paced,
    first: Bytes,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), ReceiveError> {
    let mut gathered = BytesMut::from(first);
    loop {
        let next = body.next().await?;
        if let Some(data) = &next {
            gathered.extend_from_slice(data);
        }
        let whole = gathered.len() >= SNAPSHOT_CHUNK_BYTES || next.is_none();
        if whole && !gathered.is_empty() {
            let room = BytesMut::with_capacity(SNAPSHOT_CHUNK_BYTES + limits::PEER_HEAD_BYTES_MAX);
            let piece = std::mem::replace(&mut gathered, room).freeze();
            if pieces.send(Piece::Data(piece)).await.is_err() {
                return Ok(());
            }
        }
        if next.is_none() {
            break;
        }
    }
    // The error is the writer's, and comes from there.
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

/// A body that has to come at some rate, so that nobody holds the only place of a receiver for ever: a whole piece of a
/// snapshot within the limit. Time that the own disk takes does not count.
struct Paced {
    body: Incoming,
    limit: Duration,
    /// What the piece under way may still take.
    left: Duration,
    /// What has come of it.
    bytes: usize,
}

impl Paced {
    fn new(body: Incoming, limit: Duration) -> Paced {
        Paced {
            body,
            limit,
            left: limit,
            bytes: 0,
        }
    }

    /// What comes next of the body, `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, ReceiveError> {
        loop {
            let since = Instant::now();
            let frame = timeout(self.left, self.body.frame())
                .await
                .map_err(|_| ReceiveError::Slow(self.limit))?;
            self.left = self.left.saturating_sub(since.elapsed());
            let Some(frame) = frame.transpose()? else {
                return Ok(None);
            };
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.bytes += data.len();
            if self.bytes >= SNAPSHOT_CHUNK_BYTES {
                (self.bytes, self.left) = (0, self.limit);
            }
            return Ok(Some(data));
        }
    }
}

/// What the message of a snapshot says about its file.
fn promised(snapshot: &Snapshot) -> Result<SnapshotMeta, ReceiveError> {
    let metadata = snapshot.get_metadata();
    Ok(SnapshotMeta {
        index: metadata.index,
        term: metadata.term,
        conf_state: metadata.get_conf_state().clone(),
        state: ReplicatedState::parse_from_bytes(&snapshot.data)?,
    })
}

/// Whether the state of a snapshot binds this very member.
fn binds(shared: &Shared, promised: &SnapshotMeta) -> bool {
    let incarnation = shared.view().incarnation;
    let mut members = promised.state.members.iter();
    members.any(|member| (member.id, member.incarnation) == (shared.me, incarnation))
}

/// Gives the length of the file, and whether its sender is bound.
fn write_file(
    shared: &Shared,
    claims: &Claims,
    promised: &SnapshotMeta,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(u64, bool), ReceiveError> {
    let cluster = shared.directory.cluster();
    if claims.cluster == 0 || ![0, claims.cluster].contains(&cluster) {
        return Err(ReceiveError::OtherCluster);
    }
    let sink = shared.snapshots.receive(claims.cluster);
    let mut sink = sink.map_err(ReceiveError::File)?;
    let mut bytes = 0;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(data)) => {
                sink.write(&data).map_err(ReceiveError::File)?;
                bytes += data.len() as u64;
            }
            Some(Piece::End) => break,
            None => return Err(ReceiveError::Cut),
        }
    }
    sink.finish(promised).map_err(ReceiveError::File)?;
    let standing = shared.judge(claims).standing;
    let bound = standing.map_err(ReceiveError::Denied)? == Standing::Bound;
    if cluster == 0 {
        let pinned = shared.directory.pin_cluster(claims.cluster);
        pinned.map_err(ReceiveError::File)?;
    }
    Ok((bytes, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_while_the_receiver_has_trouble() {
        let first = limits::PEER_BACKOFF_MAX;
        let full = SendError::Failed(Failure::Troubled("the disk is full".to_owned()));
        let mut last = Duration::ZERO;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            last = next_pause(last, &full, first);
            assert_eq!(last.as_secs(), seconds);
        }
        let silent = SendError::Failed(Failure::Silent);
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
        // It was held up for ten seconds.
        let later = begun + ms(10_250);
        assert_eq!(pace.wait(later), Duration::ZERO);
        pace.add(250_000);
        assert_eq!(pace.wait(later), ms(250) - limits::SNAPSHOT_BURST);
    }
}
