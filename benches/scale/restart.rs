//! Section `restart`: kill -9, and from exec to the first 200 of `/-/ready`: with the log that the load has left behind
//! its last snapshot, and just after a snapshot. The files are in the page cache.

use crate::aims;
use crate::daemons;
use crate::http::Connection;
use crate::options::Options;
use crate::report;
use crate::state::{PATIENCE, State};
use crate::verdicts::Verdicts;
use std::fs;
use std::time::{Duration, Instant};

/// How long an answer is waited for. One that comes as soon as the member serves is not missed by waiting longer, and
/// what is given up fills the queue of its socket.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
/// Between the ends of questions and the next ones.
const PAUSE: Duration = Duration::from_millis(5);

/// What a start took, and what the member said meanwhile.
pub struct Restart {
    pub seconds: f64,
    probes: [Probe; 2],
    log: Vec<String>,
}

/// The distinct answers on one path.
struct Probe {
    path: &'static str,
    answers: Vec<Answer>,
}

/// Answers that differ in digits only.
struct Answer {
    kind: String,
    first: String,
    last: String,
    count: usize,
    /// Since the start.
    begun: Duration,
    ended: Duration,
}

pub fn run(state: &mut State, options: &Options, verdicts: &mut Verdicts) {
    let keys = state.requests.keys() as f64;
    for after in ["the load", "a snapshot"] {
        if after == "a snapshot" {
            state.write_snapshot();
            std::thread::sleep(options.warm_up());
        }
        report::head(&format!("restart: kill -9 after {after}, and start"));
        let status = state.status();
        let number = |field: &str| status[field].as_u64().unwrap_or(0);
        let restart = restart(state);
        println!(
            "snapshot at entry {}, log up to {}",
            number("snapshot_index"),
            number("committed")
        );
        report::line("exec to ready", restart.seconds, "s", "");
        let what = format!("keys loaded in a second, after {after}");
        let rate = keys / restart.seconds;
        let aim = verdicts.at_least(&what, rate, aims::KEYS_PER_SECOND, "/s");
        report::line(&what, rate, "/s", &aim);
        restart.print();
    }
}

/// Kills the member and starts it again.
pub fn restart(state: &mut State) -> Restart {
    let log = daemons::log(&state.dir, 1);
    let logged = fs::metadata(&log).map_or(0, |data| data.len() as usize);
    let member = &mut state.cluster.members[0];
    member.take().kill();
    let begun = Instant::now();
    member.start();
    let mut probes = ["/-/live", "/-/ready"].map(|path| Probe {
        path,
        answers: Vec::new(),
    });
    let seconds = loop {
        let mut ready = false;
        for probe in &mut probes {
            let asked = begun.elapsed();
            let (status, text) = ask(member.address, probe.path);
            probe.note(text, asked, begun.elapsed());
            ready = status == 200;
        }
        if ready {
            break begun.elapsed().as_secs_f64();
        }
        let process = member.process.as_mut().expect("the member was started");
        process.assert_alive();
        assert!(begun.elapsed() < PATIENCE, "the member does not get ready");
        std::thread::sleep(PAUSE);
    };
    let text = fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[logged.min(text.len())..]).into_owned();
    let telling = |line: &&str| {
        ["recovered", "loaded"]
            .iter()
            .any(|word| line.contains(word))
    };
    Restart {
        seconds,
        probes,
        log: text.lines().filter(telling).map(str::to_owned).collect(),
    }
}

fn ask(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let answered = Connection::impatient(address, PROBE_TIMEOUT)
        .and_then(|mut connection| connection.send("GET", path, &[], b""));
    match answered {
        Ok(response) => {
            let text = format!("{} {}", response.status, response.text().trim());
            (response.status, text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            (0, "connection refused".to_owned())
        }
        Err(_) => (0, "no answer".to_owned()),
    }
}

impl Probe {
    fn note(&mut self, text: String, begun: Duration, ended: Duration) {
        let kind = text.replace(|c: char| c.is_ascii_digit(), "");
        match self.answers.iter_mut().find(|answer| answer.kind == kind) {
            Some(answer) => {
                answer.last = text;
                answer.count += 1;
                answer.ended = ended;
            }
            None => self.answers.push(Answer {
                kind,
                first: text.clone(),
                last: text,
                count: 1,
                begun,
                ended,
            }),
        }
    }
}

impl Restart {
    fn print(&self) {
        for probe in &self.probes {
            for answer in &probe.answers {
                let mut text = answer.first.clone();
                if answer.last != answer.first {
                    text += &format!(" ... {}", answer.last);
                }
                println!(
                    "    {:<9} {:>4} x from {:>6.2} to {:>6.2} s: {text}",
                    probe.path,
                    answer.count,
                    answer.begun.as_secs_f64(),
                    answer.ended.as_secs_f64()
                );
            }
        }
        for line in &self.log {
            println!("    log: {line}");
        }
    }
}
