//! Threads for work that blocks or takes long, beside the threads of the tokio runtime.
//!
//! tokio starts such threads when they are first needed. If the machine refuses a thread, tokio panics, or never runs
//! the work. [`Workers`] are created at the start, which ends with an error if a thread is refused. Work that waits for
//! others for a long time has a [thread of its own](on_a_thread), and is put off if the machine refuses the thread.

use futures_channel::oneshot;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// What to do if the machine refuses a thread. The stack of a thread takes 2 MiB of address space.
pub const THREAD_ADVICE: &str = "raise TasksMax of the unit, the limit of processes of this user (ulimit -u), the pids limit of \
    the container, or the limit of address space (ulimit -v)";

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take turns with short work. They end when the last clone of this value is dropped.
#[derive(Debug, Clone)]
pub struct Workers {
    jobs: Sender<Job>,
}

/// The process ends, so the work has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process is stopping")]
pub struct Stopped;

impl Workers {
    /// Starts the threads.
    pub fn start(threads: usize) -> io::Result<Workers> {
        let (jobs, taken) = mpsc::channel();
        let taken = Arc::new(Mutex::new(taken));
        for _ in 0..threads {
            let taken = Arc::clone(&taken);
            let builder = thread::Builder::new().name("worker".to_owned());
            builder.spawn(move || work(&taken))?;
        }
        Ok(Workers { jobs })
    }

    /// Does this work on one of the threads, and returns its result. The work is done even if the future is dropped.
    pub fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, Stopped>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (give, result) = oneshot::channel();
        let job = Box::new(move || {
            // If the future was dropped, nobody needs the result.
            let _ = give.send(work());
        });
        // The threads live longer than this sender. Only a panic ends a thread earlier, and a panic ends the process.
        let _ = self.jobs.send(job);
        async move { result.await.map_err(|_| Stopped) }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().recv();
        match job {
            Ok(job) => job(),
            Err(mpsc::RecvError) => return,
        }
    }
}

/// Does this work on a thread of its own, and returns its result. An error means that the machine refuses a thread.
pub fn on_a_thread<T, W>(
    name: &str,
    work: W,
) -> io::Result<impl Future<Output = Result<T, Stopped>> + Send + use<T, W>>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    let (give, result) = oneshot::channel();
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(move || {
        let _ = give.send(work());
    })?;
    Ok(async move { result.await.map_err(|_| Stopped) })
}

/// Checks that the machine grants this many threads at one time. They have ended on return.
pub fn try_threads(count: usize) -> io::Result<()> {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let mut threads = Vec::new();
    let mut result = Ok(());
    for _ in 0..count {
        let released = Arc::clone(&released);
        let builder = thread::Builder::new().stack_size(TRIED_STACK_BYTES);
        match builder.spawn(move || released.lock().recv().is_ok()) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    drop(release);
    for thread in threads {
        // The thread has done nothing that could panic.
        let _ = thread.join();
    }
    result
}

/// The stack of a thread that only waits.
const TRIED_STACK_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_even_if_nobody_waits_for_it() {
        let workers = Workers::start(2).unwrap();
        let (done, seen) = mpsc::channel();
        drop(workers.run(move || done.send(7)));
        assert_eq!(seen.recv().unwrap(), 7);
        assert_eq!(workers.run(|| 8).await, Ok(8));
        assert_eq!(on_a_thread("one", || 9).unwrap().await, Ok(9));
        try_threads(3).unwrap();
    }
}
