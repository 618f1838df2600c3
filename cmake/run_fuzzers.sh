#!/bin/bash
# Runs every libFuzzer target of a build tree for some seconds on a private copy of its seed corpus. A find is left in
# BUILD/artifacts/ and is the exit status.
# Usage: run_fuzzers.sh BUILD SECONDS
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set -euo pipefail

build=$1
seconds=$2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$build/artifacts"
status=0
for program in "$build"/bin/fuzz_*; do
  [ -x "$program" ] || continue
  name=$(basename "$program")
  corpus=$build/corpus/${name#fuzz_}
  seeds=$root/fuzz/corpus/${name#fuzz_}
  mkdir -p "$corpus"
  [ ! -d "$seeds" ] || cp -rn "$seeds/." "$corpus/"
  echo "$name: $seconds s"
  "$program" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 -verbosity=0 \
    -artifact_prefix="$build/artifacts/$name-" "$corpus" || status=1
done
exit "$status"
