//! The end of a process: its reasons, and the steps before it, in order.

use super::failure::Failure;
use crate::channels::inbox::Inbox;
use crate::channels::notice::Notice;
use crate::config::Config;
use crate::limits;
use crate::node::Exit;
use crate::storage::Meta;
use crate::workers::try_threads;
use futures_channel::oneshot;
use slog::{Logger, info};
use std::ops::Deref;
use std::pin::Pin;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// Why the process has to end.
pub(super) enum StopReason {
    Signal(SignalReceived),
    Node(Exit),
    Failed(Failure),
}

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct SignalReceived {
    pub(super) name: &'static str,
    pub(super) at: Instant,
}

impl SignalReceived {
    /// Whether `later` is the same signal, sent twice: `timeout` sends one to its child and one to the process group.
    fn is_repeated_by(&self, later: &SignalReceived) -> bool {
        let apart = later.at.saturating_duration_since(self.at);
        self.name == later.name && apart < limits::SIGNAL_REPEAT
    }
}

/// The sender by which threads and tasks report why the process has to end.
#[derive(Clone)]
pub(super) struct StopSender(UnboundedSender<StopReason>);

/// The receiver on which the main thread waits. The main thread holds a sender too, so the channel never closes.
pub(super) struct StopReasons(pub(super) UnboundedReceiver<StopReason>);

pub(super) fn stop_reasons() -> (StopSender, StopReasons) {
    let (sender, receiver) = unbounded_channel();
    (StopSender(sender), StopReasons(receiver))
}

impl StopSender {
    pub(super) fn send(&self, reason: StopReason) {
        // The send fails if the main thread is already ending.
        let _ = self.0.send(reason);
    }

    pub(super) fn fail(&self, failure: impl Into<Failure>) {
        self.send(StopReason::Failed(failure.into()));
    }
}

impl StopReasons {
    pub(super) async fn next(&mut self) -> StopReason {
        let reason = self.0.recv().await;
        reason.expect("the main thread holds a sender")
    }
}

/// The tokio runtime. It is shut down within a limit however [`run`](super::run) returns. Its own drop would wait
/// without a limit for blocking calls, such as a name that does not resolve or a disk that hangs.
pub(super) struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    pub(super) fn start() -> Result<Runtime, Failure> {
        // tokio panics if it can't start its threads.
        let threads = limits::runtime_threads() + limits::THREADS_SPARE;
        try_threads(threads).map_err(Failure::no_thread)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits::runtime_threads())
            .thread_name("tokio")
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|error| {
                Failure::Fatal(format!(
                    "can't start the runtime: {error}; see the limits of this process (ulimit -a), and start \
                     again"
                ))
            })?;
        Ok(Runtime(Some(runtime)))
    }
}

impl Deref for Runtime {
    type Target = tokio::runtime::Runtime;

    fn deref(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("it is taken when it is dropped")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(limits::RUNTIME_STOP_TIMEOUT);
        }
    }
}

/// Completes when serving has to stop.
pub(super) type StopSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A port that a task serves until this value is dropped.
pub(super) struct ServedPort {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl ServedPort {
    pub(super) fn start<S>(runtime: &Runtime, serve: impl FnOnce(StopSignal) -> S) -> ServedPort
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let stopped = Box::pin(async move {
            // The sender sends nothing. Dropping it is the signal.
            let _ = stopped.await;
        });
        let ended = runtime.spawn(serve(stopped));
        ServedPort { stop, ended }
    }

    /// Returns when the current requests have finished.
    async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

/// Transfers leadership, and lets current requests finish, both within `STOP_TIMEOUT`.
pub(super) async fn stop_gently(inbox: &Inbox, clients: ServedPort) {
    let (reply, handed_over) = oneshot::channel();
    inbox.notice(Notice::HandOver(reply));
    let all = async {
        // Clients are served until another member leads, or until half of the time has passed.
        let _ = tokio::time::timeout(limits::STOP_TIMEOUT / 2, handed_over).await;
        clients.stop().await;
    };
    // Anything that is not done by then is abandoned.
    let _ = tokio::time::timeout(limits::STOP_TIMEOUT, all).await;
}

/// Waits for an event that makes a stop in progress fail. `first` is the signal that started the stop. A member that stops
/// because it was removed has none: the first signal during this stop has no effect.
pub(super) async fn next_failure(
    reasons: &mut StopReasons,
    mut first: Option<SignalReceived>,
) -> Failure {
    loop {
        match reasons.next().await {
            StopReason::Failed(failure) => return failure,
            StopReason::Signal(later) => match &first {
                None => first = Some(later),
                Some(first) if first.is_repeated_by(&later) => {}
                Some(_) => {
                    let name = later.name;
                    return Failure::Fatal(format!(
                        "stopped at once by a second signal ({name}); requests that were under way have no answer"
                    ));
                }
            },
            StopReason::Node(_) => {}
        }
    }
}

/// Converts the reason why a node has to end: to an error or, for a removed member, to success. Marks the data
/// directory of a removed member and a proven older copy durably.
pub(super) fn on_exit(
    exit: Exit,
    config: &Config,
    meta: &Meta,
    logger: &Logger,
) -> Result<(), Failure> {
    if let Exit::Removed { index } = exit {
        meta.mark_removed(index)?;
        info!(logger, "this member was removed from the cluster: stopping"; "index" => index);
    }
    if let Exit::OlderCopy { proven: true, .. } = exit {
        meta.mark_older_copy()?;
    }
    match Failure::of_exit(&exit, config) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What comes of a stop when these signals arrive so many milliseconds after the first.
    fn outcome(first: Option<&'static str>, later: &[(&'static str, u64)]) -> Option<String> {
        let (sender, mut reasons) = stop_reasons();
        let begun = Instant::now();
        let first = first.map(|name| SignalReceived { name, at: begun });
        for (name, ms) in later {
            let at = begun + Duration::from_millis(*ms);
            sender.send(StopReason::Signal(SignalReceived { name, at }));
        }
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let failure = std::pin::pin!(next_failure(&mut reasons, first));
        match failure.poll(&mut context) {
            std::task::Poll::Ready(failure) => Some(failure.to_string()),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_signal_that_is_sent_twice_is_one() {
        assert_eq!(
            outcome(Some("SIGTERM"), &[("SIGTERM", 0), ("SIGTERM", 999)]),
            None
        );
        for later in [("SIGTERM", 1_000), ("SIGINT", 10)] {
            let line = outcome(Some("SIGTERM"), &[later]).unwrap();
            assert!(line.contains("second signal"), "{line}");
        }
        // A member that was removed and stops already.
        assert_eq!(outcome(None, &[("SIGTERM", 5), ("SIGTERM", 6)]), None);
        assert!(outcome(None, &[("SIGTERM", 5), ("SIGTERM", 2_000)]).is_some());
    }
}
