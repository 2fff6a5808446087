#!/usr/bin/env bash
# Public-domain books from distribution packages, unpacked without installing them: fetch_texts.sh [--all] DEB_FOLDER OUT_FOLDER
#   default  the six novels of Jane Austen (package r-cran-janeaustenr)
#   --all    also the King James Bible (bible-kjv, bible-kjv-text) and the Jargon File (jargon-text), for scripts/pretrain_quickstart.sh
# The texts themselves are pinned by SHA-256 (third_party/texts.sha256), so any package version that yields the same text will do.
set -euo pipefail
all=0
if [ "${1:-}" = --all ]; then all=1; shift; fi
[ $# = 2 ] || { echo "usage: fetch_texts.sh [--all] DEB_FOLDER OUT_FOLDER" >&2; exit 64; }
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" "$2"
debs=$(cd "$1" && pwd) out=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else "$@"; fi; }
unpack() {   # PACKAGE: its files into $work/PACKAGE
  local file
  file=$(find "$debs" -maxdepth 1 -name "$1_*.deb" | head -n 1)
  if [ -z "$file" ]; then
    (cd "$debs" && apt-get download -qq "$1" >/dev/null 2>&1) ||
      { as_root apt-get update -q >/dev/null && (cd "$debs" && apt-get download -qq "$1" >/dev/null 2>&1); } ||
      { echo "fetch_texts.sh: could not download the package $1; is the package index reachable?" >&2; exit 1; }
    file=$(find "$debs" -maxdepth 1 -name "$1_*.deb" | head -n 1)
  fi
  dpkg-deb -x "$file" "$work/$1"
}
check() {   # NAME: the text's digest
  local want have
  want=$(awk -v f="$1" '$2 == f { print $1 }' "$here/third_party/texts.sha256")
  have=$(sha256sum "$out/$1" | cut -d' ' -f1)
  [ "$want" = "$have" ] || { rm -f "$out/$1"; echo "fetch_texts.sh: $1 has SHA-256 $have, expected $want; the file was removed" >&2; exit 1; }
}

unpack r-cran-janeaustenr
python3 "$here/scripts/extract_novels.py" "$work/r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb" "$out"
for book in emma mansfield_park northanger_abbey persuasion pride_and_prejudice sense_and_sensibility; do check $book.txt; done
[ $all = 1 ] || exit 0

unpack bible-kjv
unpack bible-kjv-text
"$work/bible-kjv/usr/bin/bible" -p "$work/bible-kjv-text/usr/lib/" -l999999 gen1:1-rev22:21 >"$out/king_james_bible.txt"
check king_james_bible.txt
unpack jargon-text
gzip -dc "$work/jargon-text/usr/share/doc/jargon-text/jargon.txt.gz" >"$out/jargon_file.txt"
check jargon_file.txt
