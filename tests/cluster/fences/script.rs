//! What a page asks its reader to do, as steps; and whether an output is the one that the page shows.

use super::book::{Kind, Page};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// `<!-- run: stop 2 -->`: SIGTERM to a member, and wait until it has ended. Several follow each other.
    Stop(Vec<u64>),
    /// `<!-- run: kill 2 -->`: kill -9.
    Kill(Vec<u64>),
    /// `<!-- run: start over -->`: stop all members, and go on in an empty directory.
    StartOver,
    /// A `sh` fence: type its commands.
    Type {
        commands: Vec<Typed>,
        /// The `text` fence straight behind: what the last command prints.
        shown: Option<String>,
    },
}

/// A command of a fence, which may have several lines.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// It runs in the background. Its words, without the program.
    Daemon(Vec<String>),
    /// It is waited for.
    Shell(String),
}

/// The steps of a page, each with its line. A fence that is neither typed nor excused by `<!-- not run: reason -->`, and a
/// comment that means nothing, are errors.
pub fn steps(page: &Page) -> Result<Vec<(usize, Step)>, String> {
    let mut steps = Vec::new();
    let mut excuse = None;
    let mut blocks = page.blocks()?;
    blocks.retain(|block| block.kind != Kind::Line || !block.text.trim().is_empty());
    for (at, block) in blocks.iter().enumerate() {
        let fail = |why: &str| Err(format!("{}:{}: {why}", page.path, block.line));
        let excused = excuse.take();
        if excused.is_some() && block.kind != Kind::Fence("sh".to_owned()) {
            return fail("the comment before this excuses no sh fence");
        }
        match &block.kind {
            Kind::Line => {}
            Kind::Comment => match directive(&block.text) {
                Ok(Some(step)) => steps.push((block.line, step)),
                Ok(None) => excuse = Some(block.line),
                Err(why) => return fail(&why),
            },
            Kind::Fence(language) if language == "text" => {}
            Kind::Fence(language) if language == "sh" => {
                if excused.is_some() {
                    continue;
                }
                let behind = blocks.get(at + 1);
                let shown = behind.filter(|behind| behind.kind == Kind::Fence("text".to_owned()));
                let commands = match commands(&block.text) {
                    Ok(commands) => commands,
                    Err(why) => return fail(&why),
                };
                let shown = shown.map(|shown| shown.text.clone());
                steps.push((block.line, Step::Type { commands, shown }));
            }
            Kind::Fence(language) => {
                return fail(&format!("a fence is sh or text, and not {language:?}"));
            }
        }
    }
    match excuse {
        Some(line) => Err(format!("{}:{line}: it excuses no sh fence", page.path)),
        None => Ok(steps),
    }
}

/// What a comment asks for; `None`: the fence behind it is excused.
fn directive(comment: &str) -> Result<Option<Step>, String> {
    let ids = |ids: &str| {
        let ids = ids.split(' ').map(|id| {
            let parsed = id.parse();
            parsed.map_err(|_| format!("{id:?} is no member's id"))
        });
        ids.collect::<Result<Vec<u64>, String>>()
    };
    match comment
        .split_once(':')
        .map(|(verb, what)| (verb, what.trim()))
    {
        Some(("not run", reason)) if !reason.is_empty() => Ok(None),
        Some(("run", "start over")) => Ok(Some(Step::StartOver)),
        Some(("run", what)) => match what.split_once(' ') {
            Some(("stop", members)) => Ok(Some(Step::Stop(ids(members)?))),
            Some(("kill", members)) => Ok(Some(Step::Kill(ids(members)?))),
            _ => Err(format!("nobody knows how to {what:?}")),
        },
        _ => Err(format!(
            "the comment {comment:?} is not \"run: ...\", nor \"not run: \" with a reason"
        )),
    }
}

/// Puts lines together until the shell takes them for a whole command.
fn commands(fence: &str) -> Result<Vec<Typed>, String> {
    let mut commands = Vec::new();
    let mut open = String::new();
    for line in fence.lines() {
        open += line;
        open.push('\n');
        if is_whole(&open) {
            let command = std::mem::take(&mut open);
            if !command.trim().is_empty() {
                commands.push(typed(&command)?);
            }
        }
    }
    match open.lines().all(is_remark) {
        true => Ok(commands),
        false => Err(format!("the shell waits for more behind {open:?}")),
    }
}

