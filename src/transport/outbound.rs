//! One lane to one peer: the task that writes the lane's queue to the peer until the peer is retired.
//!
//! The task always tries to stay connected, even without messages to send. A removed member must receive its refusal
//! soon, and the first message after a pause must not wait for a handshake. After a connection breaks, the task dials
//! again at once, unless the connection was short. If the peer's host refuses the new connection, the peer's process is
//! gone. The task reports that, because the peer may have been the leader.

use super::dial::{self, DialError};
use super::frame;
use super::handshake::{self, About, Lane, UPGRADE};
use super::link::{LaneState, Link};
use super::peers::{DialledAnswer, Peer, PeerPlace};
use super::queue::LaneQueue;
use super::round_trip::RoundTrip;
use super::state::TransportState;
use crate::certificates::KeyFingerprint;
use crate::channels::notice::{Met, Notice};
use crate::identity::{self, Claims, Reason, Standing};
use crate::limits;
use crate::peer_url::PeerUrl;
use crate::tls::{NoLonger, Shown, Stream};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE as UPGRADE_HEADER};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use slog::{Logger, debug, o};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Starts the tasks of a peer.
pub(super) fn start_peer(shared: &Arc<TransportState>, id: u64) -> Peer {
    let retired = watch::Sender::new(false);
    let metrics = shared.metrics.peers.add(id, Lane::ALL.map(Lane::name));
    let round_trip = Arc::new(RoundTrip::new(metrics.round_trips.clone()));
    let queues =
        Lane::ALL.map(|lane| Arc::new(LaneQueue::new(metrics.lanes[lane as usize].clone())));
    let logger = shared.logger.new(o!("member" => id));
    let link = Arc::new(Link::new(logger.clone()));
    let tasks = Lane::ALL.map(|lane| {
        let outbound = Outbound {
            shared: shared.clone(),
            peer: id,
            lane,
            queue: queues[lane as usize].clone(),
            round_trip: round_trip.clone(),
            retired: retired.subscribe(),
            link: link.clone(),
            logger: logger.clone(),
        };
        shared.runtime.spawn(outbound.run())
    });
    Peer::new(queues, tasks.into(), retired, round_trip, link, metrics)
}

/// The task of a lane.
pub(super) struct Outbound {
    pub shared: Arc<TransportState>,
    pub peer: u64,
    pub lane: Lane,
    pub queue: Arc<LaneQueue>,
    pub round_trip: Arc<RoundTrip>,
    pub retired: watch::Receiver<bool>,
    pub link: Arc<Link>,
    pub logger: Logger,
}

/// An established connection.
struct Connection {
    stream: Stream,
    /// The certificate that the peer has shown. `None`: without TLS.
    shown: Option<Arc<Shown>>,
    answer: DialledAnswer,
    /// The claims that this member made.
    said: Claims,
}

/// How a connection has ended.
enum Ended {
    /// The peer was retired.
    Retired,
    /// The connection must be made again, with new claims or at another URL.
    Outdated,
    Broken(String),
    /// The peer's claims are not believed any more.
    Disliked(Reason),
}

impl Outbound {
    pub(super) async fn run(self) {
        let (mut pause, mut begun) = (limits::PEER_BACKOFF_MIN, Instant::now());
        let mut retired = self.retired.clone();
        // The URL of the last connection, until it is known whether the process at that URL is gone.
        let mut lost = None;
        loop {
            let dialled = tokio::select! {
                biased;
                _ = retired.wait_for(|retired| *retired) => {
                    self.queue.clear();
                    return;
                }
                dialled = async {
                    begun = Instant::now();
                    self.dial(&mut lost).await
                } => dialled,
            };
            let mut at_once = false;
            let failure = match dialled {
                Ok(connection) => {
                    self.queue.metrics.connections.inc();
                    let url = connection.answer.url.clone();
                    lost = Some(url.clone());
                    let since = Instant::now();
                    let ended = self.serve(connection).await;
                    self.answered(None);
                    // A connection that ends right after it was made does not reset the pause.
                    if since.elapsed() > limits::PEER_BACKOFF_MAX {
                        pause = limits::PEER_BACKOFF_MIN;
                        at_once = true;
                    }
                    match ended {
                        Ended::Retired => return,
                        Ended::Outdated => continue,
                        Ended::Broken(why) => {
                            self.link
                                .found(self.lane, LaneState::Broken(why.clone()), &url);
                            DialError::Broken(why)
                        }
                        Ended::Disliked(reason) => {
                            let failure = DialError::Disliked(reason);
                            self.link.found(self.lane, failure.found(), &url);
                            failure
                        }
                    }
                }
                Err((url, failure)) => {
                    if !self.waits_to_be_added(&failure) {
                        self.link.found(self.lane, failure.found(), &url);
                    }
                    failure
                }
            };
            self.queue.clear();
            self.round_trip.forget();
            debug!(self.logger, "lane is not connected"; "lane" => %self.lane, "error" => %failure);
            self.tell_not_connected(failure);
            if at_once {
                continue;
            }
            pause = self.rest(pause, begun).await;
        }
    }

