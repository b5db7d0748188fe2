"""A training run from its settings: data, model, trainer, finished checkpoint. `train` is the Python way in."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import transformers

from clara_model.checkpoint import files, hub
from clara_model.errors import ClaraError
from clara_model.inference.published import ClaraModel
from clara_model.modeling.objectives import Objective, TrainingModel
from clara_model.modeling.tokens import Tokens
from clara_model.store.cache import LatentCache, LayeredStore
from clara_model.store.opening import open_store
from trainers import deepspeed_utils, processes
from trainers.data.collator import Collator
from trainers.data.row import Row, unfit
from trainers.data.rows import left_out_of, listed, read_rows
from trainers.data.sampling import TrainingOrder, WithoutFillers
from trainers.evaluation.in_training import EvaluationConfig
from trainers.processes import alone_in, check_shared, check_writable, is_first
from trainers.training import callbacks, checkpointing, compiling, model_card
from trainers.training.latent_reuse import FrozenLatents
from trainers.training.run_record import NAME as RECORD
from trainers.training.run_record import RunRecord
from trainers.training.stages import fetch, on_cpu, starting_model
from trainers.training.train_config import TrainConfig
from trainers.training.trainer import ClaraTrainer

logger = logging.getLogger(__name__)

BAD_ROWS = "bad_rows.txt"
"""Lists what ``--bad_rows skip`` left out, in ``save_path``."""


@dataclass(frozen=True)
class Batches:
    """How a step's rows are split."""

    micro: int
    """Rows of one forward pass."""
    accumulation: int
    """Forward passes of one process in one step."""
    steps: int
    """Optimisation steps of the run."""


def train(config: TrainConfig) -> Path:
    """Train one stage; returns ``save_path``, which holds the trained checkpoint, ready to load.
    Raises `ClaraError`: settings, data or a checkpoint are not usable, the loss is not finite, a checkpoint cannot be
    written, or another run is writing into the same folder; one sentence with the fix.
    """
    for sentence in _idle(config) if is_first() else []:
        logger.warning("%s", sentence)
    folders = {Path(config.save_path), config.checkpoints_path}
    for folder in folders:
        check_writable(folder)
    with alone_in(folders):
        return _train(config)


def _train(config: TrainConfig) -> Path:
    save_path = Path(config.save_path)
    processes.start(on_cpu(config))
    check_shared(config.checkpoints_path)
    resume = _resume_from(config, config.checkpoints_path)
    with processes.one_asks_the_hub():
        fetch(config)
        order, evaluation = training_order(config), _evaluation_set(config)
    batches = split_batches(config, len(order))
    args = training_arguments(config, batches)
    with deepspeed_utils.not_split_at_load(args), processes.from_the_cache():
        model = starting_model(config, "cpu" if deepspeed_utils.splits_weights(args) else args.device)
    rate_change = _recorded(config, order, model, resume)
    if resume is not None:
        model.load_weights(files.read(resume))
    training = TrainingModel(model, objective(config))
    collate = WithoutFillers(collator(config, model.tokens))
    trainer = ClaraTrainer(
        model=training,
        args=args,
        epochs=config.max_epochs,
        rate_change=rate_change,
        frozen=_frozen_latents(config, model, args),
        train_dataset=order.filled(batches.micro * processes.process_count()),
        eval_dataset=evaluation,
        answering=EvaluationConfig(top_k=config.generation_top_k) if config.do_eval_gen else None,
        data_collator=collate,
        query_learning_rate=config.query_learning_rate,
        callbacks=_callbacks(config, training),
    )
    model.train()
    if config.gradient_checkpointing:
        trainer.clara.gradient_checkpointing_enable()
    if compiling.wanted(config.trainer):
        compiling.compile_layers(model.base, config.trainer)
    best = None
    if config.best_metric and config.eval_dataset:
        best = callbacks.BestCheckpoint(trainer, config.best_metric, config.early_stopping)
        trainer.add_callback(best)
    if trainer.args.should_save:
        callbacks.write_preview(order, collate, batches.micro, model.tokens, save_path)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.frozen is not None:
        trainer.frozen.close()
    trainer.save_model(str(save_path))
    if best is not None:
        best.install(save_path)
    if trainer.args.should_save:
        _finish(config, trainer, order)
    return save_path


def _callbacks(config: TrainConfig, training: TrainingModel) -> list[transformers.TrainerCallback]:
    found = [callbacks.Progress(), callbacks.RunRecorder(Path(config.save_path))]
    if config.objective_stage == "end_to_end":
        found += [callbacks.RankingSchedule(training, config), callbacks.RecallWatch()]
    if config.save_steps == -1 and config.save_minutes and not config.no_checkpoints:
        found.append(callbacks.SaveByTime(config.save_minutes))
    return found + callbacks.reporters(config)


