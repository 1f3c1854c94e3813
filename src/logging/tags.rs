//! Tags of slog records that the log treats in a special way.

/// A line that is written at every `--log-level` and is never held back.
pub const ALWAYS: &str = "always";
/// A line of the audit: who asked for what, and the result. It is written at every `--log-level`. Only refusals, which
/// are warnings, are held back when they repeat.
pub const AUDIT: &str = "audit";
/// A line of the audit about a request for a state that held already. Such lines are held back when they repeat.
pub const AUDIT_AGAIN: &str = "audit-again";
/// A progress report with a value `bar`. It is shown as a bar on a terminal, and as a line without the value elsewhere.
pub(super) const PROGRESS: &str = "progress";
/// Removes the progress bar.
pub(super) const PROGRESS_END: &str = "progress-end";