    /// Waits after an attempt that started at this time and failed. Returns the next pause.
    ///
    /// Any process may claim to be a peer that waits, and so ask for an early attempt. Therefore two attempts are at least
    /// the shortest pause apart, and those at the URL of an open id much more.
    async fn rest(&self, pause: Duration, begun: Instant) -> Duration {
        let is_open = self.shared.view().is_open(self.peer);
        let earliest = match is_open {
            true => begun + limits::PEER_OPEN_DIAL_INTERVAL,
            false => begun + limits::PEER_BACKOFF_MIN,
        };
        let mut retired = self.retired.clone();
        let over = timeout(pause, async {
            tokio::select! {
                _ = retired.wait_for(|retired| *retired) => (),
                () = async {
                    sleep_until(earliest).await;
                    self.queue.redial.notified().await;
                } => (),
            }
        });
        match (over.await, is_open) {
            (_, true) => (pause * 2).min(limits::PEER_OPEN_BACKOFF_MAX),
            (Ok(()), false) => limits::PEER_BACKOFF_MIN,
            (Err(_), false) => (pause * 2).min(limits::PEER_BACKOFF_MAX),
        }
    }

    /// Whether the peer only waits until its cluster has added this member.
    fn waits_to_be_added(&self, failure: &DialError) -> bool {
        let DialError::Refused(refusal) = failure else {
            return false;
        };
        let is_no_member = [Reason::NotAMember, Reason::Undisclosed].contains(&refusal.reason);
        is_no_member && self.shared.view().is_empty()
    }

