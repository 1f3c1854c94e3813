//! `GET /-/snapshot`: a backup. Streams the whole map at one index, in the format of a snapshot file.
//!
//! By default a backup is linearizable: a read-index round precedes the choice of its index, so the backup holds every
//! write that was acknowledged before the request. A stale backup skips the round; the last member of a lost cluster
//! can still give a stale backup. The map is frozen at that index (see `store/frozen.rs`), and a thread encodes the
//! frozen map block by block as the client reads. A backup therefore needs memory for a few blocks, for a copy of one
//! shard, and for the entries that are replaced during the backup.
//!
//! Invariants:
//! - One backup of each kind, stale or not, runs at a time. A backup keeps its turn until its thread ends, even when its
//!   request is cancelled.
//! - A client that stops reading is disconnected (see `socket`), and the frozen map is released.
//! - A response that ends before its footer ends with an error, so that no client mistakes it for a whole backup.
//!   `raftkvd inspect` and `restore` refuse a file without a footer.

use super::Front;
use super::audit::Audited;
use super::error_code::Code;
use super::path::ReadOptions;
use super::processor_share::Work;
use super::reply::{self, Reply, ReplyResult, RequestKind};
use crate::channels::notice::Notice;
use crate::command::SnapshotHeader;
use crate::command::outcome::NotProposed;
use crate::limits;
use crate::storage::SnapshotEncoder;
use crate::store::Frozen;
use crate::workers::{Stopped, on_a_thread};
use bytes::Bytes;
use futures_channel::oneshot;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::{Body, Frame};
use hyper::header::{CONTENT_DISPOSITION, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};

/// The approximate length of the body in bytes, for clients that show progress.
const ESTIMATE: HeaderName = HeaderName::from_static("x-raftkvd-estimated-bytes");

struct Download {
    pieces: mpsc::Receiver<BackupPiece>,
}

/// The whole map at one index, and the turn of the backup.
struct FrozenBackup {
    header: SnapshotHeader,
    map: Frozen,
    turn: OwnedSemaphorePermit,
}

enum BackupPiece {
    Bytes(Bytes),
    End,
}

impl Front {
    /// `GET /-/snapshot`. HEAD returns only the headers.
    pub(super) async fn back_up(
        &self,
        head: &Parts,
        options: ReadOptions,
        deadline: Instant,
    ) -> ReplyResult {
        if head.method == Method::HEAD {
            let frozen = self.freeze_for_backup(options, deadline).await?;
            let (_, pieces) = mpsc::channel(1);
            return Ok(self.download(&frozen.header, pieces));
        }
        let asked = match options.stale {
            true => "stale",
            false => "current",
        };
        let audit = self.audit(head, Audited::Backup, asked);
        let frozen = match self.freeze_for_backup(options, deadline).await {
            Ok(frozen) => frozen,
            Err(refused) => {
                let answer = Err(refused);
                audit.answered(&answer);
                return answer;
            }
        };
        let audit = audit.index(frozen.header.index);
        let (give, pieces) = mpsc::channel(limits::SNAPSHOT_CHUNKS_QUEUED);
        let reply = self.download(&frozen.header, pieces);
        match self.write_backup(frozen, Sink { give }) {
            Ok(written) => {
                tokio::spawn(async move {
                    match written.await {
                        Ok(Ok(())) => audit.end("sent", None),
                        Ok(Err(ClientGone)) => audit.end("broken-off", Some("client-gone")),
                        // The process ends, and the audit says that the outcome is unknown.
                        Err(Stopped) => {}
                    }
                });
                Ok(reply)
            }
            Err(error) => {
                self.api.metrics.shortages.threads_refused.inc();
                let answer = Err(reply::unavailable(
                    Code::QueueFull,
                    format!(
                        "no backup: the machine refuses a thread ({error}); try again, or another member"
                    ),
                ));
                audit.answered(&answer);
                answer
            }
        }
    }

    /// Encodes the map on a thread of its own, which waits for the client most of the time.
    fn write_backup(
        &self,
        frozen: FrozenBackup,
        sink: Sink,
    ) -> io::Result<impl Future<Output = Result<Result<(), ClientGone>, Stopped>> + use<>> {
        let scans = Arc::clone(&self.scans);
        on_a_thread("backup", move || write(frozen, &sink, &mut scans.begin()))
    }

