//! Slots: how many connections, or watches, there may be at one time, and which connection gives way when all are
//! taken.
//!
//! One address gets only a share of the slots. The addresses of one IPv6 /64 count as one address, because a single
//! host can use all of them. When the share or all slots are taken, the connection gives way that has waited for its
//! next request for the longest time. Its client has sent nothing since its last answer, or a part of the head of a
//! request.
//!
//! If no slot is left, a connection gets one of a few spare slots ([`ConnectionSlots`]). There it can ask `/-/live` and
//! `/-/ready`, so that a supervisor does not end a member that is only busy. Every other request on a spare slot is
//! refused, and the connection is closed.
//!
//! Invariants:
//! - No connection gives way while a request is under way on it, while its answer is being sent, or, apart from those on
//!   spare slots, while it ends.
//! - A request costs a look at the clock and a few atomic operations on its own connection here, and takes no lock.
//! - The time by which a holder is queued is not later than the time since which the holder waits. So a search can end
//!   at the first holder for which both times are equal. The times by which holders are queued are corrected only during
//!   a search.
//! - No lock is held while a task is started or ended: a stopping runtime drops a task on the spot, which returns its
//!   slot.

use crate::limits;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The state of a connection, which decides whether the connection may give way.
#[derive(Debug)]
pub(super) struct Progress {
    state: AtomicU8,
    /// Since when the connection waits for a request. Valid while the state is [`WAITING`].
    waits_since: AtomicU64,
}

/// The head of the next request is not complete.
const WAITING: u8 = 0;
/// A request is under way.
const BUSY: u8 = 1;
/// The end of the answer is in hyper's buffer.
const SENDING: u8 = 2;
/// Another connection has the slot.
const GONE: u8 = 3;
/// This side of the connection was shut down, and what the client still sends is discarded. If the socket were closed
/// now, the kernel could send a reset, which can destroy the answer on its way.
const ENDING: u8 = 4;

/// A time of this process, in nanoseconds.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // 64 bits are enough for five centuries.
    START.elapsed().as_nanos() as u64
}

impl Progress {
    /// The progress of a connection that has just been accepted.
    pub(super) fn new(now: u64) -> Progress {
        Progress {
            state: AtomicU8::new(WAITING),
            waits_since: AtomicU64::new(now),
        }
    }

    /// Notes the start of a request. Returns false if the connection has given way.
    pub(super) fn begin(&self) -> bool {
        let begun = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now != GONE).then_some(BUSY)
            });
        begun.is_ok()
    }

    /// hyper has taken the whole answer.
    pub(super) fn answered(&self) {
        self.step(BUSY, SENDING);
    }

    /// hyper's buffer is empty, and the connection stays open for the next request.
    pub(super) fn flushed(&self) {
        if self.state.load(Ordering::Relaxed) == SENDING {
            self.waits_since.store(now(), Ordering::Relaxed);
            self.step(SENDING, WAITING);
        }
    }

    /// The connection ends by itself within a short time.
    pub(super) fn ends(&self) {
        let _ = self.step(SENDING, ENDING) || self.step(WAITING, ENDING);
    }

    /// Whether bytes that arrive belong to the head of a request.
    pub(super) fn is_waiting(&self) -> bool {
        self.state.load(Ordering::Relaxed) == WAITING
    }

    /// Since when the connection waits for a request, if it does. With `even_ending`, a connection that ends counts as
    /// waiting since its last request began.
    fn waits_since(&self, even_ending: bool) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        let waits = state == WAITING || (even_ending && state == ENDING);
        waits.then(|| self.waits_since.load(Ordering::Relaxed))
    }

    /// With `even_ending`, also a connection that ends gives way.
    fn gives_way(&self, even_ending: bool) -> bool {
        self.step(WAITING, GONE) || (even_ending && self.step(ENDING, GONE))
    }

    fn step(&self, from: u8, to: u8) -> bool {
        let stepped = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        stepped.is_ok()
    }
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The share of this address is taken.
    Address,
    /// All slots are taken.
    All,
}

/// The slots of one kind.
#[derive(Debug)]
pub(super) struct Slots {
    max: usize,
    /// The share of one address.
    address_max: usize,
    table: Mutex<Table>,
    /// Notified when a slot is returned.
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    holders: HashMap<u64, Holder>,
    /// All holders.
    queue: Queue,
    /// The holders of each address.
    addresses: HashMap<IpAddr, Queue>,
    next_serial: u64,
    /// If no holder waits, a connection that ends gives way.
    ending_gives_way: bool,
}

#[derive(Debug)]
struct Holder {
    address: IpAddr,
    progress: Arc<Progress>,
    /// `None` until the task is started, and for a watch.
    task: Option<AbortHandle>,
    /// The time by which the holder is in the queues.
    queued_by: u64,
}

