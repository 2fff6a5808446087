#!/usr/bin/env bash
# Proves and times the GPU path on the GPU of this machine: scripts/gpu_check.sh [--only STAGE,...] [--prebuilt DIR] [--budget MINUTES]
# All arguments and what they mean: scripts/gpu_check.sh --help; docs/gpu.md.
exec python3 "$(dirname "$0")/gpu_check.py" "$@"
