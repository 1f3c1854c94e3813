//! What a later version would bring: a kind of command that others do not know. It changes nothing, and the log tells of
//! it. For the rolling test, which runs a build with the feature `later` beside one without.

use super::Node;
use crate::command::version;
use crate::command::{Command, Kind};
use slog::info;

impl Node {
    /// The leader proposes one as soon as all members know the kind.
    pub(super) fn attend_later(&mut self) {
        let known = self.usable_version() >= version::needed_by(Kind::Later);
        if self.watermarks.later_published || !known || !self.raw.raft.commit_to_current_term() {
            return;
        }
        let mut command = Command::new();
        command.kind = Kind::Later;
        if self.propose_own(command) {
            info!(self.logger, "proposed a command of the later kind");
        }
    }

    /// One was committed.
    pub(super) fn publish_later(&mut self, index: u64) {
        self.watermarks.later_published = true;
        info!(self.logger, "carried out a command of the later kind"; "index" => index);
    }
}
