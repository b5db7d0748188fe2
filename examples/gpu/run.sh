#!/usr/bin/env bash
# Everything that wants a GPU, in one command, results in the folder given (default runs/gpu):
#   OUT=runs/gpu bash examples/gpu/run.sh
# 1. float32, bfloat16, flash attention, 8 and 4 bits and gradients against the CPU; 2. speed at the size of Mistral-7B
# with random weights: the phases of an answer at rates 4, 16 and 32 with SDPA and, where installed, flash attention;
# stage 1 with the base in bfloat16 and, where bitsandbytes is installed, in 8 and 4 bits; the ways to answer beside text
# RAG; 64 callers at once. Needs torch with CUDA, this project's packages, and 15 GB for a while in TMPDIR.
#   DRY=1 bash examples/gpu/run.sh      # the same commands with a tiny model on the CPU, without the tests: does it run?
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
size=(--preset 7b --device cuda --dtype bfloat16)
if [ -n "${DRY:-}" ]; then
  size=(--preset 58m --device cpu --dtype float32 --hidden 64 --layers 2 --intermediate 128 --new-tokens 4 --threads 1)
else
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$OUT/machine.txt"
  "$PYTHON" -m pytest -m gpu tests/clara_model/test_gpu.py -o addopts= -rs 2>&1 | tee "$OUT/tests.txt"
fi
bench=("$PYTHON" examples/benchmarks/inference.py "${size[@]}" --rates 4 16 32)
"${bench[@]}" --json "$OUT/speed_sdpa.json" | tee "$OUT/speed_sdpa.txt"
if "$PYTHON" -c "import flash_attn" 2>/dev/null && [ -z "${DRY:-}" ]; then
  "${bench[@]}" --attn flash_attention_2 --json "$OUT/speed_flash.json" | tee "$OUT/speed_flash.txt"
else
  echo "flash-attn is not installed, or this is a dry run: its run was left out" | tee "$OUT/speed_flash.txt"
fi
base=$(mktemp -d)
trap 'rm -r "$base"' EXIT
"$PYTHON" examples/benchmarks/random_base.py "$base" "${size[@]}"
train=("$PYTHON" examples/benchmarks/training.py "$base" --stages pretrain --bf16 --rows 16 --micro 8)
"${train[@]}" | tee "$OUT/training.txt"
for kind in int8 int4; do
  "$PYTHON" -c "import bitsandbytes" 2>/dev/null || { echo "bitsandbytes is not installed: 8 and 4 bits were left out"; break; }
  "${train[@]}" --quantization "$kind" | tee "$OUT/training_$kind.txt"
done
"$PYTHON" examples/benchmarks/rag.py "${size[@]}" --json "$OUT/rag.json" | tee "$OUT/rag.txt"
"$PYTHON" examples/benchmarks/serving.py "${size[@]}" --json "$OUT/serving.json" | tee "$OUT/serving.txt"
