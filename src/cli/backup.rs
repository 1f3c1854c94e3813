//! `raftkvd backup`: fetches `GET /-/snapshot` of a member into a file, and checks it.
//!
//! The bytes that arrive are written to `FILE.RANDOM.part`, a name that no other process uses. They are checked block
//! by block as they arrive, since the server may be anybody. The file gets its final name only when it is complete and
//! durable and every CRC is right. So a file without `.part` is always a whole backup.
//!
//! With `-` as the file, the bytes go to stdout as they arrive. If the backup breaks off, or a block is wrong, the
//! command ends with an error. The bytes on stdout then lack their footer, so `inspect` and `restore` refuse them.

use super::interrupts::Interrupts;
use crate::api::client;
use crate::config::ClientFiles;
use crate::exit_code::ExitCode;
use crate::limits;
use crate::logging::progress::{ProgressReport, Unit};
use crate::peer_url::PeerUrl;
use crate::storage::disk::{DiskFile, parent};
use crate::storage::inspect;
use crate::storage::inspect::SnapshotContents;
use crate::storage::{
    ArrivedSnapshot, ArrivingSnapshot, Disk as _, DiskError, ReadOnlyDisk, RealDisk, StorageError,
};
use crate::tls::TlsError;
use crate::tls::client::ClientTls;
use crate::workers::{THREAD_ADVICE, on_a_thread};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_DISPOSITION;
use hyper::{Method, Response, StatusCode};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::Value;
use slog::{Logger, warn};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const UNENCRYPTED: &str =
    "the URL is an https:// URL, but without --tls DIR or --cacert FILE nothing is encrypted";

/// What to fetch, and where to put it.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// The URL at which clients reach the member.
    pub member: PeerUrl,
    /// The URL was given with `https://`, so encryption is expected.
    pub is_https: bool,
    /// Take what this member has, even without a majority.
    pub stale: bool,
    /// The file, or a directory in which the file gets the name that the member suggests. `None` means the current
    /// directory, and `-` means stdout.
    pub file: Option<PathBuf>,
    /// The files for TLS. `None`: no TLS.
    pub tls: Option<ClientFiles>,
}

/// A backup that was fetched and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What was fetched, in one line.
    pub summary: String,
    /// The backup is on stdout, so the summary must not go there.
    pub is_on_stdout: bool,
}

/// Why there is no backup. Each error is one line.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The member sent no backup, or only a part.
    #[error("no backup: {0}")]
    NotGiven(String),
    /// The file exists.
    #[error("{} exists; choose another name, or move the file away", .0.display())]
    Exists(PathBuf),
    /// Stdout is a terminal.
    #[error(
        "a backup is not text: redirect stdout to a file or a pipe, or name a file instead of -"
    )]
    Terminal,
    /// Stdout can't be written.
    #[error(
        "no backup: can't write to stdout: {0}; check the program that reads stdout, and try again"
    )]
    Stdout(io::Error),
    /// The files for TLS can't be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// A signal has ended the command.
    #[error(
        "no backup: {0} has ended the command, and its incomplete file is removed; start it again"
    )]
    Interrupted(&'static str),
    /// The bytes that arrived can't be stored, or are damaged.
    #[error("no backup: {}", .0.without_advice())]
    Storage(#[from] StorageError),
}

impl From<String> for BackupError {
    fn from(why: String) -> BackupError {
        BackupError::NotGiven(why)
    }
}

impl From<DiskError> for BackupError {
    fn from(error: DiskError) -> BackupError {
        BackupError::Storage(error.into())
    }
}

impl BackupError {
    /// The code with which the process ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            BackupError::NotGiven(_) | BackupError::Stdout(_) | BackupError::Interrupted(_) => {
                ExitCode::Failure
            }
            BackupError::Exists(_) | BackupError::Terminal | BackupError::Tls(_) => ExitCode::Usage,
            BackupError::Storage(error) => error.exit_code(),
        }
    }
}

