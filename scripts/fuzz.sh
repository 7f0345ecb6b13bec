#!/usr/bin/env bash
# Runs each fuzz target for SECONDS (600 without it): scripts/fuzz.sh [SECONDS] [TARGET…]
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler; no nightly compiler. Prints a line a target and ends with
# "N passed, N failed". The input that a target failed on, and what it had to say, is kept below fuzz/artifacts,
# the logs in fuzz/artifacts/logs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=600
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then seconds="$1"; shift; fi
targets=("$@")
if ((${#targets[@]} == 0)); then targets=(adapter_dir safetensors_header gguf recipe rows chat_template); fi

export RUSTC_BOOTSTRAP=1 # the coverage flags of cargo-fuzz on a stable compiler
export HF_HUB_OFFLINE=1
build=(--fuzz-dir fuzz --sanitizer none)
cargo fuzz build "${build[@]}"

# Files of the targets lie in memory where the system has a place for that.
place="${TMPDIR:-/tmp}"
if [[ -d /dev/shm && -w /dev/shm ]]; then place=/dev/shm; fi
work="$(mktemp -d "$place/lorakit-fuzz.XXXXXX")"
trap 'rm -rf "$work"' EXIT
export TMPDIR="$work"

passed=0 failed=0
for target in "${targets[@]}"; do
  mkdir -p "$work/found" "fuzz/artifacts/$target" fuzz/artifacts/logs
  log="fuzz/artifacts/logs/$target.txt"
  limits=(-max_total_time="$seconds" -rss_limit_mb=2048 -timeout=60 -max_len=65536 -print_final_stats=1)
  # What is found on the way goes into the first folder, so that the seeds stay as they are.
  if cargo fuzz run "${build[@]}" "$target" "$work/found" "fuzz/corpus/$target" -- "${limits[@]}" >"$log" 2>&1 </dev/null; then
    passed=$((passed + 1)) verdict=passed
  else
    failed=$((failed + 1)) verdict="FAILED, see $log"
  fi
  runs="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)"
  printf '%-20s %12s inputs in %d s: %s\n' "$target" "${runs:-0}" "$seconds" "$verdict"
  rm -rf "$work/found"
done

printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
