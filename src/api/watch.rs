//! `GET /-/watch`: the changes of the map as server-sent events, in the order of the log.
//!
//! A watcher is the body of a response and not a task. hyper asks for the next piece when the client has taken the
//! previous piece. The piece is then made from the history (see `store/history.rs`). So a slow client holds one piece,
//! and nothing waits for the client. If the history drops changes before the client has read them, the client gets a
//! last event that says so, and the response ends.
//!
//! The id of an event is the index of its entry, and only the last event of an entry has an id. A client that is cut
//! off in the middle of an entry gets the whole entry again.

use super::audit::Client;
use super::error_code::Code;
use super::path::{options, percent_encode, query_decode, unknown};
use super::reply::{self, Reply, ReplyBody, ReplyResult, RequestKind};
use super::slots::{Full, Slot};
use super::{Front, json};
use crate::channels::inbox::Inbox;
use crate::limits;
use crate::store::history::{Change, Changes, Gone, Reader};
use crate::workers::Workers;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Serialize;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

/// The options of a watch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WatchOptions {
    pub(super) prefix: Vec<u8>,
    /// The client wants the changes after this index. `None` means the changes from now on.
    pub(super) after: Option<u64>,
}

/// Reads the options of a watch. The prefix is percent-encoded.
pub(super) fn watch_options(query: Option<&str>) -> Result<WatchOptions, Box<Reply>> {
    let (mut prefix, mut after) = (None, None);
    for option in options(query) {
        let (name, text) = option.split_once('=').unwrap_or((option, ""));
        // Whether the option was given before, or `None` if its value is invalid.
        let (given, form) = match name {
            "prefix" => {
                let bytes = query_decode(text.as_bytes()).map(|bytes| bytes.into_owned());
                let given = bytes.map(|bytes| prefix.replace(bytes).is_some());
                (given, "percent-encoded")
            }
            "after" => {
                let given = index(text).map(|index| after.replace(index).is_some());
                (given, "an index, such as 7")
            }
            _ => return Err(unknown(option, "a watch accepts prefix and after")),
        };
        let refused = match given {
            Some(false) => continue,
            Some(true) => format!("the option {name} is given twice"),
            None => format!("the option {name} has to be {form}"),
        };
        return Err(reply::error(Code::BadOption, refused));
    }
    Ok(WatchOptions {
        prefix: prefix.unwrap_or_default(),
        after,
    })
}

