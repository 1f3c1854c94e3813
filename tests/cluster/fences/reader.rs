//! Somebody who reads a page and types what it shows, in one directory, with a terminal for each member.
//!
//! Ports of the page are replaced by free ones in all that is typed, and put back into all that is printed.

use super::book::Page;
use super::script::{Ports, Step, Typed, is_shown, steps};
use crate::harness::{BINARY, Cluster, Node, PATIENCE, POLL_INTERVAL};
use crate::http;
use crate::ports::free_port;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where a member serves clients unless it is given a port,
const DEFAULT_PORT: &str = "9121";
/// and where it is reached by peers, unless something says where.
const DEFAULT_PEER_URL: &str = "http://127.0.0.1:9021";
/// A machine under load needs longer for an election than the default allows.
const REQUEST_TIMEOUT: &str = "15s";
/// How long the commands of a fence may take.
const TYPING_PATIENCE: Duration = Duration::from_secs(120);
/// How long a reader waits for a member that says it needs others, before starting those.
const OTHERS_PATIENCE: Duration = Duration::from_secs(5);

/// Where curl finds its configuration for a command whose output the page shows,
const CURL_SHOWN: &str = "curl-shown";
/// and for any other: an answer that is an error makes it fail, for a reader would see that.
const CURL_NOT_SHOWN: &str = "curl-not-shown";

pub struct Reader {
    /// The members that were started, and a directory for all that belongs to the page.
    cluster: Cluster,
    ports: Ports,
    /// Counts the directories in which the page was started over.
    fresh_starts: u32,
}

impl Reader {
    pub fn new() -> Reader {
        let reader = Reader {
            cluster: Cluster::prepare(0, &[]),
            ports: Ports::default(),
            fresh_starts: 0,
        };
        for (name, config) in [(CURL_SHOWN, ""), (CURL_NOT_SHOWN, "fail\n")] {
            let home = reader.cluster.path().join(name);
            // On a terminal curl shows no progress beside what it prints. Here it prints to a file.
            let config = format!("no-progress-meter\n{config}");
            let written =
                fs::create_dir(&home).and_then(|()| fs::write(home.join(".curlrc"), config));
            written.expect("write curl's configuration");
        }
        fs::create_dir(reader.directory()).expect("create the reader's directory");
        reader
    }

    /// Types this line.
    pub fn start(&mut self, line: &str) -> Result<(), String> {
        let words = line.split(' ').skip(1).map(str::to_owned).collect();
        self.run_daemons(&[Typed::Daemon(words)], None)
    }

    /// Does all that a page asks for. The error names the line of the page.
    pub fn follow(&mut self, page: &Page) -> Result<(), String> {
        for (line, step) in steps(page)? {
            let done = match step {
                Step::Stop(ids) => ids.iter().try_for_each(|id| self.stop(*id)),
                Step::Kill(ids) => ids.iter().try_for_each(|id| self.kill(*id)),
                Step::StartOver => self.start_over(),
                Step::Type { commands, shown } => self.type_in(&commands, shown.as_deref()),
            };
            let done = done.and_then(|()| self.look_after_members());
            done.map_err(|why| format!("{}:{line}: {}", page.path, self.ports.restore(&why)))?;
        }
        Ok(())
    }

    fn directory(&self) -> PathBuf {
        let name = format!("reader-{}", self.fresh_starts);
        self.cluster.path().join(name)
    }

    fn running(&mut self, id: u64) -> Result<&mut Node, String> {
        let node = self.cluster.nodes.get_mut(&id);
        let running = node.filter(|node| node.has_process());
        running.ok_or_else(|| format!("member {id} does not run"))
    }

    fn stop(&mut self, id: u64) -> Result<(), String> {
        let node = self.running(id)?;
        node.signal(Signal::TERM);
        match node.exit_code(PATIENCE) {
            Some(0) => Ok(()),
            code => Err(format!("member {id} was stopped, and ended with {code:?}")),
        }
    }

    fn kill(&mut self, id: u64) -> Result<(), String> {
        self.running(id)?.kill();
        Ok(())
    }

    fn start_over(&mut self) -> Result<(), String> {
        for id in self.cluster.running() {
            self.stop(id)?;
        }
        self.fresh_starts += 1;
        fs::create_dir(self.directory()).map_err(|error| error.to_string())
    }

    /// A member that ends by itself has to have been removed, or the page shows why it ended.
    fn look_after_members(&mut self) -> Result<(), String> {
        for (id, node) in &mut self.cluster.nodes {
            if node.has_process()
                && let Some(code) = node.ended().filter(|code| *code != Some(0))
            {
                let said = node.last_log();
                return Err(format!("member {id} ended with {code:?}; it said:\n{said}"));
            }
        }
        Ok(())
    }

