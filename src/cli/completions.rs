//! Shell completions and manual pages, generated from what clap knows of the options.

use super::Quit;
use super::args::Args;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// The script by which a shell completes this command line.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "raftkvd", &mut script);
    script
}

/// The manual page of the daemon, or of a subcommand.
pub(super) fn manual(command: Option<&str>) -> Result<Vec<u8>, Quit> {
    let mut daemon = Args::command();
    daemon.build();
    let described = match command {
        None => daemon,
        Some(name) => {
            let found = daemon.find_subcommand(name).cloned();
            found.ok_or_else(|| {
                let names: Vec<&str> = daemon.get_subcommands().map(|c| c.get_name()).collect();
                Quit::Usage(format!(
                    "man {name:?}: there is no such subcommand; there are {}",
                    names.join(", ")
                ))
            })?
        }
    };
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(described).render(&mut page);
    rendered.expect("writing to memory does not fail");
    Ok(page)
}