/// Accepts digits only, without a sign.
fn index(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The header field in which an `EventSource` sends its position when it reconnects.
const LAST_EVENT_ID: &str = "last-event-id";

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Box<Reply>> {
    let Some(field) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let id = field.to_str().ok().and_then(index);
    let bad = || {
        reply::error(
            Code::BadOption,
            "Last-Event-ID has to be an index, such as 7",
        )
    };
    id.map(Some).ok_or_else(bad)
}

impl Front {
    /// `GET /-/watch`.
    pub(super) async fn watch(
        &self,
        head: &Parts,
        options: WatchOptions,
        deadline: Instant,
    ) -> ReplyResult {
        let WatchOptions { prefix, after } = options;
        let after = last_event_id(&head.headers)?.or(after);
        let slot = self.watchers.enter(Client::of(head).ip());
        let slot = slot.map_err(|full| {
            let line = match full {
                Full::All => "not watched: too many watchers; try again, or another member",
                Full::Address => {
                    "not watched: this address has as many watchers as one address may have; close some, or try again"
                }
            };
            reply::unavailable(Code::QueueFull, line)
        })?;
        let history = &self.api.state_machine.history;
        // Changes that are in the history already need no confirmation. But the meaning of "now", and whether an index
        // beyond the newest belongs to this cluster, are known only after a read-index round.
        if after.is_none_or(|after| after > history.newest()) {
            let caught_up = self.catch_up(deadline).await;
            caught_up.map_err(|why| reply::not_proposed(RequestKind::Read, why))?;
        }
        let news = self.news.subscribe();
        let newest = history.newest();
        let position = after.unwrap_or(newest);
        if position > newest {
            return Err(reply::error(
                Code::BadOption,
                format!(
                    "index {position} is ahead of this cluster, which is at {newest}: it comes from another cluster, \
                     or from a history that was rolled back; {}",
                    advice(&prefix)
                ),
            ));
        }
        let oldest = history.oldest();
        if position < oldest {
            return Err(reply::compacted(
                oldest,
                format!(
                    "the changes after index {position} are not in memory any more, only those after {oldest} are; {}",
                    advice(&prefix)
                ),
            ));
        }
        let body = match head.method {
            // The body of an answer to HEAD is not sent.
            Method::HEAD => ReplyBody::default(),
            _ => ReplyBody::Stream(
                Stream::of(Watcher {
                    begun: false,
                    cut: false,
                    reader: Reader::new(Arc::clone(history), position),
                    prefix,
                    news,
                    inbox: Arc::clone(&self.api.inbox),
                    id: position,
                    id_due: Instant::now(),
                    id_interval: self.api.limits.watch_id_interval,
                    unseen_bytes: 0,
                    unseen_bytes_max: history.bytes_max() / 8,
                    budget: Arc::clone(&self.watch_bytes),
                    workers: self.api.workers.clone(),
                    share: None,
                    more: false,
                    _slot: slot,
                })
                .boxed_unsync(),
            ),
        };
        Ok(reply::events(body))
    }

    /// Wakes the watchers whenever changes were applied. Never completes.
    pub(super) async fn tell_watchers(&self) {
        loop {
            self.api.state_machine.history.news().await;
            self.news.send_modify(|_| {});
        }
    }

    /// Ends the responses of all watchers.
    pub(super) fn end_watches(&self) {
        self.news.send_replace(true);
    }
}

/// Turns a temporary refusal of an `EventSource` into a response with status 200 that ends at once. After any other
/// status, an `EventSource` never reconnects.
pub(super) fn fit(reply: Reply, head: &Parts) -> Reply {
    let wants_events = |field: &HeaderValue| field.as_bytes().starts_with(b"text/event-stream");
    let is_for_now = reply.status() == StatusCode::SERVICE_UNAVAILABLE;
    let is_watch = head.uri.path() == "/-/watch" && head.method == Method::GET;
    match head.headers.get(ACCEPT).is_some_and(wants_events) {
        true if is_for_now && is_watch => {
            // No empty line ends this event. With an empty line, the `EventSource` would lose its position.
            reply::events(Bytes::from_static(b"retry: 1000\n").into())
        }
        _ => reply,
    }
}

/// Advice for a client that has missed changes.
fn advice(prefix: &[u8]) -> String {
    format!(
        "list the keys again with GET {}, and watch from the index of the first page of that list",
        list_link(prefix)
    )
}

fn list_link(prefix: &[u8]) -> String {
    // The prefix may be as long as the head of a request.
    match prefix.len() {
        0 => "/-/kv?values=true".to_owned(),
        1..=200 => format!("/-/kv?values=true&prefix={}", percent_encode(prefix)),
        _ => "/-/kv?values=true&prefix=<prefix>".to_owned(),
    }
}

/// The state of a response that is being sent.
struct Watcher {
    begun: bool,
    /// The last event was sent.
    cut: bool,
    reader: Reader,
    prefix: Vec<u8>,
    /// True when this member stops.
    news: watch::Receiver<bool>,
    /// Tells when this member stops serving clients.
    inbox: Arc<Inbox>,
    /// The last id that was sent to the client.
    id: u64,
    /// When to send an id if no event comes first. The id lets the client keep up while none of its keys changes, and
    /// keeps proxies from treating the connection as dead.
    id_due: Instant,
    id_interval: Duration,
    /// Bytes of changes to other keys since the last id.
    unseen_bytes: u64,
    unseen_bytes_max: u64,
    /// One permit for each byte of large events that are on their way to watchers.
    budget: Arc<Semaphore>,
    /// The threads that write large events.
    workers: Workers,
    /// The part of the budget that the next piece may use.
    share: Option<OwnedSemaphorePermit>,
    /// The previous piece held changes, so there may be more.
    more: bool,
    _slot: Slot,
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            return Some(self.tell_id("retry: 1000\n"));
        }
        if std::mem::take(&mut self.more) {
            // The watcher yields after each piece. Otherwise hyper would poll it for as long as the socket accepts
            // bytes, and other connections of this thread would wait.
            tokio::task::yield_now().await;
        }
        loop {
            if self.cut || *self.news.borrow_and_update() {
                return None;
            }
            let before = self.reader.position();
            let read = self
                .reader
                .read(limits::WATCH_ENTRIES_MAX, limits::WATCH_PIECE_BYTES);
            // This check must follow the read of the history. If it came first, changes that were applied after the
            // member was closed could be sent.
            if self.inbox.closed().is_some() {
                return None;
            }
            let entries = match read {
                Ok(entries) => entries,
                Err(gone) => return Some(self.last_event(gone)),
            };
            let bytes: usize = entries.iter().map(|(_, changes)| changes.bytes()).sum();
            let weight = || entries.iter().map(|(_, changes)| changes.weight());
            if entries.is_empty() {
                let waiting = timeout_at(self.id_due, self.news.changed());
                match waiting.await {
                    Ok(Ok(())) => {}
                    // The sender is gone, so the server has stopped.
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(self.tell_id("")),
                }
            } else if !entries.iter().any(|(_, changes)| self.wants(changes)) {
                self.unseen_bytes += weight().sum::<u64>();
                if self.unseen_bytes > self.unseen_bytes_max || Instant::now() >= self.id_due {
                    return Some(self.tell_id(""));
                }
                // There may be many changes that this client does not watch.
                tokio::task::yield_now().await;
            } else if bytes <= limits::WATCH_PIECE_BYTES {
                let EventText { text, id } = to_events(&entries, &self.prefix);
                self.told(id);
                self.more = true;
                return Some(text.into());
            } else if self.share.is_none() {
                // The watcher waits for its share without the entry, because otherwise a waiting watcher alone could
                // keep the entry in memory.
                drop(entries);
                self.reader.go_back(before);
                // A byte of a value takes at most six bytes as an escape.
                let share = (6 * bytes).min(limits::WATCHES_BYTES_MAX) as u32;
                let share = Arc::clone(&self.budget).acquire_many_owned(share);
                let share = tokio::select! {
                    share = timeout_at(self.id_due, share) => share,
                    _ = self.news.wait_for(|stopping| *stopping) => return None,
                };
                match share {
                    Ok(share) => self.share = share.ok(),
                    // The watcher loses its place in the queue. Slow readers hold the budget, and this client should
                    // still get an id now and then.
                    Err(_) => return Some(self.tell_id("")),
                }
            } else if let Some(piece) = self.large(entries).await {
                return Some(piece);
            }
        }
    }

    fn wants(&self, changes: &Changes) -> bool {
        changes
            .iter()
            .any(|change| change.key.starts_with(&self.prefix))
    }

    /// Writes one large entry on a worker thread, so that it delays no other connection.
    async fn large(&mut self, entries: Vec<(u64, Arc<Changes>)>) -> Option<Bytes> {
        let share = self.share.take();
        let prefix = self.prefix.clone();
        // The work keeps its share, even when the client disconnects meanwhile.
        let written = self.workers.run(move || {
            let EventText { text, id } = to_events(&entries, &prefix);
            (
                SentEvents {
                    text,
                    _share: share,
                },
                id,
            )
        });
        // If the process ends, this connection ends too.
        let (sent, id) = written.await.ok()?;
        self.told(id);
        self.more = true;
        Some(Bytes::from_owner(sent))
    }

    /// Sends the client its position, without an event.
    fn tell_id(&mut self, before: &str) -> Bytes {
        let id = self.reader.position();
        self.told(id);
        format!("{before}id: {id}\n\n").into()
    }

    fn told(&mut self, id: u64) {
        self.id = id;
        self.id_due = Instant::now() + self.id_interval;
        self.unseen_bytes = 0;
    }

    /// The last event of a client that has fallen behind.
    fn last_event(&mut self, Gone { oldest }: Gone) -> Bytes {
        self.cut = true;
        self.share = None;
        let after = self.id;
        let cut = Cut {
            after,
            oldest,
            list: list_link(&self.prefix),
            detail: format!(
                "this reader fell behind: changes after index {after} are not in memory any more; {}",
                advice(&self.prefix)
            ),
        };
        let mut text = b"event: cut\ndata: ".to_vec();
        json::push(&mut text, &cut);
        text.extend_from_slice(b"\n\n");
        text.into()
    }
}

