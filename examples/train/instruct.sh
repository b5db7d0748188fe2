#!/usr/bin/env bash
# Stage 2: answer questions from several compressed documents, with a fresh generator.
#   DATA=instruction_data.jsonl GPUS=8 examples/train/instruct.sh
. "$(dirname "$0")/common.sh"
: "${DATA:?set DATA to a file or folder of questions with documents and written answers}"

clara_train --stage instruct --pretrain_checkpoint "$OUT/pretrain" --dataset "$DATA" --save_path "$OUT/instruct" \
  --generation_top_k 5 --mse_loss \
  --train_batch_size 128 --micro_train_batch_size 2 --learning_rate 1e-4 --max_epochs 1 --max_len 2048 \
  --zero_stage 2 --bf16 --flash_attn --gradient_checkpointing \
  --save_steps 500 --load_checkpoint
