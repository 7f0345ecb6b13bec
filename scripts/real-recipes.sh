#!/usr/bin/env bash
# Two recipes on real data, which lies beside the repository in ../shared: what docs/decisions.md says of them comes from here.
#
# usage: scripts/real-recipes.sh super-ni     training tasks, judged on others   (16 minutes on AVX2)
#        scripts/real-recipes.sh replay       a domain without and with replay, and with as many steps of its own: what is
#                                             forgotten, what is kept (three runs, 7 minutes each on AVX2)
#
# Results and adapters go to runs/real. Needs python3 for the lists and the closing table. Further arguments go to `train`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lorakit="${LORAKIT:-${CARGO_TARGET_DIR:-target}/release/lorakit}"
data="$(realpath ../shared/data)"
out="$PWD/runs/real"
mkdir -p "$out"

# train NAME ARGUMENTS...: the JSON of a run in $out/NAME.json, its adapter in $out/NAME.
train() {
  local name="$1"
  shift
  "$lorakit" train "$@" --set "output.dir='$out/run-$name'" --out "$out/$name" --overwrite --json >"$out/$name.json.part"
  mv "$out/$name.json.part" "$out/$name.json"
}

# The tasks of index.json by their role, of those that are answered in English: no test task is trained on.
tasks() {
  python3 - "$data/superni/index.json" <<'PY'
import json, sys
from pathlib import Path
index = json.load(open(sys.argv[1], encoding="utf-8"))
train = [t["task"] for t in index if t["role"] == "train" and t["languages"] == ["English", "English"]]
test = [t["task"] for t in index if t["role"] == "test" and t["languages"][-1] == "English"]
Path("runs/real/train_tasks.txt").write_text("\n".join(train) + "\n")
Path("runs/real/test_tasks.txt").write_text("\n".join(test) + "\n")
print(len(train), "training tasks,", len(test), "test tasks")
PY
}

super_ni() {
  tasks
  local source="{ path = '$data/superni/tasks', shape = 'superni'"
  train super-ni recipes/super-ni.toml --set "data.train=$source, tasks = '$out/train_tasks.txt', limit = 12 }" \
    --set "data.heldout=$source, tasks = '$out/test_tasks.txt', limit = 20 }" --set train.epochs=1 --set train.lr=3e-4 \
    --set train.batch_size=4 --set train.accumulate=4 --set train.max_length=448 --set train.eval_every=0 --set eval.max_new_tokens=48 "$@"
}

replay() {
  local common=(
    --set train.steps=112 --set train.eval_every=0 --set eval.limit=60 --set eval.exact_match=true --set "data.over_long='truncate'"
    --set "data.replay.sources=[{ path = '$data/text/c4_docs.jsonl' }, { path = '$data/alpaca/gpteacher_roleplay.jsonl', limit = 150 }]"
    --set "eval.sets=[{ name = 'general text', rows = { path = '$data/text/wikitext2_valid.txt', shape = 'text' }, limit = 60 }, { name = 'instructions', rows = '$data/alpaca/alpaca_gpt4_en.jsonl', limit = 40 }]"
  )
  train without recipes/replay.toml "${common[@]}" --set data.replay.fraction=0 "$@"
  train with recipes/replay.toml "${common[@]}" --set data.replay.fraction=0.3 "$@"
  # As many steps of the domain's own rows as without.
  train kept recipes/replay.toml "${common[@]}" --set data.replay.fraction=0.3 --set train.steps=160 "$@"
}

case "${1:-}" in
super-ni) super_ni "${@:2}" ;;
replay) replay "${@:2}" ;;
*) sed -n '2,8p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
