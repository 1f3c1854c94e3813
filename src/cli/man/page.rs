//! Builds one manual page as roff: sections, terms, arguments and examples.

use super::super::help::Example;
use crate::exit_code::ExitCode;
use clap::{Arg, Command};
use roff::{Inline, Roff, bold, italic, roman};

/// A page to which text is added.
pub(super) struct Page {
    roff: Roff,
}

impl Page {
    /// A page with its title and the section NAME.
    pub(super) fn new(name: &str, command: &Command) -> Page {
        let mut page = Page { roff: Roff::new() };
        let release = format!("raftkvd {}", env!("CARGO_PKG_VERSION"));
        // The page has no date, because it describes the program that prints it.
        let title = [
            &*name.to_uppercase(),
            "1",
            "\"\"",
            &release,
            "raftkvd manual",
        ];
        page.roff.control("TH", title);
        // Turns off hyphenation, which would break options and the names of pages, and justification, which would put
        // gaps between words.
        page.control("nh");
        page.roff.control("ad", ["l"]);
        page.section("NAME");
        let about = about(command);
        let (first, rest) = about.split_at(1);
        let what = first.to_lowercase() + rest;
        page.line([roman(format!("{name} - {what}"))]);
        page
    }

    /// The page as the bytes that `man` reads.
    pub(super) fn render(&self) -> Vec<u8> {
        self.roff.render().into_bytes()
    }

    pub(super) fn control(&mut self, name: &str) {
        self.roff.control(name, []);
    }

    pub(super) fn section(&mut self, title: &str) {
        self.roff.control("SH", [title]);
    }

    pub(super) fn subsection(&mut self, title: &str) {
        self.roff.control("SS", [title]);
    }

    pub(super) fn line(&mut self, inlines: impl Into<Vec<Inline>>) {
        self.roff.text(inlines);
    }

    pub(super) fn paragraphs(&mut self, text: &str) {
        for (at, paragraph) in text.split("\n\n").enumerate() {
            if at > 0 {
                self.control("PP");
            }
            self.line(marked(paragraph));
        }
    }

    /// A term with its description, which may have several paragraphs.
    pub(super) fn term(&mut self, term: impl Into<Vec<Inline>>, text: &str) {
        self.control("TP");
        self.line(term);
        for (at, paragraph) in text.split("\n\n").enumerate() {
            if at > 0 {
                self.control("IP");
            }
            self.line(marked(paragraph));
        }
    }

    /// Adds an option or an argument: what it does, its possible values, and its default.
    pub(super) fn argument(&mut self, argument: &Arg) {
        let text = argument.get_long_help().or(argument.get_help());
        let text = text.map(ToString::to_string).unwrap_or_default();
        let (first, rest) = match text.split_once("\n\n") {
            Some((first, rest)) => (first, format!("\n\n{rest}")),
            None => (&*text, String::new()),
        };
        let (first, said_default) = split_default(first);
        self.term(header(argument), &(sentence(first) + &rest));
        self.choices(argument);
        let default = match argument.get_default_values().first() {
            Some(default) if takes_value(argument) => default.to_str(),
            _ => said_default,
        };
        if let Some(default) = default {
            self.control("IP");
            self.line(marked(&format!("Default: {default}.")));
        }
    }

    /// Adds the possible values of an option that have a help text.
    fn choices(&mut self, argument: &Arg) {
        let choices = argument.get_possible_values();
        let meanings = choices.iter().filter_map(|choice| {
            let meaning = choice.get_help()?.to_string();
            Some((choice.get_name(), meaning))
        });
        let meanings: Vec<_> = meanings.collect();
        if meanings.is_empty() {
            return;
        }
        self.control("RS");
        for (name, meaning) in meanings {
            self.term([bold(name)], &meaning);
        }
        self.control("RE");
    }

