#!/bin/bash
# Links Debian's libsqlite3.a and driver.c into the live process of `tenon run` and lets SQL run on it. Arguments behind BIN_DIR go
# to the driver (number of orders).
# Usage: run.sh BIN_DIR [ORDERS]
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set -euo pipefail

bin=${1:?usage: run.sh BIN_DIR [ORDERS]}
shift
here=$(cd "$(dirname "$0")" && pwd)
archive=/usr/lib/x86_64-linux-gnu/libsqlite3.a
[ -r "$archive" ] || { echo "run.sh: $archive is missing: apt-get install libsqlite3-dev" >&2; exit 1; }

exec "$bin/tenon" run --stats "$here/driver.c" "$archive" -lm -- "$@"
