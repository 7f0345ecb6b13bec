#!/usr/bin/env bash
# Kills a training run at random moments with SIGKILL, goes on with --resume, and compares what comes out in the end with
# an undisturbed run: SHA-256 of the adapter (best and last) and the loss of every step and evaluation. Dropout, packing,
# accumulation and evaluations are on; half of the runs have no dropout, so that both ways to gradients are covered.
#
#   scripts/kill-test.sh [N]           N kills (default 100), on the tiny model of the repository
#   scripts/kill-test.sh [N] --real    on the quickstart's model and data, shortened
#   scripts/kill-test.sh --every       instead before each write, fsync, rename and removal of a short run, one after the
#                                      other, on the tiny model (needs strace)
#
# SEED=1 chooses the moments. Closes with "N passed, N failed"; exit code 1 if anything failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lorakit="${LORAKIT:-${CARGO_TARGET_DIR:-target}/release/lorakit}"
kills=100 real=0 every=0
for argument in "$@"; do
  case "$argument" in
    --real) real=1 ;;
    --every) every=1 ;;
    *) kills="$argument" ;;
  esac
done
RANDOM="${SEED:-1}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 wrap=()

if ((real)); then
  recipe=recipes/quickstart.toml
  set=(train.steps=8 train.accumulate=3 train.batch_size=1 train.packing=true train.max_length=192 train.eval_every=3
    train.save_every=2 'data.heldout={ path = "recipes/data/ticket-triage/heldout.jsonl", limit = 8 }' eval.limit=4
    eval.max_new_tokens=24)
else
  recipe=tests/data/tiny/recipe.toml
  set=(train.steps=25 train.accumulate=3 train.batch_size=2 train.packing=true train.eval_every=4 train.save_every=1
    eval.exact_match=true eval.max_new_tokens=100)
fi

if ((every)); then set+=(train.steps=5); fi

# train OUT DROPOUT [ARGUMENT...]: under $wrap, if that is set. Replaces the shell that calls it, so that its process is the one to kill.
train() {
  local out="$1" dropout="$2" args=()
  shift 2
  for pair in "${set[@]}"; do args+=(--set "$pair"); done
  exec "${wrap[@]}" "$lorakit" train "$recipe" --out "$out" "${args[@]}" --set "adapter.dropout=$dropout" "$@" >>"$out.log" 2>&1
}

# result OUT: what must not depend on how often the run was killed.
result() {
  (cd "$1" && sha256sum adapter_model.safetensors && if [[ -e last ]]; then sha256sum last/adapter_model.safetensors; fi)
  grep -E '"event":"(step|eval)"' "$1/events.jsonl" | sed -E 's/"seconds":[^,}]*//'
}

# judge OUT DROPOUT WHAT: compares a run that has ended with the undisturbed one, and removes it.
judge() {
  if [[ "$(result "$1")" == "$(result "$work/whole-$2")" ]]; then
    passed=$((passed + 1))
    echo "ok    $3"
  else
    failed=$((failed + 1))
    echo "FAIL  $3: see $1.log"
    tail -n 5 "$1.log"
    trap - EXIT
    return
  fi
  rm -rf "$1" "$1.log"
}

# now: milliseconds.
now() {
  echo $(($(date +%s%N) / 1000000))
}

declare -A milliseconds
for dropout in 0.1 0.0; do
  began="$(now)"
  (train "$work/whole-$dropout" "$dropout") || { cat "$work/whole-$dropout.log" && exit 1; }
  milliseconds[$dropout]=$(($(now) - began))
  echo "undisturbed, dropout $dropout: $(sha256sum <"$work/whole-$dropout/adapter_model.safetensors" | cut -c1-16)… in ${milliseconds[$dropout]} ms"
done

# Kills before the n-th call of a kind, for n = 1, 2, … until a run gets through without.
if ((every)); then
  for call in write fsync rename unlink; do
    for ((n = 1; ; n++)); do
      out="$work/$call-$n" status=0
      wrap=(strace -f -o /dev/null -e "trace=/^$call" -e "inject=/^$call:signal=KILL:when=$n")
      { (train "$out" 0.1) || status=$?; } 2>/dev/null # the shell would report the kill
      wrap=()
      if ((status == 0)); then break; fi
      if ((status != 137)); then cat "$out.log" && exit 1; fi
      (train "$out" 0.1 --resume) || true
      judge "$out" 0.1 "killed before $call $n"
    done
    echo "$call: $((n - 1)) calls"
  done
  echo "$passed passed, $failed failed"
  ((failed == 0))
  exit
fi

done_kills=0 run=0
while ((done_kills < kills)); do
  run=$((run + 1)) dropout=0.1 chain=0 status=0
  if ((run % 2 == 0)); then dropout=0.0; fi
  out="$work/cut-$run"
  # A run is killed up to three times on its way.
  while ((chain < 3 && done_kills < kills)); do
    delay=$((RANDOM * milliseconds[$dropout] / 32768))
    (train "$out" "$dropout" --resume) &
    pid=$! status=0
    sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || status=$?
    if ((status == 0)); then break; fi
    if ((status != 137)); then
      echo "exit code $status:" && tail -n 5 "$out.log"
      failed=$((failed + 1))
      break
    fi
    chain=$((chain + 1)) done_kills=$((done_kills + 1))
  done
  if ((chain == 0)); then
    rm -rf "$out" "$out.log"
    continue
  fi
  (train "$out" "$dropout" --resume) || true
  judge "$out" "$dropout" "run $run (dropout $dropout): killed $chain times, $done_kills in all"
done

echo "$done_kills kills"
echo "$passed passed, $failed failed"
((failed == 0))
