//! What keeps the log from its next segment, and what is logged about that.
//!
//! The log tries again at intervals. A failure is reported once and not at each attempt, so what was reported is kept
//! apart from what is lacking now.

use crate::metrics::Counter;
use crate::storage::disk::DiskError;

/// How the last attempt to get the next segment has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// It has not failed.
    Nothing,
    /// The disk is full, or it fails. Clients get a definite answer, and another member can lead.
    Denied,
    /// A shortage of something that comes back without an operator, such as file descriptors. The log waits, as for a
    /// segment that is being made.
    Delayed,
}

impl Lack {
    fn of(error: &DiskError) -> Lack {
        match error.is_shortage() && !error.is_full() {
            true => Lack::Delayed,
            false => Lack::Denied,
        }
    }
}

/// The steps to the next segment, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// A spare segment is reserved.
    Reserve,
    /// The log continues in the spare segment.
    Continue,
}

/// A change of what keeps the log from its next segment.
#[derive(Debug)]
pub enum SpareNews {
    /// The disk denies the log its next segment.
    Denied(DiskError),
    /// A shortage other than that of room delays the next segment.
    Delayed(DiskError),
    /// The log has its next segment again.
    Made,
}

/// The results of the attempts to get the next segment.
#[derive(Debug)]
pub(super) struct Attempts {
    lack: Lack,
    /// The lack that the last news was about.
    reported: Lack,
    /// The last step that has failed since then. While a spare can be reserved but not used, the log does not have its
    /// next segment again.
    failed_at: Step,
    news: Option<SpareNews>,
}

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts {
            lack: Lack::Nothing,
            reported: Lack::Nothing,
            failed_at: Step::Reserve,
            news: None,
        }
    }
}

impl Attempts {
    /// How the last attempt has failed.
    pub(super) fn lack(&self) -> Lack {
        self.lack
    }

    /// Takes the result of every attempt. Counts each failure. There is news if the lack is another than the reported
    /// one.
    pub(super) fn note(&mut self, step: Step, error: Option<DiskError>, failures: &Counter) {
        let Some(error) = error else {
            self.lack = Lack::Nothing;
            if self.reported != Lack::Nothing && step >= self.failed_at {
                *self = Attempts {
                    news: Some(SpareNews::Made),
                    ..Attempts::default()
                };
            }
            return;
        };
        failures.inc();
        self.lack = Lack::of(&error);
        self.failed_at = self.failed_at.max(step);
        if std::mem::replace(&mut self.reported, self.lack) != self.lack {
            self.news = Some(match self.lack {
                Lack::Delayed => SpareNews::Delayed(error),
                Lack::Denied | Lack::Nothing => SpareNews::Denied(error),
            });
        }
    }

    /// What has to be logged.
    pub(super) fn take_news(&mut self) -> Option<SpareNews> {
        self.news.take()
    }
}
