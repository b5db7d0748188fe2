"""The published scripts' words: stages, defaults by stage, other names of a setting, flags that mean nothing here.

Sources: the published scripts and their parser (ml-clara commit 857c3cf) and paper section 4; where the two differ, the
setting's help says so.
"""

from __future__ import annotations

from typing import Any

from clara_model.checkpoint.config import PUBLISHED_STAGES

STAGES = tuple(PUBLISHED_STAGES.values())
SCHEDULERS = ("cosine", "cosine_with_min_lr", "linear", "constant")

STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "learning_rate": 1e-4,
        "max_len": 2048,
        "train_batch_size": 128,
        "generation_top_k": 1,
        "mse_loss": True,
        "lr_scheduler": "cosine_with_min_lr",
    },
    "instruct": {
        "learning_rate": 1e-4,
        "max_len": 2048,
        "train_batch_size": 128,
        "generation_top_k": 5,
        "mse_loss": True,
        "lr_scheduler": "cosine_with_min_lr",
    },
    "end_to_end": {
        "learning_rate": 5e-6,
        "max_len": 1024,
        "train_batch_size": 32,
        "generation_top_k": 5,
        "mse_loss": False,
        "lr_scheduler": "constant",
    },
}

ALIASES = {
    "base_model": "pretrain",
    "resume": "load_checkpoint",
    "per_device_train_batch_size": "micro_train_batch_size",
    "num_train_epochs": "max_epochs",
    "lr_scheduler_type": "lr_scheduler",
    "warmup_ratio": "lr_warmup_ratio",
    "weight_decay": "l2",
    "max_grad_norm": "max_norm",
    "save_total_limit": "max_ckpt_num",
    "dataloader_num_workers": "dataloader_workers",
    "activation_checkpointing": "gradient_checkpointing",
    "run_name": "wandb_run_name",
}
"""Other names of a setting: this project's own and those of `transformers.TrainingArguments`."""

MEANINGLESS = {
    "ds_tensor_parallel_size": "weights are split by ZeRO (--zero_stage), not by tensor parallelism",
    "use_ms": "models come from a folder or the Hugging Face hub",
    "pure_inference": "it is decided by what is called: clara-train trains, clara answers",
    "max_ckpt_mem": "checkpoints are bounded by number (--max_ckpt_num)",
    "pretrain_mode": "the stage decides the loss",
    "disable_fast_tokenizer": "only fast tokenizers are used",
    "stage2_mips": "each row brings its candidates; for rows that have none, take them from a store before the run: "
    "clara-data retrieve FILE --store FOLDER --model CHECKPOINT --out NEW_FILE",
}
"""Published flags that are read and named, and change nothing; with the reason."""

NOT_BUILT = {
    "stage2_reasoning": "the multi-hop stage (its methods are missing in the published code too)",
}
"""Published stages that cannot be run."""
