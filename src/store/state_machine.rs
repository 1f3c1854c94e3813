//! The state machine: the map, its newest changes, and how far a start has replayed the log. All three change together,
//! with committed entries in log order or with a whole snapshot, so a reader of one may rely on the others.
//!
//! Only the end of the commit channel changes the state machine. The API reads it.

use super::Store;
use super::history::{Changes, History};
use crate::command::outcome::Outcome;
use crate::command::{Command, Kind};
use crate::logging::progress::Replay;
use bytes::Bytes;
use std::sync::Arc;

/// The map, its history and the replay of the log. A clone refers to the same state machine.
#[derive(Debug, Clone)]
pub struct StateMachine {
    /// The map.
    pub store: Arc<Store>,
    /// The newest changes of the map, for watchers.
    pub history: Arc<History>,
    /// The entries that a start has to replay before the map can be served.
    pub replay: Arc<Replay>,
}

impl StateMachine {
    /// A state machine with an empty history of at most `history_bytes_max` bytes, and with nothing to replay.
    pub fn new(store: Arc<Store>, history_bytes_max: u64) -> StateMachine {
        StateMachine {
            store,
            history: Arc::new(History::new(history_bytes_max)),
            replay: Arc::new(Replay::new()),
        }
    }

    /// Applies the commands of the entry with this index and data. Returns the outcomes of the commands that a client
    /// waits for, each with the `R` that delivers it.
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
        // Append before the answers are sent: a client that watches from the index in its answer must find the change
        // in the history.
        self.history.append(index, changes);
        self.replay.applied(index);
        answers
    }

    /// Called after the map was replaced with a snapshot of this index.
    pub fn loaded(&self, index: u64) {
        self.history.begin(index, index);
        self.replay.applied(index);
    }
}

/// Records the change of a command. `fewer` says whether a deletion has removed a key.
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
