#!/usr/bin/env bash
# Runs every fuzz target, on the stable toolchain: fuzz/run.sh [SECONDS for each, 30 if not said] [TARGET …]
# Installs what is missing. Fails if one finds something, and says how to replay it.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-30}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(frames decode merge key bus)

if ! command -v c++ >/dev/null; then
  apt-get update && apt-get install --yes --no-install-recommends g++
fi
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked --version 0.13.2

# The longest input, in bytes: for `decode` and `bus` room for the longest key, for `merge` what is still fast.
declare -A max_len=([frames]=4096 [decode]=8192 [merge]=1024 [key]=512 [bus]=8192)
cargo fuzz build -s none

failed=()
for target in "${targets[@]}"; do
  # What is found goes here, not among the inputs that are kept (keep.sh takes it over).
  found=target/found/$target log=target/$target.log
  mkdir -p "$found"
  options=(-max_total_time="$seconds" -max_len="${max_len[$target]}" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1)
  [ ! -e "$target.dict" ] || options+=(-dict="$target.dict")
  echo "fuzzing $target for $seconds s"
  if cargo fuzz run -s none "$target" "$found" "corpus/$target" -- "${options[@]}" >"$log" 2>&1; then
    grep -E 'cov: ' "$log" | tail -n 1
    grep -E 'executed_units|execs_per|peak_rss' "$log"
  else
    grep -m 1 -A 6 'panicked at' "$log" | cut -c 1-2000 || true
    tail -n 40 "$log"
    failed+=("$target")
  fi
done

if [ ${#failed[@]} -gt 0 ]; then
  cat <<END
A finding in: ${failed[*]}. The input stands in fuzz/artifacts/TARGET/. Replay it, or shorten it, with
  cargo fuzz run -s none TARGET fuzz/artifacts/TARGET/FILE
  cargo fuzz tmin -s none TARGET fuzz/artifacts/TARGET/FILE
Once fixed, put it under a name that says what it is into fuzz/corpus/TARGET/.
END
  exit 1
fi
