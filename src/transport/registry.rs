//! The streams of accepted peers.
//!
//! Two processes may run with one incarnation. One case is a copy of a data directory. Another case is a restart after
//! the host lost its power: the streams of the previous process are still open here, because nothing has closed them.
//! The second process is turned away for a while and tries again. If messages of the first process arrive meanwhile,
//! two processes run. If none arrive, the first process is dead, and the second takes its place.

use super::handshake::Lane;
use crate::identity::{Claims, Standing};
use crate::limits;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;

/// Why a stream got no place among the streams of its peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// A newer stream has the place.
    Late,
    /// Another process of this member is connected, and may be dead.
    Rival,
    /// Another process of this member is connected, and is alive.
    Twice,
}

/// The streams of all peers, and the last logged refusal of each refused peer.
#[derive(Default)]
pub(super) struct Registry {
    processes: Mutex<PeerProcesses>,
    refusals: Mutex<HashMap<(u64, IpAddr), String>>,
}

impl Registry {
    pub(super) fn processes(&self) -> MutexGuard<'_, PeerProcesses> {
        self.processes.lock()
    }

    /// The incarnations that are connected with this id.
    pub(super) fn incarnations(&self, id: u64) -> Vec<u64> {
        let processes = self.processes();
        let of_it = processes.0.keys().filter(|key| key.id == id);
        of_it.map(|key| key.incarnation).collect()
    }

    pub(super) fn refusals(&self) -> MutexGuard<'_, HashMap<(u64, IpAddr), String>> {
        self.refusals.lock()
    }
}

/// A member id with an incarnation. A bound member therefore never loses a stream to another process that only has the
/// same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MemberKey {
    pub id: u64,
    pub incarnation: u64,
}

impl MemberKey {
    pub(super) fn of(claims: &Claims) -> MemberKey {
        MemberKey {
            id: claims.from,
            incarnation: claims.incarnation,
        }
    }
}

/// The processes that have streams here: one for each pair of member id and incarnation.
#[derive(Default)]
pub(super) struct PeerProcesses(HashMap<MemberKey, PeerProcess>);

struct PeerProcess {
    run: u64,
    /// For each lane, the serial number of its connection and the signal that its stream was replaced.
    lanes: [Option<(u64, Arc<Notify>)>; 2],
    /// When the process last sent a message or connected.
    heard: Instant,
    /// Another process of the same member, and when it first tried to connect.
    rival: Option<(u64, Instant)>,
}

impl PeerProcesses {
    /// Registers a stream. Returns the signal that the stream was replaced.
    pub(super) fn enter(
        &mut self,
        claims: &Claims,
        standing: Standing,
        lane: Lane,
        serial: u64,
        now: Instant,
    ) -> Result<Arc<Notify>, Turned> {
        let key = MemberKey::of(claims);
        let older = self.0.get_mut(&key);
        if let Some(older) = older.filter(|older| older.run != claims.run) {
            if standing == Standing::Bound {
                older.meets(claims.run, now)?;
            }
            for (_, replaced) in older.lanes.iter().flatten() {
                replaced.notify_one();
            }
            self.0.remove(&key);
        }
        let process = self.0.entry(key).or_insert_with(|| PeerProcess {
            run: claims.run,
            lanes: [None, None],
            heard: now,
            rival: None,
        });
        let place = &mut process.lanes[lane as usize];
        if place.as_ref().is_some_and(|(newer, _)| *newer > serial) {
            return Err(Turned::Late);
        }
        process.heard = now;
        let replaced = Arc::new(Notify::new());
        if let Some((_, older)) = place.replace((serial, replaced.clone())) {
            older.notify_one();
        }
        Ok(replaced)
    }

    /// Another process of this member has streams here.
    pub(super) fn has_another(&self, claims: &Claims) -> bool {
        let process = self.0.get(&MemberKey::of(claims));
        process.is_some_and(|process| process.run != claims.run)
    }

    pub(super) fn heard(&mut self, key: MemberKey, lane: Lane, stream: &Arc<Notify>, now: Instant) {
        if let Some(process) = self.0.get_mut(&key)
            && process.has(lane, stream)
        {
            process.heard = now;
        }
    }

    pub(super) fn leave(&mut self, key: MemberKey, lane: Lane, stream: &Arc<Notify>) {
        if let Some(process) = self.0.get_mut(&key)
            && process.has(lane, stream)
        {
            process.lanes[lane as usize] = None;
            if process.lanes.iter().all(Option::is_none) {
                self.0.remove(&key);
            }
        }
    }
}

impl PeerProcess {
    fn has(&self, lane: Lane, stream: &Arc<Notify>) -> bool {
        let place = self.lanes[lane as usize].as_ref();
        place.is_some_and(|(_, current)| Arc::ptr_eq(current, stream))
    }