    pub(super) fn about_and_arguments(&mut self, subcommand: &Command) {
        let about = sentence(&about(subcommand));
        let description = description(subcommand);
        match description == about {
            true => self.paragraphs(&about),
            false => self.paragraphs(&format!("{about}\n\n{description}")),
        }
        for argument in subcommand.get_arguments() {
            if argument.get_id() != "help" {
                self.argument(argument);
            }
        }
        self.control("PP");
    }

    /// Adds examples. Each is a line of text and an indented block of code.
    pub(super) fn examples(&mut self, examples: &[Example]) {
        for (at, example) in examples.iter().enumerate() {
            if at > 0 {
                self.control("PP");
            }
            self.line([roman(example.what)]);
            self.roff.control("RS", ["4"]);
            self.control("EX");
            for line in example.lines {
                self.line([roman(*line)]);
            }
            self.control("EE");
            self.control("RE");
        }
    }

    pub(super) fn exit_status(&mut self) {
        self.section("EXIT STATUS");
        for code in ExitCode::ALL {
            let (first, rest) = code.summary().split_at(1);
            let summary = sentence(&(first.to_uppercase() + rest));
            let text = format!("{summary} {}", code.details());
            self.term([bold(code.to_string())], &text);
        }
        self.control("PP");
        self.line(marked(
            "A process that detects a bug in raftkvd prints where it is and ends by SIGABRT, which shells show as 134. \
             Please report it.",
        ));
    }
}

/// The short description of a command.
fn about(command: &Command) -> String {
    command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// The long description of a command without its first paragraph, or the short description if there is no more.
pub(super) fn description(command: &Command) -> String {
    let long = command.get_long_about().map(ToString::to_string);
    let rest = long.as_deref().and_then(|long| long.split_once("\n\n"));
    match rest {
        Some((_, rest)) => rest.to_owned(),
        None => sentence(&about(command)),
    }
}

/// `--option VALUE`, or the name of an argument. What can be left out is in brackets: a value or an argument.
pub(super) fn header(argument: &Arg) -> Vec<Inline> {
    let value = argument.get_value_names().map(|names| names.join(" "));
    let value = value.unwrap_or_else(|| argument.get_id().as_str().to_uppercase());
    if argument.is_positional() {
        return match argument.is_required_set() {
            true => vec![italic(value)],
            false => vec![roman("["), italic(value), roman("]")],
        };
    }
    let long = argument.get_long().expect("every option has a long name");
    let mut header = match argument.get_short() {
        Some(short) => vec![bold(format!("-{short}")), roman(", ")],
        None => Vec::new(),
    };
    header.push(bold(format!("--{long}")));
    let is_optional = argument
        .get_num_args()
        .is_some_and(|count| count.min_values() == 0);
    match takes_value(argument) {
        false => {}
        true if is_optional => header.extend([roman(" ["), italic(value), roman("]")]),
        true => header.extend([roman(" "), italic(value)]),
    }
    header
}

/// Whether an option takes a value. Flags take none. clap knows this only once the command is built.
fn takes_value(argument: &Arg) -> bool {
    argument
        .get_num_args()
        .is_some_and(|count| count.takes_values())
}

/// Adds a full stop, because help texts end without one.
fn sentence(text: &str) -> String {
    match text.ends_with('.') {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}

/// Splits off `[default: ...]`, with which a help text states a default that clap does not know.
fn split_default(text: &str) -> (&str, Option<&str>) {
    let found = text.split_once(" [default: ");
    let found = found.and_then(|(text, rest)| Some((text, rest.strip_suffix(']')?)));
    match found {
        Some((text, default)) => (text, Some(default)),
        None => (text, None),
    }
}

/// A text in which every option is bold.
fn marked(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("--") {
        let (before, option) = rest.split_at(at);
        let end = option.find(|c: char| !c.is_ascii_lowercase() && c != '-');
        let (option, after) = option.split_at(end.unwrap_or(option.len()));
        inlines.extend([roman(before), bold(option)]);
        rest = after;
    }
    inlines.push(roman(rest));
    inlines
}
