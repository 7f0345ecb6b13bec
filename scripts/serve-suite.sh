#!/usr/bin/env bash
# Test programs of others against `lorakit serve`: the openai client, prometheus-client, schemathesis and lm-eval, each in a
# process that starts the servers it needs on free ports and ends them. Closes with "N passed, N failed".
#
# LORAKIT: the binary. LORAKIT_REAL_MODEL: SmolLM2-135M-Instruct as GGUF, fetched where it is not set (98 MB).
# LORAKIT_VENV: where the programs are installed by pip, once. ONLY: a regular expression, to take some of the checks only.
# SCHEMATHESIS_CASES, LORAKIT_TORCH, LORAKIT_REAL_HF: see tests/serve/{schemathesis,lm_eval}_check.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lorakit="${LORAKIT:-${CARGO_TARGET_DIR:-target}/release/lorakit}"
venv="${LORAKIT_VENV:-target/serve-venv}"
packages=(
  openai==3.57.0 pydantic==2.14.4 'lm-eval[api]==0.4.13' schemathesis==4.32.5 prometheus-client==0.26.0
  numpy==2.4.6 safetensors==0.8.0 tokenizers==0.23.3
)

if [[ "$(cat "$venv/installed" 2>/dev/null)" != "${packages[*]}" ]]; then
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
  printf '%s\n' "${packages[*]}" >"$venv/installed"
fi
export LORAKIT PYTHONDONTWRITEBYTECODE=1
LORAKIT="$(realpath "$lorakit")"
if [[ -z "${LORAKIT_REAL_MODEL:-}" && lm_eval =~ ${ONLY:-} ]]; then
  models="${XDG_CACHE_HOME:-$HOME/.cache}/lorakit-ci/smollm2"
  scripts/fetch-smollm2.sh "$models"
  export LORAKIT_REAL_MODEL="$models/SmolLM2-135M-Instruct.Q4_1.gguf"
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
passed=0 failed=0
for check in openai_suite metrics_check schemathesis_check lm_eval_check; do
  [[ "$check" =~ ${ONLY:-} ]] || continue
  printf '== %s\n' "$check"
  status=0
  # The sums of a part are told in the last line alone, so that whoever reads them counts none twice.
  "$venv/bin/python" "tests/serve/$check.py" 2>&1 | tee "$log" | grep -vE '^[0-9]+ passed, [0-9]+ failed$' || status="${PIPESTATUS[0]}"
  read -r p f < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1) || { p=0 f=1; }
  if ((status != 0 && f == 0)); then f=1; fi
  passed=$((passed + p)) failed=$((failed + f))
done
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
