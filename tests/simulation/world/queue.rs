//! What happens when: events in the order of their times, and of one time in the order in which they came.
//!
//! Events wait in slots, and the heap holds their times and slots only: a heap moves what it holds at each step, and an
//! event is several times as large as its time.

use super::Event;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Default)]
pub struct Queue {
    /// Time, age, and slot of each event that waits; no two have the same age.
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    age: u64,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
}

impl Queue {
    pub fn push(&mut self, time: u64, event: Event) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() - 1
            }
        };
        self.age += 1;
        self.heap.push(Reverse((time, self.age, slot)));
    }

    /// The first event, with its time, if that is not behind `end`.
    pub fn pop_until(&mut self, end: u64) -> Option<(u64, Event)> {
        let Reverse((time, ..)) = self.heap.peek()?;
        if *time > end {
            return None;
        }
        let Reverse((time, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let event = self.slots[slot].take();
        Some((time, event.expect("a slot of the heap is taken")))
    }
}
