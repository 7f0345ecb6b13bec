#!/usr/bin/env bash
# Type-checks the CUDA build on a machine without a GPU: brings the compiler of CUDA 13.0 as Python wheels (about 400 MB) into
# a folder of its own and runs `cargo check --features cuda`. Nothing is run on a GPU. Needs python3 with pip; takes minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
keep="${XDG_CACHE_HOME:-$HOME/.cache}/lorakit-ci"
cuda="${LORAKIT_CUDA:-$keep/cuda-13.0}"

if [[ ! -x "$cuda/bin/nvcc" ]]; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  # cudarc refuses 13.5; these five belong together.
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
  for wheel in "$work"/*.whl; do python3 -m zipfile -e "$wheel" "$work/unpacked"; done
  root="$(dirname "$(dirname "$(find "$work/unpacked" -name nvcc -path '*bin*' | head -n 1)")")"
  mkdir -p "$(dirname "$cuda")"
  rm -rf "$cuda"
  cp -r "$root" "$cuda"
  chmod -R u+x "$cuda/bin" "$cuda"/nvvm/bin 2>/dev/null || true
fi

export CUDA_HOME="$cuda" CUDA_PATH="$cuda" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}"
export PATH="$cuda/bin:$PATH" CPLUS_INCLUDE_PATH="$cuda/include:$cuda/include/cccl"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$keep/target-cuda}"
nvcc --version | tail -n 2
cargo check --features cuda
echo "1 passed, 0 failed"
