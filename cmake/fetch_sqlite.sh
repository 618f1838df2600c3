#!/bin/bash
# Fetches SQLite's amalgamation (one file of 250,000 lines, a good thing to compile and link) into DIR/sqlite3/. The npm
# package better-sqlite3 carries it; version and hash are pinned here, so what arrives is what was tested, or nothing.
# Usage: fetch_sqlite.sh [DIR], by default build/third_party. Does nothing when the files are there.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set -euo pipefail

package=better-sqlite3
version=13.2.0
tarball_sha256=40487589df3496f2ee0079d22b73c63fccebe7db0e8ee9a2c42421861e321e0b

root=$(cd "$(dirname "$0")/.." && pwd)
destination=${1:-$root/build/third_party}/sqlite3
[ "$(cat "$destination/origin" 2>/dev/null)" = "$tarball_sha256" ] && exit 0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "setup: fetching $package $version"
for attempt in 1 2 3; do
  npm pack "$package@$version" --silent --pack-destination "$scratch" >/dev/null && break
  [ "$attempt" -lt 3 ] || { echo "setup: npm could not fetch $package@$version" >&2; exit 1; }
  sleep 3
done
tarball=$scratch/$package-$version.tgz
echo "$tarball_sha256  $tarball" | sha256sum --check --quiet ||
  { echo "setup: $package $version has an unexpected hash" >&2; exit 1; }
tar -xzf "$tarball" -C "$scratch" package/deps/sqlite3
mkdir -p "$destination"
# The mark goes last: an interrupted run is repeated.
cp "$scratch"/package/deps/sqlite3/sqlite3.{c,h} "$destination/"
echo "$tarball_sha256" >"$destination/origin"
