//! Section `memory`: what is resident at rest, and at most while a snapshot is written and random keys are overwritten.

use crate::aims;
use crate::kernel;
use crate::options::Options;
use crate::report::{self, mebibytes};
use crate::restart;
use crate::state::{CONNECTIONS, State, wait_for_snapshot};
use crate::verdicts::Verdicts;

pub fn run(state: &mut State, options: &Options, verdicts: &mut Verdicts) {
    let payload = state.payload_bytes;
    report::head(&format!(
        "memory: resident, with {:.0} MiB of keys and values",
        mebibytes(payload)
    ));
    at_rest(
        "after the load",
        state.loaded.resident_bytes,
        payload,
        verdicts,
    );
    restart::restart(state);
    std::thread::sleep(options.warm_up());
    let pid = state.pid();
    let rest = kernel::resident_bytes(pid);
    at_rest("after a restart", rest, payload, verdicts);

    let watch = state.watch();
    let clients = state.overwrite();
    std::thread::sleep(options.measure());
    let overwritten = kernel::resident_bytes(pid);
    state.push(&watch);
    let begun = kernel::resident_bytes(pid);
    kernel::reset_peak(pid);
    wait_for_snapshot(&watch);
    let hwm = kernel::peak_bytes(pid);
    let outcome = clients.stop();
    std::thread::sleep(options.warm_up());
    let after = kernel::resident_bytes(pid);
    let seen = watch.stop();
    // The beginning of the snapshot may have been seen a moment late.
    let sampled = seen.resident.iter().filter(|(at, _)| {
        let mut snapshots = seen.snapshots.iter();
        snapshots.any(|snapshot| snapshot.meets(*at, *at))
    });
    let peak = sampled.map(|(_, bytes)| *bytes).fold(hwm, u64::max);

    let overwrites = format!("{CONNECTIONS} connections, {} s", options.seconds);
    report::line(
        "overwriting random keys",
        mebibytes(overwritten),
        "MiB",
        &overwrites,
    );
    let what = "when a snapshot began";
    report::line(
        what,
        mebibytes(begun),
        "MiB",
        "behind as much log as makes it due",
    );
    report::line("the most while it was written", mebibytes(peak), "MiB", "");
    let what = "the most, as a multiple of that after the restart";
    let ratio = peak as f64 / rest as f64;
    let aim = verdicts.at_most(what, ratio, aims::RESIDENT_PEAK, "x");
    report::line(what, ratio, "x", &aim);
    report::line("at rest again", mebibytes(after), "MiB", "");
    report::errors(&outcome);
}

fn at_rest(when: &str, bytes: u64, payload: u64, verdicts: &mut Verdicts) {
    let what = format!("resident at rest {when}");
    let limit = payload as f64 * aims::RESIDENT_PER_BYTE + aims::RESIDENT_BESIDE;
    let aim = verdicts.at_most(&what, mebibytes(bytes), mebibytes(limit as u64), "MiB");
    let each = bytes as f64 / payload as f64;
    let aim = format!("{aim}; {each:.2} for each byte of payload");
    report::line(&what, mebibytes(bytes), "MiB", &aim);
}