/// Fetches and checks a backup.
pub fn run(settings: &BackupOptions, logger: &Logger) -> Result<Fetched, BackupError> {
    let BackupOptions {
        member,
        is_https,
        stale,
        file,
        tls,
    } = settings;
    let to = match file.as_deref() {
        Some(file) if file == Path::new("-") => To::Stdout,
        other => To::File(other),
    };
    match to {
        To::Stdout if io::stdout().is_terminal() => return Err(BackupError::Terminal),
        To::Stdout if is_null(io::stdout())? => {
            let closed = io::Error::other("it is closed, or /dev/null");
            return Err(BackupError::Stdout(closed));
        }
        To::File(Some(file)) if !file.is_dir() => check_absent(file)?,
        _ => {}
    }
    let tls = tls.as_ref().map(ClientTls::load).transpose()?;
    let is_unencrypted = *is_https && tls.is_none();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("can't start the runtime: {error}; try again"))?;
    let fetched = runtime.block_on(unless_interrupted(to, async {
        let stream = client::connect(member, tls.as_ref()).await;
        let stream = stream.map_err(|why| unconnected(&why))?;
        let take = async |response| fetch(response, to, logger).await;
        let path = match stale {
            true => "/-/snapshot?consistency=stale",
            false => "/-/snapshot",
        };
        let nothing = String::new();
        let exchange = client::exchange(stream, member, Method::GET, path, nothing, take);
        let (part, arrived): (Option<Part>, _) = exchange.await?;
        if let Some(part) = &part {
            part.check(logger).await?;
        }
        Ok((part, arrived))
    }));
    // A lookup that gets no answer goes on in a thread of the runtime, and is not waited for.
    runtime.shutdown_background();
    let (part, arrived) = fetched.map_err(|error| named(error, member, tls.is_some()))?;
    // A member with TLS refuses the request, and then the error is enough.
    if is_unencrypted {
        warn!(logger, "{}", UNENCRYPTED);
    }
    let summary = |name: &dyn std::fmt::Display| {
        format!(
            "{name}: {} as of index {} of cluster {:016x}, {} bytes, every CRC is right",
            inspect::keys(arrived.entries),
            arrived.header.index,
            arrived.header.cluster,
            arrived.bytes,
        )
    };
    Ok(match part {
        Some(mut part) => Fetched {
            summary: summary(&part.keep()?.display()),
            is_on_stdout: false,
        },
        None => Fetched {
            summary: summary(&"stdout"),
            is_on_stdout: true,
        },
    })
}

/// The same error, with the URL of the member that gave no backup.
fn named(error: BackupError, member: &PeerUrl, has_tls: bool) -> BackupError {
    match error {
        BackupError::NotGiven(why) => {
            let scheme = match has_tls || why == NEEDS_TLS {
                true => "https",
                false => "http",
            };
            BackupError::NotGiven(format!("{scheme}://{}: {why}", member.authority()))
        }
        other => other,
    }
}

/// Fetches and checks a backup. If a signal ends the command, the incomplete file is removed.
async fn unless_interrupted<T>(
    to: To<'_>,
    fetching: impl Future<Output = Result<T, BackupError>>,
) -> Result<T, BackupError> {
    // A backup to stdout leaves no file to remove. A write to a pipe may block, so a signal has to end the process directly.
    let To::File(_) = to else {
        return fetching.await;
    };
    let mut interrupts = Interrupts::catch()
        .map_err(|error| format!("can't watch for signals: {error}; try again"))?;
    tokio::select! {
        fetched = fetching => fetched,
        signal = interrupts.next() => Err(BackupError::Interrupted(signal)),
    }
}

/// Whether the bytes would be lost. The standard library opens /dev/null in the place of a stdout that is closed.
fn is_null(stdout: impl AsFd) -> Result<bool, BackupError> {
    let found = rustix::fs::fstat(stdout).map_err(|error| BackupError::Stdout(error.into()))?;
    Ok(
        rustix::fs::FileType::from_raw_mode(found.st_mode).is_char_device()
            && (
                rustix::fs::major(found.st_rdev),
                rustix::fs::minor(found.st_rdev),
            ) == (1, 3),
    )
}

/// Where the bytes go.
#[derive(Debug, Clone, Copy)]
enum To<'a> {
    Stdout,
    /// A file, a directory, or the current directory.
    File(Option<&'a Path>),
}

/// What the bytes are written to.
enum Out {
    Stdout(io::Stdout),
    File(Part, Box<dyn DiskFile>),
}

impl Out {
    fn write(&mut self, bytes: &[u8], at: u64) -> Result<(), BackupError> {
        match self {
            Out::Stdout(stdout) => stdout.write_all(bytes).map_err(BackupError::Stdout),
            Out::File(_, file) => Ok(file.write_at(bytes, at)?),
        }
    }

    /// On return, the bytes of a file are durable, and the bytes for stdout have left this process.
    fn end(self) -> Result<Option<Part>, BackupError> {
        match self {
            Out::Stdout(mut stdout) => {
                stdout.flush().map_err(BackupError::Stdout)?;
                Ok(None)
            }
            Out::File(part, mut file) => {
                file.sync()?;
                Ok(Some(part))
            }
        }
    }
}

fn check_absent(path: &Path) -> Result<(), BackupError> {
    // A dangling symbolic link counts as an existing file too, because somebody may need it.
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DiskError::new("look at", path, error).into()),
        Ok(_) => Err(BackupError::Exists(path.to_owned())),
    }
}

