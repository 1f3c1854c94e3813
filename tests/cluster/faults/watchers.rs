//! Watchers that come back: they listen to one member, and when that breaks, or after a while, go on at another one behind
//! the last id that they were given.
//!
//! While a watcher comes back it hears of everything: that is one [`Span`] of the log, and it begins with a list. Only a
//! 410 or a last event `cut` lets it begin another one. How spans are judged stands in `spans`.

use super::nemesis::IMPATIENCE;
use super::spans::{Change, Span};
use crate::clients::{Random, Shunned};
use crate::event_source::{NotBegun, Watch};
use crate::harness::PATIENCE;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// What each watcher watches: everything, some keys, one key.
pub const PREFIXES: [&str; 3] = ["", "hot/", "hot/1"];

/// A watcher goes to another member after so many blocks, at most.
const BLOCKS_MAX: u64 = 3_000;
const PAUSE: Duration = Duration::from_millis(30);
/// One reconnection in this many takes longer.
const LONG_PAUSE: u64 = 6;
const LONG_PAUSE_MAX: Duration = Duration::from_secs(4);

/// All watchers of a run.
pub struct Watchers<'a> {
    nodes: Vec<(u64, SocketAddr)>,
    shunned: &'a Shunned,
    /// They end when they have come this far.
    end: AtomicU64,
    /// The test has failed.
    pub given_up: AtomicBool,
}

/// What ends listening to one member.
enum Ended {
    /// To be resumed at another.
    Broken,
    /// Begin with a list.
    Behind,
    /// It has heard all.
    Done,
}

impl<'a> Watchers<'a> {
    pub fn new(nodes: Vec<(u64, SocketAddr)>, shunned: &'a Shunned) -> Watchers<'a> {
        Watchers {
            nodes,
            shunned,
            end: AtomicU64::new(u64::MAX),
            given_up: AtomicBool::new(false),
        }
    }

    /// The last change that they wait for. Every one of them watches its key.
    pub fn end_at(&self, index: u64) {
        self.end.store(index, SeqCst);
    }

    /// Watches until the end. The spans that it heard.
    pub fn run(&self, prefix: &'static str, mut random: Random) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut span: Option<Span> = None;
        let mut ending: Option<Instant> = None;
        while !self.given_up.load(SeqCst) {
            if self.end.load(SeqCst) < u64::MAX {
                let since = ending.get_or_insert_with(Instant::now).elapsed();
                assert!(since < PATIENCE, "a watcher of {prefix:?} is at {span:?}");
            }
            let node = random.pick(&self.nodes);
            let Some(current) = &mut span else {
                let begun = self.shunned.ask(node.0, || Span::begin(node.1, prefix));
                span = begun.flatten();
                thread::park_timeout(PAUSE);
                continue;
            };
            match self.listen(node, current, &mut random) {
                Ended::Broken => {
                    current.resumed += 1;
                    if random.one_in(LONG_PAUSE) && ending.is_none() {
                        thread::park_timeout(random.between(PAUSE, LONG_PAUSE_MAX));
                    }
                }
                Ended::Behind => spans.extend(span.take()),
                Ended::Done => break,
            }
            thread::park_timeout(PAUSE);
        }
        spans.extend(span);
        spans
    }

    fn listen(
        &self,
        (node, address): (u64, SocketAddr),
        span: &mut Span,
        random: &mut Random,
    ) -> Ended {
        if span.to >= self.end.load(SeqCst) {
            return Ended::Done;
        }
        let query = format!("?prefix={}", span.prefix);
        let begun = self.shunned.ask(node, || {
            Watch::impatient(address, &query, Some(span.to), IMPATIENCE)
        });
        let mut watch = match begun {
            None => return Ended::Broken,
            Some(Ok(watch)) => watch,
            Some(Err(NotBegun::Refused(response))) if response.status == 410 => {
                return Ended::Behind;
            }
            Some(Err(NotBegun::Refused(response))) if response.status == 503 => {
                return Ended::Broken;
            }
            Some(Err(NotBegun::Refused(response))) => {
                panic!("behind {}: {response:?}", span.to)
            }
            Some(Err(NotBegun::Broken(_))) => return Ended::Broken,
        };
        // Changes of an index whose id has not come: they are told again to a watcher that comes back.
        let mut open: Vec<Change> = Vec::new();
        for _ in 0..1 + random.below(BLOCKS_MAX) {
            let Ok(Some(block)) = watch.block() else {
                return Ended::Broken;
            };
            if block.event.as_deref() == Some("no-leader") {
                let after = block.data.as_ref().and_then(|data| data["after"].as_u64());
                assert_eq!(after, Some(span.to), "{block:?}");
                return Ended::Broken;
            }
            if block.event.is_some() {
                let after = block.data.as_ref().and_then(|data| data["after"].as_u64());
                let as_documented = block.event.as_deref() == Some("cut") && after == Some(span.to);
                assert!(as_documented, "at {}: {block:?}", span.to);
                return Ended::Behind;
            }
            span.take(&mut open, block);
            if span.to >= self.end.load(SeqCst) {
                return Ended::Done;
            }
            if self.given_up.load(SeqCst) {
                return Ended::Broken;
            }
        }
        Ended::Broken
    }
}
