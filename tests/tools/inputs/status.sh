#!/bin/bash
# Passes if the command ends with the status; 128 + N is signal N.
# Usage: status.sh STATUS COMMAND [ARGUMENT...]
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
expected=$1
shift
"$@"
status=$?
[ "$status" -eq "$expected" ] && exit 0
echo "status.sh: $status, not $expected: $*" >&2
exit 1
