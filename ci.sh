#!/bin/sh
# Everything that has to hold before a change is merged. Run it from the repository's root: sh ci.sh
# It needs cargo with rustfmt and clippy, and a C compiler as the linker; it says so in one line when one is missing.
set -eu

missing() {
    echo "ci.sh: $1 is missing; install it with: $2" >&2
    exit 1
}

step() {
    echo
    echo "==> $*"
    step_begin=$(date +%s)
    "$@"
    seconds=$(($(date +%s) - step_begin))
    echo "    $seconds s"
    printf '%6d s  %s\n' "$seconds" "$*" >>"$report/seconds"
}

# Each test that lacks a tool appends a line to the file: cargo hides what a passing test prints.
print_skipped() {
    [ -s "$RAFTKVD_SKIPPED" ] || return 0
    echo
    echo "ci.sh: these tests were skipped, each for want of what stands behind its name:"
    sort -u "$RAFTKVD_SKIPPED" | sed 's/^/    /'
}

holds_planted_bugs() {
    grep -q RAFTKVD_MUTANT "$1" || { echo "ci.sh: there are no planted bugs in $1" >&2; exit 1; }
}

holds_no_planted_bugs() {
    [ -r "$1" ] || { echo "ci.sh: there is no $1 to look into" >&2; exit 1; }
    ! grep -q RAFTKVD_MUTANT "$1" || { echo "ci.sh: there are planted bugs in $1" >&2; exit 1; }
}

command -v cargo >/dev/null 2>&1 || missing cargo "https://rustup.rs"
cargo fmt --version >/dev/null 2>&1 || missing rustfmt "rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 || missing clippy "rustup component add clippy"
command -v cc >/dev/null 2>&1 || missing "a C compiler (cc)" "apt-get install gcc libc6-dev"

# The cluster tests hold a thousand connections and the daemon as many. The soft limit is often 1024, the hard one
# is not.
limit=$(ulimit -n)
if [ "$limit" != unlimited ] && [ "$limit" -lt 8192 ]; then
    ulimit -n 8192 2>/dev/null || echo "ci.sh: only $limit open files are allowed; 8192 are better" >&2
fi

# What somebody has exported for a run by hand must not narrow what is checked here.
unset RAFTKVD_MUTANT RAFTKVD_MUTANTS RAFTKVD_SIMULATION_SEED RAFTKVD_SIMULATION_SEEDS \
    RAFTKVD_SIMULATION_CUTS RAFTKVD_SIMULATION_BASE CARGO_BUILD_TARGET

# Every crate is compiled once for each of its forms here, so incremental compilation would only take time and disk, and
# its many codegen units leave the optimizer less to see of what the simulation runs.
export CARGO_INCREMENTAL=0

report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
trap 'exit 1' HUP INT TERM
export RAFTKVD_SKIPPED="$report/skipped"

begin=$(date +%s)
step cargo fmt --check
step cargo clippy --all-targets --locked -- -D warnings
# Nothing depends on the absence of one feature and the presence of the other, so one run looks at both.
step cargo clippy --all-targets --locked --features mutants,later -- -D warnings
step env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
# The simulation runs its kept seeds, and others for two minutes. Those follow from the commit: each commit is tried with
# seeds of its own, and a run can be repeated. A seed that fails is printed with the command that repeats it: it belongs
# into tests/simulation/seeds.txt. Longer, and with seeds of the clock: RAFTKVD_SIMULATION_SECONDS=3600 cargo test
# --test simulation
commit=$(git rev-parse --short=8 HEAD 2>/dev/null || echo 1)
# The next command version beside this one: tests/cluster/versions.rs runs both in one cluster.
target=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}
step cargo build --locked --features later
# What needs a kind of command that some member does not know is tested in that build only.
step env CARGO_PROFILE_TEST_OPT_LEVEL=0 cargo test --locked --features later --lib node::tests::versions
step cp "$target/debug/raftkvd" "$target/debug/raftkvd-later"
step env RAFTKVD_SIMULATION_SECONDS=120 RAFTKVD_SIMULATION_BASE=$((0x$commit)) cargo test --locked
# One planted bug after the other, each until the simulation notices it.
step cargo test --locked --features mutants --test simulation -- --exact mutants::each_planted_bug_is_noticed
# This is how the check below would find them in a release.
step holds_planted_bugs "$target/debug/raftkvd"
# That the benches work and print. What they measure in so short a time is nobody's pass or fail, so a profile serves
# that is built in less time than a release.
step cargo bench --profile smoke --no-run --locked
step holds_no_planted_bugs "$target/smoke/raftkvd"
step cargo bench --profile smoke --locked --bench cluster -- --smoke
step cargo bench --profile smoke --locked --bench scale -- --smoke
echo
echo "ci.sh: the seconds of each step:"
cat "$report/seconds"
print_skipped
echo
echo "ci.sh: all passed in $(($(date +%s) - begin)) s"
