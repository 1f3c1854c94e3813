//! What a start waits for when it may pass by itself: an address that is not up yet, a port that the process before still
//! has, a name that does not resolve yet. Some seconds long, said at once, and ended by a signal.

use super::failure::Failure;
use super::stop::{SignalReceived, StopReason, StopReasons};
use crate::limits;
use crate::storage::StorageError;
use slog::{Logger, warn};
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

/// Why there is no start.
#[derive(Debug)]
pub(super) enum NotStarted {
    Failed(Failure),
    /// A signal has ended it.
    Stopped(SignalReceived),
}

impl From<Failure> for NotStarted {
    fn from(failure: Failure) -> NotStarted {
        NotStarted::Failed(failure)
    }
}

impl From<StorageError> for NotStarted {
    fn from(error: StorageError) -> NotStarted {
        NotStarted::Failed(error.into())
    }
}

/// How a start waits for one thing after the other.
pub(super) struct StartWait<'a> {
    runtime: &'a Runtime,
    stop_reasons: &'a mut StopReasons,
    /// Time for each thing after which no new try starts.
    patience: Duration,
    pub(super) logger: &'a Logger,
}

impl<'a> StartWait<'a> {
    /// With the patience of a start.
    pub(super) fn new(
        runtime: &'a Runtime,
        stop_reasons: &'a mut StopReasons,
        logger: &'a Logger,
    ) -> StartWait<'a> {
        StartWait {
            runtime,
            stop_reasons,
            patience: limits::START_PATIENCE,
            logger,
        }
    }

    /// Tries until it succeeds. The inner error is that of the last try: either `is_final`, or time is up. A try that is
    /// under way when time is up goes on to its own limit: another start would only repeat the try.
    pub(super) fn until<T, F>(
        &mut self,
        what: &str,
        is_final: fn(&io::Error) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<io::Result<T>, NotStarted>
    where
        F: Future<Output = io::Result<T>>,
    {
        let (logger, deadline) = (self.logger, Instant::now() + self.patience);
        let mut told = false;
        let trying = async {
            loop {
                let mut attempt = pin!(attempt());
                let tried = match timeout(limits::START_SLOW, &mut attempt).await {
                    Ok(tried) => tried,
                    Err(_) => {
                        if !std::mem::replace(&mut told, true) {
                            warn!(logger, "waiting for {}: no answer yet", what);
                        }
                        attempt.await
                    }
                };
                let error = match tried {
                    Err(error) if !is_final(&error) => error,
                    done => return done,
                };
                let left = deadline.saturating_duration_since(Instant::now());
                if left < limits::START_RETRY_INTERVAL {
                    return Err(error);
                }
                if !std::mem::replace(&mut told, true) {
                    let seconds = left.as_secs_f32().ceil();
                    warn!(logger, "waiting for {}: {}", what, error; "seconds_left" => seconds);
                }
                sleep(limits::START_RETRY_INTERVAL).await;
            }
        };
        let stop_reasons = &mut self.stop_reasons;
        let first = self.runtime.block_on(async {
            tokio::select! {
                biased;
                reason = stop_reasons.next() => Err(reason),
                tried = trying => Ok(tried),
            }
        });
        match first {
            Ok(done) => Ok(done),
            Err(StopReason::Signal(signal)) => Err(NotStarted::Stopped(signal)),
            Err(StopReason::Failed(failure)) => Err(NotStarted::Failed(failure)),
            Err(StopReason::Node(exit)) => panic!("{exit:?} of a node that is still to be made"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::stop::stop_reasons;
    use slog::o;
    use std::cell::Cell;

    const PATIENCE: Duration = Duration::from_millis(300);

    /// What `check` finds out with a start that has little patience.
    fn with_little_patience(check: impl FnOnce(&mut StartWait)) {
        let runtime = Runtime::new().unwrap();
        let (_sender, mut reasons) = stop_reasons();
        let logger = Logger::root(slog::Discard, o!());
        check(&mut StartWait {
            patience: PATIENCE,
            ..StartWait::new(&runtime, &mut reasons, &logger)
        });
    }

    #[test]
    fn a_try_that_is_under_way_outlasts_the_patience() {
        with_little_patience(|wait| {
            let slow = async || {
                sleep(2 * PATIENCE).await;
                Ok::<_, io::Error>(7)
            };
            let found = wait.until("a slow answer", |_| false, slow).unwrap();
            assert_eq!(found.unwrap(), 7);
        });
    }

    #[test]
    fn each_thing_that_is_waited_for_has_its_own_patience() {
        with_little_patience(|wait| {
            let refuse = async || Err::<(), _>(io::Error::from(io::ErrorKind::AddrInUse));
            let refused = wait.until("a port", |_| false, refuse).unwrap();
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let tries = Cell::new(0);
            let third = async || {
                tries.set(tries.get() + 1);
                match tries.get() {
                    3 => Ok(()),
                    _ => Err(io::Error::from(io::ErrorKind::AddrInUse)),
                }
            };
            wait.until("another port", |_| false, third)
                .unwrap()
                .unwrap();
            assert_eq!(tries.get(), 3);
        });
    }
}
