//! Reads the directory of `--tls` again when a file in it changes, so that renewing a certificate needs no restart.
//!
//! The thread of [`run`] compares the files with those that it read last, each second and on SIGHUP. A directory that
//! fails a check is not used: the earlier credentials stay in use, and the log says why. Each state of the files is read
//! once, so files that are copied one after the other cause a few lines of errors at most.

use super::{Credentials, Tls, explain};
use crate::limits;
use crate::logging::ALWAYS;
use crate::metrics::TlsMetrics;
use slog::{Logger, error, info, warn};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

/// A request to read the files again, also if they look unchanged.
#[derive(Debug, Clone, Copy)]
pub struct ReadAgain;

/// Distinguishes two states of a file: time of the change in seconds and nanoseconds, size, and inode.
type Stamp = Option<(i64, i64, u64, u64)>;

/// The state of all files.
pub(super) type Stamps = [Stamp; 4];

const FILES: [&str; 4] = ["ca.pem", "member.pem", "member.key", "revoked"];

/// Reads changed files until the sender of `asked` is gone.
pub fn run(tls: &Tls, asked: &Receiver<ReadAgain>, metrics: &Arc<TlsMetrics>, logger: &Logger) {
    let mut freshness = Freshness {
        stamps: tls.first,
        warned: None,
    };
    metrics.set_not_after(tls.credentials().own.not_after);
    loop {
        freshness.warn_of_end(&tls.credentials(), logger);
        let is_asked = match asked.recv_timeout(limits::TLS_CHECK_INTERVAL) {
            Ok(ReadAgain) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let stamps = stamps(&tls.options.dir);
        if is_asked || stamps != freshness.stamps {
            freshness.stamps = stamps;
            read_again(tls, metrics, logger);
        }
    }
}

fn read_again(tls: &Tls, metrics: &TlsMetrics, logger: &Logger) {
    match Credentials::load(&tls.options) {
        Ok(credentials) => {
            let own = &credentials.own;
            info!(logger, #ALWAYS, "read the certificates again"; "key" => %own.fingerprint,
                "valid_until" => valid_until(own.not_after), "revoked_keys" => credentials.revoked.len());
            metrics.set_not_after(own.not_after);
            tls.current.send_replace(Arc::new(credentials));
        }
        Err(error) => {
            metrics.reloads_failed.inc();
            error!(
                logger,
                "can't use the changed certificates; the earlier certificates stay in use: {}",
                error
            );
        }
    }
}

/// The state of the files in a directory.
pub(super) fn stamps(dir: &Path) -> Stamps {
    FILES.map(|name| {
        let file = std::fs::metadata(dir.join(name)).ok()?;
        Some((file.ctime(), file.ctime_nsec(), file.size(), file.ino()))
    })
}

struct Freshness {
    stamps: Stamps,
    /// The time at which the end of the own certificate was last logged.
    warned: Option<Instant>,
}

impl Freshness {
    /// Logs once a day that the own certificate ends soon, or has ended.
    fn warn_of_end(&mut self, credentials: &Credentials, logger: &Logger) {
        let left = credentials.left(SystemTime::now());
        if left.is_some_and(|left| left > limits::TLS_END_WARNED) {
            self.warned = None;
            return;
        }
        let now = Instant::now();
        let is_due = |warned: Instant| now - warned >= limits::TLS_END_WARNED_INTERVAL;
        if !self.warned.is_none_or(is_due) {
            return;
        }
        self.warned = Some(now);
        let valid_until = valid_until(credentials.own.not_after);
        match left {
            Some(left) => {
                warn!(logger, "the certificate of this member ends soon; renew it with `raftkvd cert renew` where \
                the CA is, and copy it here"; "days_left" => left.as_secs() / 86_400, "valid_until" => valid_until)
            }
            None => {
                error!(logger, "the certificate of this member has expired, so clients and peers refuse it; renew it with \
                `raftkvd cert renew` where the CA is, and copy it here"; "valid_until" => valid_until)
            }
        }
    }
}

/// A time as text for people.
pub fn valid_until(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    explain::date(since.unwrap_or(Duration::ZERO).as_secs())
}
