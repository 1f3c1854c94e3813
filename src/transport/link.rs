//! Whether a peer is up: combines what the two lanes find out, and logs each change once.
//!
//! A peer is up when both lanes are connected and messages pass. It is down when one of the lanes can't be connected. A
//! connection that breaks means neither: the lane dials again at once, and only the result of that counts. Failed
//! attempts and their errors are not logged one by one. But a refusal is another state than no answer, and a change
//! between the two is logged.

use super::handshake::Lane;
use crate::peer_url::PeerUrl;
use parking_lot::Mutex;
use slog::{Logger, info, warn};
use std::time::{Duration, Instant, SystemTime};

/// What a lane knows about its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LaneState {
    /// Connected, and messages pass.
    Up,
    /// Connected before, but the connection broke.
    Broken(String),
    /// A connection could not be made.
    Down {
        why: String,
        /// Whether the peer itself gave this reason.
        answered: bool,
    },
}

/// The state of one peer, for both of its lanes.
pub(super) struct Link {
    state: Mutex<LinkState>,
    logger: Logger,
}

impl Link {
    /// A link about which nothing is known yet. `logger` must name the peer.
    pub(super) fn new(logger: Logger) -> Link {
        Link {
            state: Mutex::default(),
            logger,
        }
    }

    /// Records what a lane found out about the peer at this URL. Logs the change, if there is one.
    pub(super) fn found(&self, lane: Lane, found: LaneState, url: &PeerUrl) {
        let mut state = self.state.lock();
        let change = state.change(lane, found, Instant::now());
        match change {
            Some(LinkChange::Up { .. }) => state.seen = Some((true, SystemTime::now())),
            Some(LinkChange::Down { .. }) if state.seen.is_none_or(|(up, _)| up) => {
                state.seen = Some((false, SystemTime::now()));
            }
            _ => {}
        }
        // Logging under the lock keeps the lines in the order of the changes.
        match change {
            None => {}
            Some(LinkChange::Up { down: None }) => info!(self.logger, "peer is up"; "url" => %url),
            Some(LinkChange::Up { down: Some(down) }) => {
                info!(self.logger, "peer is up again"; "url" => %url,
                    "was_down_ms" => down.as_millis() as u64);
            }
            Some(LinkChange::Again { why }) => {
                info!(self.logger, "peer was connected again"; "url" => %url, "error" => why);
            }
            Some(LinkChange::Down { why }) => {
                warn!(self.logger, "peer is down"; "url" => %url, "error" => why);
            }
        }
    }
}

impl Link {
    /// Whether the peer is up, and since when. `None` while nothing is known.
    pub(super) fn seen(&self) -> Option<(bool, SystemTime)> {
        self.state.lock().seen
    }
}

#[derive(Debug, Default)]
struct LinkState {
    /// Whether the peer is up, and since when.
    seen: Option<(bool, SystemTime)>,
    lanes: [Option<LaneState>; 2],
    logged: Option<Logged>,
    /// Why the most recent connection broke.
    broken: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Logged {
    Up,
    /// The peer's answer, if it answered, and the time since which the peer is down.
    Down(Option<String>, Instant),
}

#[derive(Debug, PartialEq, Eq)]
enum LinkChange {
    Up { down: Option<Duration> },
    Again { why: String },
    Down { why: String },
}

impl LinkState {
    /// Updates the state. Returns the change to log, if there is one.
    fn change(&mut self, lane: Lane, found: LaneState, now: Instant) -> Option<LinkChange> {
        if self.lanes[lane as usize].as_ref() == Some(&found) {
            return None;
        }
        self.lanes[lane as usize] = Some(found.clone());
        match found {
            LaneState::Broken(why) => {
                self.broken = Some(why);
                None
            }
            LaneState::Up => {
                let is_up = |lane: &Option<LaneState>| *lane == Some(LaneState::Up);
                if !self.lanes.iter().all(is_up) {
                    return None;
                }
                let broken = self.broken.take();
                match self.logged.replace(Logged::Up) {
                    None => Some(LinkChange::Up { down: None }),
                    Some(Logged::Up) => broken.map(|why| LinkChange::Again { why }),
                    Some(Logged::Down(_, since)) => Some(LinkChange::Up {
                        down: Some(now.saturating_duration_since(since)),
                    }),
                }
            }
            LaneState::Down { why, answered } => {
                let answer = answered.then(|| why.clone());
                let since = match &self.logged {
                    Some(Logged::Down(told, _)) if *told == answer => return None,
                    // While the lanes disagree, the lane with an answer counts.
                    Some(Logged::Down(Some(_), _)) if answer.is_none() && self.was_answered() => {
                        return None;
                    }
                    Some(Logged::Down(_, since)) => *since,
                    _ => now,
                };
                self.logged = Some(Logged::Down(answer, since));
                Some(LinkChange::Down { why })
            }
        }
    }

