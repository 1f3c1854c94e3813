//! Section `catchup`: a new member gets the state from a leader that was alone, first while nobody writes, then while
//! clients do.

use crate::aims;
use crate::background;
use crate::daemons::{self, Member};
use crate::http;
use crate::options::Options;
use crate::report::{self, megabytes};
use crate::state::{CONNECTIONS, State};
use crate::verdicts::Verdicts;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// When it is given up, and counts as missed.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

pub fn run(state: &State, options: &Options, verdicts: &mut Verdicts) {
    let snapshot = state.write_snapshot();
    std::thread::sleep(options.warm_up());
    report::head(&format!(
        "catchup: POST, start of the new member, and until it is a voter; a snapshot of {:.0} MB",
        megabytes(snapshot.bytes)
    ));

    let joined = join(state, 2, options);
    let what = "the stream, while nobody writes";
    let rate = stream_megabytes_per_second(state, 2);
    let aim = verdicts.at_least(what, rate, aims::CATCHUP_MB_PER_SECOND, "MB/s");
    report::line(what, rate, "MB/s", &aim);
    let note = "the leader's new snapshot, the stream, and loading it";
    let what = "    from its start to its vote";
    report::line(
        what,
        joined.seconds(),
        "s",
        &format!("{note} {}", joined.note()),
    );
    leave(state, 2, joined.member);

    let clients = state.overwrite();
    std::thread::sleep(options.warm_up());
    let begun = Instant::now();
    std::thread::sleep(options.measure());
    let joining = Instant::now();
    let busy = join(state, 3, options);
    let outcome = clients.stop();
    let rate = stream_megabytes_per_second(state, 3);
    let clients = format!("{CONNECTIONS} connections");
    report::line("the stream, while clients write", rate, "MB/s", &clients);
    let what = "    from its start to its vote";
    report::line(what, busy.seconds(), "s", busy.note());
    let before = background::rate(&outcome, begun, joining);
    let meanwhile = background::rate(&outcome, busy.begun, busy.ended);
    report::line("PUTs before", before, "/s", "");
    report::line("PUTs meanwhile", meanwhile, "/s", "");
    let what = "PUTs during a catch-up, as a share of those before";
    let share = meanwhile / before.max(1e-9);
    let aim = verdicts.at_least(what, share, aims::CATCHUP_PUTS, "");
    report::line(what, share, "", &aim);
    report::errors(&outcome);
    leave(state, 3, busy.member);

    let what = "changes of term while members joined";
    let changes = (joined.terms + busy.terms) as f64;
    let aim = verdicts.at_most(what, changes, 0.0, "");
    report::line(what, changes, "", &aim);
}

struct Joined {
    member: Member,
    begun: Instant,
    ended: Instant,
    /// It is a voter.
    done: bool,
    /// By how many the term has grown.
    terms: u64,
}

impl Joined {
    fn seconds(&self) -> f64 {
        (self.ended - self.begun).as_secs_f64()
    }

    fn note(&self) -> &'static str {
        if self.done { "" } else { "and it is no voter" }
    }
}

/// Adds a member, starts it, and waits until it is a voter that has applied what was committed when it came.
fn join(state: &State, id: usize, options: &Options) -> Joined {
    let leader = state.address();
    let before = state.status();
    let url = state.urls[id - 1].as_bytes();
    let added = http::request(leader, "POST", &format!("/{id}"), &[], url);
    let added = added.expect("the leader answers");
    assert_eq!(added.status, 204, "member {id} is added: {added:?}");
    let mut words = vec!["--join"];
    words.extend(options.member_options());
    let mut member = Member::new(&state.dir, id, &state.urls[..id], &words);
    let begun = Instant::now();
    member.start();
    let committed = number(&before, "committed");
    let mut done = false;
    while !done && begun.elapsed() < PATIENCE {
        std::thread::sleep(POLL_INTERVAL);
        let process = member.process.as_mut().expect("the member was started");
        process.assert_alive();
        done = is_voter(&state.status(), id) && applied(member.address) >= committed;
    }
    let ended = Instant::now();
    Joined {
        member,
        begun,
        ended,
        done,
        terms: number(&state.status(), "term") - number(&before, "term"),
    }
}

/// By the line in which the new member tells of it; 0 if there is none.
fn stream_megabytes_per_second(state: &State, id: usize) -> f64 {
    let log = fs::read_to_string(daemons::log(&state.dir, id)).unwrap_or_default();
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("received a snapshot"));
    let field = |name: &str| {
        let (_, rest) = line?.split_once(name)?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<f64>().ok()
    };
    let (bytes, ms) = (field("bytes: "), field("ms: "));
    bytes
        .zip(ms)
        .map_or(0.0, |(bytes, ms)| bytes / 1e3 / ms.max(1.0))
}

fn number(status: &Value, field: &str) -> u64 {
    status[field].as_u64().unwrap_or(0)
}

fn is_voter(status: &Value, id: usize) -> bool {
    let mut members = status["members"].as_array().into_iter().flatten();
    members.any(|member| member["id"] == id && member["role"] == "voter")
}

/// By its own account; 0 while it does not answer.
fn applied(address: SocketAddr) -> u64 {
    daemons::status_json(address, &None).map_or(0, |status| number(&status, "applied"))
}

/// Removes a member, which then ends by itself, and its data.
fn leave(state: &State, id: usize, mut member: Member) {
    let begun = Instant::now();
    loop {
        let removed = http::request(state.address(), "DELETE", &format!("/{id}"), &[], b"");
        // The outcome of a try may be unknown; then there is no such member the next time.
        match removed {
            Ok(response) if matches!(response.status, 204 | 404) => break,
            other => assert!(begun.elapsed() < PATIENCE, "it is not removed: {other:?}"),
        }
    }
    let process = member.take();
    // It ends by itself if it has learned of it, which is not what is measured here.
    process.kill();
    let dir = daemons::data_dir(&state.dir, id);
    fs::remove_dir_all(dir).expect("remove a data directory");
}
