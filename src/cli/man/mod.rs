//! The manual pages: one page for raftkvd as a whole, and one page for each subcommand.
//!
//! The texts about options, values, examples and exit codes come from the tables that the help prints too. Only the
//! files and the variables of systemd are described here.

mod page;
#[cfg(test)]
mod tests;

use super::args::{HelpLength, command};
use super::help;
use clap::{Arg, Command};
use page::{Page, description, header};
use roff::{Inline, bold, italic, roman};

/// The files of a data directory, and the temporary file of a backup. Words in capitals are placeholders.
const FILES: [(&str, &str); 10] = [
    (
        "raftkvd-ID/",
        "The data directory of the member with this id, unless --data-dir names another one. The other files are in it.",
    ),
    (
        "LOCK",
        "Is locked as long as a process uses the data directory.",
    ),
    (
        "meta",
        "Holds the ids of member and cluster, the peer URL, the first list of members and the number of starts: what a start \
         needs that is given only the data directory.",
    ),
    (
        "meta.tmp",
        "Keeps room for the next change of meta, and is as long as that file.",
    ),
    (
        "wal/SEQUENCE-INDEX.wal",
        "A segment of the write-ahead log: the number of the segment and the index of its first entry, each in 16 hexadecimal \
         digits.",
    ),
    (
        "wal/spare.wal.tmp",
        "Keeps room for the next segment of the log, and becomes that segment.",
    ),
    (
        "snap/INDEX-TERM.snap",
        "A snapshot: all keys and values as of this index. The two newest are kept, and the log behind the older one.",
    ),
    (
        "wal/*.wal.OFFSET.broken, snap/*.snap.broken",
        "The end of a segment that was torn by a crash, and a damaged snapshot that an older one has replaced. raftkvd does \
         not read these files. The three newest of each kind are kept for inspection.",
    ),
    (
        "other *.tmp",
        "A file that is being written, or that a crash has left incomplete. raftkvd does not read it.",
    ),
    (
        "FILE.RANDOM.part",
        "A backup that is being fetched, or that was interrupted. It is of no use then.",
    ),
];

/// Environment variables that belong to no option.
const OTHER_VARIABLES: [(&str, &str); 2] = [
    (
        "NOTIFY_SOCKET",
        "Set by systemd: the socket at which raftkvd reports that it is ready or stopping. See sd_notify(3).",
    ),
    (
        "WATCHDOG_USEC, WATCHDOG_PID",
        "Set by systemd: how often the watchdog of this process expects a sign of life.",
    ),
];

/// The manual page of raftkvd as a whole, or of a subcommand, which must exist.
pub(super) fn manual(subcommand: Option<&str>) -> Vec<u8> {
    let mut root = command(HelpLength::Long);
    root.build();
    let page = match subcommand {
        None => page_of_all(&root),
        Some(name) => {
            let found = root.find_subcommand(name);
            page_of_one(found.expect("clap takes only names of subcommands"))
        }
    };
    page.render()
}

fn page_of_all(root: &Command) -> Page {
    let mut page = Page::new("raftkvd", root);
    page.section("SYNOPSIS");
    page.line([
        bold("raftkvd"),
        roman(" ["),
        italic("OPTION"),
        roman("]..."),
    ]);
    for subcommand in root.get_subcommands() {
        page.control("br");
        page.line(synopsis(subcommand));
    }
    page.section("DESCRIPTION");
    page.paragraphs(&description(root));
    page.section("OPTIONS");
    page.paragraphs(&format!("{} {}", help::VARIABLES, help::EMPTY_VARIABLES));
    for heading in headings(root) {
        page.subsection(heading.unwrap_or("Other options"));
        let arguments = root.get_arguments();
        for argument in arguments.filter(|argument| argument.get_help_heading() == heading) {
            page.argument(argument);
        }
    }
    page.subsection("Values");
    for (name, meaning) in help::VALUES {
        page.term([italic(name)], meaning);
    }
    page.section("SUBCOMMANDS");
    for subcommand in root.get_subcommands() {
        page.subsection(&format!("raftkvd {}", subcommand.get_name()));
        page.line(synopsis(subcommand));
        page.control("PP");
        page.about_and_arguments(subcommand);
        page.examples(help::examples(subcommand.get_name()));
        nested(&mut page, subcommand);
    }
    page.section("EXAMPLES");
    page.examples(help::examples("raftkvd"));
    page.section("ENVIRONMENT");
    for (variable, option) in variables(root) {
        let names_it = |command: &&Command| variables(command).any(|(own, _)| own == variable);
        let shared = root.get_subcommands().filter(names_it);
        let shared = shared.map(|command| format!(", also for raftkvd {}", command.get_name()));
        let shared: String = shared.collect();
        page.term([bold(variable)], &format!("Sets --{option}{shared}."));
    }
    for (variable, meaning) in OTHER_VARIABLES {
        page.term([bold(variable)], meaning);
    }
    page.exit_status();
    page.section("FILES");
    for (path, meaning) in FILES {
        page.term([italic(path)], meaning);
    }
    page.section("SEE ALSO");
    let pages = root
        .get_subcommands()
        .map(|c| format!("raftkvd-{}(1)", c.get_name()));
    let pages = pages.chain(["curl(1)", "systemd.service(5)"].map(str::to_owned));
    page.line([roman(pages.collect::<Vec<_>>().join(", "))]);
    page.control("PP");
    page.paragraphs(
        "raftkvd man SUBCOMMAND prints the page of a subcommand. The book in src/docs/ of the source describes the HTTP \
         interface, the operation and the design of raftkvd.",
    );
    page
}

