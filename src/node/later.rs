//! Simulates a later version with a command kind that this version does not know. The command changes nothing and
//! leaves a log line. The rolling-upgrade test runs a build with the feature `later` beside one without.

use super::Node;
use crate::command::version;
use crate::command::{Command, Kind};
use slog::info;

impl Node {
    /// Proposes one such command, as the leader, as soon as all members know the kind.
    pub(super) fn attend_later(&mut self) {
        let mut command = Command::new();
        command.kind = Kind::Later;
        let known = self.usable_version() >= version::needed_by(&command);
        if self.watermarks.later_published || !known || !self.raw.raft.commit_to_current_term() {
            return;
        }
        if self.propose_own(command) {
            info!(self.logger, "proposed a command of the later kind");
        }
    }

    /// Records that such a command was committed.
    pub(super) fn publish_later(&mut self, index: u64) {
        self.watermarks.later_published = true;
        info!(self.logger, "carried out a command of the later kind"; "index" => index);
    }
}
