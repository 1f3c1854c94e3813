//! Shrinks a failing run: searches for a run of the same seed that fails in the same way with fewer members and
//! clients, a shorter time, and fewer faults, operator steps and requests.
//!
//! Leaving an event out changes the events after it. So the smaller run is not a part of the first run. It counts as
//! the same failure if the message begins with the same text, numbers aside.

use crate::plan::{Cuts, Setup};
use crate::run;
use crate::runs::{attempt, command, quiet, say};
use crate::world::{REACHED, Reached, SECOND};
use std::collections::BTreeSet;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

/// How long the search goes on.
const SEARCH: Duration = Duration::from_secs(120);

/// The beginning of the message of a failure, without its numbers.
fn kind(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    let line = line
        .strip_prefix("assertion `left == right` failed: ")
        .unwrap_or(line);
    let letters = line.chars().filter(|c| !c.is_ascii_digit());
    letters.take(40).collect()
}

/// Shrinks a failing run, replays the smaller run with its story, and prints the command that repeats it.
pub fn shrink(setup: &Setup) {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    shrink_quietly(setup);
    panic::set_hook(hook);
}

fn shrink_quietly(setup: &Setup) {
    let seed = setup.seed;
    say(&format!(
        "simulation: shrinking seed {seed}, for {} s at most",
        SEARCH.as_secs()
    ));
    let Some((cuts, why)) = search(setup) else {
        return say(&format!("simulation: seed {} holds", setup.seed));
    };
    let left = Setup {
        cuts,
        ..setup.clone()
    };
    let tell = || run::run(&left, true, &quiet());
    assert!(
        panic::catch_unwind(AssertUnwindSafe(tell)).is_err(),
        "the run that is left does not fail again"
    );
    say(&format!(
        "simulation: seed {} fails: {why}\n  {}",
        left.seed,
        command(&left, "one_seed")
    ));
}

fn search(setup: &Setup) -> Option<(Cuts, String)> {
    let why = attempt(setup).err()?;
    let wanted = kind(&why);
    let mut newest = (REACHED.get(), why);
    let begun = Instant::now();
    let fails = |cuts: &Cuts| {
        let cuts = cuts.clone();
        let result = attempt(&Setup {
            cuts,
            ..setup.clone()
        });
        let why = result.err().filter(|why| kind(why) == wanted);
        if let Some(why) = why {
            newest = (REACHED.get(), why);
            return Some(newest.0);
        }
        None
    };
    let cuts = least(setup.cuts.clone(), REACHED.get(), fails, || {
        begun.elapsed() < SEARCH
    });
    Some((cuts, newest.1))
}

/// The most cuts found with which the run still fails. `fails` returns how far a failing run came, `None` if it holds.
fn least(
    mut cuts: Cuts,
    mut reached: Reached,
    mut fails: impl FnMut(&Cuts) -> Option<Reached>,
    go_on: impl Fn() -> bool,
) -> Cuts {
    let mut try_with = |cuts: &mut Cuts, reached: &mut Reached, change: &dyn Fn(&mut Cuts)| {
        let mut tried = cuts.clone();
        change(&mut tried);
        if tried == *cuts || !go_on() {
            return false;
        }
        let Some(newest) = fails(&tried) else {
            return false;
        };
        (*cuts, *reached) = (tried, newest);
        true
    };
    for seconds in [2, 5, 10, 20, 30] {
        if seconds * SECOND < reached.time
            && try_with(&mut cuts, &mut reached, &|c| {
                c.duration = Some(seconds * SECOND)
            })
        {
            break;
        }
    }
    for members in [1, 3] {
        if try_with(&mut cuts, &mut reached, &|c| c.members = Some(members)) {
            break;
        }
    }
    for clients in [1, 2, 4] {
        if try_with(&mut cuts, &mut reached, &|c| c.clients = Some(clients)) {
            break;
        }
    }
    type Part = (fn(&mut Cuts) -> &mut BTreeSet<u64>, fn(&Reached) -> u64);
    let parts: [Part; 3] = [
        (|cuts| &mut cuts.faults, |reached| reached.faults),
        (|cuts| &mut cuts.steps, |reached| reached.steps),
        (|cuts| &mut cuts.operations, |reached| reached.operations),
    ];
    for (part, end) in parts {
        let mut size = end(&reached).max(1);
        while size > 0 {
            // From the end: late events are needed least, and fewer events come after them.
            let mut last = end(&reached);
            while last > 0 {
                let first = last.saturating_sub(size) + 1;
                try_with(&mut cuts, &mut reached, &|c| part(c).extend(first..=last));
                last = first - 1;
            }
            size /= 2;
        }
    }
    cuts
}

#[test]
fn what_a_failure_does_not_need_is_left_out() {
    // It fails when the faults 3 and 17 happen, the operator's step 2, and the request 40, of two clients at least.
    let fails = |cuts: &Cuts| {
        let needs = |set: &BTreeSet<u64>, numbers: &[u64]| numbers.iter().all(|n| !set.contains(n));
        let fails = needs(&cuts.faults, &[3, 17])
            && needs(&cuts.steps, &[2])
            && needs(&cuts.operations, &[40])
            && cuts.clients.is_none_or(|clients| clients >= 2);
        fails.then_some(REACHED_BY_THE_TEST)
    };
    const REACHED_BY_THE_TEST: Reached = Reached {
        time: 40 * SECOND,
        faults: 20,
        steps: 5,
        operations: 100,
    };
    let cuts = least(Cuts::default(), REACHED_BY_THE_TEST, fails, || true);
    let kept = |set: &BTreeSet<u64>, end: u64| -> Vec<u64> {
        (1..=end).filter(|n| !set.contains(n)).collect()
    };
    assert_eq!(kept(&cuts.faults, 20), [3, 17]);
    assert_eq!(kept(&cuts.steps, 5), [2]);
    assert_eq!(kept(&cuts.operations, 100), [40]);
    assert_eq!((cuts.members, cuts.clients), (Some(1), Some(2)));
    assert_eq!(cuts.duration, Some(2 * SECOND));
    assert_eq!(cuts.to_string().parse(), Ok(cuts));
}
