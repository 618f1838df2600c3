#!/bin/bash
# Runs ctest on a build tree and shows what failed, with its output; the log of everything is in BUILD/ctest.log. The last
# line is `N passed, N failed`; the exit status is ctest's, and a tree without tests fails, too.
# Usage: run_ctest.sh BUILD [CTEST OPTION...]
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set -uo pipefail

build=$1
shift
log=$build/ctest.log
ctest --test-dir "$build" --output-on-failure --no-label-summary --no-tests=error -j "${TEST_JOBS:-2}" "$@" 2>&1 | tee "$log" |
  awk '/^ *Start +[0-9]+: /{next}
    /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: .* Passed +[0-9.]+ sec$/{next}
    {print; fflush()}'
status=${PIPESTATUS[0]}

# "97% tests passed, 2 tests failed out of 70"
read -r failed total < <(sed -nE 's/^[0-9]+% tests passed, ([0-9]+) tests? failed out of ([0-9]+)$/\1 \2/p' "$log" | tail -n 1) ||
  { failed=0 total=0; }
[ "$total" -eq 0 ] && status=1
echo "$((total - failed)) passed, $failed failed"
exit "$status"
