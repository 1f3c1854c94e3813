//! Clients that overwrite random keys while something else is measured.

use crate::histogram::Histogram;
use crate::load::{self, Answer, Connecting, Outcome, Until};
use crate::request::Requests;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Outcome>>,
}

impl Background {
    pub fn start(requests: &Arc<Requests>, address: SocketAddr, connections: usize) -> Background {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (stop, requests) = (stop.clone(), requests.clone());
            move || {
                load::run(
                    &requests,
                    Connecting::plain(&[address]),
                    connections,
                    Until::Told(&stop),
                    || {},
                )
            }
        });
        Background {
            stop,
            thread: Some(thread),
        }
    }

    pub fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is taken here only");
        thread.join().expect("the clients end")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // When something else has failed: nobody waits for it.
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub fn begun(answer: &Answer) -> Instant {
    answer.ended - latency(answer)
}

pub fn latency(answer: &Answer) -> Duration {
    Duration::from_micros(u64::from(answer.latency_us))
}

/// Those that came in this interval, for each second of it.
pub fn rate(outcome: &Outcome, begun: Instant, ended: Instant) -> f64 {
    let answers = outcome.answers.iter();
    let count = answers.filter(|answer| (begun..ended).contains(&answer.ended));
    count.count() as f64 / (ended - begun).as_secs_f64().max(1e-9)
}

pub fn latencies<'a>(answers: impl Iterator<Item = &'a Answer>) -> Histogram {
    let mut histogram = Histogram::default();
    for answer in answers {
        histogram.record(latency(answer));
    }
    histogram
}
