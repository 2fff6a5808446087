#!/usr/bin/env bash
# Makes the shipped small model again: books -> vocabulary -> pre-training from random weights -> models/quickstart (bf16, 12 MB).
#   scripts/pretrain_quickstart.sh [--to FOLDER]      about an hour on two cores; interrupt and run again to go on
set -euo pipefail
cd "$(dirname "$0")/.."
to=models/quickstart
case ${1:-} in
  "") ;;
  --to) to=${2:?--to needs a folder} ;;
  -h | --help) sed -n '2,3p' "$0" | sed 's/^# //'; exit 0 ;;
  *) echo "pretrain_quickstart.sh: unknown argument '$1'; see --help" >&2; exit 64 ;;
esac
scripts/setup.sh --without-tests
scripts/build.sh cpu longlora-train
scripts/fetch_texts.sh --all .deps/debs .deps/texts
program=build/bin/longlora-train
run=out/pretrain_quickstart
mkdir -p "$run"
scripts/train_vocabulary.sh .deps/texts "$run/tokenizer.model"
cmp -s "$run/tokenizer.model" models/quickstart/tokenizer.model ||
  echo "note: the vocabulary differs from the shipped one; the shipped one is used"
"$program" train -c configs/pretrain_quickstart.yaml --resume auto
rm -rf "$run/exported"
"$program" export --run "$run" --to "$run/exported" --format merged --dtype bf16
mkdir -p "$to"
cp "$run/exported/"*.safetensors "$to/"
echo "wrote $to/model.safetensors; training log: $run/metrics.jsonl, summary: $run/report.html"
