#!/usr/bin/env bash
# Everything that wants a GPU, in one command, results in the folder given (default runs/gpu):
#   OUT=runs/gpu bash examples/gpu/run.sh
# 1. float32, bfloat16, flash attention and gradients against the CPU; 2. speed at the size of Mistral-7B with random
# weights at rates 4, 16 and 32, SDPA and, where installed, flash attention. Needs torch with CUDA and this project's packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$OUT/machine.txt"
"$PYTHON" -m pytest -m gpu tests -o addopts= -rs 2>&1 | tee "$OUT/tests.txt"
bench=("$PYTHON" examples/benchmarks/inference.py --preset 7b --device cuda --dtype bfloat16 --rates 4 16 32)
"${bench[@]}" --json "$OUT/speed_sdpa.json" | tee "$OUT/speed_sdpa.txt"
if "$PYTHON" -c "import flash_attn" 2>/dev/null; then
  "${bench[@]}" --attn flash_attention_2 --json "$OUT/speed_flash.json" | tee "$OUT/speed_flash.txt"
else
  echo "flash-attn is not installed: its run was left out" | tee "$OUT/speed_flash.txt"
fi
