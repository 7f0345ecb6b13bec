#!/usr/bin/env bash
# The whole job on the real model, shortened: train, judge, repeat, merge with proof, generate, and every shipped adapter.
# Closes with "N passed, N failed"; exit code 1 if anything failed. Fetches the model (98 MB) where it is not there yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lorakit="${LORAKIT:-${CARGO_TARGET_DIR:-target}/release/lorakit}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# check WHAT COMMAND...: one line, and one more in the sum.
check() {
  local what="$1"
  shift
  if "$@"; then
    passed=$((passed + 1))
    echo "ok    $what"
  else
    failed=$((failed + 1))
    echo "FAIL  $what"
  fi
}

# loss WHO FILE: the loss of "base" or "adapter" in the JSON line that train and eval end with.
loss() {
  grep -o "\"$1\":{\"loss\":[0-9.eE+-]*" "$2" | sed 's/.*://'
}

# less A B: A < B, both numbers.
less() {
  [[ -n "$1" && -n "$2" ]] && awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 < b + 0) }'
}

# field NAME FILE: a number or string of a JSON line, without its quotes.
field() {
  grep -oE "\"$1\":(\"([^\"\\\\]|\\\\.)*\"|[0-9.eE+-]+)" "$2" | head -n 1 | sed -E 's/^"[^"]*"://; s/^"(.*)"$/\1/'
}

short=(--set train.steps=12 --set train.warmup=2 --set train.eval_every=6 --set eval.limit=24)
train() {
  "$lorakit" train recipes/quickstart.toml "${short[@]}" --out "$work/$1" --json >"$work/$1.json"
}
model="$(sed -n 's/^model = "\([^"]*\)".*/\1/p' recipes/quickstart.toml)"
fallback="$(sed -n 's/^fallback = "\([^"]*\)".*/\1/p' recipes/quickstart.toml)"
base=(--model "$model" --fallback "$fallback")

check "train: twelve steps of the quickstart" train first
base_loss="$(loss base "$work/first.json" || true)"
adapter_loss="$(loss adapter "$work/first.json" || true)"
check "train: held-out loss of the adapter ($adapter_loss) below the base's ($base_loss)" less "$adapter_loss" "$base_loss"
for file in adapter_config.json adapter_model.safetensors README.md recipe.toml trace.json events.jsonl loss.svg; do
  check "train: $file is written" test -s "$work/first/$file"
done

check "train again" train second
check "train again: the same bytes" cmp "$work/first/adapter_model.safetensors" "$work/second/adapter_model.safetensors"

judge() {
  "$lorakit" eval "$1" --adapter "$2" --set eval.limit=24 --json >"$3"
}
check "eval" judge recipes/quickstart.toml "$work/first" "$work/eval.json"
same() {
  [[ -n "$1" && "$1" == "$2" ]]
}
check "eval: the loss that train reported" same "$adapter_loss" "$(loss adapter "$work/eval.json" || true)"

merge() {
  "$lorakit" merge "${base[@]}" --adapter "$work/first" --out "$work/merged" --dtype f32 --verify --json >"$work/merge.json"
}
check "merge --verify" merge
difference="$(field largest_logit_difference "$work/merge.json" || true)"
check "merge: logits within 2e-3 of base + adapter ($difference)" less "$difference" 2e-3

say() {
  "$lorakit" generate "${@:2}" --chat "My card was charged twice for one order." --max-new-tokens 24 --json >"$work/$1.json"
}
check "generate with the adapter" say adapted "${base[@]}" --adapter "$work/first"
check "generate: an answer ($(field text "$work/adapted.json" || true))" test -n "$(field text "$work/adapted.json" || true)"
check "generate with the base alone" say plain "${base[@]}"
differ() {
  [[ "$(field text "$1")" != "$(field text "$2")" ]]
}
check "generate: the adapter changes the answer" differ "$work/adapted.json" "$work/plain.json"

for config in adapters/*/adapter_config.json; do
  [[ -e "$config" ]] || continue
  dir="$(dirname "$config")" name="$(basename "$(dirname "$config")")"
  check "$dir: eval" judge "$dir/recipe.toml" "$dir" "$work/$name.json"
  check "$dir: loss below the base's" less "$(loss adapter "$work/$name.json" || true)" "$(loss base "$work/$name.json" || true)"
done

echo "$passed passed, $failed failed"
((failed == 0))
