#!/usr/bin/env bash
# Two million rows through `lorakit data prepare`, a sample of them through `datasets.map`, side by side.
#   run.sh MODEL.gguf PYTHON [ROWS] [SAMPLE]
# Prints whether the tokens agree, rows a second, the peak of anonymous memory, and the time of the second start. MODEL is SmolLM2's;
# PYTHON has datasets, transformers, numpy and gguf. Needs 8 GB in $TMPDIR for two million rows; $CORPUS may name a file that
# generate.py wrote already.
#
# Seen on 2 cores of an EPYC, corpus in /dev/shm, at b3415af (targets: at most 400 MiB, 3 times, 2 s):
#   corpus: 3.08 GB
#   first start:  97.78 s, at most 181 MiB of anonymous memory
#   second start: 0.53 s, at most 80 MiB of anonymous memory
#   tokens and loss masks: 1000 of 1000 rows are those of transformers
#   datasets.map, 2 processes: 30000 rows in 11.6 s, 2596 rows/s
#   lorakit 20454 rows/s, datasets.map 2596 rows/s: 7.9 times
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
model="$1" python="$2" rows="${3:-2000000}" sample="${4:-40000}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 LORAKIT_CACHE="$work/own"
corpus="${CORPUS:-$work/corpus.jsonl}"
[[ -e "$corpus" ]] || "$python" "$here/generate.py" "$rows" "$corpus"
"$python" "$here/tokenizer.py" "$model" "$work/tokenizer"
head -n "$sample" "$corpus" > "$work/sample.jsonl"
ls -l "$corpus" | awk '{printf "corpus: %.2f GB\n", $5 / 1e9}'
cat > "$work/recipe.toml" <<TOML
[base]
model = "$model"
[data]
train = "$corpus"
heldout_fraction = 0.001
cache = "kept"
[train]
packing = true
max_length = 1024
TOML
# Runs "$@" and says how long it took and the most anonymous memory it had.
measured() {
  local start peak=0 now pid
  start=$(date +%s.%N)
  "$@" > "$work/out" 2> "$work/err" & pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    now=$(awk '/RssAnon/ {print $2}' "/proc/$pid/status" 2>/dev/null || true)
    if [[ -n "$now" ]] && (( now > peak )); then peak=$now; fi
    sleep 0.05
  done
  wait "$pid" || { cat "$work/err" >&2; exit 1; }
  awk -v s="$start" -v e="$(date +%s.%N)" -v p="$peak" 'BEGIN {printf "%.2f s, at most %.0f MiB of anonymous memory\n", e - s, p / 1024}'
}
field() { "$python" -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/out" "$1"; }
lorakit="${LORAKIT:-$here/../../target/release/lorakit}"
first=$(measured "$lorakit" data prepare "$work/recipe.toml" --json)
ours=$("$python" -c "print($(field rows) / ${first%% *})")
echo "lorakit data prepare: $(field rows) rows, $(field packing)"
echo "first start:  $first"
echo "second start: $(measured "$lorakit" data prepare "$work/recipe.toml" --json)"
"$python" "$here/check.py" "$work/tokenizer" "$corpus" "$(field kept_in)" 1000
"$python" "$here/map.py" "$work/tokenizer" "$work/sample.jsonl" 2 2>/dev/null | tee "$work/theirs"
theirs=$(grep -oE '[0-9]+ rows/s' "$work/theirs" | cut -d' ' -f1)
awk -v a="$ours" -v b="$theirs" 'BEGIN {printf "lorakit %.0f rows/s, datasets.map %.0f rows/s: %.1f times\n", a, b, a / b}'
