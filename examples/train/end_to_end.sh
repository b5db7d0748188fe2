#!/usr/bin/env bash
# Stage 3: rank up to 20 candidates and answer, from the answer's loss alone; the compressor is frozen.
#   DATA=end_to_end_data.jsonl GPUS=8 examples/train/end_to_end.sh
# The query reasoner may be warmed up on rows with pos_index first: add --pretrain_retrieval and another save_path.
. "$(dirname "$0")/common.sh"
: "${DATA:?set DATA to a file or folder of questions with candidates}"

clara_train --stage end_to_end --pretrain_checkpoint "$OUT/instruct" --dataset "$DATA" --save_path "$OUT/end_to_end" \
  --generation_top_k 5 --stage2_retrieval_top_n 20 \
  --train_batch_size 32 --micro_train_batch_size 2 --learning_rate 5e-6 --lr_scheduler constant --max_epochs 1 \
  --max_len 1024 --zero_stage 2 --bf16 --flash_attn --gradient_checkpointing \
  --save_steps 500 --load_checkpoint