def _finish(config: TrainConfig, trainer: ClaraTrainer, order: TrainingOrder) -> None:
    """The card, and the way to the hub: of the checkpoint's own files alone."""
    folder = Path(config.save_path)
    model_card.write(config, trainer.clara.model.config, order.parts, trainer.state.log_history, folder)
    if config.push_to_hub:
        with TemporaryDirectory() as copy:
            for name in (files.CONFIG, files.ADAPTERS, model_card.NAME):
                shutil.copy2(folder / name, copy)
            logger.info("the checkpoint is at %s", hub.upload(Path(copy), config.push_to_hub))


def _idle(config: TrainConfig) -> list[str]:
    """What was asked for and does nothing in this run, on this machine."""
    found = config.idle()
    if config.flash_attn and not config.use_cpu and on_cpu(config):
        found.append("flash_attn does nothing without a GPU")
    if config.zero_offload and processes.process_count() == 1:
        found.append("zero_offload does nothing in a run of one process, which runs without DeepSpeed")
    return found


def training_order(config: TrainConfig) -> TrainingOrder:
    """The run's rows in the order they are trained in."""
    return TrainingOrder(
        _rows(config, config.dataset, config.dataset_split),
        epochs=config.max_epochs,
        seed=config.seed,
        shuffle=config.shuffle,
        group=config.shuffle_group,
        weights=config.dataset_probs,
        limit=config.max_samples,
        step=config.train_batch_size,
        by_length=config.group_by_length,
    )


def _evaluation_set(config: TrainConfig) -> TrainingOrder | None:
    if not config.eval_dataset:
        return None
    return TrainingOrder(_rows(config, config.eval_dataset, config.eval_split), shuffle=False, limit=config.max_samples)


def objective(config: TrainConfig) -> Objective:
    """What the run minimises."""
    return Objective(
        stage=config.objective_stage,
        alignment_weight=config.mse_weight if config.mse_loss and not config.freeze_compressor else 0.0,
        top_k=config.generation_top_k,
        temperature=config.temperature,
        ranking_loss=cast("Literal['', 'labels', 'likelihood']", config.ranking_loss),
        ranking_weight=config.ranking_weight,
        residual_gate=config.residual_gate,
        freeze_compressor=config.freeze_compressor,
    )


def collator(config: TrainConfig, tokens: Tokens) -> Collator:
    """The run's collator."""
    return Collator(
        tokens,
        config.objective_stage,
        top_k=config.generation_top_k,
        max_length=config.max_len,
        candidates=config.stage2_retrieval_top_n,
        joined_pairs=config.qa_loss,
        shuffled=config.shuffle_documents,
        expand_share=config.expand_share,
        singles=config.ranking_loss == "likelihood",
        seed=config.seed,
    )


def _rows(config: TrainConfig, names: Sequence[str], split: str) -> list[Sequence[Row]]:
    parts = [
        read_rows(
            [name],
            prefer_gold=config.stage == "end_to_end",
            split=split,
            unfit=lambda row: unfit(row, config.objective_stage, config.generation_top_k),
            skip_bad=config.bad_rows == "skip",
        )
        for name in names
    ]
    left_out = [one for part in parts for one in left_out_of(part)]
    if left_out and is_first():
        path = Path(config.save_path) / BAD_ROWS
        path.parent.mkdir(parents=True, exist_ok=True)
        known = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []  # a set that is read again
        lines = dict.fromkeys([*known, *(f"{place}: {fault}" for place, fault in left_out)])
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        logger.warning("%d bad rows are left out (%s); %s lists them all", len(left_out), listed(left_out), path)
    return parts


def _resume_from(config: TrainConfig, folder: Path) -> Path | None:
    newest = checkpointing.newest_checkpoint(folder)
    if config.load_checkpoint:
        if newest is None:
            logger.info("no checkpoint in %s yet; starting from the beginning", folder)
        return newest
    if newest is not None:
        said = f"{folder} holds {newest.name} of an earlier run"
        raise ClaraError(f"{said}; pass --load_checkpoint to go on from it, or another save_path")
    return None


def _recorded(config: TrainConfig, order: TrainingOrder, model: ClaraModel, resume: Path | None) -> float:
    """Compare a resumed run with its record and keep the record up to date; returns the change of its learning rate."""
    folder = config.checkpoints_path
    old = RunRecord.read(folder)
    now = RunRecord.of(config, order.parts, model) if is_first() else None
    finished = config.load_checkpoint and (Path(config.save_path) / "config.json").is_file()
    if now is not None and old is not None and (resume or finished):
        old.check(now, folder)
    if resume is None:
        if now is not None:
            now.write(folder)
        return 1.0
    if old is None:
        said = f"{folder} has checkpoints but no {RECORD}, so it cannot be told whether they are this run's"
        raise ClaraError(f"{said}; start a new run with --pretrain_checkpoint {resume}")
    change = old.go_on(checkpointing.step_of(resume), config.new_learning_rate)
    if is_first():
        written, here = checkpointing.processes_of(resume), processes.process_count()
        if written != here:
            said = "%s was written by %d processes, this run has %d: dropout draws other numbers than there"
            logger.warning(said, resume, written, here)
        old.write(folder)
    return change