    fn was_answered(&self) -> bool {
        let answered =
            |lane: &Option<LaneState>| matches!(lane, Some(LaneState::Down { answered: true, .. }));
        self.lanes.iter().any(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Lane::{Append, Control};

    fn down(why: &str) -> LaneState {
        LaneState::Down {
            why: why.to_owned(),
            answered: false,
        }
    }

    fn refused(why: &str) -> LaneState {
        LaneState::Down {
            why: why.to_owned(),
            answered: true,
        }
    }

    fn broken() -> LaneState {
        LaneState::Broken("closed".to_owned())
    }

    fn told_down(why: &str) -> Option<LinkChange> {
        Some(LinkChange::Down {
            why: why.to_owned(),
        })
    }

    #[test]
    fn a_peer_that_dies_and_comes_back_is_two_lines() {
        let (mut state, now) = (LinkState::default(), Instant::now());
        let mut change = |lane, found| state.change(lane, found, now);
        assert_eq!(change(Control, LaneState::Up), None);
        let up = Some(LinkChange::Up { down: None });
        assert_eq!(change(Append, LaneState::Up), up);

        assert_eq!(change(Control, broken()), None);
        assert_eq!(change(Append, broken()), None);
        assert_eq!(change(Append, down("refused")), told_down("refused"));
        assert_eq!(change(Control, down("timed out")), None);
        assert_eq!(change(Control, down("refused")), None);
        assert_eq!(change(Control, LaneState::Up), None);

        let later = now + Duration::from_secs(3);
        let up = Some(LinkChange::Up {
            down: Some(Duration::from_secs(3)),
        });
        assert_eq!(state.change(Append, LaneState::Up, later), up);
        assert_eq!(state.change(Append, LaneState::Up, later), None);
    }

    #[test]
    fn a_connection_that_is_made_again_is_one_line() {
        let (mut state, now) = (LinkState::default(), Instant::now());
        let mut change = |lane, found| state.change(lane, found, now);
        change(Control, LaneState::Up);
        change(Append, LaneState::Up);
        change(Control, broken());
        change(Append, broken());
        assert_eq!(change(Control, LaneState::Up), None);
        let why = "closed".to_owned();
        assert_eq!(
            change(Append, LaneState::Up),
            Some(LinkChange::Again { why })
        );
    }

    #[test]
    fn an_answer_is_told_beside_silence_and_once() {
        let (mut state, now) = (LinkState::default(), Instant::now());
        let mut change = |lane, found| state.change(lane, found, now);
        assert_eq!(change(Control, down("silent")), told_down("silent"));
        assert_eq!(change(Append, refused("removed")), told_down("removed"));
        assert_eq!(change(Control, down("closed")), None);
        assert_eq!(change(Control, refused("removed")), None);
        assert_eq!(change(Control, down("silent")), None);
        assert_eq!(change(Append, down("silent")), told_down("silent"));
    }
}
