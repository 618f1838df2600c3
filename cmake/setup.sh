#!/bin/bash
# Installs what a bare Debian 12 lacks of the packages that building, testing and running Tenon need. Asks dpkg each time
# instead of leaving a stamp, so that it is right also after packages went away; when nothing is missing it takes a fraction
# of a second. Extra package names may be given as arguments.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set -euo pipefail

packages=(
  g++ cmake ninja-build make git ccache python3 pkg-config binutils ca-certificates
  llvm-22 llvm-22-dev llvm-22-tools clang-22 lld-22 libclang-rt-22-dev
  libcli11-dev libgtest-dev libgmock-dev libbenchmark-dev libzstd-dev zlib1g-dev
  libzydis-dev libxxhash-dev libsqlite3-dev liblua5.4-dev valgrind qemu-user
  "$@"
)
# Node.js from elsewhere brings its own npm, which Debian's package would conflict with.
command -v npm >/dev/null || packages+=(nodejs npm)

installed=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' "${packages[@]}" 2>/dev/null |
  sed -n 's/^.i[^ ]* *//p' || true)
missing=()
for package in "${packages[@]}"; do
  grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: needs root or sudo to install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
"${as_root[@]}" apt-get -qq update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
