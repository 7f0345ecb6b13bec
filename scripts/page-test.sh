#!/usr/bin/env bash
# The page of `lorakit serve` in a real browser, on the real model with the shipped adapters. Closes with "N passed, N failed".
#
# LORAKIT: the binary. LORAKIT_REAL_MODEL: SmolLM2-135M-Instruct as GGUF. SHOTS: where screenshots go. Installs Debian's chromium (as
# root) and playwright-core where they are missing, the latter under ${LORAKIT_PLAYWRIGHT:-target/playwright}.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lorakit="$(realpath "${LORAKIT:-${CARGO_TARGET_DIR:-target}/release/lorakit}")"
driver="${LORAKIT_PLAYWRIGHT:-target/playwright}"
shots="${SHOTS:-target/page-shots}"
page="$PWD/tests/page/page.mjs"
mkdir -p "$driver" "$shots"
shots="$(realpath "$shots")"

if ! command -v chromium >/dev/null; then
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q chromium >/dev/null
fi
if [[ ! -d "$driver/node_modules/playwright-core" ]]; then
  (cd "$driver" && npm install --silent --no-audit --no-fund playwright-core@1.64.1 >/dev/null)
fi

work="$(mktemp -d)"
server=
stop() {
  if [[ -n "$server" ]]; then kill "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap stop EXIT
cp -r adapters "$work/adapters"
# A second adapter with other numbers, so that a name has two generations.
cp -r "$work/adapters/unit-notes" "$work/adapters/unit-notes-2"
sed -i 's/"lora_alpha": 16\(\.0\)\?/"lora_alpha": 14.0/' "$work/adapters/unit-notes-2/adapter_config.json"
if cmp -s "$work"/adapters/unit-notes{,-2}/adapter_config.json; then
  echo "the second adapter is the same as the first" >&2
  exit 1
fi
key="$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')"
LORAKIT_ADMIN_KEY="$key" "$lorakit" serve --model "$LORAKIT_REAL_MODEL" --adapters "$work/adapters" \
  --assistants examples/assistants.toml --listen 127.0.0.1:0 2>"$work/log" &
server=$!
for _ in $(seq 100); do
  address="$(sed -n 's/^listening on \(http[^ ]*\).*/\1/p' "$work/log")"
  if [[ -n "$address" ]]; then break; fi
  sleep 0.1
done
status=0
(cd "$driver" && node "$page" "$address" "$shots" --admin-key "$key" --load "pagetest=unit-notes,unit-notes-2") | tee "$work/out" || status=$?
passed="$(grep -c '^ok ' "$work/out" || true)"
printf '%d passed, %d failed\n' "$passed" "$((status != 0))"
exit "$status"
