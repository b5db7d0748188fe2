"""The settings of a training run, one field each, with their place and text in ``--help``. Nothing is checked here.

What `transformers.TrainingArguments` offers beyond the published settings is kept in `Settings.trainer` under its own
names (`PASSED`). `TrainingArguments` itself is not the parent class: its ``train_batch_size`` is a property that its
`Trainer` reads as the rows of one process, while the published ``--train_batch_size`` counts those of all; its
``save_steps`` and ``eval_steps`` have no -1 and -2; and making one starts the process group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainers.published import SCHEDULERS


def _group(name: str, text: str, default: Any = None, **more: Any) -> Any:
    """A field with its place and text in ``--help``; ``default`` None means that the stage decides."""
    metadata = {"group": name, "help": text, **more}
    return field(default=default, metadata=metadata) if default is not None else field(metadata=metadata)


PASSED = (
    "optim optim_args adam_epsilon torch_compile torch_compile_backend torch_compile_mode tf32 full_determinism "
    "torch_empty_cache_steps report_to logging_first_step skip_memory_metrics ddp_timeout "
    "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context per_device_eval_batch_size eval_on_start eval_delay"
).split()
"""Settings of `transformers.TrainingArguments` that work here as everywhere, under their own names."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A training run's fields under their published names; `train_config.TrainConfig` reads and checks them."""

    stage: str = _group(
        "model", "stage to train: pretrain (stage1), instruct (stage1_2) or end_to_end (stage2)", "pretrain"
    )
    pretrain: str = _group("model", "base model, a folder or hub name; needed without pretrain_checkpoint", "")
    pretrain_checkpoint: str = _group("model", "CLaRa checkpoint to start from; needed by instruct and end_to_end", "")
    save_path: str = _group(
        "model", "folder of the trained checkpoint, and of checkpoint-STEP folders during training", "./ckpt"
    )
    keep_generator: bool = _group("model", "instruct: go on with the checkpoint's generator, not a fresh one", False)
    pretrain_retrieval: bool = _group(
        "model", "end_to_end: train only the query reasoner, contrastively, on rows with pos_index", False
    )
    read_text: bool = _group(
        "model", "pretrain: train the generator alone, on the documents as text in its prompt", False
    )

    compress_rate: int = _group("compression and LoRA", "document tokens per memory token, 1 to 256", 32, fresh=True)
    doc_max_length: int = _group("compression and LoRA", "document tokens that are read", 256, fresh=True)
    lora_rank: int = _group("compression and LoRA", "rank of every adapter", 16, fresh=True)
    lora_alpha: int = _group(
        "compression and LoRA", "adapters are scaled by lora_alpha / lora_rank; 0: twice the rank", 0, fresh=True
    )
    lora_targets: tuple[str, ...] = _group(
        "compression and LoRA",
        "linear layers that get adapters, by the last part of their names; none: all of a decoder layer, fused ones "
        "(Phi) as they are",
        (),
        fresh=True,
    )
    lora_dropout: float = _group("compression and LoRA", "dropout on the adapters' input", 0.1)
    residual: str = _group(
        "compression and LoRA", "what latents begin as: none, blocks or anchors (docs/training.md)", "none", fresh=True
    )
    residual_gate: bool = _group(
        "compression and LoRA",
        "states at the memory tokens may enter latents that begin as a residual; False: they do not enter (no pass of "
        "the base model over documents or questions, in training or after), the residual trains alone",
        True,
    )
    ranking: str = _group(
        "compression and LoRA",
        "score of a document: cosine of whole blocks, or late (docs/training.md), which needs anchors",
        "cosine",
        fresh=True,
    )
    memory_positions: str = _group(
        "compression and LoRA",
        "position ids of memory tokens: appended to the text's, or spread over them",
        "appended",
        fresh=True,
    )
    prompts: str = _group(
        "compression and LoRA", "prompts file (JSON), instead of this project's wording or the checkpoint's", ""
    )
    generation_top_k: int = _group("compression and LoRA", "documents the generator reads, and the checkpoint's top_k")

    dataset: tuple[str, ...] = _group("data", "training files (.jsonl, .jsonl.gz) or folders", ())
    dataset_probs: tuple[float, ...] = _group(
        "data", "weights to mix the data sets by; none: each row once per epoch", ()
    )
    dataset_split: str = _group("data", "split of data sets on the hub whose name has none behind a colon", "train")
    eval_dataset: tuple[str, ...] = _group("data", "evaluation files or folders", ())
    eval_split: str = _group("data", "split of evaluation sets on the hub", "train")
    max_samples: int = _group("data", "most rows to use, of each file in proportion", 1_000_000)
    bad_rows: str = _group(
        "data",
        "error: refuse data with rows that the stage cannot learn from; skip: leave them out, counted in the log and "
        "listed in bad_rows.txt",
        "error",
    )
    max_len: int = _group(
        "data", "tokens of prompt and answer; longer answers are cut, questions that leave them no room shortened"
    )
    qa_loss: bool = _group(
        "data", "pretrain: learn all pairs of a row after one prompt; False: each answer after its question", True
    )
    stage2_retrieval_top_n: int = _group(
        "data",
        "end_to_end: candidates per question, gold ones kept; 0: all (published: 1, unused without its index)",
        0,
    )
    shuffle: bool = _group("data", "shuffle rows anew in every epoch", True)
    shuffle_group: int = _group(
        "data", "consecutive rows that stay together when shuffled, e.g. those that share candidates", 1
    )
    shuffle_documents: float = _group(
        "data", "instruct, end_to_end: share of rows whose documents the generator reads in random order", 0.0
    )
    group_by_length: bool = _group(
        "data", "make steps of rows of like length; otherwise only the rows of each step are arranged by length", False
    )
    dataloader_workers: int = _group("data", "worker processes that tokenize ahead", 0)

    mse_loss: bool = _group("loss", "add the alignment loss (pretrain, instruct)")
    mse_weight: float = _group("loss", "weight of the alignment loss", 0.1)
    temperature: float = _group(
        "loss", "temperature of the soft choice of documents and of the contrastive loss (end_to_end)", 0.02
    )
    temperature_start: float = _group(
        "loss", "end_to_end: temperature of the first step, which falls to --temperature by the last; 0: constant", 0.0
    )
    ranking_loss: str = _group(
        "loss",
        "end_to_end: teach the ranking directly too, from gold labels (labels) or from the generator's likelihood of "
        "the answer given each candidate (likelihood)",
        "",
    )
    ranking_warmup: int = _group("loss", "end_to_end: steps at the start in which ranking_loss is the only loss", 0)
    ranking_weight: float = _group("loss", "end_to_end: weight of ranking_loss after its warm-up", 0.0)

    train_batch_size: int = _group("optimization", "rows per step, over all processes")
    micro_train_batch_size: int = _group(
        "optimization", "rows per forward pass of one process; 0: as many as fit a step", 8
    )
    learning_rate: float = _group("optimization", "peak learning rate")
    query_learning_rate: float = _group(
        "optimization", "end_to_end: peak learning rate of the query reasoner; 0: learning_rate", 0.0
    )
    new_learning_rate: float = _group(
        "optimization", "a resumed run goes on at this rate, its schedule in the same shape; 0: as it was", 0.0
    )
    lr_scheduler: str = _group(
        "optimization",
        ", ".join(SCHEDULERS) + "; cosine_with_min_lr ends at a tenth of the rate (paper: cosine to 0; in stage 3 the "
        "published script's constant)",
    )
    lr_warmup_ratio: float = _group(
        "optimization",
        "share of the steps with a rising rate; before a constant one too, unlike the published script",
        0.03,
    )
    max_epochs: int = _group(
        "optimization", "passes over the data (paper and scripts: 1; the published parser's default: 2)", 1
    )
    max_steps: int = _group("optimization", "stop after this many steps; 0: at the end of the data", 0)
    l2: float = _group("optimization", "weight decay", 0.0)
    adam_betas: tuple[float, ...] = _group("optimization", "AdamW's betas", (0.9, 0.95), nargs=2)
    max_norm: float = _group("optimization", "gradients are clipped to this norm; 0: no clipping", 1.0)
    seed: int = _group("optimization", "random seed of weights, order, wordings and dropout", 42)

    zero_stage: int = _group("precision and devices", "DeepSpeed ZeRO stage of a run with several processes", 2)
    zero_offload: str = _group(
        "precision and devices",
        "several processes: keep in the machine's memory, not the GPU's, the optimizer's state and step (optimizer, "
        "ZeRO 1 to 3), or weights too, the frozen base's among them (weights, ZeRO 3)",
        "",
    )
    bf16: bool = _group("precision and devices", "compute in bfloat16", False)
    base_dtype: str = _group(
        "precision and devices",
        "float type of the frozen base: float32, or with bf16 bfloat16 or float16; none: bfloat16 with bf16",
        "",
    )
    quantization: str = _group(
        "precision and devices",
        "keep the frozen base in int8 or int4 (extra quantization; needs bf16)",
        "",
    )
    flash_attn: bool = _group("precision and devices", "use FlashAttention 2", False)
    latent_cache: int = _group(
        "precision and devices",
        "end_to_end: MiB of memory for latents of documents met before, which the frozen compressor need not make "
        "again; 0: make them in every pass",
        1024,
    )
    latent_store: str = _group(
        "precision and devices",
        "end_to_end: folder of a store that keeps these latents on disk too, for sets larger than memory and for later "
        "runs",
        "",
    )
    gradient_checkpointing: bool = _group("precision and devices", "recompute activations in the backward pass", False)
    use_cpu: bool = _group("precision and devices", "train on the CPU even where there is a GPU", False)

    save_steps: int = _group(
        "checkpointing", "steps between checkpoints; -1: as save_minutes says, -2: after every epoch", -1
    )
    save_minutes: float = _group(
        "checkpointing", "minutes between checkpoints where save_steps is -1; 0: only at the end", 30.0
    )
    max_ckpt_num: int = _group("checkpointing", "most checkpoints to keep during training", 3)
    ckpt_path: str = _group("checkpointing", "folder of the checkpoints (default: save_path)", "")
    load_checkpoint: bool = _group("checkpointing", "resume from the newest complete checkpoint", False)
    disable_ds_ckpt: bool = _group(
        "checkpointing", "write nothing to resume from: with save_hf_ckpt weights only, else no checkpoints", False
    )
    save_hf_ckpt: bool = _group(
        "checkpointing", "keep loadable weights in every checkpoint, which is always so but with disable_ds_ckpt", False
    )

    logging_steps: int = _group("logging and evaluation", "steps between log lines", 1)
    eval_steps: int = _group("logging and evaluation", "steps between evaluations; -1: after every epoch", -1)
    do_eval_gen: bool = _group("logging and evaluation", "evaluate by generating: EM, F1, cover-EM", False)
    best_metric: str = _group(
        "logging and evaluation",
        "figure of the evaluation (lm_loss, em, f1, cover_em, recall@1 ..) whose best weights become the trained "
        "checkpoint; none: the last ones",
        "",
    )
    early_stopping: int = _group(
        "logging and evaluation", "end after so many evaluations without a better best_metric; 0: never", 0
    )
    push_to_hub: str = _group(
        "logging and evaluation", "hub repository (OWNER/NAME) that the trained checkpoint is sent to, private", ""
    )
    use_tensorboard: str = _group("logging and evaluation", "folder for tensorboard", "")
    use_wandb: str = _group(
        "logging and evaluation", "Weights & Biases: an API key, or True to use the login that is there", ""
    )
    wandb_project: str = _group("logging and evaluation", "Weights & Biases project", "CLaRa")
    wandb_org: str = _group("logging and evaluation", "Weights & Biases entity: a user or a team", "")
    wandb_group: str = _group("logging and evaluation", "Weights & Biases group of runs", "")
    wandb_run_name: str = _group("logging and evaluation", "name of the run", "")
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of `transformers.TrainingArguments`, those of `PASSED`."""
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """Published flags that were given and mean nothing here."""
    given: frozenset[str] = field(default=frozenset(), repr=False)
    """Names that were set by the caller and not by default."""
