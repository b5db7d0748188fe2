"""QLoRA on the CPU: gradients are those of the kept weights, a run learns, resumes, and is one however it is split."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import small_model
import test_deepspeed_utils as zero
import torch
import training_rows
from safetensors.torch import load_file

from clara_model import ClaraModel
from clara_model.modeling.objectives import TrainingModel
from trainers.training.run import collator, objective, train, training_order
from trainers.training.stages import starting_model
from trainers.training.train_config import TrainConfig

bitsandbytes = pytest.importorskip("bitsandbytes")
STAGES = ("pretrain", "instruct", "end_to_end")


@pytest.fixture(scope="module")
def sources(stage1_file: Path, questions_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base whose layers are whole blocks of 64, a checkpoint on it, rows."""
    folder = tmp_path_factory.mktemp("qlora")
    base = small_model.save_base(folder / "base", hidden=64)
    start = training_rows.config("pretrain", folder / "start", pretrain=base, dataset=stage1_file, max_steps=2)
    rows = {"pretrain": stage1_file, "instruct": questions_file, "end_to_end": questions_file}
    return {"base": base, "pretrained": train(start), **rows}


def config(sources: dict[str, Path], stage: str, folder: Path, **values: object) -> TrainConfig:
    start = {"pretrain": sources["base"]} if stage == "pretrain" else {"pretrain_checkpoint": sources["pretrained"]}
    settings = {"quantization": "int4", "bf16": True, "lora_dropout": 0.0, "max_epochs": 4, "max_steps": 6, **values}
    return training_rows.config(stage, folder, dataset=sources[stage], **start, **settings)


def gradients(model: ClaraModel, run: TrainConfig) -> dict[str, torch.Tensor]:
    """Of the run's first batch, in float32."""
    training, order = TrainingModel(model, objective(run)).train(), training_order(run)
    named = model.trainable_parameters(model.trainable_roles)
    torch.manual_seed(3)
    for parameter in named.values():
        torch.nn.init.normal_(parameter, std=0.1)  # a fresh LoRA's gradients are half zeros
    batch = collator(run, model.tokens)([order[i] for i in range(8)])
    batch.pop("rows")
    training(**batch)["loss"].backward()
    return {name: parameter.grad for name, parameter in named.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_are_those_of_the_weights_it_keeps(sources: dict[str, Path], stage: str, tmp_path: Path):
    run = config(sources, stage, tmp_path, base_dtype="float32")
    small, whole = starting_model(run, "cpu"), starting_model(replace(run, quantization=""), "cpu")
    kept = small.roles.layers()
    for name, layer in whole.roles.layers().items():
        weight = kept[name].base_layer.weight
        values = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        layer.base_layer.weight.data.copy_(values)
    small.eval().compress(small_model.TEXTS)  # as an evaluation does; it must leave nothing behind
    found, expected = gradients(small, run), gradients(whole, run)
    scale = float(max(gradient.abs().max() for gradient in expected.values()))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=2e-6 * scale, msg=name)


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_learns_as_one_without_does(sources: dict[str, Path], stage: str, kind: str, tmp_path: Path):
    train(config(sources, stage, tmp_path / "whole", quantization=""))
    train(config(sources, stage, tmp_path / "small", quantization=kind))
    whole, small = (zero.log(tmp_path / which) for which in ("whole", "small"))
    drops = [lines[0]["loss"] - lines[-1]["loss"] for lines in (whole, small)]
    assert drops[1] > 0.8 * drops[0] > 0
    for one, other in zip(whole, small, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.05)


def test_a_resumed_run_with_evaluations_equals_one_left_alone(sources: dict[str, Path], tmp_path: Path):
    train(config(sources, "pretrain", tmp_path / "alone", save_steps=2))
    seen = {"eval_dataset": sources["pretrain"], "eval_steps": 1, "save_steps": 2}
    train(config(sources, "pretrain", tmp_path / "again", **seen))
    shutil.rmtree(tmp_path / "again" / "checkpoint-6")
    train(config(sources, "pretrain", tmp_path / "again", load_checkpoint=True, **seen))
    one, other = (load_file(tmp_path / which / "adapters.safetensors") for which in ("alone", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_two_processes_are_near_one(sources: dict[str, Path], tmp_path: Path):
    """Near, not equal: DeepSpeed keeps what trains in bfloat16 beside float32 copies, a run of one process does not."""
    values = {"quantization": "int4", "bf16": True}
    zero.launch([zero.job("pretrain", tmp_path / "one", sources, **values)], tmp_path, 1)
    jobs = [zero.job("pretrain", tmp_path / str(stage), sources, zero_stage=stage, **values) for stage in (0, 1, 2)]
    zero.launch(jobs, tmp_path, 2)
    for stage in (0, 1, 2):
        for one, two in zip(zero.log(tmp_path / "one"), zero.log(tmp_path / str(stage)), strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=0.01)
