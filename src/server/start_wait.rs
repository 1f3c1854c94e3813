//! What a start waits for when it may pass by itself: an address that is not up yet, a port that the process before still
//! has, a name that does not resolve yet. Some seconds long, said at once, and ended by a signal.

use super::failure::Failure;
use super::stop::{SignalReceived, StopReason, StopReasons};
use crate::limits;
use crate::storage::StorageError;
use slog::{Logger, warn};
use std::cell::RefCell;
use std::fmt::Display;
use std::io;
use std::pin::pin;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout, timeout_at};

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

/// How long a start waits, for all that it waits for together.
pub(super) struct StartWait<'a> {
    runtime: &'a Runtime,
    stop_reasons: &'a mut StopReasons,
    deadline: Instant,
    pub(super) logger: &'a Logger,
}

impl<'a> StartWait<'a> {
    /// From now on.
    pub(super) fn new(
        runtime: &'a Runtime,
        stop_reasons: &'a mut StopReasons,
        logger: &'a Logger,
    ) -> StartWait<'a> {
        StartWait {
            runtime,
            stop_reasons,
            deadline: Instant::now() + limits::START_PATIENCE,
            logger,
        }
    }

    /// Tries until it succeeds. The inner error is that of the last try: either `is_final`, or time is up.
    pub(super) fn until<T, F>(
        &mut self,
        what: &str,
        is_final: fn(&io::Error) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<io::Result<T>, NotStarted>
    where
        F: Future<Output = io::Result<T>>,
    {
        let (logger, deadline) = (self.logger, self.deadline);
        let newest = RefCell::new(io::Error::from(io::ErrorKind::TimedOut));
        let mut told = false;
        let mut tell = |why: &dyn Display| {
            if !std::mem::replace(&mut told, true) {
                let seconds = deadline
                    .saturating_duration_since(Instant::now())
                    .as_secs_f32();
                warn!(logger, "waiting for {}: {}", what, why; "seconds" => seconds.ceil());
            }
        };
        let trying = async {
            loop {
                let mut attempt = pin!(attempt());
                let tried = match timeout(limits::START_SLOW, &mut attempt).await {
                    Ok(tried) => tried,
                    Err(_) => {
                        tell(&"no answer yet");
                        attempt.await
                    }
                };
                match tried {
                    Err(error) if !is_final(&error) => {
                        tell(&error);
                        newest.replace(error);
                    }
                    done => return done,
                }
                sleep(limits::START_RETRY_INTERVAL).await;
            }
        };
        let stop_reasons = &mut self.stop_reasons;
        let first = self.runtime.block_on(async {
            tokio::select! {
                biased;
                reason = stop_reasons.next() => Err(reason),
                tried = timeout_at(deadline, trying) => Ok(tried.ok()),
            }
        });
        match first {
            Ok(Some(done)) => Ok(done),
            Ok(None) => Ok(Err(newest.into_inner())),
            Err(StopReason::Signal(signal)) => Err(NotStarted::Stopped(signal)),
            Err(StopReason::Failed(failure)) => Err(NotStarted::Failed(failure)),
            Err(StopReason::Node(exit)) => panic!("{exit:?} of a node that is still to be made"),
        }
    }
}
