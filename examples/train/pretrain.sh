#!/usr/bin/env bash
# Stage 1: learn to compress, from question-answer pairs and paraphrases of single documents.
#   DATA=pretrain_data.jsonl GPUS=8 examples/train/pretrain.sh
. "$(dirname "$0")/common.sh"
: "${DATA:?set DATA to a file or folder of stage-1 rows}"

clara_train --stage pretrain --pretrain "$BASE" --dataset "$DATA" --save_path "$OUT/pretrain" \
  --compress_rate 32 --doc_max_length 256 --mse_loss --qa_loss \
  --train_batch_size 128 --micro_train_batch_size 2 --learning_rate 1e-4 --max_epochs 1 --max_len 2048 \
  --zero_stage 2 --bf16 --flash_attn --gradient_checkpointing \
  --save_steps 500 --load_checkpoint