/// Holders in the order in which they may give way.
#[derive(Debug, Default)]
struct Queue {
    /// The time and the serial number of each holder.
    order: BTreeSet<(u64, u64)>,
    /// Before this time, no search.
    all_busy_until: Option<Instant>,
}

impl Holder {
    /// Since when the holder waits, if it may give way.
    fn waits_since(&self, even_ending: bool) -> Option<u64> {
        self.task.as_ref()?;
        self.progress.waits_since(even_ending)
    }
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    serial: u64,
    progress: Arc<Progress>,
    /// Another connection gave way to this one.
    pub(super) evicted: bool,
}

impl Slots {
    pub(super) fn new(max: usize, address_max: usize, freed: &Arc<Notify>) -> Arc<Slots> {
        Arc::new(Slots {
            max,
            address_max: address_max.max(1),
            table: Mutex::default(),
            freed: Arc::clone(freed),
        })
    }

    /// Lets a connection that ends give way, if no other can.
    fn with_ending_ones(self: Arc<Slots>) -> Arc<Slots> {
        self.table.lock().ending_gives_way = true;
        self
    }

    /// Takes a slot, perhaps from a connection on which no request is under way.
    pub(super) fn enter(self: &Arc<Slots>, address: IpAddr) -> Result<Slot, Full> {
        let address = host_of(address);
        let (now, mut table) = (now(), self.table.lock());
        let progress = Arc::new(Progress::new(now));
        let (serial, evicted) = table.enter(self, address, &progress, now)?;
        drop(table);
        let slot = Slot {
            slots: Arc::clone(self),
            serial,
            progress,
            evicted: evicted.is_some(),
        };
        if let Some(task) = evicted {
            task.abort();
        }
        Ok(slot)
    }

    /// The number of slots that are taken.
    pub(super) fn taken(&self) -> usize {
        self.table.lock().holders.len()
    }
}

impl Table {
    fn enter(
        &mut self,
        slots: &Slots,
        address: IpAddr,
        progress: &Arc<Progress>,
        now: u64,
    ) -> Result<(u64, Option<AbortHandle>), Full> {
        let own = self.addresses.get(&address);
        let own = own.map_or(0, |own| own.order.len());
        let evicted = if own >= slots.address_max {
            Some(self.evict(Some(address)).ok_or(Full::Address)?)
        } else if self.holders.len() >= slots.max {
            Some(self.evict(None).ok_or(Full::All)?)
        } else {
            None
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        self.holders.insert(
            serial,
            Holder {
                address,
                progress: Arc::clone(progress),
                task: None,
                queued_by: now,
            },
        );
        self.queue.order.insert((now, serial));
        let own = self.addresses.entry(address).or_default();
        own.order.insert((now, serial));
        Ok((serial, evicted))
    }

    /// Takes the slot of the connection that has waited for the longest time, among those of this address or all.
    fn evict(&mut self, of: Option<IpAddr>) -> Option<AbortHandle> {
        if !self.queue(of)?.may_search() {
            return None;
        }
        let rounds: &[bool] = match self.ending_gives_way {
            true => &[false, true],
            false => &[false],
        };
        for &even_ending in rounds {
            while let Some(serial) = self.longest_waiting(of, even_ending) {
                // A request may have started on this connection meanwhile.
                if self.holders.get(&serial)?.progress.gives_way(even_ending) {
                    return self.leave(serial);
                }
            }
        }
        self.queue(of)?.all_busy_until = Some(Instant::now() + limits::SLOTS_SEARCH_PAUSE);
        None
    }

    /// The holders of this address, or all holders.
    fn queue(&mut self, of: Option<IpAddr>) -> Option<&mut Queue> {
        match of {
            Some(address) => self.addresses.get_mut(&address),
            None => Some(&mut self.queue),
        }
    }

    /// Finds the holder that has waited for the longest time. Moves the holders that were busy since they were queued,
    /// and wait again, to their right places, so that the next search finds them there.
    fn longest_waiting(&mut self, of: Option<IpAddr>, even_ending: bool) -> Option<u64> {
        let mut found: Option<(u64, u64)> = None;
        let mut misplaced = Vec::new();
        let queue = match of {
            Some(address) => self.addresses.get(&address)?,
            None => &self.queue,
        };
        for &(queued_by, serial) in &queue.order {
            if found.is_some_and(|(since, _)| since <= queued_by) {
                break;
            }
            let Some(since) = self.holders.get(&serial)?.waits_since(even_ending) else {
                continue;
            };
            if since > queued_by {
                misplaced.push((since, serial));
            }
            if found.is_none_or(|(first, _)| since < first) {
                found = Some((since, serial));
            }
        }
        for (since, serial) in misplaced {
            self.queue_by(serial, since);
        }
        found.map(|(_, serial)| serial)
    }

    /// Moves a holder to another place in the queues.
    fn queue_by(&mut self, serial: u64, time: u64) {
        let Some(holder) = self.holders.get_mut(&serial) else {
            return;
        };
        let before = std::mem::replace(&mut holder.queued_by, time);
        let own = self.addresses.get_mut(&holder.address);
        for queue in [Some(&mut self.queue), own].into_iter().flatten() {
            queue.order.remove(&(before, serial));
            queue.order.insert((time, serial));
        }
    }

    /// Returns a slot. The serial may be unknown, because the connection gave way.
    fn leave(&mut self, serial: u64) -> Option<AbortHandle> {
        let holder = self.holders.remove(&serial)?;
        let place = (holder.queued_by, serial);
        self.queue.order.remove(&place);
        if let Some(own) = self.addresses.get_mut(&holder.address) {
            own.order.remove(&place);
            if own.order.is_empty() {
                self.addresses.remove(&holder.address);
            }
        }
        holder.task
    }
}

impl Queue {
    /// Whether to search for a connection that may give way. A search that found nothing is not repeated at once: such
    /// a search looks at every connection, and a flood of connections would cause one search for each of them.
    fn may_search(&mut self) -> bool {
        let until = &mut self.all_busy_until;
        let may = until.is_none_or(|until| Instant::now() >= until);
        if may {
            *until = None;
        }
        may
    }
}

/// The part of an address that identifies the host.
fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !(u128::MAX >> limits::ADDRESS_PREFIX_BITS);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

impl Slot {
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The place for the task that ends when this slot goes to another connection.
    pub(super) fn held_by(&self) -> SlotTask {
        SlotTask {
            slots: Arc::clone(&self.slots),
            serial: self.serial,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.slots.table.lock().leave(self.serial));
        self.slots.freed.notify_one();
    }
}

/// The place for the task of a slot. The slot is moved into the task, so the task starts later than the slot is taken.
pub(super) struct SlotTask {
    slots: Arc<Slots>,
    serial: u64,
}

impl SlotTask {
    pub(super) fn started(self, task: AbortHandle) {
        if let Some(holder) = self.slots.table.lock().holders.get_mut(&self.serial) {
            holder.task = Some(task);
        }
    }
}

/// The slots of client connections, and the spare ones for connections beyond them.
pub(super) struct ConnectionSlots {
    slots: Arc<Slots>,
    spare: Arc<Slots>,
    freed: Arc<Notify>,
}

impl ConnectionSlots {
    pub(super) fn new(max: usize, address_max: usize, spare: usize) -> ConnectionSlots {
        let freed = Arc::new(Notify::new());
        ConnectionSlots {
            slots: Slots::new(max, address_max, &freed),
            // Every answer on a spare slot ends its connection. Clients that do not close it could take all of these slots.
            spare: Slots::new(spare, spare, &freed).with_ending_ones(),
            freed,
        }
    }

