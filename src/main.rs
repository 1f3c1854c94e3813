//! The `raftkvd` command: options, logging, exit codes. Everything else is in the library.

#![forbid(unsafe_code)]

use raftkvd::cli::{self, Task};
use raftkvd::cli::{backup, cert, inspect, restore};
use raftkvd::exit_code::ExitCode;
use raftkvd::logging::{Fatal, Log, LogOptions};
use raftkvd::server::Signals;
use raftkvd::{logging, server};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::exit;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A signal ends a subcommand directly, so only the daemon catches signals.
    let signals = cli::is_daemon(&arguments).then(Signals::catch);
    let parsed = cli::parse(&arguments);
    let options = match &parsed {
        Ok(Task::Run(options)) => options.log,
        Ok(_) => LogOptions::COMMAND,
        Err(_) => cli::log_of_refusal(&arguments),
    };
    let log = match Log::start(options) {
        Ok(log) => log,
        Err(error) => {
            logging::last_words(options.format, &format!("can't start a thread: {error}"));
            exit(ExitCode::Failure.number());
        }
    };
    log.end_on_panic();
    #[cfg(feature = "mutants")]
    slog::warn!(log.logger(), #logging::ALWAYS,
        "this build can have planted bugs (cargo feature mutants): never give it data");
    let ended = match parsed {
        Ok(task) => carry_out(task, signals, &log),
        Err(quit) => quit.show(),
    };
    log.end(ended.as_ref().err());
    exit(ended.unwrap_or_else(|fatal| fatal.exit_code).number());
}

/// Gives the exit code.
fn carry_out(
    task: Task,
    signals: Option<io::Result<Signals>>,
    log: &Log,
) -> Result<ExitCode, Fatal> {
    let logger = log.logger();
    match task {
        Task::Run(options) => {
            for line in &options.warnings {
                slog::warn!(logger, "{}", line);
            }
            let signals = signals.unwrap_or_else(Signals::catch);
            match server::run(options.asked, signals, logger) {
                Ok(()) => Ok(ExitCode::Success),
                Err(failure) => {
                    let reason = options.origins.explain(&failure.to_string());
                    Err(fatal(&reason, failure.exit_code()))
                }
            }
        }
        Task::Backup(settings) => match backup::run(&settings, logger) {
            Ok(fetched) if fetched.is_on_stdout => {
                slog::info!(logger, #logging::ALWAYS, "{}", fetched.summary);
                Ok(ExitCode::Success)
            }
            Ok(fetched) => print((fetched.summary + "\n").as_bytes(), log),
            Err(error) => Err(fatal(&error, error.exit_code())),
        },
        Task::Restore(settings) => match restore::run(&settings, logger) {
            Ok(text) => print(text.as_bytes(), log),
            Err(error) => Err(fatal(&error.without_advice(), error.exit_code())),
        },
        Task::Cert(settings) => match cert::run(&settings) {
            Ok(text) => print(text.as_bytes(), log),
            Err(error) => Err(fatal(&error, error.exit_code())),
        },
        Task::Inspect(path) => {
            inspect::run(&path, &mut io::stdout().lock(), log).or_else(|error| not_printed(&error))
        }
        Task::Print(text) => print(&text, log),
    }
}

fn fatal(why: &dyn std::fmt::Display, exit_code: ExitCode) -> Fatal {
    Fatal {
        reason: why.to_string(),
        exit_code,
    }
}

/// Prints a text to stdout, behind what was said on stderr.
fn print(text: &[u8], log: &Log) -> Result<ExitCode, Fatal> {
    log.flush();
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ExitCode::Success),
        Err(error) => not_printed(&error),
    }
}

fn not_printed(error: &io::Error) -> Result<ExitCode, Fatal> {
    match error.kind() {
        // The reader has seen enough, as `head` does.
        io::ErrorKind::BrokenPipe => Ok(ExitCode::Success),
        _ => Err(fatal(
            &format!("can't write to stdout: {error}"),
            ExitCode::Failure,
        )),
    }
}
