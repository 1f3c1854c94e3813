//! The end of a process: what it is for, and what is done in which order before it.

use super::failure::Failure;
use crate::channels::inbox::Inbox;
use crate::channels::notice::Notice;
use crate::config::Config;
use crate::limits;
use crate::node::Exit;
use crate::storage::Meta;
use futures_channel::oneshot;
use slog::{Logger, info};
use std::ops::Deref;
use std::pin::Pin;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// Why the process has to end.
pub(super) enum StopReason {
    Signal(&'static str),
    Node(Exit),
    Failed(Failure),
}

/// Where threads and tasks say why the process has to end.
#[derive(Clone)]
pub(super) struct StopSender(UnboundedSender<StopReason>);

/// What the main thread waits for. It holds a sender too, so that there is always one.
pub(super) struct StopReasons(pub(super) UnboundedReceiver<StopReason>);

pub(super) fn stop_reasons() -> (StopSender, StopReasons) {
    let (sender, receiver) = unbounded_channel();
    (StopSender(sender), StopReasons(receiver))
}

impl StopSender {
    pub(super) fn send(&self, reason: StopReason) {
        // The main thread may be ending already.
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

/// The runtime, ended within a limit however [`run`](super::run) returns: its own drop would wait for calls that block (a
/// name that does not resolve, a disk that hangs) as long as they take.
pub(super) struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    pub(super) fn start() -> Result<Runtime, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits::runtime_threads())
            .thread_name("tokio")
            .enable_all()
            .build();
        let runtime =
            runtime.map_err(|error| Failure::Fatal(format!("can't start the runtime: {error}")))?;
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

/// A port that a task serves until this is dropped.
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
            // The sender sends nothing: it is dropped.
            let _ = stopped.await;
        });
        let ended = runtime.spawn(serve(stopped));
        ServedPort { stop, ended }
    }

    /// Returns when requests that are under way have finished.
    async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

/// Hands leadership over, and lets requests that are under way finish; both by `STOP_TIMEOUT`.
pub(super) async fn stop_gently(inbox: &Inbox, clients: ServedPort) {
    let (reply, handed_over) = oneshot::channel();
    inbox.notice(Notice::HandOver(reply));
    let all = async {
        // Clients are served until there is another leader: what they send meanwhile it will take.
        let _ = tokio::time::timeout(limits::STOP_TIMEOUT / 2, handed_over).await;
        clients.stop().await;
    };
    // What is not done by then will not be.
    let _ = tokio::time::timeout(limits::STOP_TIMEOUT, all).await;
}

// What makes a stop that is under way fail.
pub(super) async fn next_failure(reasons: &mut StopReasons) -> Failure {
    loop {
        match reasons.next().await {
            StopReason::Failed(failure) => return failure,
            StopReason::Signal(name) => {
                return Failure::Fatal(format!(
                    "stopped at once by a second signal ({name}); requests that were under way have no answer"
                ));
            }
            StopReason::Node(_) => {}
        }
    }
}

/// Why a node has to end, as an error or, for a removed member, as a durable mark and success.
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