    /// Takes a slot. If it is a spare slot, the second value says why. `None`: on each spare connection a request is
    /// under way. The caller can't wait for a slot, because the next client may have another address, with free slots.
    pub(super) fn enter(&self, address: IpAddr) -> Option<(Slot, Option<Full>)> {
        let full = match self.slots.enter(address) {
            Ok(slot) => return Some((slot, None)),
            Err(full) => full,
        };
        let slot = self.spare.enter(address).ok()?;
        Some((slot, Some(full)))
    }

    /// The number of connections.
    pub(super) fn taken(&self) -> usize {
        self.slots.taken() + self.spare.taken()
    }

    /// Completes when there is no connection.
    pub(super) async fn empty(&self) {
        while self.taken() > 0 {
            self.freed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn slots(max: usize, address_max: usize) -> Arc<Slots> {
        Slots::new(max, address_max, &Arc::default())
    }

    fn running(slot: &Slot) -> tokio::task::JoinHandle<()> {
        let task = tokio::spawn(std::future::pending());
        slot.held_by().started(task.abort_handle());
        task
    }

    #[test]
    fn the_addresses_of_one_network_of_ipv6_are_one() {
        assert_eq!(host_of(ip("2001:db8:1:2::7")), ip("2001:db8:1:2::"));
        assert_eq!(host_of(ip("2001:db8:1:2:ffff::")), ip("2001:db8:1:2::"));
        assert_ne!(
            host_of(ip("2001:db8:1:3::7")),
            host_of(ip("2001:db8:1:2::7"))
        );
        assert_eq!(host_of(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(host_of(ip("10.0.0.2")), host_of(ip("10.0.0.1")));
    }

    #[tokio::test]
    async fn the_oldest_connection_without_a_request_gives_way_within_the_share_of_its_address() {
        let slots = slots(4, 2);
        let other = slots.enter(ip("10.0.0.2")).unwrap();
        let first = slots.enter(ip("10.0.0.1")).unwrap();
        let second = slots.enter(ip("10.0.0.1")).unwrap();
        let tasks = [&other, &first, &second].map(running);
        assert!(first.progress().begin());
        let third = slots.enter(ip("10.0.0.1")).unwrap();
        assert!(third.evicted);
        assert!(!second.progress().begin(), "it has given way");
        let [other_task, first_task, second_task] = tasks;
        assert!(second_task.await.unwrap_err().is_cancelled());
        assert!(!other_task.is_finished() && !first_task.is_finished());
        assert!(third.progress().begin());
        assert_eq!(slots.enter(ip("10.0.0.1")).unwrap_err(), Full::Address);
        drop(second);
        assert_eq!(slots.taken(), 3);
    }

    #[tokio::test]
    async fn the_oldest_of_all_gives_way_when_all_slots_are_taken() {
        let slots = slots(2, 2);
        let first = slots.enter(ip("10.0.0.1")).unwrap();
        let second = slots.enter(ip("10.0.0.2")).unwrap();
        let _tasks = [&first, &second].map(running);
        let progress = first.progress();
        assert!(progress.begin());
        progress.answered();
        // The answer is still being sent.
        let third = slots.enter(ip("10.0.0.3")).unwrap();
        assert!(!second.progress().begin());
        assert!(third.progress().begin());
        assert_eq!(slots.enter(ip("10.0.0.4")).unwrap_err(), Full::All);
        progress.flushed();
        tokio::time::sleep(2 * limits::SLOTS_SEARCH_PAUSE).await;
        assert!(slots.enter(ip("10.0.0.4")).unwrap().evicted);
        assert!(!progress.begin());
    }

    /// A request that was answered.
    fn serve(slot: &Slot) {
        let progress = slot.progress();
        assert!(progress.begin());
        progress.answered();
        progress.flushed();
    }

    #[tokio::test]
    async fn the_connection_gives_way_that_has_waited_longest_and_not_the_oldest() {
        let slots = slots(4, 4);
        let enter = || slots.enter(ip("10.0.0.1")).unwrap();
        let [first, second, third, fourth] = std::array::from_fn(|_| enter());
        let _tasks = [&first, &second, &third, &fourth].map(running);
        serve(&first);
        serve(&third);
        serve(&first);
        // Now the order is: second, fourth, third, first.
        for (next, gone) in [&second, &fourth, &third, &first].into_iter().enumerate() {
            let slot = enter();
            assert!(slot.evicted && !gone.progress().begin(), "{next}");
            // It has no task, so it does not give way.
            std::mem::forget(slot);
        }
        assert_eq!(slots.enter(ip("10.0.0.1")).unwrap_err(), Full::Address);
    }

    #[tokio::test]
    async fn a_connection_that_ends_by_itself_does_not_give_way() {
        let slots = slots(1, 1);
        let slot = slots.enter(ip("10.0.0.1")).unwrap();
        let _task = running(&slot);
        serve(&slot);
        slot.progress().ends();
        slot.progress().flushed();
        assert_eq!(slots.enter(ip("10.0.0.1")).unwrap_err(), Full::Address);
    }

    #[tokio::test]
    async fn a_spare_connection_that_ends_gives_way_after_those_that_wait() {
        let connections = ConnectionSlots::new(1, 1, 2);
        let (busy, _) = connections.enter(ip("10.0.0.1")).unwrap();
        assert!(busy.progress().begin());
        let [ending, silent] = [2, 3].map(|last| {
            let (slot, _) = connections.enter(IpAddr::from([10, 0, 0, last])).unwrap();
            slot
        });
        let _tasks = [&ending, &silent].map(running);
        assert!(ending.progress().begin());
        ending.progress().answered();
        ending.progress().ends();
        let (next, _) = connections.enter(ip("10.0.0.4")).unwrap();
        assert!(next.evicted && !silent.progress().begin());
        assert!(next.progress().begin());
        let (last, _) = connections.enter(ip("10.0.0.5")).unwrap();
        assert!(last.evicted && last.progress().begin());
        assert!(connections.enter(ip("10.0.0.6")).is_none());
    }

    #[tokio::test]
    async fn beyond_the_slots_there_are_spare_ones_and_then_none() {
        let connections = ConnectionSlots::new(1, 1, 1);
        let (busy, none) = connections.enter(ip("10.0.0.1")).unwrap();
        assert!(busy.progress().begin() && none.is_none());
        let (spare, full) = connections.enter(ip("10.0.0.2")).unwrap();
        assert_eq!(full, Some(Full::All));
        assert!(spare.progress().begin());
        assert!(connections.enter(ip("10.0.0.3")).is_none());
        drop(busy);
        let (next, none) = connections.enter(ip("10.0.0.3")).unwrap();
        assert!(none.is_none());
        drop((spare, next));
        connections.empty().await;
    }
}
