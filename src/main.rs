//! The `raftkvd` command: options, logging, exit codes. Everything else is in the library.

use raftkvd::{cli, logging, server};

fn main() {
    let options = match cli::parse(std::env::args_os()) {
        Ok(options) => options,
        Err(quit) => std::process::exit(quit.show()),
    };
    end_on_panic();
    let (logger, guard) = logging::start(options.log);
    let result = server::run(options.config, &logger);
    // Flushes what the log still holds, so that the reason below comes last.
    drop(logger);
    drop(guard);
    if let Err(failure) = result {
        logging::fatal(&failure.to_string());
        std::process::exit(failure.exit_code());
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
