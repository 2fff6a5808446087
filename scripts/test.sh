#!/usr/bin/env bash
# Installs, builds and runs all tests, on a bare machine: scripts/test.sh [--cuda] [CTEST ARGUMENTS]
#   scripts/test.sh -L unit          one label (unit kernels gates contract hf e2e torture), preset cpu only
#   scripts/test.sh --cuda           fetches the libraries of the preset cuda where they are missing (2 GB) and runs every test in it as well
# Without arguments the preset cuda is built too where its libraries are there (an installed CUDA 13 toolkit, or an earlier --cuda), and its
# program runs the unit tests and the commands: kernels, link line and the start without a driver. No GPU is needed; scripts/gpu_check.sh uses one.
# Ends with ctest's summary; exit code 0 only when everything passed.
set -euo pipefail
cd "$(dirname "$0")/.."
all_in_cuda=0
if [ "${1:-}" = --cuda ]; then
  all_in_cuda=1
  shift
  scripts/setup.sh --cuda
else
  scripts/setup.sh
fi
scripts/build.sh cpu
echo "[test] running the tests"
if [ $all_in_cuda = 0 ] && { [ $# -gt 0 ] || [ ! -e .deps/stamps/cuda-libraries ]; }; then
  [ -e .deps/stamps/cuda-libraries ] || echo "[test] preset cuda skipped: its libraries are not installed (scripts/test.sh --cuda)"
  exec ctest -j 2 --test-dir build --output-on-failure --no-tests=error "$@"
fi
ctest -j 2 --test-dir build --output-on-failure --no-tests=error "$@"
echo "[test] building the preset cuda"
if [ $all_in_cuda = 1 ]; then
  scripts/build.sh cuda
  exec ctest -j 2 --test-dir build-cuda --output-on-failure --no-tests=error "$@"
fi
scripts/build.sh cuda longlora-train test_{nccl,ops,model,optim,checkpoint,train} test_kernels_cuda bench_{s2_attention,bandwidth,gpu_baselines} nccl_check
exec ctest -j 2 --test-dir build-cuda --output-on-failure --no-tests=error -R '^(nccl|ops|model|optim|checkpoint|train|contract_commands)$'
