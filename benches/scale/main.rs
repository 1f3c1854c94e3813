//! The daemon with a large state: what snapshots, restarts and new members cost when there are millions of keys.
//!
//! `cargo bench --bench scale -- [--keys N] [--value-bytes N] [--seconds S] [--smoke] [SECTION...]`, where a section is
//! one of restart, snapshot, memory, growth, catchup, values; without any, all of them. Real processes, sockets and
//! files, as in benches/cluster, whose pieces it uses. The keys are loaded once, through the API, and all sections but
//! values work on that state, in the order above. Data lies below the target directory, because a temporary directory
//! may be in memory, and is removed at the end, also after a failure, SIGINT or SIGTERM.
//!
//! A snapshot is due by the weight of the log, so it is brought about by overwriting one key with large values: what
//! millions of small writes would do in minutes. What those writes disturb is not counted.
//!
//! An aim that is missed is printed and is no failure: the exit code tells only whether everything worked.
//!
//! - [`state`], [`background`], [`watch`]: a loaded member, clients that go on meanwhile, and what can be seen from outside
//! - [`restart`], [`snapshot`], [`memory`], [`growth`], [`catchup`], [`values`]: what is measured
//! - [`kernel`], [`scratch`]: what the kernel counts for a process; where the data lies
//! - [`options`], [`aims`], [`report`]: what is asked and told

// What it prints is for whoever runs it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod aims;
mod background;
mod catchup;
mod growth;
mod kernel;
mod memory;
mod options;
mod report;
mod restart;
mod scratch;
mod snapshot;
mod state;
mod values;
mod watch;

// What is shared with benches/cluster, which uses more of it.
#[allow(dead_code)]
#[path = "../cluster/cell.rs"]
mod cell;
#[allow(dead_code)]
#[path = "../cluster/certificates.rs"]
mod certificates;
#[allow(dead_code)]
#[path = "../cluster/daemons.rs"]
mod daemons;
#[allow(dead_code)]
#[path = "../cluster/disk.rs"]
mod disk;
#[path = "../cluster/histogram.rs"]
mod histogram;
#[path = "../cluster/load.rs"]
mod load;
#[path = "../cluster/proc.rs"]
mod proc;
#[allow(dead_code)]
#[path = "../cluster/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../cluster/request.rs"]
mod request;
#[path = "../cluster/response.rs"]
mod response;
#[path = "../cluster/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "../cluster/stream.rs"]
mod stream;
#[path = "../cluster/verdicts.rs"]
mod verdicts;

// The tests' own; they use more of it.
#[allow(dead_code)]
#[path = "../../tests/cluster/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../../tests/cluster/ports.rs"]
mod ports;

use options::{Options, Section};
use scratch::Scratch;
use state::State;
use verdicts::Verdicts;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(line) => {
            eprintln!("{line}");
            std::process::exit(2);
        }
    };
    // Dropped behind the processes that use it.
    let scratch = Scratch::new();
    report::introduce(&options, scratch.dir());
    let mut verdicts = Verdicts::default();
    let mut loaded: Option<State> = None;
    for section in &options.sections {
        if *section == Section::Values {
            // Three members with large values need the memory and the disk.
            if let Some(state) = loaded.take() {
                state.remove();
            }
            values::run(&scratch.dir().join("values"), &options, &mut verdicts);
            continue;
        }
        let state = loaded.get_or_insert_with(|| {
            let dir = scratch.dir().join("state");
            let state = State::load(&dir, options.keys, &options);
            report::load(&state, &mut verdicts);
            state
        });
        match section {
            Section::Restart => restart::run(state, &options, &mut verdicts),
            Section::Snapshot => snapshot::run(state, &options, &mut verdicts),
            Section::Memory => memory::run(state, &options, &mut verdicts),
            Section::Growth => growth::run(state, scratch.dir(), &options, &mut verdicts),
            Section::Catchup => catchup::run(state, &options, &mut verdicts),
            Section::Values => unreachable!("it was run above"),
        }
    }
    verdicts.print();
}
