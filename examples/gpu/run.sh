#!/usr/bin/env bash
# Everything that wants a GPU, in one command, results in the folder given (default runs/gpu):
#   OUT=runs/gpu bash examples/gpu/run.sh
# 1. float32, bfloat16, flash attention, recorded graphs, 8 and 4 bits and gradients against the CPU; 2. at the size of
# Mistral-7B with random weights, by the base's own layers and from recorded graphs (decoding "compiled"): milliseconds
# of a token; first token and whole answer cold, warm, from text, from rerank and text, at rates 16 and 4 with 5 and 20
# documents read; answers a second of 1, 8, 64 and 256 callers, from latents and from text; 3. the phases of an answer
# at rates 4, 16 and 32 with flash attention, where installed; 4. stage 1 with the base in bfloat16 and, where
# bitsandbytes is installed, in 8 and 4 bits. Needs torch with CUDA, this project's packages, and 15 GB in TMPDIR.
#   DRY=1 bash examples/gpu/run.sh      # the same commands with a tiny model on the CPU, without the tests: does it run?
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
size=(--preset 7b --device cuda --dtype bfloat16)
ways=(compiled exact)
callers=(8 64 256)
reads=(5 20)
if [ -n "${DRY:-}" ]; then
  size=(--preset 58m --device cpu --dtype float32 --hidden 64 --layers 2 --intermediate 128 --new-tokens 4 --threads 1)
  size+=(--documents 4 --words 32 --top-k 2)
  ways=(exact)
  callers=(2 4)
  reads=(2 4)
else
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$OUT/machine.txt"
  "$PYTHON" -m pytest -m gpu tests/clara_model/test_gpu.py -o addopts= -rs 2>&1 | tee "$OUT/tests.txt"
fi
run() { # NAME, then a benchmark and its options
  "$PYTHON" "examples/benchmarks/$2.py" "${@:3}" --json "$OUT/$1.json" | tee "$OUT/$1.txt"
}
for way in "${ways[@]}"; do
  run "inference_$way" inference "${size[@]}" --decoding "$way" --rates 4 16 32
  for rate in 16 4; do
    for read in "${reads[@]}"; do
      run "rag_${way}_rate${rate}_read$read" rag "${size[@]}" --decoding "$way" --rate "$rate" --top-k "$read"
    done
  done
  run "serving_$way" serving "${size[@]}" --decoding "$way" --callers "${callers[@]}" --text
done
if "$PYTHON" -c "import flash_attn" 2>/dev/null && [ -z "${DRY:-}" ]; then
  run inference_flash inference "${size[@]}" --attn flash_attention_2 --rates 4 16 32
else
  echo "flash-attn is not installed, or this is a dry run: its run was left out" | tee "$OUT/inference_flash.txt"
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
