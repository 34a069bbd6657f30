#!/usr/bin/env bash
# Builds this checkout and another revision, loads both by turns, and fails if this one lost anything or is worse.
#
#   deploy/ci/gate.sh origin/main                          # against that revision, with the workload `single`
#   deploy/ci/gate.sh v0.1.0 single batch mine.toml        # with these workloads
#   STORE=fjall MAX_REGRESSION=20% deploy/ci/gate.sh HEAD~1
#
# load-report/ (or REPORT) gets summary.md, and of each workload report.html, .md, .json and junit.xml. Ends with 1 if something
# fell short, with 2 if it could not be carried out.
set -euo pipefail

if [ $# = 0 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
base=$1
shift
[ $# -gt 0 ] || set -- single
report=${REPORT:-load-report}

git -C "$root" rev-parse --verify --quiet "$base^{commit}" >/dev/null || {
  echo "gate.sh: no revision $base; a shallow clone has none but its own (git fetch)" >&2
  exit 2
}
old=$(mktemp -d)
trap 'git -C "$root" worktree remove --force "$old/tree" 2>/dev/null; rm -rf "$old"' EXIT
git -C "$root" worktree add --quiet --detach "$old/tree" "$base"
cargo build --release --locked --manifest-path "$root/Cargo.toml" --target-dir "$root/target" \
  -p causeway -p causeway-loadgen || exit 2
cargo build --release --locked --manifest-path "$old/tree/Cargo.toml" --target-dir "$root/target/gate" \
  -p causeway || exit 2

code=0
mkdir -p "$report"
: >"$report/summary.md"
for workload in "$@"; do
  out=$report/$(basename "$workload" .toml)
  mkdir -p "$out"
  status=0
  # Both builds on this machine, in the same minutes: what is compared is their ratio, not a time.
  "$root/target/release/causeway-loadgen" run "$workload" --store "${STORE:-sqlite}" \
    --server "$root/target/release/causeway" --against "$root/target/gate/release/causeway" \
    --max-regression "${MAX_REGRESSION:-10%}" --assert 'lost=0' --assert 'faults=0' --assert 'errors=0' \
    --out "$out" --junit "$out/junit.xml" >/dev/null || status=$?
  if [ -f "$out/report.md" ]; then cat "$out/report.md" >>"$report/summary.md"; fi
  if [ "$status" -gt "$code" ]; then code=$status; fi
done
exit "$code"