fn is_remark(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn is_whole(text: &str) -> bool {
    let last = text.lines().last().unwrap_or_default();
    if last.ends_with('\\') || is_remark(last) {
        return false;
    }
    let mut shell = Command::new("bash");
    let shell = shell.args(["-n", "-c", text]).stdin(Stdio::null());
    let said = shell.output().expect("bash can be run");
    // Of a document that does not end it only warns.
    said.status.success() && said.stderr.is_empty()
}

fn typed(command: &str) -> Result<Typed, String> {
    let lines = command.lines();
    let lines = lines.filter(|line| !is_remark(line));
    let joined = lines.map(|line| line.strip_suffix('\\').unwrap_or(line));
    let joined = joined.collect::<Vec<_>>().join(" ");
    let mut words = joined.split_whitespace().map(str::to_owned);
    let is_daemon = words.next().is_some_and(|word| word == "raftkvd")
        && words
            .clone()
            .next()
            .is_none_or(|word| word.starts_with("--") && !matches!(&*word, "--help" | "--version"));
    if !is_daemon {
        return Ok(Typed::Shell(command.to_owned()));
    }
    if joined.contains(['\'', '"', '$', '`', '|', '&', ';', '<', '>', '#', '*', '~']) {
        return Err(format!(
            "only plain words can start a daemon: {}",
            joined.trim()
        ));
    }
    Ok(Typed::Daemon(words.collect()))
}

/// Whether an output is the shown one: `…` in a line is any text, a line of only `…` any lines. Blanks at the ends of lines
/// and empty lines at the end don't count.
pub fn is_shown(shown: &str, output: &str) -> bool {
    are_lines_shown(&trimmed(shown), &trimmed(output))
}

fn trimmed(text: &str) -> Vec<&str> {
    text.trim_end().lines().map(str::trim_end).collect()
}

fn are_lines_shown(shown: &[&str], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=lines.len()).any(|skipped| are_lines_shown(rest, &lines[skipped..]))
        }
        Some((first, rest)) => lines.split_first().is_some_and(|(line, others)| {
            is_line_shown(first, line) && are_lines_shown(rest, others)
        }),
    }
}

fn is_line_shown(shown: &str, line: &str) -> bool {
    let Some((start, rest)) = shown.split_once('…') else {
        return shown == line;
    };
    let Some(line) = line.strip_prefix(start) else {
        return false;
    };
    let mut ends = line.char_indices().map(|(at, _)| at).chain([line.len()]);
    ends.any(|at| is_line_shown(rest, &line[at..]))
}

/// The ports of a page, and the free ones that take their places.
#[derive(Debug, Default)]
pub struct Ports(BTreeMap<String, String>);

impl Ports {
    /// The text with other ports: for each that is new, the next one of these.
    pub fn replace(&mut self, text: &str, mut free: impl FnMut() -> u16) -> String {
        map_ports(text, |port| {
            let replaced = self.0.entry(port.to_owned());
            replaced.or_insert_with(|| free().to_string()).clone()
        })
    }

    /// The text with the ports of the page.
    pub fn restore(&self, text: &str) -> String {
        map_ports(text, |port| {
            let original = self.0.iter().find(|(_, replaced)| *replaced == port);
            original.map_or(port, |(original, _)| original).to_owned()
        })
    }
}

/// What stands before a port, in commands and in what they print.
const BEFORE_PORTS: [&str; 5] = ["127.0.0.1:", "localhost:", "--port ", "--port=", " port "];

