//! Reads the directory of `--tls` again when a file in it changes, so that renewing a certificate needs no restart.
//!
//! The thread of [`run`] compares the files with those that it read last, each second. It reads them once two checks in a
//! row have found the same change, and at once on SIGHUP. A directory that fails a check is not used: the earlier
//! credentials stay in use, and the log says why. Only its list of revoked keys is used, if that list is good. Each state
//! of the files is read once, so files that are copied one after the other cause a few lines of errors at most.

use super::credentials::{self, TlsError};
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
    let mut end = EndOfCertificate { warned: None };
    let mut changes = Changes::new(tls.first);
    metrics.set_not_after(tls.credentials().own().not_after);
    loop {
        end.warn(&tls.credentials(), logger);
        let is_asked = match asked.recv_timeout(limits::TLS_CHECK_INTERVAL) {
            Ok(ReadAgain) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let dir = &tls.options.dir;
        let found = stamps(dir);
        if !changes.are_complete(found) && !is_asked {
            continue;
        }
        let loaded = load_again(tls);
        // A file that has changed meanwhile may have been read in part.
        if changes.were_read(found, stamps(dir)) {
            take(tls, loaded, metrics, logger);
        }
    }
}

/// Reads the files in the place of those in use.
pub(super) fn load_again(tls: &Tls) -> Result<Credentials, TlsError> {
    let credentials = Credentials::load(&tls.options)?;
    let tag = |credentials: &Credentials| credentials.own().name.tag;
    let actual = tag(&credentials);
    match actual == tag(&tls.credentials()) {
        true => Ok(credentials),
        false => Err(TlsError::OtherCluster {
            dir: tls.options.dir.clone(),
            actual,
        }),
    }
}

/// Puts new credentials in the place of those in use. If the files have an error, only the list of revoked keys is used.
pub(super) fn take(
    tls: &Tls,
    loaded: Result<Credentials, TlsError>,
    metrics: &TlsMetrics,
    logger: &Logger,
) {
    match loaded {
        Ok(credentials) => {
            let own = credentials.own();
            let (before, count) = (
                tls.credentials().revoked().len(),
                credentials.revoked().len(),
            );
            info!(logger, #ALWAYS, "read the certificates again"; "key" => %own.fingerprint,
                "valid_until" => valid_until(own.not_after), "revoked_keys" => count);
            if count < before {
                warn!(logger, "fewer keys are revoked than before: the file revoked has lost some; was it cut short?"; "revoked_keys" => count,
                    "before" => before);
            }
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
            revoke_more(tls, logger);
        }
    }
}

/// Revokes the keys in the file `revoked` beside those that are revoked already. A revocation must not wait until
/// somebody has corrected the other files.
fn revoke_more(tls: &Tls, logger: &Logger) {
    // If the list itself has the error, its line in the log has just said so.
    let Ok(listed) = credentials::read_revoked(&tls.options.dir) else {
        return;
    };
    let current = tls.credentials();
    if listed.is_subset(current.revoked()) {
        return;
    }
    match current.also_revoking(&listed) {
        Ok(credentials) => {
            info!(logger, #ALWAYS, "revoked the keys in the file revoked";
                "revoked_keys" => credentials.revoked().len());
            tls.current.send_replace(Arc::new(credentials));
        }
        Err(error) => error!(
            logger,
            "can't revoke the keys in the file `revoked`: {}", error
        ),
    }
}

/// The state of the files in a directory.
pub(super) fn stamps(dir: &Path) -> Stamps {
    FILES.map(|name| {
        let file = std::fs::metadata(dir.join(name)).ok()?;
        Some((file.ctime(), file.ctime_nsec(), file.size(), file.ino()))
    })
}

/// Finds out when to read the files. A file that is copied may stay incomplete for a moment, and a list of revoked keys
/// that is cut short looks like a whole one. So files count once two checks in a row have found them in the same state.
#[derive(Debug)]
pub(super) struct Changes {
    /// The state that the last check has found.
    found: Stamps,
    /// The state in which the files were read.
    read: Stamps,
}

impl Changes {
    pub(super) fn new(read: Stamps) -> Changes {
        Changes { found: read, read }
    }

    /// Notes what a check has found. Returns whether to read the files.
    pub(super) fn are_complete(&mut self, found: Stamps) -> bool {
        let before = std::mem::replace(&mut self.found, found);
        found == before && found != self.read
    }

    /// Notes that the files were read, with their states before and after. Returns whether to use what was read.
    pub(super) fn were_read(&mut self, before: Stamps, after: Stamps) -> bool {
        self.found = after;
        if before == after {
            self.read = after;
        }
        before == after
    }
}

/// The warnings that the own certificate ends soon.
struct EndOfCertificate {
    /// The time at which the end was last logged.
    warned: Option<Instant>,
}

impl EndOfCertificate {
    /// Logs once a day that the own certificate ends soon, or has ended.
    fn warn(&mut self, credentials: &Credentials, logger: &Logger) {
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
        let valid_until = valid_until(credentials.own().not_after);
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
