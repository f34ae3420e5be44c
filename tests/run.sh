#!/usr/bin/env bash
# Runs the tests:   tests/run.sh PYTHON [PATH|OPTION...]
# Those of SLURM mostly wait for it, so they run beside the others, and what they print comes when the others are done.
set -u

python=$1
shift
report=$(mktemp)
trap 'rm -f "$report"' EXIT
trap 'kill $(jobs -p) 2> /dev/null' INT TERM

"$python" -m pytest "$@" -m slurm > "$report" 2>&1 &
"$python" -m pytest "$@" -m "not slurm"
others=$?
wait $!
slurm=$?
echo "Tests of SLURM:"
cat "$report"

# 5: none of this kind were asked for
[ "$others" -eq 5 ] && exit "$slurm"
[ "$slurm" -eq 5 ] || [ "$slurm" -eq 0 ] && exit "$others"
exit "$slurm"
