#!/usr/bin/env bash
# Trains the quickstart model's own 4,096-piece vocabulary (sentencepiece BPE with byte fallback, text kept verbatim) on the training
# books: train_vocabulary.sh TEXT_FOLDER OUT_FILE. Needs scripts/setup.sh; builds sentencepiece's trainer on first use (a minute).
set -euo pipefail
[ $# = 2 ] || { echo "usage: train_vocabulary.sh TEXT_FOLDER OUT_FILE" >&2; exit 64; }
here=$(cd "$(dirname "$0")/.." && pwd)
build=$here/.deps/build/sentencepiece/out
[ -d "$build" ] || { echo "train_vocabulary.sh: run scripts/setup.sh first" >&2; exit 66; }
ninja -C "$build" spm_train >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The novels count twice: they are the part of the corpus that the model is meant to read well.
cat "$1"/{mansfield_park,persuasion,pride_and_prejudice,sense_and_sensibility}.txt >"$work/novels.txt"
"$build/src/spm_train" --input="$work/novels.txt,$work/novels.txt,$1/king_james_bible.txt,$1/jargon_file.txt" --model_prefix="$work/m" \
  --vocab_size=4096 --model_type=bpe --byte_fallback=true --normalization_rule_name=identity --remove_extra_whitespaces=false \
  --split_digits=true --character_coverage=0.9995 --max_sentence_length=65536 --num_threads=1 --input_sentence_size=0 \
  --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 --minloglevel=1
cp "$work/m.model" "$2"