def _frozen_latents(
    config: TrainConfig, model: ClaraModel, args: transformers.TrainingArguments
) -> FrozenLatents | None:
    """Where latents are kept; nowhere under ZeRO 3, whose processes must make the same passes."""
    split = args.deepspeed is not None and config.zero_stage == 3
    if config.stage != "end_to_end" or not (config.latent_cache or config.latent_store) or split:
        return None
    cache = LatentCache(config.latent_cache * 2**20)
    if not config.latent_store:
        return FrozenLatents(model, cache)
    return FrozenLatents(model, LayeredStore(cache, open_store(config.latent_store, encoding="exact", keep_text=False)))


def split_batches(config: TrainConfig, items: int, process_count: int | None = None) -> Batches:
    """Micro-batches and accumulation for this many processes. Raises `ClaraError`: the batch cannot be split evenly."""
    count = processes.process_count() if process_count is None else process_count
    share, rest = divmod(config.train_batch_size, count)
    if rest or not share:
        rows = f"train_batch_size {config.train_batch_size}"
        raise ClaraError(f"{rows} cannot be split over {count} processes; use a multiple of {count}")
    micro = config.micro_train_batch_size or share
    if "micro_train_batch_size" not in config.given:
        micro = max(size for size in range(1, min(micro, share) + 1) if share % size == 0)
    if share % micro:
        raise ClaraError(
            f"train_batch_size {config.train_batch_size} over {count} processes is {share} rows for each, which is "
            f"no multiple of micro_train_batch_size {micro}; change one of them"
        )
    accumulation = share // micro
    steps = math.ceil(math.ceil(items / (micro * count)) / accumulation)
    return Batches(micro, accumulation, min(steps, config.max_steps) if config.max_steps else steps)


def training_arguments(config: TrainConfig, batches: Batches) -> transformers.TrainingArguments:
    """The settings in `transformers`' words; sets up the process group of a run of several processes."""
    use_cpu, count = on_cpu(config), processes.process_count()
    processes.start(use_cpu)
    scheduler, warmup = config.lr_scheduler, math.ceil(batches.steps * config.lr_warmup_ratio)
    epoch = max(1, math.ceil(batches.steps / config.max_epochs))
    save_steps = epoch if config.save_steps == -2 else config.save_steps
    workers = "dataloader_multiprocessing_context"
    forks = config.dataloader_workers and workers in {one.name for one in fields(transformers.TrainingArguments)}
    defaults: dict[str, Any] = {  # of settings that are passed on under their own names
        "optim": "adamw_torch" if count > 1 else "adamw_torch_fused",
        **({workers: "fork"} if forks else {}),  # else torch says
        "dataloader_pin_memory": not use_cpu,
        "report_to": [],
    }
    passed = {name: value for name, value in config.trainer.items() if name not in compiling.SETTINGS}
    split = deepspeed_utils.configuration(config, batches.micro, batches.accumulation, count)
    args = transformers.TrainingArguments(
        output_dir=str(config.checkpoints_path),
        per_device_train_batch_size=batches.micro,
        gradient_accumulation_steps=batches.accumulation,
        num_train_epochs=1,
        max_steps=batches.steps if config.max_steps else -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if scheduler == "constant" and warmup else scheduler,
        lr_scheduler_kwargs={"min_lr_rate": 0.1} if scheduler == "cosine_with_min_lr" else {},
        warmup_steps=warmup,
        save_strategy="no" if config.save_steps == -1 or config.no_checkpoints else "steps",
        save_steps=save_steps if save_steps > 0 else 500,
        save_total_limit=config.max_ckpt_num,
        eval_strategy="steps" if config.eval_dataset else "no",
        eval_steps=epoch if config.eval_steps == -1 else config.eval_steps,
        logging_strategy="steps",
        logging_steps=config.logging_steps,
        weight_decay=config.l2,
        adam_beta1=config.adam_betas[0],
        adam_beta2=config.adam_betas[1],
        max_grad_norm=config.max_norm,
        seed=config.seed,
        bf16=config.bf16,
        use_cpu=use_cpu,
        deepspeed=split if count > 1 else None,
        logging_nan_inf_filter=False,
        train_sampling_strategy="sequential",  # the order is the data set's own
        remove_unused_columns=False,
        dataloader_num_workers=config.dataloader_workers,
        save_only_model=config.disable_ds_ckpt,
        run_name=config.wandb_run_name or None,
        disable_tqdm=True,
        **(defaults | passed),
    )
    _ = args.device  # starts the process group
    args._n_gpu = min(args._n_gpu, 1)  # one process uses one GPU
    return args
