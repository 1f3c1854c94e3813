//! The state machine: the map, the newest changes of it, and how far a start has replayed the log. All three move together,
//! by committed entries in log order or by a whole snapshot, and whoever reads one of them may rely on the others.
//!
//! Only the end of the commit channel changes it. The API reads.

use super::Store;
use super::history::{Changes, History};
use crate::command::outcome::Outcome;
use crate::command::{Command, Kind};
use crate::logging::progress::Replay;
use bytes::Bytes;
use std::sync::Arc;

/// See the module's documentation. A copy is another handle of the same.
#[derive(Debug, Clone)]
pub struct StateMachine {
    /// The map.
    pub store: Arc<Store>,
    /// The newest changes of the map, to watch.
    pub history: Arc<History>,
    /// What has to be replayed before there is anything to serve.
    pub replay: Arc<Replay>,
}

impl StateMachine {
    /// One with an empty history, whose size in bytes is bounded, and with nothing to replay.
    pub fn new(store: Arc<Store>, history_bytes_max: u64) -> StateMachine {
        StateMachine {
            store,
            history: Arc::new(History::new(history_bytes_max)),
            replay: Arc::new(Replay::new()),
        }
    }

    /// Applies the commands of the entry with this index and these data. Gives what comes of those that somebody waits for,
    /// each with `R`, by which that is told.
    pub fn apply<R>(
        &self,
        index: u64,
        data: Bytes,
        commands: Vec<(Command, Option<R>)>,
    ) -> Vec<(R, Outcome)> {
        let mut changes = Changes::of(data, commands.len());
        let mut answers = Vec::new();
        for (command, reply) in commands {
            let keys = self.store.len();
            let outcome = self.store.apply(&command, index);
            note(&command, &outcome, self.store.len() < keys, &mut changes);
            if let Some(reply) = reply {
                answers.push((reply, outcome));
            }
        }
        // Before the answers: a client that watches from the index in its answer must find the change in the history.
        self.history.append(index, changes);
        self.replay.applied(index);
        answers
    }

    /// The map is that of a snapshot of this index.
    pub fn loaded(&self, index: u64) {
        self.history.begin(index, index);
        self.replay.applied(index);
    }
}

/// Notes what a command has changed. A deletion that had something to delete left fewer keys.
fn note(command: &Command, outcome: &Outcome, fewer: bool, changes: &mut Changes) {
    match (outcome, command.kind) {
        (Outcome::Applied { .. }, Kind::Put) => changes.put(&command.key, &command.value),
        (Outcome::Applied { .. }, Kind::Delete) if fewer => changes.delete(&command.key),
        (Outcome::Transacted { existed, .. }, _) => {
            let writes = command.transaction.iter().flat_map(|t| t.writes.iter());
            for (write, existed) in writes.zip(existed) {
                match (write.delete, existed) {
                    (false, _) => changes.put(&write.key, &write.value),
                    (true, true) => changes.delete(&write.key),
                    (true, false) => {}
                }
            }
        }
        _ => {}
    }
}
