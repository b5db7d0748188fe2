"""Settings whose effect no other test sees: published flags, rates of their own, the schedule's floor, the splits."""

import json
import os
from pathlib import Path

import pytest
import torch
import training_rows
from safetensors.torch import load_file

from clara_model import ClaraModel
from trainers.training import run
from trainers.training.callbacks import reporters
from trainers.training.cli import build_parser
from trainers.training.stages import starting_model
from trainers.training.train_config import MEANINGLESS, SETTINGS, TrainConfig


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", MEANINGLESS)
def test_a_published_flag_without_meaning_here_is_read_and_named(name: str):
    for words in ([f"--{name}"], [f"--{name}", "2"]):
        values = vars(build_parser().parse_args(words))
        (sentence,) = TrainConfig.for_stage("pretrain", pretrain="base", dataset="a.jsonl", **values).idle()
        assert sentence == f"--{name} means nothing here ({MEANINGLESS[name]}); it is ignored"


@pytest.mark.parametrize("weights", [False, True])
def test_a_run_may_write_nothing_to_resume_from(weights: bool, base_folder: Path, stage1_file: Path, tmp_path: Path):
    """``--disable_ds_ckpt``: no checkpoints on the way; with ``--save_hf_ckpt`` loadable weights alone."""
    values = {"pretrain": base_folder, "dataset": stage1_file, "save_steps": 1, "max_ckpt_num": 9}
    run.train(training_rows.config("pretrain", tmp_path, **values, disable_ds_ckpt=True, save_hf_ckpt=weights))
    found = sorted(folder.name for folder in tmp_path.glob("checkpoint-*"))
    assert found == (["checkpoint-1", "checkpoint-2", "checkpoint-3"] if weights else [])
    assert not list(tmp_path.rglob("optimizer.pt"))
    for folder in [tmp_path / name for name in found] or [tmp_path]:
        assert ClaraModel.from_pretrained(folder, device="cpu").config.stage == "pretrain"


def test_splits_of_data_sets_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name: str, split: str) -> object:
        asked.append((name, split))
        return datasets.Dataset.from_list([{"question": "q", "docs": ["d"], "answer": "a"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    values = {"dataset": ["owner/rows", "owner/more:small"], "dataset_split": "validation"}
    config = training_rows.config(
        "instruct", tmp_path, pretrain_checkpoint="c", **values, eval_dataset="owner/rows", eval_split="test"
    )
    assert len(run.training_order(config)) == 2 and len(run._evaluation_set(config) or []) == 1
    assert asked == [("owner/rows", "validation"), ("owner/more", "small"), ("owner/rows", "test")]


def test_wandb_is_told_entity_group_and_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    monkeypatch.setattr("transformers.integrations.WandbCallback", lambda: "callback")
    for name in ("PROJECT", "ENTITY", "RUN_GROUP", "API_KEY"):
        monkeypatch.setenv(f"WANDB_{name}", "")
        monkeypatch.delenv(f"WANDB_{name}")
    values = {"pretrain": "b", "dataset": "a", "use_wandb": "True", "wandb_org": "team", "wandb_group": "sweep"}
    assert reporters(training_rows.config("pretrain", tmp_path, **values)) == ["callback"]
    assert [os.environ.get(f"WANDB_{name}") for name in ("ENTITY", "RUN_GROUP", "PROJECT", "API_KEY")] == [
        "team", "sweep", "CLaRa", None
    ]  # fmt: skip


def test_stages_1_and_2_end_at_a_tenth_of_the_rate_and_the_help_names_the_paper(
    base_folder: Path, stage1_file: Path, tmp_path: Path
):
    values = {"pretrain": base_folder, "dataset": stage1_file, "max_epochs": 8, "learning_rate": 1e-3}
    config = training_rows.config("pretrain", tmp_path, **values)
    later = [TrainConfig.for_stage(stage, dataset="a", pretrain_checkpoint="c") for stage in ("instruct", "end_to_end")]
    assert [one.lr_scheduler for one in (config, *later)] == ["cosine_with_min_lr", "cosine_with_min_lr", "constant"]
    run.train(config)
    rates = [line["learning_rate"] for line in log(tmp_path) if "learning_rate" in line]
    assert len(rates) == 24 and max(rates) == pytest.approx(1e-3) and rates[-1] == min(rates[1:])
    assert 1e-4 < rates[-1] < 1.1e-4
    text = SETTINGS["lr_scheduler"].metadata["help"]
    assert "ends at a tenth of the rate (paper: cosine to 0; in stage 3 the published script's constant)" in text


def test_the_query_reasoner_may_have_a_rate_of_its_own(pretrained: Path, questions_file: Path, tmp_path: Path):
    """AdamW's first step moves every weight that has a gradient by about the rate."""
    values = {"pretrain_checkpoint": pretrained, "dataset": questions_file, "max_steps": 1, "save_steps": 1,
              "lr_warmup_ratio": 0.0, "learning_rate": 1e-3, "query_learning_rate": 1e-5}  # fmt: skip
    run.train(training_rows.config("end_to_end", tmp_path, **values))
    before, after = load_file(pretrained / "adapters.safetensors"), load_file(tmp_path / "adapters.safetensors")
    moved = {"generator": 0.0, "query_reasoner": 0.0}
    for name, weight in after.items():
        role = name.split(".")[0]
        if role in moved:
            old = before[name.replace("query_reasoner", "compressor")]
            moved[role] = max(moved[role], float((weight - old).abs().max()))
    assert moved["generator"] == pytest.approx(1e-3, rel=0.05)
    assert moved["query_reasoner"] == pytest.approx(1e-5, rel=0.05)
    assert torch.load(tmp_path / "checkpoint-1" / "optimizer.pt")["rates"] == [1e-5, 1e-3]


def test_evaluation_losses_are_means_over_tokens_however_rows_are_split(
    base_folder: Path, stage1_file: Path, tmp_path: Path
):
    rows = training_rows.write(tmp_path / "rows.jsonl", training_rows.uneven_rows("pretrain"))
    found = []
    for micro in (8, 1):
        values = {"pretrain": base_folder, "dataset": stage1_file, "eval_dataset": rows, "lora_dropout": 0.0}
        folder = tmp_path / str(micro)
        run.train(
            training_rows.config(
                "pretrain",
                folder,
                **values,
                max_steps=1,
                eval_steps=1,
                micro_train_batch_size=micro,
                learning_rate=1e-6,
            )
        )
        found.append(next(line["eval_lm_loss"] for line in log(folder) if "eval_lm_loss" in line))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_the_base_is_kept_in_the_type_asked_for_and_what_trains_in_float32(base_folder: Path, tmp_path: Path):
    for dtype, kept in (("", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)):
        config = training_rows.config(
            "pretrain", tmp_path, pretrain=base_folder, dataset="unused.jsonl", bf16=True, base_dtype=dtype
        )
        model = starting_model(config, "cpu")
        assert model.base.get_decoder().layers[0].mlp.down_proj.base_layer.weight.dtype == kept
        assert {p.dtype for p in model.trainable_parameters(model.config.roles).values()} == {torch.float32}