fn page_of_one(subcommand: &Command) -> Page {
    let name = subcommand.get_name();
    let mut page = Page::new(&format!("raftkvd-{name}"), subcommand);
    page.section("SYNOPSIS");
    page.line(synopsis(subcommand));
    for nested in subcommand.get_subcommands() {
        page.control("br");
        page.line(synopsis_of(
            &format!("{name} {}", nested.get_name()),
            nested,
        ));
    }
    page.section("DESCRIPTION");
    page.paragraphs(&description(subcommand));
    page.section("OPTIONS");
    for argument in subcommand.get_arguments() {
        page.argument(argument);
    }
    if subcommand.get_subcommands().next().is_some() {
        page.section("SUBCOMMANDS");
    }
    nested(&mut page, subcommand);
    page.section("EXAMPLES");
    page.examples(help::examples(name));
    if variables(subcommand).next().is_some() {
        page.section("ENVIRONMENT");
    }
    for (variable, option) in variables(subcommand) {
        page.term([bold(variable)], &format!("Sets --{option}."));
    }
    page.exit_status();
    page.section("SEE ALSO");
    page.line([roman("raftkvd(1)")]);
    page
}

/// Adds a subsection for each subcommand of a subcommand.
fn nested(page: &mut Page, subcommand: &Command) {
    for nested in subcommand.get_subcommands() {
        let name = format!("{} {}", subcommand.get_name(), nested.get_name());
        page.subsection(&format!("raftkvd {name}"));
        page.line(synopsis_of(&name, nested));
        page.control("PP");
        page.about_and_arguments(nested);
        page.examples(help::examples(&name));
    }
}

/// The headings of the options, in order. `None` comes last, for the options that clap adds.
fn headings(command: &Command) -> Vec<Option<&str>> {
    let mut headings = Vec::new();
    for argument in command.get_arguments() {
        let heading = argument.get_help_heading();
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings.sort_by_key(Option::is_none);
    headings
}

/// The synopsis of a subcommand: its options, then its arguments.
fn synopsis(subcommand: &Command) -> Vec<Inline> {
    synopsis_of(subcommand.get_name(), subcommand)
}

/// `name` is what stands behind `raftkvd`.
fn synopsis_of(name: &str, subcommand: &Command) -> Vec<Inline> {
    let mut line = vec![bold(format!("raftkvd {name}"))];
    let own = |argument: &&Arg| argument.get_id() != "help";
    let arguments = subcommand.get_arguments().filter(own);
    for option in arguments.filter(|argument| !argument.is_positional()) {
        line.push(roman(" ["));
        line.extend(header(option));
        line.push(roman("]"));
    }
    for argument in subcommand.get_positionals() {
        line.push(roman(" "));
        line.extend(header(argument));
    }
    line
}

/// The environment variables of a command, each with the option that it sets.
fn variables(command: &Command) -> impl Iterator<Item = (&str, &str)> {
    let options = command.get_arguments();
    options.filter_map(|option| Some((option.get_env()?.to_str()?, option.get_long()?)))
}
