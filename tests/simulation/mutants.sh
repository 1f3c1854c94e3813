#!/bin/sh
# Plants each of our bugs in turn and runs the simulation against it: every one has to be caught, or the simulation
# proves less than it claims. Run it from the repository's root: sh tests/simulation/mutants.sh [name...]
# RAFTKVD_SIMULATION_SEEDS says how many seeds each bug gets (default 1000).
#
# A bug is compiled in by --cfg raftkvd_mutant="name", which only this crate gets: through a compiler wrapper of the
# bug's name, so that dependencies are built once, and in a target directory of their own, so that the usual builds stay.
set -eu

seeds=${RAFTKVD_SIMULATION_SEEDS:-1000}
cargo=${CARGO:-cargo}
all="acknowledge-before-commit stale-read skipped-fsync reused-read-context torn-mark applied-twice
directory-not-synced early-vote removed-counts torn-tail-kept"
[ $# -gt 0 ] && all=$*

dir=$PWD/target/mutants
mkdir -p "$dir/plant"
missed=
for mutant in $all; do
    wrapper=$dir/plant/$mutant
    cat >"$wrapper" <<'WRAPPER'
#!/bin/sh
exec "$@" --cfg "raftkvd_mutant=\"$(basename "$0")\""
WRAPPER
    chmod +x "$wrapper"
    log=$dir/$mutant.log
    RUSTC_WORKSPACE_WRAPPER=$wrapper CARGO_TARGET_DIR=$dir \
        $cargo test --locked --test simulation --no-run 2>"$log" || { cat "$log" >&2; exit 1; }
    test=$(sed -n 's/^ *Executable .* (\(.*\))$/\1/p' "$log")
    # It fails, as it should; here only the number of seeds that fail counts.
    RAFTKVD_SIMULATION_SEEDS=$seeds "$test" many_seeds >"$log" 2>&1 || true
    caught=$(sed -n 's/^simulation: \([0-9]*\) seeds failed$/\1/p' "$log")
    [ -n "$caught" ] || { echo "mutants.sh: $mutant did not run to its end: see $log" >&2; exit 1; }
    echo "$mutant: caught in $caught of $seeds seeds"
    [ "$caught" -gt 0 ] || missed="$missed $mutant"
done
if [ -n "$missed" ]; then
    echo "mutants.sh: not caught:$missed" >&2
    exit 1
fi
echo "mutants.sh: all caught"