/// Writes the body of a response to a file with a temporary name, or to stdout.
async fn fetch(
    response: Response<Incoming>,
    to: To<'_>,
    logger: &Logger,
) -> Result<(Option<Part>, ArrivedSnapshot), BackupError> {
    let status = response.status();
    if status != StatusCode::OK {
        let body = Limited::new(response.into_body(), limits::BACKUP_REFUSAL_BYTES_MAX);
        let body = timeout(limits::BACKUP_SILENCE_MAX, body.collect()).await;
        let body = body.ok().and_then(Result::ok).map(|body| body.to_bytes());
        return Err(refusal(status, &body.unwrap_or_default()).into());
    }
    let name = file_name(&response).ok_or(
        "the answer names no backup file; give the URL at which clients reach a member".to_owned(),
    )?;
    let estimate = response.headers().get("x-raftkvd-estimated-bytes");
    let estimate = estimate.and_then(|bytes| bytes.to_str().ok()?.parse().ok());
    let (mut out, shown) = open(to, name, logger)?;
    let mut done = 0;
    let mut progress = ProgressReport::of_command("backing up", Unit::Bytes, logger);
    let mut body = response.into_body();
    let mut arriving = ArrivingSnapshot::new(&shown);
    let most = bytes_max(estimate);
    let broken = |done: u64, why: &dyn std::fmt::Display| {
        format!(
            "the transfer broke off after {done} bytes ({why}); try again, or ask another member"
        )
    };
    let mut pace = Pace::new();
    loop {
        let frame = match timeout(pace.left(Instant::now()), body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(broken(done, &error).into()),
            Err(_) => {
                return Err(broken(done, &"the member sends nothing more, or too slowly").into());
            }
        };
        if let Ok(bytes) = frame.into_data() {
            if bytes.len() as u64 > most - done {
                let line =
                    format!("the member sends more than {most} bytes, and had announced fewer");
                return Err(line.into());
            }
            arriving.take(&bytes)?;
            out.write(&bytes, done)?;
            done += bytes.len() as u64;
            pace.arrived(bytes.len(), Instant::now());
            progress.at(done, estimate.unwrap_or(0).max(done));
        }
    }
    let arrived = arriving.end()?;
    Ok((out.end()?, arrived))
}

/// Opens the file, or stdout, to which the backup is written. Returns a name for messages too.
fn open(to: To, name: String, logger: &Logger) -> Result<(Out, PathBuf), BackupError> {
    let path = match to {
        To::Stdout => return Ok((Out::Stdout(io::stdout()), PathBuf::from("stdout"))),
        To::File(None) => PathBuf::from(name),
        To::File(Some(directory)) if directory.is_dir() => directory.join(name),
        To::File(Some(file)) => file.to_owned(),
    };
    check_absent(&path)?;
    let part = Part::of(path)?;
    let file = RealDisk.create(&part.temporary)?;
    part.tell_exposed(logger)?;
    let shown = part.temporary.clone();
    Ok((Out::File(part, file), shown))
}

/// The slowest pace at which a backup may arrive: [`limits::BACKUP_PIECE_BYTES`] within [`limits::BACKUP_SILENCE_MAX`]. A
/// server that sends a byte now and then could hold the command for ever.
struct Pace {
    since: Instant,
    /// The bytes of the current piece that have arrived.
    bytes: usize,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// The time that the rest of the current piece may take.
    fn left(&self, now: Instant) -> Duration {
        limits::BACKUP_SILENCE_MAX.saturating_sub(now.saturating_duration_since(self.since))
    }

    fn arrived(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes;
        if self.bytes >= limits::BACKUP_PIECE_BYTES {
            (self.since, self.bytes) = (now, 0);
        }
    }
}

/// The most bytes that a member may send, given the estimate that it has announced. Without an estimate, a member can't
/// fill the disk either.
fn bytes_max(estimate: Option<u64>) -> u64 {
    let estimate = estimate.unwrap_or(0).min(limits::BACKUP_BYTES_MAX);
    (2 * estimate + limits::BACKUP_BYTES_UNANNOUNCED_MAX).min(limits::BACKUP_BYTES_MAX)
}

/// The reason if a member with TLS was asked without TLS.
const NEEDS_TLS: &str =
    "this member speaks TLS only; give --tls DIR, for example --tls certs/admin";

/// Why there is no connection. An error of TLS says what to do.
fn unconnected(why: &str) -> String {
    match why.starts_with("TLS: ") {
        true => why.to_owned(),
        false => format!("{why}; give the URL at which clients reach a running member"),
    }
}

/// Why the member gave no backup.
fn refusal(status: StatusCode, body: &Bytes) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    if problem["code"] == "no-certificate" {
        return "this member asks for the certificate of a client; give --tls DIR, or --cert FILE and --key FILE".to_owned();
    }
    match problem["detail"].as_str() {
        // The advice of this line is for curl.
        Some(line) if line.starts_with("this port speaks TLS only") => NEEDS_TLS.to_owned(),
        Some(line) => crate::logging::one_line(line),
        None => format!(
            "the answer to GET /-/snapshot is {status}; give the URL at which clients reach a member"
        ),
    }
}

