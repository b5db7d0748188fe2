# Sourced by the stage scripts: how many machines and processes. Set these in the environment.
#   one machine, 8 GPUs      GPUS=8 examples/train/pretrain.sh
#   four machines            NODES=4 NODE_RANK=0 MASTER=first-machine GPUS=8 examples/train/pretrain.sh   (rank 1, 2, 3 on the others)
#   the CPU, 2 at once GPUS=2 EXTRA="--use_cpu --bf16 False --flash_attn False" examples/train/pretrain.sh
set -euo pipefail
: "${NODES:=1}" "${NODE_RANK:=0}" "${MASTER:=127.0.0.1}" "${PORT:=29500}" "${GPUS:=1}" "${EXTRA:=}"
: "${BASE:=mistralai/Mistral-7B-Instruct-v0.2}" "${OUT:=ckpt}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

clara_train() {
  torchrun --nnodes "$NODES" --node_rank "$NODE_RANK" --master_addr "$MASTER" --master_port "$PORT" \
    --nproc_per_node "$GPUS" -m trainers.training.cli "$@" $EXTRA
}
