"""Training with a gate that stays shut: losses and gradients as with full passes, and no pass over a text."""

from pathlib import Path

import pytest
import small_model
import torch
from test_adapters import batch

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.modeling.objectives import TRAINED_ROLES, Objective, TrainingModel

STAGES = ["pretrain", "instruct", "end_to_end", "pretrain_retrieval"]
KINDS = {
    "anchors": {"residual": "anchors"},
    "late": {"residual": "anchors", "ranking": "late"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.save_base(tmp_path_factory.mktemp("base"))


def build(base: Path, kind: str) -> ClaraModel:
    model = small_model.build_model(base, **KINDS[kind])
    with torch.no_grad():
        for residual in model.residuals.of.values():
            residual.gate.zero_()
            if hasattr(residual, "weight"):
                residual.weight.uniform_(0.2, 0.9)
    return model


def step(training: TrainingModel, stage: str) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss, gradients by name, and how often the base model ran."""
    model, runs = training.model, []
    handle = model.base.get_decoder().layers[0].register_forward_hook(lambda *_: runs.append(1))
    values = batch(model, stage)
    if stage in ("end_to_end", "pretrain_retrieval"):
        values["positives"] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = training(**values)["loss"]
    loss.backward()
    handle.remove()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, len(runs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_it_is_a_gate_fixed_at_zero_without_the_passes(base: Path, stage: str, kind: str):
    """Where states enter by a gate of 0, they change neither loss nor gradients; the roles' other weights get none."""
    fields = {"stage": stage, "top_k": 2, "alignment_weight": 0.0}
    full = TrainingModel(build(base, kind), Objective(**fields)).eval()
    full.at_rest = frozenset()
    for residual in full.model.residuals.of.values():
        residual.gate.requires_grad_(False)
    expected_loss, expected, passes = step(full, stage)
    alone = TrainingModel(build(base, kind), Objective(**fields, residual_gate=False)).eval()
    loss, found, left = step(alone, stage)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert (passes, left) == {"pretrain": (2, 1), "instruct": (2, 1), "end_to_end": (3, 1)}.get(stage, (2, 0))
    for name, gradient in expected.items():
        if name in found:
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)
        else:
            assert not gradient.any(), name
    assert found.keys() <= expected.keys()
    encoder = next(role for role in TRAINED_ROLES[stage] if role != "generator")
    trains = {name for name, p in alone.model.trainable_parameters([encoder]).items() if p.requires_grad}
    parts = {name for name, _ in alone.model.residuals.of[encoder].named_parameters()} - {"gate"}
    assert trains == {f"residual.{encoder}.{part}" for part in parts}


def test_a_frozen_compressor_at_rest_is_not_run_in_stage_3(base: Path):
    model = build(base, "anchors")
    assert TrainingModel(model, Objective(stage="end_to_end")).at_rest == {"compressor"}
    assert "compressor" not in TrainingModel(model, Objective(stage="instruct")).at_rest
    model.residuals.of["compressor"].gate.data[0] = 1
    assert not TrainingModel(model, Objective(stage="end_to_end")).at_rest


def test_what_has_no_gate_that_is_shut_is_refused(base: Path):
    model = build(base, "anchors")
    model.residuals.of["compressor"].gate.data[0] = 1
    with pytest.raises(ClaraError, match="residual_gate cannot be off for a compressor whose gate is open"):
        TrainingModel(model, Objective(stage="instruct", alignment_weight=0, residual_gate=False))
    plain = small_model.build_model(base)
    with pytest.raises(ClaraError, match="residual_gate cannot be off for a query_reasoner without a residual"):
        TrainingModel(plain, Objective(stage="end_to_end", residual_gate=False))
    with pytest.raises(ValueError, match="without residual_gate there are no states to align"):
        Objective(stage="instruct", residual_gate=False)
