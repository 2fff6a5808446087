#!/usr/bin/env bash
# Installs, builds and runs all tests, on a bare machine: scripts/test.sh [CTEST ARGUMENTS]
#   scripts/test.sh -L unit          one label (unit contract hf e2e torture)
# Ends with ctest's summary; exit code 0 only when everything passed.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
scripts/build.sh cpu
echo "[test] running the tests"
exec ctest --test-dir build --output-on-failure --no-tests=error "$@"
