#!/usr/bin/env bash
# The loss of each of 30 steps in lorakit and in PEFT: same rows, same initial A and B. PEFT computes in f32; lorakit in f32
# (writes loss_trace.md here) or in bf16 (writes loss_trace_bf16.md).
#
#   benches/vs_peft/loss_trace.sh HFDIR [PYTHON [f32|bf16]]
#
# HFDIR is a Hugging Face directory of the quickstart's base; PYTHON has torch, transformers and peft.
# LORAKIT names the binary (default: target/release/lorakit).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
model=$(cd "$1" && pwd)
python=${2:-python3}
compute=${3:-f32}
lorakit=${LORAKIT:-target/release/lorakit}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
set=()
for s in "base.model='$model'" base.compute=$compute train.steps=30 train.warmup=3 \
    train.eval_every=0 eval.exact_match=false eval.limit=2 eval.samples=0; do
    set+=(--set "$s")
done

"$lorakit" compare run recipes/quickstart.toml "${set[@]}" --out "$work/init"
"$lorakit" train recipes/quickstart.toml "${set[@]}" --out "$work/run" > /dev/null
"$python" "$here/loss_trace.py" --model "$model" --init "$work/init/adapter" \
    --batches "$work/init/batches.json" --out "$work/peft.json"
"$python" "$here/loss_table.py" "$work/run/events.jsonl" "$work/peft.json" "$here/loss_trace$([ "$compute" = f32 ] || echo "_$compute").md" "$compute"
