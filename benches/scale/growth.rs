//! Section `growth`: what becomes slower as there are more keys. Members with fewer keys run beside the loaded one, and
//! rounds alternate between them.

use crate::aims;
use crate::cell::{self, Cell};
use crate::options::Options;
use crate::report;
use crate::restart;
use crate::state::{CONNECTIONS, State};
use crate::verdicts::Verdicts;
use std::path::Path;

/// The fewest keys, if there are more than that.
const FEW_KEYS: usize = 10_000;

struct Size {
    keys: f64,
    puts: Cell,
    restart_s: f64,
    snapshot_s: f64,
    snapshot_bytes: u64,
}

pub fn run(loaded: &mut State, dir: &Path, options: &Options, verdicts: &mut Verdicts) {
    report::head("growth: PUTs, restart and snapshot with ever more keys, 1 member");
    let mut fewer = vec![FEW_KEYS, options.keys / 10];
    fewer.sort_unstable();
    fewer.dedup();
    fewer.retain(|keys| *keys < options.keys);
    let mut others: Vec<State> = fewer
        .into_iter()
        .map(|keys| State::load(&dir.join(format!("growth-{keys}")), keys, options))
        .collect();

    let states = || others.iter().chain([&*loaded]);
    let mut cells: Vec<Cell> = states().map(|_| Cell::default()).collect();
    for _ in 0..options.rounds {
        for (state, cell) in states().zip(&mut cells) {
            let server = state.server("1 node");
            let round = cell::measure(&server, &state.requests, CONNECTIONS, options);
            cell.0.push(round);
        }
    }
    let states = others.iter_mut().chain([loaded]);
    let sizes: Vec<Size> = states
        .zip(cells)
        .map(|(state, puts)| size(state, puts))
        .collect();
    for state in others {
        state.remove();
    }
    print(&sizes);
    judge(&sizes, verdicts);
}

fn size(state: &mut State, puts: Cell) -> Size {
    // So that the restart has the same work to do everywhere: a snapshot, and hardly any log.
    let snapshot = state.write_snapshot();
    Size {
        keys: state.requests.keys() as f64,
        puts,
        restart_s: restart::restart(state).seconds,
        snapshot_s: snapshot.took().as_secs_f64(),
        snapshot_bytes: snapshot.bytes,
    }
}

fn print(sizes: &[Size]) {
    println!(
        "{:>10}{:>9}{:>6}{:>9}{:>9}{:>5}{:>12}{:>12}{:>12}{:>12}{:>9}",
        "keys",
        "PUT/s",
        "+-%",
        "p50 us",
        "p99 us",
        "err",
        "restart s",
        "us a key",
        "snapshot s",
        "us a key",
        "MB/s"
    );
    for size in sizes {
        println!(
            "{:>10}{:>9.0}{:>6.0}{:>9.0}{:>9.0}{:>5}{:>12.3}{:>12.2}{:>12.3}{:>12.2}{:>9.0}",
            size.keys,
            size.puts.median(|round| round.rate),
            size.puts.spread() * 100.0,
            size.puts.median(|round| round.p50_us),
            size.puts.median(|round| round.p99_us),
            size.puts.errors(),
            size.restart_s,
            size.restart_s / size.keys * 1e6,
            size.snapshot_s,
            size.snapshot_s / size.keys * 1e6,
            report::megabytes(size.snapshot_bytes) / size.snapshot_s.max(1e-9),
        );
    }
}

fn judge(sizes: &[Size], verdicts: &mut Verdicts) {
    let [first, .., before, last] = sizes else {
        println!("two sizes to compare are too few: give more --keys");
        return;
    };
    let what = "PUTs with all keys, as a share of those with the fewest";
    let rate = |size: &Size| size.puts.median(|round| round.rate);
    let share = rate(last) / rate(first).max(1e-9);
    let aim = verdicts.at_least(what, share, aims::GROWTH_PUTS, "");
    report::line(what, share, "", &aim);
    for (name, last_s, before_s) in [
        ("restart", last.restart_s, before.restart_s),
        ("snapshot", last.snapshot_s, before.snapshot_s),
    ] {
        let what = format!(
            "{name}: time a key, as a multiple of that at {} keys",
            before.keys
        );
        let ratio = last_s / last.keys / (before_s / before.keys).max(1e-12);
        let aim = verdicts.at_most(&what, ratio, aims::GROWTH_TIME, "x");
        report::line(&what, ratio, "x", &aim);
    }
}