/// The file name that the member suggests. `None` unless it has the form of a backup's name, so that it can't lead to
/// another directory.
fn file_name(response: &Response<Incoming>) -> Option<String> {
    let disposition = response.headers().get(CONTENT_DISPOSITION)?.to_str().ok()?;
    let name = disposition.strip_prefix("attachment; filename=\"")?;
    let name = name.strip_suffix('"')?;
    let numbers = name.strip_prefix("raftkvd-")?.strip_suffix(".snap")?;
    let harmless = |c: char| c.is_ascii_hexdigit() || c == '-';
    (numbers.len() <= 64 && numbers.chars().all(harmless)).then(|| name.to_owned())
}

/// A backup under its temporary name. Dropping the value removes the file, unless it got its final name.
struct Part {
    temporary: PathBuf,
    path: PathBuf,
    kept: bool,
}

impl Part {
    fn of(path: PathBuf) -> Result<Part, DiskError> {
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{:016x}.part", RealDisk.random()?));
        Ok(Part {
            temporary: temporary.into(),
            path,
            kept: false,
        })
    }

    /// Warns if the file system does not set the mode of the file, so that other users may read it.
    fn tell_exposed(&self, logger: &Logger) -> Result<(), DiskError> {
        let attributes = RealDisk.attributes(&self.temporary)?;
        if let Some(found) = attributes.filter(|found| found.mode & 0o077 != 0) {
            warn!(
                logger,
                "other users may read {}: its mode {:o} can't be changed; move the backup to a file system that has modes",
                self.path.display(),
                found.mode
            );
        }
        Ok(())
    }

    /// Checks the whole file in a thread of its own, so that a signal can end the command meanwhile.
    async fn check(&self, logger: &Logger) -> Result<(), BackupError> {
        let (path, logger) = (self.temporary.clone(), logger.clone());
        let checked = on_a_thread("check", move || check_file(&path, &logger));
        let checked = checked.map_err(|error| {
            format!("can't start a thread to check the backup: {error}; {THREAD_ADVICE}")
        })?;
        Ok(checked.await.map_err(|stopped| stopped.to_string())??)
    }

    /// Gives the file its final name, unless another file got that name meanwhile. Durable on return.
    fn keep(&mut self) -> Result<&Path, BackupError> {
        let (from, to) = (&self.temporary, &self.path);
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(BackupError::Exists(self.path.clone())),
            // Not every file system supports a rename that refuses to replace a file.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                check_absent(to)?;
                RealDisk.rename(from, to)?;
            }
            Err(error) => return Err(DiskError::new("rename", from, error).into()),
        }
        self.kept = true;
        RealDisk.sync_dir(parent(&self.path))?;
        Ok(&self.path)
    }
}

/// Reads the whole file again. Checks every CRC, and that no key is there twice.
fn check_file(path: &Path, logger: &Logger) -> Result<(), StorageError> {
    let mut contents = SnapshotContents::default();
    let mut progress = ProgressReport::of_command("checking", Unit::Bytes, logger);
    let report = |done, total| progress.at(done, total);
    inspect::snapshot(&ReadOnlyDisk, path, &mut contents, |_, _, _| (), report)?;
    Ok(())
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // The removal may fail: the file may not exist yet. A file that stays has a name that ends in `.part`, so
            // nobody takes it for a backup.
            let _ = RealDisk.remove(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_says_what_to_do_once() {
        let answer = r#"{"detail":"this port speaks TLS only: use https:// and certificates"}"#;
        let answer = Bytes::from_static(answer.as_bytes());
        assert_eq!(refusal(StatusCode::BAD_REQUEST, &answer), NEEDS_TLS);
        let why = "TLS: the CA is not the one of ca.pem; give the right --cacert";
        assert_eq!(unconnected(why), why);
        assert!(unconnected("connect: refused").contains("; give the URL"));
    }

    #[test]
    fn a_backup_that_trickles_is_given_up_and_one_that_is_slow_is_not() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut pace = Pace {
            since: begun,
            bytes: 0,
        };
        for second in 1..30 {
            pace.arrived(1, after(second));
        }
        assert_eq!(pace.left(after(29)), Duration::from_secs(1));
        assert_eq!(pace.left(after(31)), Duration::ZERO);
        let mut pace = Pace {
            since: begun,
            bytes: 0,
        };
        for piece in 1..100 {
            pace.arrived(limits::BACKUP_PIECE_BYTES / 2, after(29 * piece - 20));
            pace.arrived(limits::BACKUP_PIECE_BYTES / 2, after(29 * piece));
            let left = pace.left(after(29 * piece + 29));
            assert_eq!(left, Duration::from_secs(1), "piece {piece}");
        }
    }
}
