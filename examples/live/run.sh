#!/bin/bash
# Runs the moving ball under `tenon live`; edit draw.c meanwhile. Options of `tenon live` may follow BIN_DIR.
# Usage: run.sh BIN_DIR [OPTION...]
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set -euo pipefail

bin=$(cd "${1:?usage: run.sh BIN_DIR [OPTION...]}" && pwd)
shift
cd "$(dirname "$0")"
exec "$bin/tenon" live main.c draw.c "$@"
