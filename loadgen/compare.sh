#!/bin/sh
# Compares Causeway with the Node baseline, and with itself: with a schema, and as one of two nodes; on this machine. Prints
# markdown tables.
#
#   loadgen/compare.sh [--rounds 3] [--seconds 10] [--only ROW]... [--list]
#   loadgen/compare.sh --with "--store sled"      # other options of `causeway serve`
#   loadgen/compare.sh --only schema-64 --only schema-8x100 --only schema-rows
#   loadgen/compare.sh --only nodes-64 --only nodes-8x100 --only nodes-fanout --only catch-up     # needs redis-server
#
# Needs cargo, Linux, Node 20 or later with npm, redis-server, and some 20 minutes. Builds what it needs. BASELINE_DIR names a directory
# to install the baseline in and to use again; by default it is temporary. Where no binary of better-sqlite3 can be had,
# see baseline/README.md for the variables that let npm build it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

case " $* " in
*" --list "* | *" --help "*)
    node "$here/compare.mjs" "$@"
    exit
    ;;
esac

(cd "$root" && cargo build --release --workspace)

baseline=${BASELINE_DIR:-$work/baseline}
mkdir -p "$baseline"
cp "$here/baseline/server.mjs" "$here/baseline/package.json" "$baseline/"
if [ ! -d "$baseline/node_modules/better-sqlite3/build" ]; then
    (cd "$baseline" && npm install --no-audit --no-fund)
fi

# Thousands of connections need as many files; each server raises its own limit as far as it may, too.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

node "$here/compare.mjs" --baseline "$baseline" --bin "${CARGO_TARGET_DIR:-$root/target}/release" --work "$work" "$@"
