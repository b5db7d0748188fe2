"""Stopped runs: resumed ones equal those left alone, bit for bit; a half-written checkpoint is never chosen."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_rows
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from clara_model.checkpoint import files
from clara_model.errors import ClaraError
from trainers.training import checkpointing
from trainers.training.run import train
from trainers.training.run_record import RunRecord, bound_settings
from trainers.training.stages import starting_model
from trainers.training.train_config import SETTINGS, TrainConfig

HERE = Path(__file__).parent


def settings(base: Path, rows: Path, folder: Path, **values: object) -> dict[str, object]:
    """Two epochs of three steps, dropout on, a checkpoint every second step."""
    values = {"max_epochs": 2, "save_steps": 2, "max_ckpt_num": 2, **values}
    config = training_rows.config("pretrain", folder, pretrain=base, dataset=rows, **values)
    return {"stage": "pretrain", **{name: config.to_dict()[name] for name in config.given if name != "given"}}


def run(values: dict[str, object], **more: object) -> Path:
    values = {**values, **more}
    return train(TrainConfig.for_stage(str(values.pop("stage")), **values))


def run_until_killed(values: dict[str, object], folder: Path, what: str, step: int) -> None:
    """In a process of its own, which dies by SIGKILL."""
    path = folder / f"{what}{step}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "killed_run.py"), str(path), what, str(step)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def figures(folder: Path) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = ("step", "loss", "grad_norm", "learning_rate", "lm_loss", "alignment_loss")
    return [tuple(line[name] for name in names) for line in lines if "loss" in line]


def assert_same_run(first: Path, second: Path) -> None:
    assert figures(first) == figures(second)
    one, other = (load_file(folder / "adapters.safetensors") for folder in (first, second))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def left_alone(base_folder: Path, stage1_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(settings(base_folder, stage1_file, tmp_path_factory.mktemp("alone")))


@pytest.mark.slow
@pytest.mark.parametrize(("what", "step", "newest"), [("step", 5, 4), ("save", 4, 2)])
def test_a_killed_run_resumes_bit_identically(
    what: str, step: int, newest: int, left_alone: Path, base_folder: Path, stage1_file: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    values = settings(base_folder, stage1_file, folder)
    run_until_killed(values, tmp_path, what, step)
    chosen = checkpointing.newest_checkpoint(folder)
    assert chosen is not None and chosen.name == f"checkpoint-{newest}"
    if what == "save":
        assert (folder / checkpointing.PARTIAL / "checkpoint-4").is_dir(), "it died in the middle"
        assert not (folder / "checkpoint-4").exists()
    run(values, load_checkpoint=True)
    assert_same_run(left_alone, folder)
    assert not (folder / checkpointing.PARTIAL).exists()
    assert [f.name for f in checkpointing.whole_checkpoints(folder)] == ["checkpoint-4", "checkpoint-6"]


def test_every_checkpoint_resumes_bit_identically(
    left_alone: Path, base_folder: Path, stage1_file: Path, tmp_path: Path
):
    """From the middle of an epoch and from its end, in one process."""
    values = settings(base_folder, stage1_file, tmp_path, save_steps=1, max_ckpt_num=6)
    run(values)
    assert_same_run(left_alone, tmp_path)
    for step in (1, 3, 5):
        for later in range(step + 1, 7):
            shutil.rmtree(tmp_path / f"checkpoint-{later}")
        run(values, load_checkpoint=True)
        assert_same_run(left_alone, tmp_path)


def test_an_earlier_runs_folder_is_not_overwritten_by_accident(left_alone: Path, base_folder: Path, stage1_file: Path):
    with pytest.raises(ClaraError, match=r"checkpoint-6 of an earlier run; pass --load_checkpoint"):
        run(settings(base_folder, stage1_file, left_alone))


def test_a_folder_has_one_run_at_a_time(
    base_folder: Path, stage1_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A launcher that is killed alone leaves its run going; both would write the same checkpoints."""
    values = settings(base_folder, stage1_file, tmp_path / "run", ckpt_path=str(tmp_path / "way"), max_steps=1)
    refused = []

    class Second(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            for other in ({"save_path": str(tmp_path / "other")}, {"ckpt_path": str(tmp_path / "other")}):
                with pytest.raises(ClaraError, match=r"another run is writing into .*(run|way); wait for it, stop it"):
                    run(values, **other)
                refused.append(other)

    monkeypatch.setattr("trainers.training.callbacks.Progress", Second)
    run(values)
    assert len(refused) == 2
    assert (tmp_path / "run" / "adapters.safetensors").is_file() and not list(tmp_path.rglob(".lock"))


def test_nothing_to_resume_from_starts_at_the_beginning(
    left_alone: Path, base_folder: Path, stage1_file: Path, tmp_path: Path
):
    run(settings(base_folder, stage1_file, tmp_path), load_checkpoint=True)
    assert_same_run(left_alone, tmp_path)


def test_checkpoints_may_lie_elsewhere(base_folder: Path, stage1_file: Path, tmp_path: Path):
    run(settings(base_folder, stage1_file, tmp_path / "model", ckpt_path=str(tmp_path / "way")))
    assert (tmp_path / "model" / "adapters.safetensors").is_file()
    assert [f.name for f in checkpointing.whole_checkpoints(tmp_path / "way")] == ["checkpoint-4", "checkpoint-6"]
    assert not checkpointing.whole_checkpoints(tmp_path / "model")


@pytest.mark.parametrize("place", ["adapters", "optimizer"])
def test_a_full_disk_is_one_error_and_loses_nothing(
    place: str, base_folder: Path, stage1_file: Path, left_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    values = settings(base_folder, stage1_file, tmp_path)
    write, save, calls = files.write, torch.save, []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def writing(state: files.Checkpoint, folder: Path) -> None:
        calls.append(folder)
        full() if place == "adapters" and len(calls) == 2 else write(state, folder)

    def saving_tensors(state: object, path: object, **more: object) -> None:
        if place == "optimizer" and "checkpoint-4" in str(path):  # what torch raises on a full disk
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
        save(state, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", writing)
        patch.setattr(torch, "save", saving_tensors)
        with pytest.raises(
            ClaraError, match=r"checkpoint 4 could not be written .*; \d+ MiB are free.*checkpoint-2: make room"
        ):
            run(values)
    assert [f.name for f in checkpointing.whole_checkpoints(tmp_path)] == ["checkpoint-2"]
    assert not (tmp_path / checkpointing.PARTIAL).exists()
    run(values, load_checkpoint=True)
    assert_same_run(left_alone, tmp_path)


DIFFERENT = [
    ({"learning_rate": 2e-2}, "learning_rate was 0.01, now 0.02; pass --new_learning_rate"),
    ({"l2": 0.1}, "l2 was 0.0, now 0.1"),
    ({"seed": 7}, "seed was 42, now 7"),
    ({"train_batch_size": 4}, "train_batch_size was 8, now 4"),
    ({"lr_scheduler": "linear"}, "lr_scheduler was 'cosine_with_min_lr', now 'linear'"),
    ({"optim": "sgd"}, "optim was 'not given', now 'sgd'"),
    ({"bf16": True}, "bf16 was False, now True"),
]


@pytest.mark.parametrize(("change", "message"), DIFFERENT)
def test_a_resume_that_would_change_the_result_is_refused(
    change: dict, message: str, left_alone: Path, base_folder: Path, stage1_file: Path
):
    with pytest.raises(ClaraError, match=f"holds another run: {message}"):
        run(settings(base_folder, stage1_file, left_alone), load_checkpoint=True, **change)


def test_another_stages_finished_run_is_no_start(
    left_alone: Path, pretrained: Path, questions_file: Path, base_folder: Path
):
    """It used to end after 0 steps and save a mixture."""
    values = settings(base_folder, questions_file, left_alone, pretrain_checkpoint=pretrained)
    sizes = ("pretrain", "compress_rate", "doc_max_length", "lora_rank")
    values = {name: value for name, value in values.items() if name not in sizes}
    with pytest.raises(ClaraError, match=r"holds another run: .*stage was 'pretrain', now 'instruct'"):
        run({**values, "stage": "instruct"}, load_checkpoint=True)


def test_other_data_and_another_base_are_refused_and_moved_ones_are_not(
    left_alone: Path, base_folder: Path, stage1_file: Path, tmp_path: Path
):
    moved = tmp_path / "moved.jsonl"
    shutil.copy(stage1_file, moved)
    shutil.copytree(base_folder, tmp_path / "base")
    shutil.copytree(left_alone, tmp_path / "run")
    values = settings(tmp_path / "base", moved, tmp_path / "run")
    run(values, load_checkpoint=True, logging_steps=2, micro_train_batch_size=2, save_steps=5, eval_dataset=moved)
    moved.write_text(moved.read_text() + moved.read_text().splitlines()[0] + "\n")
    with pytest.raises(ClaraError, match=r"the training data is other than it was \(\w{16} then, \w{16} now\)"):
        run(values, load_checkpoint=True)


def test_a_new_rate_is_asked_for_by_name(left_alone: Path, base_folder: Path, stage1_file: Path, tmp_path: Path):
    shutil.copytree(left_alone, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    values = settings(base_folder, stage1_file, tmp_path / "run")
    before = {line[0]: line[3] for line in figures(left_alone)}
    for _ in range(2):  # asked for again, it is the rate already
        run(values, load_checkpoint=True, new_learning_rate=5e-3)
        after = {line[0]: line[3] for line in figures(tmp_path / "run")}
        for step in (1, 2, 3, 4):
            assert after[step] == before[step]
        for step in (5, 6):
            assert after[step] == pytest.approx(before[step] / 2)
        shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    rates = json.loads((tmp_path / "run" / "run.json").read_text())["rates"]
    assert rates == [{"step": 0, "learning_rate": 0.01}, {"step": 4, "learning_rate": 0.005}]


@pytest.mark.parametrize("damage", ["optimizer.pt", "scheduler.pt", "gone"])
def test_a_damaged_checkpoint_is_one_sentence(
    damage: str, left_alone: Path, base_folder: Path, stage1_file: Path, tmp_path: Path
):
    folder = shutil.copytree(left_alone, tmp_path / "run")
    values = settings(base_folder, stage1_file, folder)
    if damage == "gone":
        (folder / "run.json").unlink()
        message = r"has checkpoints but no run\.json, .*--pretrain_checkpoint .*checkpoint-6"
    else:
        state = folder / "checkpoint-6" / damage
        state.write_bytes(state.read_bytes()[:700])
        message = rf"checkpoint-6/{damage} cannot be read .*; remove .*checkpoint-6 to go on from the checkpoint before"
    with pytest.raises(ClaraError, match=message):
        run(values, load_checkpoint=True)


def test_a_key_is_not_written_down(base_folder: Path, stage1_file: Path, tmp_path: Path):
    config = training_rows.config(
        "pretrain", tmp_path, pretrain=base_folder, dataset=stage1_file, use_wandb="secret-key"
    )
    record = RunRecord.of(config, [], starting_model(config, "cpu"))
    record.write(tmp_path)
    assert "secret-key" not in (tmp_path / "run.json").read_text() and record.settings["use_wandb"] == "given"


def test_every_setting_is_bound_or_free_on_purpose():
    """A new setting has to be thought about: does a resumed run with another value give the same result?"""
    free = {
        "pretrain", "pretrain_checkpoint", "prompts", "save_path", "dataset", "dataset_split", "eval_dataset",
        "eval_split", "dataloader_workers", "micro_train_batch_size", "new_learning_rate", "latent_cache",
        "latent_store", "zero_stage", "zero_offload", "flash_attn", "gradient_checkpointing", "use_cpu",
        "save_steps", "save_minutes", "max_ckpt_num", "ckpt_path", "load_checkpoint", "disable_ds_ckpt", "save_hf_ckpt",
        "logging_steps", "eval_steps", "do_eval_gen", "best_metric", "early_stopping", "push_to_hub", "use_tensorboard",
        "use_wandb", "wandb_project", "wandb_org", "wandb_group", "wandb_run_name",
    }  # fmt: skip
    assert set(SETTINGS) - bound_settings() == free