    fn type_in(&mut self, commands: &[Typed], shown: Option<&str>) -> Result<(), String> {
        for group in commands.chunk_by(|first, second| is_shell(first) == is_shell(second)) {
            let is_last = group.as_ptr_range().end == commands.as_ptr_range().end;
            let shown = shown.filter(|_| is_last);
            match &group[0] {
                Typed::Shell(_) => self.run_shell(group, shown)?,
                Typed::Daemon(_) => self.run_daemons(group, shown)?,
            }
        }
        Ok(())
    }

    // ---- members ----

    /// Starts members, and waits until they are ready, or until there is something to do for the reader.
    fn run_daemons(&mut self, lines: &[Typed], shown: Option<&str>) -> Result<(), String> {
        let mut started = Vec::new();
        for line in lines {
            if let Typed::Daemon(words) = line {
                started.push(self.start_member(words)?);
            }
        }
        let last = *started.last().expect("there is a line");
        if let Some(shown) = shown {
            self.wait_for_output(last, shown)?;
        }
        let begin = Instant::now();
        started.retain(|id| shown.is_none() || *id != last);
        while let Some(id) = started.first() {
            self.look_after_members()?;
            match self.needs_waiting(*id, begin.elapsed()) {
                None => drop(started.remove(0)),
                Some(why) if begin.elapsed() > PATIENCE => {
                    return Err(format!("member {id} is not ready: {why}"));
                }
                Some(_) => std::thread::sleep(POLL_INTERVAL),
            }
        }
        Ok(())
    }

    fn start_member(&mut self, words: &[String]) -> Result<u64, String> {
        let directory = self.directory();
        let mut line = words.join(" ");
        let option = |name: &str| {
            let at = words.iter().position(|word| word == name);
            at.and_then(|at| words.get(at + 1)).cloned()
        };
        let id = option("--id").unwrap_or_else(|| "1".to_owned());
        let data_dir = option("--data-dir").unwrap_or_else(|| format!("raftkvd-{id}"));
        if option("--port").is_none() {
            line += &format!(" --port {DEFAULT_PORT}");
        }
        let is_placed = words
            .iter()
            .any(|word| word == "--cluster" || word == "--peer-url");
        if !is_placed && !directory.join(&data_dir).exists() {
            line += &format!(" --peer-url {DEFAULT_PEER_URL}");
        }
        let arguments = self.ports.replace(&line, free_port);
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let port = arguments.iter().position(|word| word == "--port");
        let port = port.and_then(|at| arguments[at + 1].parse().ok());
        let (Ok(id), Some(port)) = (id.parse(), port) else {
            return Err(format!("no id or no port in {line}"));
        };
        if self.cluster.nodes.get(&id).is_some_and(Node::has_process) {
            return Err(format!("member {id} runs already"));
        }
        let data_dir = directory.join(data_dir);
        // Nobody here asks where its peers connect.
        let mut node = Node::with_arguments(id, port, 0, self.cluster.path(), data_dir, arguments);
        node.wrapper = vec!["env".to_owned(), format!("--chdir={}", directory.display())];
        let timeout = ("RAFTKVD_REQUEST_TIMEOUT", REQUEST_TIMEOUT);
        node.environment = vec![(timeout.0.to_owned(), timeout.1.to_owned())];
        node.start();
        self.cluster.nodes.insert(id, node);
        Ok(id)
    }