    /// Handles another process of the same member that asks for the place.
    fn meets(&mut self, run: u64, now: Instant) -> Result<(), Turned> {
        let since = match self.rival {
            Some((rival, since)) if rival == run => since,
            _ => {
                self.rival = Some((run, now));
                return Err(Turned::Rival);
            }
        };
        if self.heard > since + limits::PEER_RIVAL_GRACE {
            self.rival = None;
            return Err(Turned::Twice);
        }
        match now.duration_since(self.heard.max(since)) >= limits::PEER_RIVAL_SILENCE {
            true => Ok(()),
            false => Err(Turned::Rival),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Lane::{Append, Control};
    use Standing::{Ahead, Bound, Waiting};
    use std::time::Duration;

    const MEMBER: MemberKey = MemberKey {
        id: 2,
        incarnation: 20,
    };

    fn claims(incarnation: u64, run: u64) -> Claims {
        Claims {
            cluster: 1,
            from: 2,
            to: 1,
            incarnation,
            bound_index: 1,
            run,
            url: "http://a:1".parse().unwrap(),
            url_given: true,
            version: 2,
            receiver: None,
            awaits: false,
        }
    }

    /// The processes, with a clock.
    struct Fixture {
        processes: PeerProcesses,
        now: Instant,
        serial: u64,
    }

    impl Fixture {
        fn new() -> Fixture {
            Fixture {
                processes: PeerProcesses::default(),
                now: Instant::now(),
                serial: 0,
            }
        }

        fn enter(&mut self, run: u64, lane: Lane) -> Result<Arc<Notify>, Turned> {
            self.enter_as(&claims(20, run), Bound, lane)
        }

        fn enter_as(
            &mut self,
            claims: &Claims,
            standing: Standing,
            lane: Lane,
        ) -> Result<Arc<Notify>, Turned> {
            self.serial += 1;
            self.processes
                .enter(claims, standing, lane, self.serial, self.now)
        }

        fn heard(&mut self, stream: &Arc<Notify>, lane: Lane) {
            self.processes.heard(MEMBER, lane, stream, self.now);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    fn is_replaced(stream: &Arc<Notify>) -> bool {
        let notified = std::pin::pin!(stream.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        notified.poll(&mut context).is_ready()
    }

    #[test]
    fn a_second_process_is_turned_away_for_good_when_the_first_is_heard() {
        let mut all = Fixture::new();
        let first = all.enter(1, Control).unwrap();
        all.pass(Duration::from_secs(9));
        assert_eq!(all.enter(2, Control).err(), Some(Turned::Rival));
        assert_eq!(all.enter(2, Append).err(), Some(Turned::Rival));
        let seconds = limits::PEER_RIVAL_GRACE.as_secs();
        for _ in 0..seconds {
            all.pass(Duration::from_secs(1));
            all.heard(&first, Control);
            assert_eq!(all.enter(2, Control).err(), Some(Turned::Rival));
        }
        all.pass(Duration::from_secs(1));
        all.heard(&first, Control);
        assert_eq!(all.enter(2, Control).err(), Some(Turned::Twice));
        assert!(!is_replaced(&first));
        // A new connection of the first process proves life, as a message does.
        assert_eq!(all.enter(2, Control).err(), Some(Turned::Rival));
        all.pass(limits::PEER_RIVAL_GRACE * 2);
        let again = all.enter(1, Control).unwrap();
        assert!(is_replaced(&first) && !is_replaced(&again));
        assert_eq!(all.enter(2, Control).err(), Some(Turned::Twice));
    }

    #[test]
    fn a_restart_takes_the_place_of_a_process_that_is_silent() {
        let mut all = Fixture::new();
        let dead = [Control, Append].map(|lane| all.enter(1, lane).unwrap());
        all.pass(Duration::from_secs(9));
        assert_eq!(all.enter(2, Control).err(), Some(Turned::Rival));
        // Messages that the process sent before its end are read a moment later.
        all.pass(limits::PEER_RIVAL_GRACE / 2);
        all.heard(&dead[1], Append);
        all.pass(limits::PEER_RIVAL_SILENCE - Duration::from_millis(1));
        assert_eq!(all.enter(2, Control).err(), Some(Turned::Rival));
        all.pass(Duration::from_millis(1));
        let restarted = all.enter(2, Control).unwrap();
        assert!(dead.iter().all(is_replaced) && !is_replaced(&restarted));
        all.enter(2, Append).unwrap();
        // The streams of the dead process leave, and have no effect any more.
        all.processes.leave(MEMBER, Control, &dead[0]);
        all.pass(Duration::from_secs(1));
        all.heard(&dead[1], Append);
        assert!(all.processes.0[&MEMBER].heard < all.now);
        assert!(all.processes.0[&MEMBER].lanes.iter().all(Option::is_some));
    }

    #[test]
    fn a_restart_waits_for_nothing_when_the_streams_have_ended() {
        let mut all = Fixture::new();
        let lanes = [Control, Append];
        let first = lanes.map(|lane| all.enter(1, lane).unwrap());
        assert_eq!(all.enter(2, Control).err(), Some(Turned::Rival));
        for (lane, stream) in lanes.iter().zip(&first) {
            all.processes.leave(MEMBER, *lane, stream);
        }
        all.enter(2, Control).unwrap();
        assert_eq!(all.processes.0.len(), 1);
    }

    #[test]
    fn who_has_no_power_replaces_only_itself() {
        let mut all = Fixture::new();
        let member = all.enter(1, Control).unwrap();
        let has_another = |run| all.processes.has_another(&claims(20, run));
        assert!(has_another(2) && !has_another(1));
        for standing in [Waiting, Ahead] {
            let stranger = all.enter_as(&claims(21, 1), standing, Control).unwrap();
            all.enter_as(&claims(21, 2), standing, Control).unwrap();
            assert!(is_replaced(&stranger) && !is_replaced(&member));
        }
    }
}
