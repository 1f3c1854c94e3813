//! What this process could not do because a resource of the machine, or a limit of its own, was used up.

use super::{Counter, Label};
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// A port that accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptingPort {
    /// The client port.
    Client,
    /// The peer port.
    Peer,
}

/// Counters of shortages.
#[derive(Debug)]
pub struct Shortages {
    accepts: Family<Label, Counter>,
    failed: [Counter; 2],
    beyond: Family<Label, Counter>,
    refused: Counter,
    evicted: Counter,
    file_work: Family<Label, Counter>,
    /// Attempts to delete a file that is no longer needed.
    pub deletions_failed: Counter,
    /// Attempts to load a snapshot from the leader.
    pub loads_failed: Counter,
    /// Attempts to read entries of the log for members that are behind.
    pub read_backs_failed: Counter,
    /// Work that was put off because the machine refused a thread.
    pub threads_refused: Counter,
}

impl Default for Shortages {
    fn default() -> Shortages {
        let (accepts, beyond) = (Family::default(), Family::default());
        let file_work = Family::default();
        Shortages {
            failed: ["client", "peer"]
                .map(|port| Family::get_or_create_owned(&accepts, &[("port", port)])),
            refused: Family::get_or_create_owned(&beyond, &[("result", "refused")]),
            evicted: Family::get_or_create_owned(&beyond, &[("result", "admitted")]),
            deletions_failed: Family::get_or_create_owned(&file_work, &[("work", "delete")]),
            loads_failed: Family::get_or_create_owned(&file_work, &[("work", "load")]),
            read_backs_failed: Family::get_or_create_owned(&file_work, &[("work", "read")]),
            accepts,
            beyond,
            file_work,
            threads_refused: Counter::default(),
        }
    }
}

impl Shortages {
    /// A connection could not be accepted.
    pub fn accepts_failed(&self, port: AcceptingPort) {
        self.failed[port as usize].inc();
    }

    /// A connection of a client found no free slot. It was refused, or an older connection gave way.
    pub fn connection_beyond_slots(&self, is_refused: bool) {
        match is_refused {
            true => self.refused.inc(),
            false => self.evicted.inc(),
        };
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "accepts_failed",
            "Connections that could not be accepted, most likely because no file descriptor was left",
            self.accepts.clone(),
        );
        registry.register(
            "connections_beyond_limit",
            "Connections of clients beyond the limit: admitted in the place of an older one, or refused",
            self.beyond.clone(),
        );
        registry.register(
            "file_work_failed",
            "Attempts to delete, load or read files that failed and are tried again, most likely because no file descriptor was left",
            self.file_work.clone(),
        );
        registry.register(
            "threads_refused",
            "Work that was put off because the machine refused a thread",
            self.threads_refused.clone(),
        );
    }
}