    /// Polls until what the page shows is all that a member has said.
    fn wait_for_output(&mut self, id: u64, shown: &str) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let said = self.ports.restore(&self.cluster.nodes[&id].last_log());
            if is_shown(shown, &said) {
                let last = said.lines().last().unwrap_or_default();
                // The reason of a failure, which the page shows, in either form: so the member may end.
                if last.contains(", exit_code: ") || last.starts_with("raftkvd: ") {
                    self.cluster.node(id).exit_code(PATIENCE);
                }
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(differs(shown, &said));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Why a member is still waited for. Not for one that has ended, nor for one that needs others which do not run.
    fn needs_waiting(&self, id: u64, waited: Duration) -> Option<String> {
        let node = &self.cluster.nodes[&id];
        if !node.has_process() {
            return None;
        }
        let listed = node.arguments.iter().position(|word| word == "--cluster");
        let listed = listed.map_or(0, |at| node.arguments[at + 1].split(',').count());
        let all_run = (1..=listed as u64).all(|id| self.cluster.running().contains(&id));
        let asks = node.arguments.iter().any(|word| word == "--join");
        let answer = http::request(node.address, "GET", "/-/ready", &[], b"");
        let said = match answer {
            Ok(response) if response.status == 200 => return None,
            Ok(response) => response.text(),
            Err(error) => return Some(error.to_string()),
        };
        let needs_others = match said.trim_start_matches("not ready: ") {
            why if why.starts_with("forming") => !all_run,
            why if why.starts_with("joining") => !asks || listed > 0,
            why => !why.starts_with("replaying"),
        };
        (!needs_others || waited < OTHERS_PATIENCE).then_some(said)
    }

    // ---- other commands ----

    /// What a status shows may come a moment later: a reader looks again.
    fn run_shell(&mut self, commands: &[Typed], shown: Option<&str>) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let done = self.run_script(commands, shown);
            let looks_again = commands.iter().all(only_looks) && begin.elapsed() < PATIENCE;
            if done.is_ok() || !looks_again {
                return done;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn run_script(&mut self, commands: &[Typed], shown: Option<&str>) -> Result<(), String> {
        let outputs = ["before", "last"].map(|name| self.cluster.path().join(name));
        for output in &outputs {
            fs::write(output, "").map_err(|error| error.to_string())?;
        }
        let homes = [CURL_NOT_SHOWN, CURL_SHOWN].map(|name| self.cluster.path().join(name));
        let mut script = format!("exec >{} 2>&1\n", outputs[0].display());
        for (at, command) in commands.iter().enumerate() {
            let is_last = at + 1 == commands.len();
            if is_last {
                script += &format!("exec >{} 2>&1\n", outputs[1].display());
            }
            let home = &homes[usize::from(is_last && shown.is_some())];
            script += &format!("export CURL_HOME={}\n", home.display());
            if let Typed::Shell(text) = command {
                script += &with_default_url(text);
                // By its whole line, as at a prompt: `-e` would also end `false; echo $?`.
                script += "status=$?; [ $status = 0 ] || exit $status\n";
            }
        }
        let script = self.ports.replace(&script, free_port);
        let ended = wait_to_end(&mut self.shell(&script))?;
        let [before, last] = outputs.map(|output| {
            let bytes = fs::read(output).unwrap_or_default();
            self.ports.restore(&String::from_utf8_lossy(&bytes))
        });
        match (ended, shown) {
            (Some(0), None) => Ok(()),
            (Some(0), Some(shown)) if is_shown(shown, &last) => Ok(()),
            (Some(0), Some(shown)) => Err(differs(shown, &last)),
            // A command that is shown to fail may fail.
            (Some(_), Some(shown)) if is_shown(shown, &last) && !last.is_empty() => Ok(()),
            (code, _) => Err(format!(
                "a command ended with {code:?}; the last of the fence printed:\n{last}\nand those before:\n{before}"
            )),
        }
    }

    fn shell(&self, script: &str) -> Command {
        let binaries = Path::new(BINARY).parent().expect("it is in a directory");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", binaries.display());
        let mut shell = Command::new("/bin/bash");
        shell
            .args(["-c", script])
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.cluster.path())
            .env("LANG", "C.UTF-8")
            .current_dir(self.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        shell
    }
}

fn is_shell(command: &Typed) -> bool {
    matches!(command, Typed::Shell(_))
}

fn only_looks(command: &Typed) -> bool {
    let Typed::Shell(text) = command else {
        return false;
    };
    let asks = text.starts_with("curl ") && text.contains("/-/") && !text.contains(" -X");
    text.starts_with("sleep ") || asks && !text.contains(" -d")
}

/// A restore that says nothing of peer URLs gets the default one, so that its port is replaced.
fn with_default_url(command: &str) -> String {
    let is_placed = command.contains("--cluster") || command.contains("--peer-url");
    match command.trim_start().starts_with("raftkvd restore ") && !is_placed {
        true => format!("RAFTKVD_PEER_URL={DEFAULT_PEER_URL} {command}"),
        false => command.to_owned(),
    }
}

/// The exit code; `None`: a signal ended it. One that goes on for too long is killed with all that it has started.
fn wait_to_end(command: &mut Command) -> Result<Option<i32>, String> {
    let error = File::create("/dev/null").map_err(|error| error.to_string())?;
    let child = command.stderr(error).spawn();
    let mut child: Child = child.map_err(|error| format!("bash can't be run: {error}"))?;
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(status.code());
        }
        if begin.elapsed() > TYPING_PATIENCE {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            return Err(format!("the commands go on after {TYPING_PATIENCE:?}"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn differs(shown: &str, output: &str) -> String {
    format!(
        "the page shows\n{}\nand this was printed:\n{}",
        shown.trim_end(),
        output.trim_end()
    )
}
