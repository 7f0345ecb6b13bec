#!/usr/bin/env bash
# The first thing to run wherever a GPU is at hand: golden cases, speed, memory and losses beside PEFT, decoding, within eight
# minutes after the build. Goes on after a failed stage; what it found is one JSON file, whatever happens. Exit code 1 if a stage
# failed, 2 if it could not begin.
#
#   scripts/gpu.sh [--binary PATH] [--out FILE] [--seconds N] [--cpu]
#
# --binary  a lorakit built elsewhere with `--features cuda` (default: $LORAKIT, else it is built here, which cargo and nvcc do)
# --out     the JSON (default: runs/gpu.json)
# --seconds what all stages may take together (default: 480); those that no longer fit are listed as left out
# --cpu     every stage on the CPU with tiny sizes, to try the script itself; its ratios say nothing
#
# PYTHON names a Python (default: python3); with torch, transformers and peft it makes the models and is compared with. No network.
set -euo pipefail
start="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
binary="${LORAKIT:-}" out="" seconds=480 cpu=() python="${PYTHON:-python3}"

# stop WHAT: nothing was measured.
stop() {
  echo "scripts/gpu.sh: $1" >&2
  exit 2
}

while (($#)); do
  case "$1" in
    --cpu) cpu=(--cpu) ;;
    --binary | --out | --seconds)
      (($# > 1)) || stop "$1 wants a value"
      case "$1" in
        --binary) binary="$2" ;;
        --out) out="$2" ;;
        --seconds) seconds="$2" ;;
      esac
      shift
      ;;
    *) stop "what is '$1'? [--binary PATH] [--out FILE] [--seconds N] [--cpu]" ;;
  esac
  shift
done
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || stop "--seconds $seconds is no whole number above 0"

# Names that were given hold where the script was called.
from_start() {
  case "$1" in
    /*) echo "$1" ;;
    *) echo "$start/$1" ;;
  esac
}
out="$(from_start "${out:-$PWD/runs/gpu.json}")"

command -v "$python" >/dev/null || stop "there is no $python: set PYTHON"
command -v timeout >/dev/null || stop "there is no timeout (coreutils)"
if ((${#cpu[@]} == 0)); then
  command -v nvidia-smi >/dev/null || stop "there is no nvidia-smi, so no GPU to measure: --cpu tries the script without one"
fi

if [[ -z "$binary" ]]; then
  missing=()
  command -v cargo >/dev/null || missing+=(cargo)
  features=()
  if ((${#cpu[@]} == 0)); then
    features=(--features cuda)
    command -v nvcc >/dev/null || missing+=(nvcc)
  fi
  ((${#missing[@]} == 0)) || stop "no --binary, and it cannot be built here: there is no ${missing[*]}"
  cargo build --release "${features[@]}"
  binary="${CARGO_TARGET_DIR:-$PWD/target}/release/lorakit"
else
  binary="$(from_start "$binary")"
fi
[[ -x "$binary" ]] || stop "$binary is no program"

exec "$python" scripts/gpu/suite.py --binary "$binary" --out "$out" --seconds "$seconds" "${cpu[@]}"
