#!/usr/bin/env bash
# Configures and builds: scripts/build.sh [PRESET] [TARGET...]
# Presets: cpu (default) cuda asan tsan tidy; the program ends up in build/bin/longlora-train (build-PRESET/ for the others).
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-cpu}
shift || true
case $preset in
  cpu | cuda | asan | tsan | tidy) ;;
  -h | --help) sed -n '2,3p' "$0" | sed 's/^# //'; exit 0 ;;
  *) echo "build.sh: unknown preset '$preset'; one of cpu cuda asan tsan tidy" >&2; exit 64 ;;
esac
[ -d .deps/site/torch ] || { echo "build.sh: dependencies are missing; run scripts/setup.sh first" >&2; exit 66; }
# the precompiled header has no time stamps that matter; paths below the tree do not either, so that every clone shares one cache
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
export CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake --preset "$preset" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
cmake --build --preset "$preset" -j "$(nproc)" ${*:+--target "$@"}
