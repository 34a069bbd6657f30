#!/usr/bin/env bash
# Takes what run.sh has found over into corpus/: of that, and of what was taken over before, as little as reaches the same
# branches. Inputs with names of their own stay as they are.
set -euo pipefail
cd "$(dirname "$0")"
for target in frames decode merge key; do
  mkdir -p "target/found/$target"
  find "corpus/$target" -regextype egrep -regex '.*/[0-9a-f]{40}' -exec mv -t "target/found/$target" {} +
  cargo fuzz run -s none "$target" "corpus/$target" "target/found/$target" -- -set_cover_merge=1 -use_counters=0 >"target/$target.log" 2>&1
  echo "$target: $(find "corpus/$target" -type f | wc -l) inputs, $(cat "corpus/$target"/* | wc -c) bytes"
done
