#!/usr/bin/env bash
# Runs `lorakit conform` over the golden cases of ../shared/golden whose families are supported, by name.
# Closes with "N passed, N failed" in cases.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lorakit="${LORAKIT:-${CARGO_TARGET_DIR:-target}/release/lorakit}"
golden="${GOLDEN:-../shared/golden}"
# Every case of these families.
cases=(
  models/llama models/llama3 models/qwen2 models/gpt2
  adapters/llama/{plain,rslora,dora,dora_rslora_all,pattern,layers,regex,all_linear,mts_lm_head}
  adapters/qwen2/{plain,rslora,layers}
  adapters/gpt2/{plain,dora,pattern,all_linear,mts_lm_head}
)
if [[ ! -d "$golden" ]]; then
  echo "$golden is not there" >&2
  echo "0 passed, ${#cases[@]} failed"
  exit 1
fi
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
status=0
"$lorakit" conform "${cases[@]/#/$golden/}" | tee "$log" || status=$?
pass="$(sed -n 's/^\([0-9]*\) of [0-9]* cases pass$/\1/p' "$log")"
echo "${pass:-0} passed, $((${#cases[@]} - ${pass:-0})) failed"
exit "$status"
