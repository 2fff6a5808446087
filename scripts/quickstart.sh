#!/usr/bin/env bash
# From a bare machine to a model with 8x the context, in one command:
#   scripts/quickstart.sh                     the shipped small Llama (6 M parameters), 512 -> 4,096 tokens, some minutes on two cores
#   scripts/quickstart.sh --model smollm2     SmolLM2-135M (GGUF), 8,192 -> 16,384 positions; a few steps, 12 GiB of memory
# Installs, builds, measures the base model, extends it with LongLoRA, exports a Hugging Face folder, measures again, writes a report.
# Safe to run again: finished parts are kept, an interrupted training goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
model=quickstart
while [ $# -gt 0 ]; do
  case $1 in
    --model) model=${2:?--model needs quickstart or smollm2}; shift 2 ;;
    -h | --help) sed -n '2,6p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "quickstart.sh: unknown argument '$1'; see --help" >&2; exit 64 ;;
  esac
done
case $model in quickstart | smollm2) ;; *) echo "quickstart.sh: unknown model '$model'; quickstart or smollm2" >&2; exit 64 ;; esac

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
trap 'status=$?; [ $status = 0 ] || echo "quickstart.sh: stopped (exit $status); run it again to go on from here" >&2' EXIT

step "1/6 set-up"
if [ $model = smollm2 ]; then scripts/setup.sh --without-tests --smollm2; else scripts/setup.sh --without-tests; fi
step "2/6 build"
scripts/build.sh cpu longlora-train
python3 scripts/quickstart.py --model "$model"