    /// Tries each place of the peer. Returns the error of the first place that answered, or of the last place if none
    /// answered.
    async fn dial(&self, lost: &mut Option<PeerUrl>) -> Result<Connection, (PeerUrl, DialError)> {
        let mut failed: Option<(PeerUrl, DialError)> = None;
        for place in self.shared.places(self.peer) {
            let failure = match self.dial_at(&place).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => failure,
            };
            // A peer that does not answer proves nothing. But if a host answers that no process listens on the port,
            // the process there has ended.
            if failure.nobody_listens() && lost.take_if(|lost| *lost == place.url).is_some() {
                self.tell(Notice::Gone(self.peer));
            }
            if let DialError::Refused(refusal) = &failure {
                self.shared.inbox.notice(Notice::Refused(refusal.clone()));
            }
            let answered = |failed: &(PeerUrl, DialError)| failed.1.answered();
            if !failed.as_ref().is_some_and(answered) {
                failed = Some((place.url, failure));
            }
        }
        match failed {
            Some(failed) => Err(failed),
            // The peer was retired. The caller waits for that too and ends this future.
            None => std::future::pending().await,
        }
    }

    /// Makes a connection and completes the handshake.
    async fn dial_at(&self, place: &PeerPlace) -> Result<Connection, DialError> {
        let PeerPlace { url, trust } = place;
        let connected = dial::connect(&self.shared, self.peer, url, limits::PEER_SILENCE_MAX);
        let (stream, shown) = connected.await?;
        let said = self.shared.claims_to_dial(self.peer, url);
        let is_alias = said.incarnation != self.shared.view().incarnation;
        let mut request = dial::request(&said, url, "/raft/stream", Empty::<Bytes>::new())?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE_HEADER, HeaderValue::from_static(UPGRADE));
        self.lane.write(headers);
        let handshake = dial::exchange(stream, request, async |mut response| {
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let failure = dial::read_refusal(response, *trust).await;
                return Err(match failure {
                    // The refusal says nothing about this member, because its own claims were not sent.
                    DialError::Refused(_) if is_alias => DialError::NotWaiting,
                    failure => failure,
                });
            }
            let answer = judge(&self.shared, self.peer, url, &response)?;
            let upgraded = hyper::upgrade::on(&mut response).await?;
            let parts = upgraded
                .downcast::<TokioIo<Stream>>()
                .map_err(|_| DialError::Unexpected("with a foreign connection".to_owned()))?;
            if !parts.read_buf.is_empty() {
                return Err(DialError::Unexpected("and went on talking".to_owned()));
            }
            Ok(Connection {
                stream: parts.io.into_inner(),
                shown: shown.clone(),
                answer,
                said: said.clone(),
            })
        });
        timeout(self.shared.limits.handshake_timeout, handshake)
            .await
            .unwrap_or(Err(DialError::Silent))
    }

    /// Writes queued messages until the connection ends.
    async fn serve(&self, connection: Connection) -> Ended {
        let Connection {
            stream,
            shown,
            answer,
            said,
        } = connection;
        let url = answer.url.clone();
        let empty = answer.said.is_empty();
        self.introduce(&answer, shown.as_ref().map(|shown| shown.key()));
        let mut view = self.shared.view.subscribe();
        view.mark_changed();
        self.answered(Some(answer));
        if self.lane == Lane::Control && empty {
            self.shared.recognize(self.peer);
        }
        let (read, write) = tokio::io::split(stream);
        let outdated = AtomicBool::new(false);
        let mut closed = pin!(end_of(read));
        let mut written = pin!(write_queue(&self.queue, write, &outdated));
        let (mut retired, mut up) = (self.retired.clone(), false);
        let mut stale = pin!(sleep(limits::PEER_GREETING_AGE_MAX));
        loop {
            tokio::select! {
                biased;
                _ = retired.wait_for(|retired| *retired) => break,
                why = &mut closed => return Ended::Broken(why),
                () = &mut stale => {
                    if up && !self.seeks_leader() {
                        stale.set(sleep(limits::PEER_GREETING_AGE_MAX));
                        continue;
                    }
                    outdated.store(true, Ordering::Relaxed);
                    self.queue.wake.notify_one();
                    break;
                }
                result = &mut written => return match result {
                    Ok(()) => Ended::Retired,
                    Err(error) => Ended::Broken(error.to_string()),
                },
                changed = view.changed() => {
                    changed.expect("the sender lives in what this task shares");
                    view.borrow_and_update();
                    let judged = self.judge(&url, &said, &mut up);
                    // A removal revokes the key too, and the last messages still have to reach the removed peer. The
                    // peer is retired by now, because the judgement waits for the change of the members.
                    if *self.retired.borrow() {
                        break;
                    }
                    let is_current = match self.is_current(shown.as_ref()) {
                        Err(reason) => return Ended::Disliked(reason),
                        Ok(is_current) => is_current,
                    };
                    match judged {
                        Err(reason) => return Ended::Disliked(reason),
                        Ok(true) if is_current => {}
                        Ok(_) => {
                            outdated.store(true, Ordering::Relaxed);
                            self.queue.wake.notify_one();
                            break;
                        }
                    }
                }
            }
        }
        match outdated.load(Ordering::Relaxed) {
            true => end_outdated(closed, written).await,
            false => end_retired(closed, written).await,
        }
    }

    /// Reports that no message reaches the peer on this lane.
    fn tell_not_connected(&self, failure: DialError) {
        self.shared.inbox.notice(Notice::Unreachable(self.peer));
        self.tell(Notice::Disconnected(self.peer));
        if let DialError::Disliked(reason) = failure {
            self.tell(Notice::Unfit(self.peer, reason));
        }
    }

    /// Whether to ask the peer again which member leads: this member has had no leader for long. Perhaps this member does
    /// not know the leader, or has moved, so that the leader does not find it.
    fn seeks_leader(&self) -> bool {
        self.lane == Lane::Control && self.shared.is_leaderless_for_long()
    }

    /// Reports the peer that has answered.
    fn introduce(&self, answer: &DialledAnswer, key: Option<KeyFingerprint>) {
        let (id, empty) = (self.peer, answer.said.is_empty());
        self.tell(match &answer.said {
            identity::PeerAnswer::Claims(claims, _) => Notice::Met(Met {
                id,
                incarnation: claims.incarnation,
                bound_index: claims.bound_index,
                url: answer.url.clone(),
                dialled: true,
                version: claims.version,
                key,
            }),
            identity::PeerAnswer::Greeting(_) => Notice::Greeted { id, empty },
        });
    }

    /// Judges the connection again, given its URL and the claims that this member made on it. Returns false if the
    /// connection must be made again.
    fn judge(&self, url: &PeerUrl, said: &Claims, up: &mut bool) -> Result<bool, Reason> {
        let (shared, peer) = (&self.shared, self.peer);
        let Some((standing, is_place)) = shared.standing(peer, self.lane, &self.queue) else {
            // The peer was retired.
            return Ok(true);
        };
        if standing? != Standing::Waiting && !std::mem::replace(up, true) {
            self.link.found(self.lane, LaneState::Up, url);
            self.tell(Notice::Connected(peer));
        }
        let says = shared.claims_to_dial(peer, url);
        let own = |claims: &Claims| (claims.cluster, claims.bound_index, claims.url.clone());
        // An empty member accepts messages only from a peer whose claims name the empty member's incarnation.
        let named = |claims: &Claims| claims.receiver.map(|receiver| receiver.incarnation);
        let is_named = *up || named(&says) == named(said);
        Ok(is_place && is_named && own(&says) == own(said))
    }

    /// Whether both sides would show these certificates again. If not, the connection is made again, without the loss of a
    /// message. So no connection depends on a CA any more when that CA is taken out of `ca.pem`.
    fn is_current(&self, shown: Option<&Arc<Shown>>) -> Result<bool, Reason> {
        match self.shared.check_shown(shown) {
            Err(NoLonger::Revoked) => Err(Reason::KeyRevoked),
            Err(NoLonger::Invalid(_)) => Ok(false),
            Ok(()) => {
                let both = shown.zip(self.shared.tls.as_ref());
                Ok(!both.is_some_and(|(shown, tls)| shown.is_renewed(tls)))
            }
        }
    }

    /// Records the peer's answer on this lane, or `None` if the lane is not connected.
    fn answered(&self, answer: Option<DialledAnswer>) {
        let shared = &self.shared;
        if !shared.answered(self.peer, self.lane, &self.queue, answer) {
            shared.inbox.notice(Notice::Unreachable(self.peer));
        }
    }

    /// Reports a notice that concerns both lanes. Only the control lane reports it.
    fn tell(&self, notice: Notice) {
        if self.lane == Lane::Control {
            self.shared.inbox.notice(notice);
        }
    }
}