    /// Freezes the map for a backup, if no other backup of the same kind is running. A stale backup does not wait for the
    /// other kind, because a stale backup is what is left when a cluster has lost its majority.
    async fn freeze_for_backup(
        &self,
        options: ReadOptions,
        deadline: Instant,
    ) -> Result<FrozenBackup, Box<Reply>> {
        let turns = match options.stale {
            true => &self.stale_backup,
            false => &self.backup,
        };
        if turns.available_permits() == 0 {
            return Err(under_way());
        }
        if !options.stale {
            let caught_up = self.catch_up(deadline).await;
            caught_up.map_err(|why| self.not_backed_up(why))?;
        }
        // The turn is taken only now, so a backup that waits for a leader holds no turn.
        let turn = Arc::clone(turns).try_acquire_owned();
        let turn = turn.map_err(|_| under_way())?;
        let (give, frozen) = oneshot::channel();
        let (question, asked) = oneshot::channel();
        self.api.inbox.notice(Notice::Freeze(question));
        // A task of its own holds the turn until the question is answered, even when the request is cancelled.
        // Otherwise a cancelled request would free the turn early, and several such questions could wait in the inbox.
        tokio::spawn(async move {
            if let Ok((header, map)) = asked.await {
                let _ = give.send((header, map, turn));
            }
        });
        let Ok(Ok((header, map, turn))) = timeout_at(deadline, frozen).await else {
            return Err(reply::unavailable(
                Code::TooSlow,
                "the map was not frozen in time: the node lags behind; try again",
            ));
        };
        if header.index == 0 {
            return Err(reply::unavailable(
                Code::NoLeader,
                "this member holds nothing yet: it waits to be added; ask another member",
            ));
        }
        Ok(FrozenBackup { header, map, turn })
    }

    /// The response with these pieces as its body.
    fn download(&self, header: &SnapshotHeader, pieces: mpsc::Receiver<BackupPiece>) -> Reply {
        let store = &self.api.state_machine.store;
        let estimate = SnapshotEncoder::estimate(store.len(), store.bytes());
        let name = format!("raftkvd-{:016x}-{}.snap", header.cluster, header.index);
        let mut reply = reply::stream(Download { pieces }.boxed_unsync());
        let headers = reply.headers_mut();
        let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
        headers.insert(
            CONTENT_DISPOSITION,
            disposition.expect("digits and letters are valid in a header"),
        );
        headers.insert(ESTIMATE, HeaderValue::from(estimate));
        reply
    }
}

impl Front {
    /// The refusal of a backup whose read was not confirmed. Without a majority, a stale backup is what is left.
    fn not_backed_up(&self, why: NotProposed) -> Box<Reply> {
        if !matches!(why, NotProposed::NoLeader | NotProposed::NoQuorum) {
            return reply::not_proposed(RequestKind::Read, why);
        }
        let waiting = self.api.inbox.waiting().borrow().clone();
        let waiting = waiting.map_or(String::new(), |waiting| format!("; {}", waiting.why));
        let line = format!(
            "{why}{waiting}; with --stale (consistency=stale), this member gives what it has"
        );
        reply::without_effect(RequestKind::Read, reply::code(why), line)
    }
}

fn under_way() -> Box<Reply> {
    reply::unavailable(
        Code::BackupUnderWay,
        "another backup of this kind is under way on this member; try again when it has ended, or ask another member",
    )
}

/// The client is gone, or has stopped reading.
struct ClientGone;

struct Sink {
    give: mpsc::Sender<BackupPiece>,
}

impl Sink {
    fn send(&self, bytes: Vec<u8>) -> Result<(), ClientGone> {
        let mut rest = Bytes::from(bytes);
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(limits::SNAPSHOT_CHUNK_BYTES));
            self.put(BackupPiece::Bytes(piece))?;
        }
        Ok(())
    }

    /// Waits until there is room for the piece. The wait ends: the connection drops the receiver when its client takes
    /// no bytes for some time, and the end of the runtime drops the connection.
    fn put(&self, piece: BackupPiece) -> Result<(), ClientGone> {
        self.give.blocking_send(piece).map_err(|_| ClientGone)
    }
}

/// Encodes the whole map. The backup's turn ends when this function returns.
fn write(frozen: FrozenBackup, sink: &Sink, work: &mut Work) -> Result<(), ClientGone> {
    let FrozenBackup {
        header,
        map,
        turn: _turn,
    } = frozen;
    let mut encoder = SnapshotEncoder::new();
    sink.send(encoder.header(&header))?;
    map.visit(|key, index, value| {
        if !encoder.entry(key, index, value) {
            return Ok(());
        }
        work.pause();
        encoder.block().map_or(Ok(()), |block| sink.send(block))
    })?;
    if let Some(block) = encoder.block() {
        sink.send(block)?;
    }
    sink.send(encoder.footer())?;
    sink.put(BackupPiece::End)
}

impl Body for Download {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(BackupPiece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(BackupPiece::End) => None,
            // An error ends the connection without the final chunk, so the client sees that the body is incomplete.
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        })
    }
}
