//! `GET /-/watch`: the changes of the map as server-sent events, in the order of the log.
//!
//! A watcher is the body of a response and not a task. hyper asks for the next piece when the client has taken the
//! previous piece. The piece is then made from the history (see `store/history.rs`). So a slow client holds one piece,
//! and nothing waits for the client. If the history drops changes before the client has read them, the client gets a
//! last event that says so, and the response ends. The same happens when this member has had no leader for long: it
//! learns of no changes, but another member may have a leader.
//!
//! The id of an event is the index of its entry, and only the last event of an entry has an id. A client that is cut
//! off in the middle of an entry gets the whole entry again.

use super::audit::Client;
use super::error_code::Code;
use super::event_texts::{EventTexts, NoText, is_large};
use super::path::{QueryOption, options, percent_encode, unknown};
use super::reply::{self, Reply, ReplyBody, ReplyResult, RequestKind};
use super::slots::{Full, Slot};
use super::{Front, json};
use crate::channels::inbox::Inbox;
use crate::channels::status::Waiting;
use crate::limits;
use crate::store::history::{Changes, Gone, Reader};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Serialize;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::watch;
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
        let value = QueryOption::of(option);
        let name = value.name;
        // Whether the option was given before, or `None` if its value is invalid.
        let (given, form) = match name {
            "prefix" => {
                let given = value.bytes().map(|bytes| prefix.replace(bytes).is_some());
                (given, "percent-encoded")
            }
            "after" => {
                let given = value.number().map(|index| after.replace(index).is_some());
                (given, "an index, such as 7")
            }
            _ => return Err(unknown(option, "a watch accepts prefix and after")),
        };
        let refused = match given {
            Some(false) => continue,
            Some(true) => format!("the option {name} is given twice; give it once"),
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
            caught_up.map_err(|why| self.not_proposed(RequestKind::Read, why))?;
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
            _ => ReplyBody::Endless(
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
                    texts: Arc::clone(&self.event_texts),
                    waiting: self.api.inbox.waiting(),
                    partial: None,
                    rest: Default::default(),
                    more: false,
                    _slot: slot,
                })
                .boxed_unsync(),
            ),
        };
        Ok(reply::events(body))
    }

    /// Wakes the watchers whenever changes were applied, or whenever this member loses its leader. Never completes.
    pub(super) async fn tell_watchers(&self) {
        let mut waiting = self.api.inbox.waiting();
        loop {
            tokio::select! {
                () = self.api.state_machine.history.news() => {}
                // The sender lives in the inbox, which lives as long as this server.
                _ = waiting.changed() => {}
            }
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
    /// The last event was sent: `cut` or `no-leader`.
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
    /// The texts that all watchers share.
    texts: Arc<EventTexts>,
    /// What this member waits for, if it has no leader.
    waiting: watch::Receiver<Option<Arc<Waiting>>>,
    /// An entry of which a part was sent: its index, and the number of the first change that was not sent.
    partial: Option<(u64, usize)>,
    /// What was not sent yet of a large event, and its end.
    rest: [Bytes; 2],
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
        if let Some(piece) = self.rest_of_large() {
            return Some(piece);
        }
        loop {
            if self.cut || *self.news.borrow_and_update() {
                return None;
            }
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
                Err(gone) => return Some(self.fell_behind(gone)),
            };
            if entries.is_empty() {
                if let Some(waiting) = self.leaderless() {
                    return Some(self.no_leader(&waiting));
                }
                match timeout_at(self.id_due, self.news.changed()).await {
                    Ok(Ok(())) => {}
                    // The sender is gone, so the server has stopped.
                    Ok(Err(_)) => return None,
                    Err(_) => return Some(self.tell_id("")),
                }
                continue;
            }
            match self.piece(&entries) {
                Piece::Nothing => {
                    let weight = entries.iter().map(|(_, changes)| changes.weight());
                    self.unseen_bytes += weight.sum::<u64>();
                    if self.unseen_bytes > self.unseen_bytes_max || Instant::now() >= self.id_due {
                        return Some(self.tell_id(""));
                    }
                    // There may be many changes that this client does not watch.
                    tokio::task::yield_now().await;
                }
                Piece::Text(text) => {
                    self.more = true;
                    return Some(text);
                }
                Piece::Large(large) => {
                    // A watcher that waits for the text does not keep the entry in memory.
                    drop(entries);
                    match self.wait_for(large).await {
                        ControlFlow::Continue(()) => {}
                        ControlFlow::Break(piece) => return piece,
                    }
                }
            }
        }
    }

    /// Waits for the text of a large change. `Break`: the next piece, or the end.
    async fn wait_for(&mut self, large: Large) -> ControlFlow<Option<Bytes>> {
        let texts = Arc::clone(&self.texts);
        let text = texts.large(large.index, large.number);
        let text = tokio::select! {
            text = timeout_at(self.id_due, text) => text,
            _ = self.news.wait_for(|stopping| *stopping) => return ControlFlow::Break(None),
        };
        match text {
            Ok(Ok(text)) => {
                self.send_large(&large, text);
                ControlFlow::Break(self.rest_of_large())
            }
            Ok(Err(NoText::Stopping)) => ControlFlow::Break(None),
            // The next read finds that the entry is gone.
            Ok(Err(NoText::Gone)) => {
                self.go_back(large.index, large.number);
                ControlFlow::Continue(())
            }
            // Slow readers hold the budget, and this client should still get an id now and then.
            Err(_) => {
                self.go_back(large.index, large.number);
                ControlFlow::Break(Some(self.tell_id("")))
            }
        }
    }

    /// Collects the next changes to keys with the prefix, up to a limit or up to a large change.
    fn piece(&mut self, entries: &[(u64, Arc<Changes>)]) -> Piece {
        let after = self.reader.position();
        let mut text = Vec::new();
        let mut id = None;
        for (position, (index, changes)) in entries.iter().enumerate() {
            let index = *index;
            let sent = self.partial.take_if(|(partial, _)| *partial == index);
            let sent = sent.map_or(0, |(_, sent)| sent);
            let prefix = &self.prefix;
            let wanted = changes.iter().enumerate().skip(sent);
            let wanted = wanted.filter(|(_, change)| change.key.starts_with(prefix));
            let mut wanted = wanted.peekable();
            let mut texts = None;
            while let Some((number, change)) = wanted.next() {
                let ends_entry = wanted.peek().is_none();
                if is_large(change) && text.is_empty() {
                    let is_last = position + 1 == entries.len();
                    return Piece::Large(Large {
                        index,
                        number,
                        ends_entry,
                        after: if is_last { after } else { index },
                    });
                }
                if is_large(change) || text.len() >= limits::WATCH_PIECE_BYTES {
                    self.go_back(index, number);
                    self.told(id);
                    return Piece::Text(text.into());
                }
                let texts = texts.get_or_insert_with(|| self.texts.of_entry(index, changes));
                text.extend_from_slice(texts.get(index, number, change));
                if ends_entry {
                    id = Some(index);
                    // The id goes into the last event of the entry, before the empty line that ends the event.
                    text.pop();
                    text.extend_from_slice(&id_line(index));
                }
            }
        }
        if text.is_empty() {
            return Piece::Nothing;
        }
        self.told(id);
        Piece::Text(text.into())
    }

    /// The next piece starts with the change of this number in the entry with this index.
    fn go_back(&mut self, index: u64, number: usize) {
        self.reader.go_to(index - 1);
        self.partial = Some((index, number));
    }

    fn send_large(&mut self, large: &Large, text: Bytes) {
        if !large.ends_entry {
            self.go_back(large.index, large.number + 1);
            self.rest = [text, Bytes::new()];
            return;
        }
        self.reader.go_to(large.after);
        self.told(Some(large.index));
        // The id goes before the empty line that ends the event.
        let before = text.slice(..text.len() - 1);
        self.rest = [before, id_line(large.index).into()];
    }

    /// The next piece of a large event. Its pieces are small, because many watchers may send the event at the same time.
    fn rest_of_large(&mut self) -> Option<Bytes> {
        let rest = self.rest.iter_mut().find(|rest| !rest.is_empty())?;
        let bytes = rest.len().min(limits::WATCH_PIECE_BYTES);
        self.more = true;
        Some(rest.split_to(bytes))
    }

    /// What this member waits for, if it has had no leader for long.
    fn leaderless(&self) -> Option<Arc<Waiting>> {
        let waiting = self.waiting.borrow().clone();
        waiting.filter(|waiting| waiting.is_long)
    }

    /// Sends the client its position, without an event.
    fn tell_id(&mut self, before: &str) -> Bytes {
        let id = self.reader.position();
        self.told(Some(id));
        format!("{before}id: {id}\n\n").into()
    }

    /// Records the newest id that is sent. A piece that ends inside an entry has no id.
    fn told(&mut self, id: Option<u64>) {
        self.id = id.unwrap_or(self.id);
        self.id_due = Instant::now() + self.id_interval;
        self.unseen_bytes = 0;
    }

    /// The last event of a client that has fallen behind.
    fn fell_behind(&mut self, Gone { oldest }: Gone) -> Bytes {
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
        self.last_event("cut", &cut)
    }

    /// The last event while this member has no leader.
    fn no_leader(&mut self, waiting: &Waiting) -> Bytes {
        let after = self.id;
        let detail = format!(
            "this member has no leader, so it learns of no changes; watch another member, from index {after} on; {}",
            waiting.why
        );
        self.last_event("no-leader", &NoLeader { after, detail })
    }

    fn last_event(&mut self, name: &str, data: &impl Serialize) -> Bytes {
        self.cut = true;
        let mut text = format!("event: {name}\ndata: ").into_bytes();
        json::push(&mut text, data);
        text.extend_from_slice(b"\n\n");
        text.into()
    }
}

/// What a watcher sends next.
enum Piece {
    /// The entries change no key that the client watches.
    Nothing,
    Text(Bytes),
    Large(Large),
}

/// A change whose text is sent alone.
struct Large {
    index: u64,
    /// The number of the change in its entry.
    number: usize,
    /// No later change of the entry is sent.
    ends_entry: bool,
    /// Where to read on after the entry.
    after: u64,
}

/// The end of the last event of an entry.
fn id_line(index: u64) -> Vec<u8> {
    format!("id: {index}\n\n").into_bytes()
}

/// The data of the last event of a client that has fallen behind.
#[derive(Serialize)]
struct Cut {
    after: u64,
    oldest: u64,
    list: String,
    detail: String,
}

/// The data of the last event while this member has no leader.
#[derive(Serialize)]
struct NoLeader {
    after: u64,
    detail: String,
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
