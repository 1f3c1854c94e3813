//! Slots: how many connections, or watches, there may be at one time, and which connection gives way when all are
//! taken.
//!
//! One address gets only a share of the slots. The addresses of one IPv6 /64 count as one address, because a single
//! host can use all of them. When the share or all slots are taken, the oldest connection on which no request is under
//! way gives way to the new one. The client of the old connection has sent nothing, or a part of the head of a request.
//!
//! If no slot is left, a connection gets one of a few spare slots ([`ConnectionSlots`]). There it can ask `/-/live` and
//! `/-/ready`, so that a supervisor does not end a member that is only busy. Every other request on a spare slot is
//! refused, and the connection is closed.
//!
//! Invariants:
//! - No connection gives way while a request is under way on it, or while its answer is being sent.
//! - A request costs two atomic operations here and takes no lock.
//! - No lock is held while a task is started or ended: a stopping runtime drops a task on the spot, which returns its
//!   slot.

use crate::limits;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The state of a connection, which decides whether the connection may give way.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

/// The head of the next request is not complete.
const WAITING: u8 = 0;
/// A request is under way.
const BUSY: u8 = 1;
/// The end of the answer is in hyper's buffer.
const SENDING: u8 = 2;
/// Another connection has the slot.
const GONE: u8 = 3;

impl Progress {
    /// Notes the start of a request. Returns false if the connection has given way.
    pub(super) fn begin(&self) -> bool {
        let begun = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now != GONE).then_some(BUSY)
            });
        begun.is_ok()
    }

    /// hyper has taken the whole answer.
    pub(super) fn answered(&self) {
        self.step(BUSY, SENDING);
    }

    /// hyper's buffer is empty.
    pub(super) fn flushed(&self) {
        if self.0.load(Ordering::Relaxed) == SENDING {
            self.step(SENDING, WAITING);
        }
    }

    /// Whether bytes that arrive belong to the head of a request.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.load(Ordering::Relaxed) == WAITING
    }

    fn gives_way(&self) -> bool {
        self.step(WAITING, GONE)
    }

    fn step(&self, from: u8, to: u8) -> bool {
        let stepped = self
            .0
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
    /// Oldest first.
    holders: BTreeMap<u64, Holder>,
    addresses: HashMap<IpAddr, AddressSlots>,
    next_serial: u64,
    /// Before this time, no search among the holders of all addresses.
    all_busy_until: Option<Instant>,
}

#[derive(Debug)]
struct Holder {
    address: IpAddr,
    progress: Arc<Progress>,
    /// `None` until the task is started, and for a watch.
    task: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct AddressSlots {
    serials: BTreeSet<u64>,
    /// Before this time, no search among the holders of this address.
    all_busy_until: Option<Instant>,
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

    /// Takes a slot, perhaps from a connection on which no request is under way.
    pub(super) fn enter(self: &Arc<Slots>, address: IpAddr) -> Result<Slot, Full> {
        let address = host_of(address);
        let progress = Arc::new(Progress::default());
        let (serial, evicted) = self.table.lock().enter(self, address, &progress)?;
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
    ) -> Result<(u64, Option<AbortHandle>), Full> {
        let own = self.addresses.get(&address);
        let own = own.map_or(0, |own| own.serials.len());
        let evicted = if own >= slots.address_max {
            Some(self.evict_from(address).ok_or(Full::Address)?)
        } else if self.holders.len() >= slots.max {
            Some(self.evict_any().ok_or(Full::All)?)
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
            },
        );
        let own = self.addresses.entry(address).or_default();
        own.serials.insert(serial);
        Ok((serial, evicted))
    }

    /// Takes the slot of the oldest connection of this address that may give way.
    fn evict_from(&mut self, address: IpAddr) -> Option<AbortHandle> {
        let own = self.addresses.get_mut(&address)?;
        if !may_search(&mut own.all_busy_until) {
            return None;
        }
        let holders = &self.holders;
        let holders = own
            .serials
            .iter()
            .filter_map(|serial| Some((*serial, holders.get(serial)?)));
        let Some(serial) = oldest_waiting(holders) else {
            own.all_busy_until = Some(Instant::now() + limits::SLOTS_SEARCH_PAUSE);
            return None;
        };
        self.leave(serial)
    }

    /// Takes the slot of the oldest connection of any address that may give way.
    fn evict_any(&mut self) -> Option<AbortHandle> {
        if !may_search(&mut self.all_busy_until) {
            return None;
        }
        let holders = self
            .holders
            .iter()
            .map(|(serial, holder)| (*serial, holder));
        let Some(serial) = oldest_waiting(holders) else {
            self.all_busy_until = Some(Instant::now() + limits::SLOTS_SEARCH_PAUSE);
            return None;
        };
        self.leave(serial)
    }

    /// Returns a slot. The serial may be unknown, because the connection gave way.
    fn leave(&mut self, serial: u64) -> Option<AbortHandle> {
        let holder = self.holders.remove(&serial)?;
        if let Some(own) = self.addresses.get_mut(&holder.address) {
            own.serials.remove(&serial);
            if own.serials.is_empty() {
                self.addresses.remove(&holder.address);
            }
        }
        holder.task
    }
}

/// Whether to search for a connection that may give way. A search that found nothing is not repeated at once: a search
/// looks at every connection, and a flood of connections would cause one search for each of them.
fn may_search(all_busy_until: &mut Option<Instant>) -> bool {
    let may = all_busy_until.is_none_or(|until| Instant::now() >= until);
    if may {
        *all_busy_until = None;
    }
    may
}

/// Makes the oldest holder that may do so give way, and returns its serial. Its connection can start no further request.
fn oldest_waiting<'a>(mut holders: impl Iterator<Item = (u64, &'a Holder)>) -> Option<u64> {
    let found = holders.find(|(_, holder)| holder.task.is_some() && holder.progress.gives_way());
    found.map(|(serial, _)| serial)
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
            spare: Slots::new(spare, spare, &freed),
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
