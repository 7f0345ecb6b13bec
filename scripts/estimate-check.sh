#!/usr/bin/env bash
# Estimated against measured peak memory of training, on a dozen runs: `lorakit estimate` beside a few steps of `lorakit train`.
# Each must agree within 15 %. Closes with "N passed, N failed"; exit code 1 if anything failed.
#
# usage: scripts/estimate-check.sh [BF16_BASE]
# BF16_BASE: a Hugging Face directory of a llama model in bf16, for three of the runs (they are left out without it).
# ONLY: a regular expression, to take some of the runs only.
# Fetches the quickstart's base (98 MB) where it is not there yet. Linux only: the peak is read from /proc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lorakit="${LORAKIT:-${CARGO_TARGET_DIR:-target}/release/lorakit}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# Rows of about as many tokens as asked for: numbers, which the quickstart's tokenizer splits into digits.
# long_rows NAME TOKENS
long_rows() {
  awk -v tokens="$2" 'BEGIN {
    for (row = 1; row <= 12; row++) {
      text = ""
      for (i = 0; i < int((tokens - 48) / 2); i++) text = text " " ((row * 31 + i * 7) % 10)
      printf "{\"prompt\": \"Count on.\", \"completion\": \"%s\"}\n", substr(text, 2)
    }
  }' >"$work/$1.jsonl"
  head -n 3 "$work/$1.jsonl" >"$work/$1-heldout.jsonl"
}

# peak COMMAND...: the largest resident set of the command while it runs, in MB (10^6 bytes).
peak() {
  local highest=0 now
  "$@" >"$work/log" 2>&1 &
  local child=$!
  while now="$(awk '/^VmHWM:/ { print $2 }' "/proc/$child/status" 2>/dev/null)" && [[ -n "$now" ]]; do
    highest="$now"
    sleep 0.02
  done
  wait "$child" || { cat "$work/log" >&2; return 1; }
  awk -v kib="$highest" 'BEGIN { printf "%.1f", kib * 1.024 / 1000 }'
}

# check NAME RECIPE [--set KEY=VALUE]...
check() {
  local name="$1" recipe="$2" estimated measured
  shift 2
  [[ "$name" =~ ${ONLY:-} ]] || return 0
  local set=("$@" --set train.steps=5 --set train.warmup=0.03 --set train.eval_every=3 --set eval.exact_match=false --set eval.limit=16)
  estimated="$("$lorakit" estimate "$recipe" "${set[@]}" --json | grep -oE '"peak_rss_mb":[0-9.]+' | cut -d: -f2)"
  measured="$(peak "$lorakit" train "$recipe" "${set[@]}" --out "$work/run" --overwrite)"
  local verdict
  verdict="$(awk -v e="$estimated" -v m="$measured" 'BEGIN { d = (e - m) / m * 100; printf "%s %+.1f", (d <= 15 && d >= -15) ? "ok" : "FAIL", d }')"
  printf '%-4s  %-46s estimated %7.1f MB, measured %7.1f MB: %s %%\n' "${verdict% *}" "$name" "$estimated" "$measured" "${verdict#* }"
  if [[ "${verdict% *}" == ok ]]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

long_rows long1024 1024
long_rows long2048 2048
long() {
  printf '%s\n' --set "data.train=\"$work/$1.jsonl\"" --set "data.heldout=\"$work/$1-heldout.jsonl\"" --set "train.max_length=$2"
}
mapfile -t long1024 < <(long long1024 1024)
mapfile -t long2048 < <(long long2048 2048)

check "quickstart" recipes/quickstart.toml
check "ticket-triage" recipes/ticket-triage.toml
check "unit-notes" recipes/unit-notes.toml
check "quickstart, packed, 4 rows of 256" recipes/quickstart.toml --set train.packing=true --set train.max_length=256 --set train.batch_size=4
check "quickstart, rows of 1024, batch 2" recipes/quickstart.toml "${long1024[@]}" --set train.batch_size=2
check "quickstart, rows of 2048, batch 1" recipes/quickstart.toml "${long2048[@]}" --set train.batch_size=1
check "the same, blocks run again" recipes/quickstart.toml "${long2048[@]}" --set train.batch_size=1 --set train.checkpoint=block
check "quickstart, dropout" recipes/quickstart.toml --set adapter.dropout=0.1
check "the head too" recipes/quickstart.toml --set 'adapter.targets=["q_proj","v_proj","lm_head"]'
check "the head too, rows of 1024" recipes/quickstart.toml "${long1024[@]}" --set train.batch_size=2 --set 'adapter.targets=["q_proj","v_proj","lm_head"]'
check "quickstart in f32" recipes/quickstart.toml --set base.compute=f32
if [[ $# -gt 0 ]]; then
  base=(--set "base.model=\"$(realpath "$1")\"")
  check "bf16 base, q and v, rank 8, batch 8" recipes/quickstart.toml "${base[@]}" --set adapter.rank=8 --set 'adapter.targets=["q_proj","v_proj"]'
  check "bf16 base, all-linear, rank 16, batch 8" recipes/quickstart.toml "${base[@]}" --set 'adapter.targets="all-linear"'
  check "bf16 base, all-linear, rank 64, rows of 1024" recipes/quickstart.toml "${base[@]}" "${long1024[@]}" \
    --set 'adapter.targets="all-linear"' --set adapter.rank=64 --set train.batch_size=4 --set train.accumulate=2
fi

echo "$passed passed, $failed failed"
((failed == 0))
