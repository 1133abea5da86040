#!/usr/bin/env bash
# The paper's Table 2 from an IEMOCAP disk: prepare, extract, train the six rows, and the verdict on the paper.
#
#   bash scripts/reproduce.sh IEMOCAP_ROOT [OUT]
#   SEEDS="1 2 3 4 5" JOBS=4 bash scripts/reproduce.sh IEMOCAP_full_release runs/reproduction
#
# IEMOCAP_ROOT holds Session1 ... Session5; OUT (default runs/reproduction) gets the lists, the features and the runs.
# Each command is printed before it runs; start it again after an interruption and it goes on where it was. SEEDS, JOBS,
# LAUNCH and ROWS act as in ablation.sh. From two seeds on the verdict is over seeds, with one over the sessions. It is
# printed last, and stands in OUT/runs/report/verdict.json without paths or names: please send that back.
set -euo pipefail
fail() { printf 'error: %s\n' "$1" >&2 && exit 2; }

if [[ ${1:-} =~ ^(-h|--help)$ ]]; then exec sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; fi
(($# == 1 || $# == 2)) || fail "usage: reproduce.sh IEMOCAP_ROOT [OUT]; --help says more"
root=$(cd "$1" 2>/dev/null && pwd) || fail "$1: no such folder; the one that holds Session1 ... Session5 is needed"
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${2:-$repo/runs/reproduction}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$repo"
venv=$(cd "${VENV:-.venv}/bin" 2>/dev/null && pwd) && PATH=$venv:$PATH

run() {
  printf '\n$' && printf ' %q' "$@" && printf '\n'
  env "$@"
}

run python -m scripts.prepare_iemocap --iemocap_root "$root" --out "$out/iemocap"
run accelerate launch -m scripts.extract_clip --manifest "$out/iemocap/manifest.csv" --rows 112:368 --half \
  --out "$out/features"
run MANIFEST="$out/iemocap/manifest.csv" bash scripts/ablation.sh "$out/iemocap/folds/paper" "$out/runs" \
  --video_root "$out/features"
printf '\n'
awk '/^#/ { shown = /^### The verdict on the paper$/ } shown' "$out/runs/report/report.md"
printf '\nThe whole report: %s\nTo send back: %s\n' "$out/runs/report/report.html" "$out/runs/report/verdict.json"
