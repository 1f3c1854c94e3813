//! Receives a snapshot. Its message is checked before anything is written, and passed on once the file is durable.

use crate::command::ReplicatedState;
use crate::command::version;
use crate::command::version::Later;
use crate::identity::{Claims, Reason, Standing};
use crate::limits;
use crate::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_QUEUED};
use crate::members::Members;
use crate::storage::SnapshotMeta;
use crate::tls::{NoLonger, Shown};
use crate::transport::admission::Source;
use crate::transport::files::FileError;
use crate::transport::frame::{self, Carries, FrameError, Frames};
use crate::transport::state::TransportState;
use crate::workers::on_a_thread;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::Incoming;
use protobuf::Message as _;
use raft::eraftpb::{Message, Snapshot};
use slog::{Logger, info};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
pub(in crate::transport) enum SnapshotReceiveError {
    #[error("another snapshot is being received")]
    Busy,
    #[error("too many messages wait for the raft loop")]
    Overloaded,
    #[error("the machine refuses a thread: {0}")]
    NoThread(io::Error),
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
    #[error("the sender's certificate is not accepted any more: {0}")]
    Untrusted(String),
    #[error("the sender has no power yet")]
    Powerless,
    #[error("it is of another cluster")]
    OtherCluster,
    #[error("its state does not let this member in")]
    NotLetIn,
}

impl SnapshotReceiveError {
    /// The status of the answer, in case the sender still waits for one.
    pub(in crate::transport) fn status(&self) -> StatusCode {
        match self {
            SnapshotReceiveError::Busy
            | SnapshotReceiveError::Overloaded
            | SnapshotReceiveError::NoThread(_) => StatusCode::SERVICE_UNAVAILABLE,
            SnapshotReceiveError::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
            SnapshotReceiveError::Denied(_)
            | SnapshotReceiveError::Untrusted(_)
            | SnapshotReceiveError::Powerless
            | SnapshotReceiveError::OtherCluster
            | SnapshotReceiveError::NotLetIn => StatusCode::CONFLICT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// The input of the task that writes the file.
enum FilePiece {
    Data(Bytes),
    /// The file is complete. Without this piece, the file was cut off.
    End,
}

/// Receives a snapshot from a peer whose claims were accepted. Passes its message on once the file is durable.
pub(in crate::transport) async fn receive(
    shared: &Arc<TransportState>,
    claims: Claims,
    standing: Standing,
    body: Incoming,
    source: &Source,
) -> Result<(), SnapshotReceiveError> {
    if standing == Standing::Waiting {
        return Err(SnapshotReceiveError::Powerless);
    }
    let permit = shared.receiving.clone().try_acquire_owned();
    let permit = permit.map_err(|_| SnapshotReceiveError::Busy)?;
    let begun = Instant::now();
    let mut body = Paced::new(body, shared.limits.snapshot_stall);

    let mut frames = Frames::default();
    let payload = loop {
        if let Some(payload) = frames.take()? {
            break payload;
        }
        if frames.len() > limits::SNAPSHOT_MESSAGE_BYTES_MAX {
            return Err(SnapshotReceiveError::LongMessage);
        }
        let piece = body.next().await?.ok_or(SnapshotReceiveError::Cut)?;
        frames.push(&piece);
    };
    let mut messages = frame::decode(&payload, claims.from, shared.me, Carries::Snapshot)?;
    let count = messages.len();
    let (1, Some(message)) = (count, messages.pop()) else {
        return Err(SnapshotReceiveError::Messages(count));
    };

    let promised = promised(message.get_snapshot())?;
    if let Err(later) = version::check_state(&promised.state) {
        // The node must end because of this message, and needs no file for that.
        let bound = standing == Standing::Bound;
        let sender = bound.then_some(claims.incarnation);
        shared.inbox.receive(vec![message], payload.len(), sender);
        return Err(SnapshotReceiveError::Later(later));
    }
    if shared.view().is_empty() && !lets_in(shared, &promised) {
        return Err(SnapshotReceiveError::NotLetIn);
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
        shown: source.proved.clone(),
        logger: source.logger.clone(),
    };
    // The task runs on its own, because this future is dropped when the sender disconnects. A file that got its final
    // name must always be announced.
    let arriving = tokio::spawn(arriving.run(taken));
    let forwarded = forward(&mut body, frames.into_rest(), pieces).await;
    let arrived = arriving
        .await
        .unwrap_or_else(|error| Err(SnapshotReceiveError::File(error.into())));
    // The error of `forwarded` comes first: if forwarding failed, the writer was only cut off, and its error says
    // nothing more.
    forwarded?;
    arrived
}

/// A snapshot whose file is being received.
struct Arriving {
    shared: Arc<TransportState>,
    claims: Claims,
    message: Message,
    /// Encoded size of the message in bytes.
    bytes: usize,
    promised: SnapshotMeta,
    begun: Instant,
    permit: OwnedSemaphorePermit,
    /// The certificate that the sender has shown. `None`: without TLS.
    shown: Option<Arc<Shown>>,
    logger: Logger,
}

impl Arriving {
    /// Writes the file from its pieces, and passes the message on.
    async fn run(self, pieces: mpsc::Receiver<FilePiece>) -> Result<(), SnapshotReceiveError> {
        let Arriving {
            shared,
            claims,
            message,
            bytes,
            promised,
            begun,
            permit,
            shown,
            logger,
        } = self;
        let index = promised.index;
        let since = Instant::now();
        let (files, from, incarnation) = (shared.clone(), claims.from, claims.incarnation);
        let written = on_a_thread("receive", move || {
            // The permit is returned only when the file is closed, even if the request was cancelled.
            let _permit = permit;
            let sender = Sender { claims, shown };
            write_file(&files, &sender, &promised, pieces)
        });
        let written = written.map_err(|error| {
            shared.metrics.shortages.threads_refused.inc();
            SnapshotReceiveError::NoThread(error)
        })?;
        let (file_bytes, standing) = written
            .await
            .unwrap_or_else(|error| Err(SnapshotReceiveError::File(error.into())))?;
        let received = &shared.metrics.snapshots.received;
        received.add(begun.elapsed(), file_bytes);
        let bound = (standing == Standing::Bound).then_some(incarnation);
        if !shared.inbox.receive(vec![message], bytes, bound) {
            return Err(SnapshotReceiveError::Overloaded);
        }
        info!(logger, "received a snapshot"; "member" => from, "index" => index, "bytes" => file_bytes,
            "ms" => since.elapsed().as_millis() as u64);
        Ok(())
    }
}

/// Passes the body on to the writer. If the writer has stopped, this function returns `Ok`, because the writer returns
/// the error itself.
///
/// The function collects whole pieces, because a part of a body has at most `PEER_HEAD_BYTES_MAX` bytes and would wake
/// the writer each time.
async fn forward(
    body: &mut Paced,
    first: Bytes,
    pieces: mpsc::Sender<FilePiece>,
) -> Result<(), SnapshotReceiveError> {
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
            if pieces.send(FilePiece::Data(piece)).await.is_err() {
                return Ok(());
            }
        }
        if next.is_none() {
            break;
        }
    }
    // If this fails, the writer has failed and returns the error itself.
    let _ = pieces.send(FilePiece::End).await;
    Ok(())
}

/// A body that must arrive at a minimum rate: one whole piece of a snapshot within the limit. Otherwise a sender could
/// occupy the receiver's only slot forever. The time of this member's own disk does not count.
struct Paced {
    body: Incoming,
    limit: Duration,
    /// The time that the current piece may still take.
    left: Duration,
    /// The bytes of the current piece that have arrived.
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