fn map_ports(text: &str, mut map: impl FnMut(&str) -> String) -> String {
    let mut mapped = String::new();
    let mut rest = text;
    loop {
        let places = BEFORE_PORTS.iter();
        let places = places.filter_map(|before| Some(rest.find(before)? + before.len()));
        let Some(at) = places.min() else {
            return mapped + rest;
        };
        let (before, behind) = rest.split_at(at);
        let end = behind.find(|c: char| !c.is_ascii_digit());
        let (port, behind) = behind.split_at(end.unwrap_or(behind.len()));
        mapped += before;
        if !port.is_empty() {
            mapped += &map(port);
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page {
            path: "page.md".to_owned(),
            text: text.to_owned(),
        }
    }

    fn shell(command: &str) -> Typed {
        Typed::Shell(command.to_owned())
    }

    #[test]
    fn a_page_is_steps_in_its_order() {
        let text = "# Title\n\n```sh\nraftkvd --id 1 \\\n    --port 9121\n# Ask it.\ncurl -d '{\n}' x\n```\n\n```text\nyes\n```\n\
                    <!-- run: kill 1 -->\n<!-- not run: there is none -->\n```sh\ngoreman start\n```\n```text\nno\n```\n\
                    1. Like this:\n\n   ```sh\n   cat <<END\n     a\n   END\n   ```\n\nIt prints\n\n```text\na\n```\n\
                    <!-- run: stop 12 2 -->\n<!-- run: start over -->\n";
        let daemon = ["--id", "1", "--port", "9121"].map(str::to_owned);
        let expected = [
            (
                3,
                Step::Type {
                    commands: vec![
                        Typed::Daemon(daemon.into()),
                        shell("# Ask it.\ncurl -d '{\n}' x\n"),
                    ],
                    shown: Some("yes\n".to_owned()),
                },
            ),
            (14, Step::Kill(vec![1])),
            (
                24,
                Step::Type {
                    commands: vec![shell("cat <<END\n  a\nEND\n")],
                    shown: None,
                },
            ),
            (35, Step::Stop(vec![12, 2])),
            (36, Step::StartOver),
        ];
        assert_eq!(steps(&page(text)).unwrap(), expected);
    }

    #[test]
    fn a_fence_that_is_neither_run_nor_excused_with_a_reason_is_an_error() {
        for (text, error) in [
            ("```bash\nls\n```\n", "page.md:1: a fence is sh or text"),
            ("x\n\n```\nls\n```\n", "page.md:3: a fence is sh or text"),
            (
                "<!-- not run: -->\n```sh\nls\n```\n",
                "page.md:1: the comment",
            ),
            (
                "<!-- no run: why -->\n```sh\nls\n```\n",
                "page.md:1: the comment",
            ),
            (
                "<!-- not run: why -->\ntext\n",
                "page.md:2: the comment before",
            ),
            ("x\n<!-- not run: why -->\n", "page.md:2: it excuses no"),
            ("<!-- run: start again -->\n", "page.md:1: nobody knows how"),
            (
                "<!-- run: stop all -->\n",
                "page.md:1: \"all\" is no member's id",
            ),
            ("```sh\nls\n", "page.md:1: this fence does not end"),
            (
                "```sh\necho 'a\n```\n",
                "page.md:1: the shell waits for more",
            ),
            (
                "```sh\nraftkvd --id $N\n```\n",
                "page.md:1: only plain words",
            ),
        ] {
            let got = steps(&page(text)).unwrap_err();
            assert!(got.starts_with(error), "{text:?}: {got}");
        }
    }

    #[test]
    fn only_a_line_that_runs_the_daemon_is_one() {
        for line in ["raftkvd", "raftkvd --id 1", "raftkvd --data-dir new-1"] {
            let typed = typed(line).unwrap();
            assert!(matches!(typed, Typed::Daemon(_)), "{typed:?}");
        }
        for line in [
            "raftkvd --help",
            "raftkvd inspect raftkvd-1",
            "echo raftkvd --id 1",
        ] {
            assert_eq!(typed(line).unwrap(), shell(line));
        }
    }

    #[test]
    fn an_output_is_compared_in_all_but_its_ellipses() {
        for (shown, output) in [
            ("hello\n", "hello"),
            ("", "\n"),
            ("etag: …\n\n", "etag: \"3\"\r\n\r\n"),
            ("index … of … here", "index 3 of 4 of 5 here"),
            ("…", ""),
            ("a\n…\nd", "a\nd"),
            ("a\n…\nd", "a\nb\n\nd"),
            ("…\nlast", "last\nlast"),
            ("… ends", "it ends"),
        ] {
            assert!(is_shown(shown, output), "{shown:?} {output:?}");
        }
        for (shown, output) in [
            ("hello", "hello!"),
            ("hello", ""),
            ("a\nb", "a\nb\nc"),
            ("a\n…\nd", "a\nd\ne"),
            ("index …", "the index 3"),
            ("index … here", "index 3 there"),
            ("a\n\nb", "a\nb"),
        ] {
            assert!(!is_shown(shown, output), "{shown:?} {output:?}");
        }
    }

    #[test]
    fn ports_are_replaced_in_the_same_way_on_the_whole_page() {
        let mut ports = Ports::default();
        let mut next = 20_000..;
        let mut free = || next.next().unwrap();
        let first = ports.replace("--port 12380 http://127.0.0.1:12379,x", &mut free);
        assert_eq!(first, "--port 20000 http://127.0.0.1:20001,x");
        let second = "curl localhost:12380/a:12379 http://10.0.0.1:9021";
        let replaced = ports.replace(second, &mut free);
        assert_eq!(
            replaced,
            "curl localhost:20000/a:12379 http://10.0.0.1:9021"
        );
        assert_eq!(ports.restore(&replaced), second);
        assert_eq!(
            ports.restore("to 127.0.0.1 port 20001 20001"),
            "to 127.0.0.1 port 12379 20001"
        );
    }
}