/// Waits for the end of a connection on which the peer sends nothing, so that anything readable is the end. The end is
/// noticed at once, even when there is nothing to write.
async fn end_of(mut connection: ReadHalf<Stream>) -> String {
    match connection.read(&mut [0; 1]).await {
        Ok(0) => "the peer closed it".to_owned(),
        Ok(_) => "the peer spoke out of turn".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Ends a connection whose peer was retired. The messages queued before a removal may be the messages that inform the
/// peer about the removal.
async fn end_retired(
    closed: Pin<&mut impl Future<Output = String>>,
    written: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> Ended {
    let flush = async {
        tokio::select! {
            _ = closed => (),
            _ = written => (),
        }
    };
    // Messages that can't be written in time are dropped.
    let _ = timeout(limits::PEER_FLUSH_TIMEOUT, flush).await;
    Ended::Retired
}

/// Ends an outdated connection between two frames, so that the peer has read every frame.
async fn end_outdated(
    mut closed: Pin<&mut impl Future<Output = String>>,
    written: Pin<&mut impl Future<Output = io::Result<()>>>,
) -> Ended {
    let flush = async {
        let written = tokio::select! {
            _ = &mut closed => false,
            result = written => result.is_ok(),
        };
        if written {
            closed.await;
        }
        written
    };
    match timeout(limits::PEER_FLUSH_TIMEOUT, flush).await {
        Ok(true) => Ended::Outdated,
        _ => Ended::Broken("it did not end in time".to_owned()),
    }
}

/// Writes queued messages until the queue is closed and empty, or until the connection is outdated.
async fn write_queue(
    queue: &LaneQueue,
    mut connection: WriteHalf<Stream>,
    outdated: &AtomicBool,
) -> io::Result<()> {
    let (mut messages, mut outgoing) = (Vec::new(), frame::Outgoing::default());
    while !outdated.load(Ordering::Relaxed) && queue.take(&mut messages).is_some() {
        if messages.is_empty() {
            queue.wake.notified().await;
            continue;
        }
        outgoing.fill(&mut messages);
        for piece in outgoing.pieces() {
            connection.write_all(piece).await?;
        }
        // With TLS, bytes that were written may still wait to be encrypted.
        connection.flush().await?;
        outgoing.clear();
    }
    connection.shutdown().await
}

/// The positive answer of `peer` at this URL, if it is believed.
fn judge(
    shared: &TransportState,
    peer: u64,
    url: &PeerUrl,
    response: &Response<Incoming>,
) -> Result<DialledAnswer, DialError> {
    let said = handshake::read_answer(response.headers())
        .map_err(|malformed| DialError::Unexpected(malformed.to_string()))?;
    let actual = said.from();
    if actual != peer {
        return Err(DialError::Disliked(Reason::WrongReceiver { actual }));
    }
    let url = url.clone();
    let about = About::read(response.headers());
    let answer = DialledAnswer { said, url, about };
    match shared.judge_answer(&answer) {
        Ok(_) => Ok(answer),
        Err(reason) => Err(DialError::Disliked(reason)),
    }
}
