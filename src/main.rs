//! The `raftkvd` command: options, logging, exit codes. Everything else is in the library.

#![forbid(unsafe_code)]

use raftkvd::cli::{self, Options, Task};
use raftkvd::cli::{backup, inspect, restore};
use raftkvd::exit_code::ExitCode;
use raftkvd::{logging, server};
use std::io::{self, Write as _};

fn main() {
    let task = match cli::parse(std::env::args_os()) {
        Ok(task) => task,
        Err(quit) => exit(quit.show()),
    };
    #[cfg(feature = "mutants")]
    eprintln!(
        "raftkvd: this build can have planted bugs (cargo feature mutants): never give it data"
    );
    end_on_panic();
    let code = match task {
        Task::Run(options) => return run(*options),
        Task::Backup(settings) => match backup::run(&settings) {
            Ok(text) => print(text.as_bytes()),
            Err(error) => fail(&error.to_string(), error.exit_code()),
        },
        Task::Restore(settings) => match restore::run(&settings) {
            Ok(text) => print(text.as_bytes()),
            Err(error) => fail(&error.without_advice(), error.exit_code()),
        },
        Task::Inspect(path) => match inspect::run(&path, &mut io::stdout().lock()) {
            Ok(code) => code,
            Err(error) => not_printed(&error),
        },
        Task::Print(text) => print(&text),
    };
    exit(code)
}

fn exit(code: ExitCode) -> ! {
    std::process::exit(code.number())
}

fn fail(line: &str, code: ExitCode) -> ExitCode {
    logging::fatal(line);
    code
}

/// Prints a text to stdout. Gives the exit code.
fn print(text: &[u8]) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::Success,
        Err(error) => not_printed(&error),
    }
}

fn not_printed(error: &io::Error) -> ExitCode {
    match error.kind() {
        // The reader has seen enough, as `head` does.
        io::ErrorKind::BrokenPipe => ExitCode::Success,
        _ => fail(
            &format!("can't write to stdout: {error}"),
            ExitCode::Failure,
        ),
    }
}

fn run(options: Options) {
    let (logger, guard) = logging::start(options.log);
    let result = server::run(options.asked, &logger);
    // Flushes what the log still holds, so that the reason below comes last.
    drop(logger);
    drop(guard);
    if let Err(failure) = result {
        logging::fatal(&failure.to_string());
        exit(failure.exit_code());
    }
}

/// A thread that panicked has left its work undone, and others may wait for it for ever: the process ends with it.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