/// The data of the last event of a client that has fallen behind.
#[derive(Serialize)]
struct Cut {
    after: u64,
    oldest: u64,
    list: String,
    detail: String,
}

/// A large piece on its way to the client, with its share of the budget.
struct SentEvents {
    text: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for SentEvents {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

struct EventText {
    text: Vec<u8>,
    /// The id of the last event in the text.
    id: u64,
}

/// The changes to keys with this prefix, as events. At least one change must match.
fn to_events(entries: &[(u64, Arc<Changes>)], prefix: &[u8]) -> EventText {
    let mut text = Vec::new();
    let mut id = 0;
    for (index, changes) in entries {
        let start = text.len();
        let wanted = |change: &Change| change.key.starts_with(prefix);
        for change in changes.iter().filter(wanted) {
            push_event(&mut text, *index, change);
        }
        if text.len() > start {
            id = *index;
            // The id goes into the last event of the entry, before the empty line that ends the event.
            text.pop();
            text.extend_from_slice(format!("id: {index}\n\n").as_bytes());
        }
    }
    EventText { text, id }
}

/// A change in the form that clients see.
#[derive(Serialize)]
struct Event<'a> {
    op: &'static str,
    index: u64,
    #[serde(flatten)]
    key: json::KeyJson<'a>,
    #[serde(flatten)]
    stored: Option<json::Stored<'a>>,
}

fn push_event(text: &mut Vec<u8>, index: u64, change: Change) {
    text.extend_from_slice(b"data: ");
    let event = Event {
        op: change.value.map_or("delete", |_| "put"),
        index,
        key: json::KeyJson::of(change.key),
        stored: change.value.map(|value| json::Stored {
            size: value.len(),
            etag: json::Etag(index),
            value: Some(json::ValueJson::of(value)),
        }),
    };
    json::push(text, &event);
    text.extend_from_slice(b"\n\n");
}

/// A watcher as the body of a response.
struct Stream {
    next: Next,
}

/// Makes the next piece and returns the watcher with it, or `None` at the end.
type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Watcher)>> + Send>>;

impl Stream {
    fn of(mut watcher: Watcher) -> Stream {
        let next = Box::pin(async move {
            let piece = watcher.next().await?;
            Some((piece, watcher))
        });
        Stream { next }
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        // hyper does not poll again after the end.
        let next = ready!(self.next.as_mut().poll(cx));
        Poll::Ready(next.map(|(piece, watcher)| {
            *self = Stream::of(watcher);
            Ok(Frame::data(piece))
        }))
    }
}
