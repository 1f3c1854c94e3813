//! Whether a peer is up: what its two lanes find out, put together and logged once a change.
//!
//! A peer is up when both lanes are connected and messages pass, and down when either can't be connected. A connection that breaks says neither: it
//! is dialed again at once, and only that tells. How often a lane tries in vain, and with which error, is nobody's
//! business; but a peer that answers and refuses is another matter than one that does not answer.

use super::handshake::Lane;
use crate::peer_url::PeerUrl;
use slog::{Logger, info, warn};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a lane knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// It is connected, and messages pass.
    Up,
    /// It was, and the connection broke.
    Broken(String),
    /// It could not be connected.
    Down {
        /// Why.
        why: String,
        /// The peer itself has said so.
        answered: bool,
    },
}

/// The state of one peer, for both of its lanes.
pub(super) struct Link {
    state: Mutex<State>,
    logger: Logger,
}

impl Link {
    /// Nothing is known. The logger names the peer.
    pub(super) fn new(logger: Logger) -> Link {
        Link {
            state: Mutex::default(),
            logger,
        }
    }

    /// A lane knows something of the peer at this place; logs it if it makes a difference.
    pub(super) fn found(&self, lane: Lane, found: Found, url: &PeerUrl) {
        let mut state = self
            .state
            .lock()
            .expect("a thread panicked while it held a peer's state");
        // Under the lock, so that lines come in the order of what they tell.
        match state.change(lane, found, Instant::now()) {
            None => {}
            Some(Change::Up { down: None }) => info!(self.logger, "peer is up"; "url" => %url),
            Some(Change::Up { down: Some(down) }) => {
                info!(self.logger, "peer is up again"; "url" => %url,
                    "was_down_ms" => down.as_millis() as u64);
            }
            Some(Change::Again { why }) => {
                info!(self.logger, "peer was connected again"; "url" => %url, "error" => why);
            }
            Some(Change::Down { why }) => {
                warn!(self.logger, "peer is down"; "url" => %url, "error" => why);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    lanes: [Option<Found>; 2],
    told: Option<Told>,
    /// Why the newest connection broke.
    broken: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Up,
    /// What the peer has answered, if it did, and since when it is down.
    Down(Option<String>, Instant),
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Up { down: Option<Duration> },
    Again { why: String },
    Down { why: String },
}

impl State {
    /// What is to be told.
    fn change(&mut self, lane: Lane, found: Found, now: Instant) -> Option<Change> {
        if self.lanes[lane as usize].as_ref() == Some(&found) {
            return None;
        }
        self.lanes[lane as usize] = Some(found.clone());
        match found {
            Found::Broken(why) => {
                self.broken = Some(why);
                None
            }
            Found::Up => {
                let is_up = |lane: &Option<Found>| *lane == Some(Found::Up);
                if !self.lanes.iter().all(is_up) {
                    return None;
                }
                let broken = self.broken.take();
                match self.told.replace(Told::Up) {
                    None => Some(Change::Up { down: None }),
                    Some(Told::Up) => broken.map(|why| Change::Again { why }),
                    Some(Told::Down(_, since)) => Some(Change::Up {
                        down: Some(now.saturating_duration_since(since)),
                    }),
                }
            }
            Found::Down { why, answered } => {
                let answer = answered.then(|| why.clone());
                let since = match &self.told {
                    Some(Told::Down(told, _)) if *told == answer => return None,
                    // While the lanes disagree the answer counts.
                    Some(Told::Down(Some(_), _)) if answer.is_none() && self.was_answered() => {
                        return None;
                    }
                    Some(Told::Down(_, since)) => *since,
                    _ => now,
                };
                self.told = Some(Told::Down(answer, since));
                Some(Change::Down { why })
            }
        }
    }

    fn was_answered(&self) -> bool {
        let answered =
            |lane: &Option<Found>| matches!(lane, Some(Found::Down { answered: true, .. }));
        self.lanes.iter().any(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Lane::{Append, Control};

    fn down(why: &str) -> Found {
        Found::Down {
            why: why.to_owned(),
            answered: false,
        }
    }

    fn refused(why: &str) -> Found {
        Found::Down {
            why: why.to_owned(),
            answered: true,
        }
    }

    fn broken() -> Found {
        Found::Broken("closed".to_owned())
    }

    fn told_down(why: &str) -> Option<Change> {
        Some(Change::Down {
            why: why.to_owned(),
        })
    }

    #[test]
    fn a_peer_that_dies_and_comes_back_is_two_lines() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut change = |lane, found| state.change(lane, found, now);
        assert_eq!(change(Control, Found::Up), None);
        let up = Some(Change::Up { down: None });
        assert_eq!(change(Append, Found::Up), up);

        assert_eq!(change(Control, broken()), None);
        assert_eq!(change(Append, broken()), None);
        assert_eq!(change(Append, down("refused")), told_down("refused"));
        assert_eq!(change(Control, down("timed out")), None);
        assert_eq!(change(Control, down("refused")), None);
        assert_eq!(change(Control, Found::Up), None);

        let later = now + Duration::from_secs(3);
        let up = Some(Change::Up {
            down: Some(Duration::from_secs(3)),
        });
        assert_eq!(state.change(Append, Found::Up, later), up);
        assert_eq!(state.change(Append, Found::Up, later), None);
    }

    #[test]
    fn a_connection_that_is_made_again_is_one_line() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut change = |lane, found| state.change(lane, found, now);
        change(Control, Found::Up);
        change(Append, Found::Up);
        change(Control, broken());
        change(Append, broken());
        assert_eq!(change(Control, Found::Up), None);
        let why = "closed".to_owned();
        assert_eq!(change(Append, Found::Up), Some(Change::Again { why }));
    }

    #[test]
    fn an_answer_is_told_beside_silence_and_once() {
        let (mut state, now) = (State::default(), Instant::now());
        let mut change = |lane, found| state.change(lane, found, now);
        assert_eq!(change(Control, down("silent")), told_down("silent"));
        assert_eq!(change(Append, refused("removed")), told_down("removed"));
        assert_eq!(change(Control, down("closed")), None);
        assert_eq!(change(Control, refused("removed")), None);
        assert_eq!(change(Control, down("silent")), None);
        assert_eq!(change(Append, down("silent")), told_down("silent"));
    }
}
