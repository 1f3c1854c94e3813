//! The processor time of reads that look at the whole map: lists, hashes and backups. Together they get a share of one
//! processor, so that clients who ask for them in a loop leave the rest to everything else.

use crate::limits;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The budget of processor time. All time that was spent so far is earned at `earned`.
#[derive(Debug)]
pub(super) struct ProcessorShare {
    earned: Mutex<Instant>,
}

impl Default for ProcessorShare {
    fn default() -> ProcessorShare {
        ProcessorShare {
            earned: Mutex::new(Instant::now()),
        }
    }
}

impl ProcessorShare {
    /// Starts work on the current thread.
    pub(super) fn begin(self: &Arc<ProcessorShare>) -> Work {
        Work {
            share: Arc::clone(self),
            counted: thread_time(),
        }
    }

    /// How long the next work has to wait.
    pub(super) fn debt(&self, now: Instant) -> Duration {
        self.earned.lock().saturating_duration_since(now)
    }

    /// Adds processor time, and returns how long to pause.
    fn spend(&self, took: Duration, now: Instant) -> Duration {
        let mut earned = self.earned.lock();
        // Time in which nothing was spent is kept up to a limit, so that a rare read is not slowed down.
        if let Some(earliest) = now.checked_sub(limits::SCANS_BURST) {
            *earned = earned.max(earliest);
        }
        *earned += took * 100 / limits::SCANS_PROCESSOR_PERCENT;
        earned.saturating_duration_since(now)
    }
}

/// Work on one thread. It must not be moved to another thread, because it reads the clock of its thread.
pub(super) struct Work {
    share: Arc<ProcessorShare>,
    /// The processor time of the thread up to the last count.
    counted: Duration,
}

impl Work {
    /// Counts the processor time since the last call, and pauses until that time is earned.
    pub(super) fn pause(&mut self) {
        let pause = self.count();
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }

    fn count(&mut self) -> Duration {
        let now = thread_time();
        let took = now.saturating_sub(std::mem::replace(&mut self.counted, now));
        self.share.spend(took, Instant::now())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Counts the rest. The next work waits until the rest is earned.
        let _ = self.count();
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_a_loop_gets_its_share_and_rare_work_is_not_slowed_down() {
        let share = ProcessorShare::default();
        let mut now = Instant::now() + 10 * limits::SCANS_BURST;
        let piece = Duration::from_millis(10);
        assert_eq!(share.spend(piece, now), Duration::ZERO);
        let begun = now;
        let mut spent = Duration::ZERO;
        for _ in 0..1_000 {
            now += piece + share.spend(piece, now);
            spent += piece;
        }
        let most = (now - begun) * limits::SCANS_PROCESSOR_PERCENT / 100 + limits::SCANS_BURST;
        assert!(spent <= most, "{spent:?} in {:?}", now - begun);
        assert!(spent >= most / 2, "{spent:?} in {:?}", now - begun);
        assert!(share.debt(now) <= 2 * piece);
    }

    #[test]
    fn the_processor_time_of_the_thread_is_counted() {
        let share = Arc::new(ProcessorShare::default());
        let mut work = share.begin();
        let begun = thread_time();
        let mut number = 1_u64;
        while thread_time() - begun < 2 * limits::SCANS_BURST {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(!work.count().is_zero());
    }
}