    /// The next part of the body, or `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, SnapshotReceiveError> {
        loop {
            let since = Instant::now();
            let frame = timeout(self.left, self.body.frame())
                .await
                .map_err(|_| SnapshotReceiveError::Slow(self.limit))?;
            self.left = self.left.saturating_sub(since.elapsed());
            let Some(frame) = frame.transpose()? else {
                return Ok(None);
            };
            // Trailers have no meaning here.
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

/// The snapshot that a message promises.
fn promised(snapshot: &Snapshot) -> Result<SnapshotMeta, SnapshotReceiveError> {
    let metadata = snapshot.get_metadata();
    Ok(SnapshotMeta {
        index: metadata.index,
        term: metadata.term,
        conf_state: metadata.get_conf_state().clone(),
        state: ReplicatedState::parse_from_bytes(&snapshot.data)?,
    })
}

/// Whether the state of a snapshot can be the first state of this very member.
fn lets_in(shared: &TransportState, promised: &SnapshotMeta) -> bool {
    let incarnation = shared.view().incarnation;
    let members = Members::from_state(&promised.state);
    members.is_ok_and(|members| members.lets_in(shared.me, incarnation))
}

/// The sender, as its handshake was judged.
struct Sender {
    claims: Claims,
    shown: Option<Arc<Shown>>,
}

impl Sender {
    /// Judges the sender again.
    fn judge(&self, shared: &TransportState) -> Result<Standing, SnapshotReceiveError> {
        let standing = shared.judge(&self.claims).standing;
        let standing = standing.map_err(SnapshotReceiveError::Denied)?;
        match shared.check_shown(self.shown.as_ref()) {
            Ok(()) => Ok(standing),
            Err(NoLonger::Revoked) => Err(SnapshotReceiveError::Denied(Reason::KeyRevoked)),
            Err(NoLonger::Invalid(why)) => Err(SnapshotReceiveError::Untrusted(why)),
        }
    }
}

/// Writes the file, and stores the cluster id if this member had none. Returns the length of the file, and the standing
/// of the sender after the write.
fn write_file(
    shared: &TransportState,
    sender: &Sender,
    promised: &SnapshotMeta,
    mut pieces: mpsc::Receiver<FilePiece>,
) -> Result<(u64, Standing), SnapshotReceiveError> {
    let claims = &sender.claims;
    let cluster = shared.directory.cluster();
    if claims.cluster == 0 || ![0, claims.cluster].contains(&cluster) {
        return Err(SnapshotReceiveError::OtherCluster);
    }
    let sink = shared.snapshots.receive(claims.cluster);
    let mut sink = sink.map_err(SnapshotReceiveError::File)?;
    let mut bytes = 0;
    loop {
        match pieces.blocking_recv() {
            Some(FilePiece::Data(data)) => {
                sink.write(&data).map_err(SnapshotReceiveError::File)?;
                bytes += data.len() as u64;
            }
            Some(FilePiece::End) => break,
            None => return Err(SnapshotReceiveError::Cut),
        }
    }
    sink.finish(promised).map_err(SnapshotReceiveError::File)?;
    let standing = sender.judge(shared)?;
    if cluster == 0 {
        let pinned = shared.directory.pin_cluster(claims.cluster);
        pinned.map_err(SnapshotReceiveError::File)?;
    }
    Ok((bytes, standing))
}
