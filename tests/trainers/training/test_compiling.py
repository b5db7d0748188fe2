"""`--torch_compile`: whole layers in few graphs, the losses of a run without it, evaluations left alone."""

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from training_rows import history, stage_config

from clara_model.errors import ClaraError
from trainers.training import compiling
from trainers.training.run import train

CAPTURED = {"torch_compile_backend": "eager"}
"""Each graph runs as it was captured, without a compiler's minute."""


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    counters.clear()


def losses(stage: str, folder: Path, request: pytest.FixtureRequest, **values: object) -> list[float]:
    train(stage_config(stage, folder, request, max_steps=4, lora_dropout=0.1, **values))
    return [line["loss"] for line in history(folder)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "checkpointing", "most"), [("pretrain", False, 4), ("end_to_end", False, 6), ("end_to_end", True, 12)]
)
def test_a_run_is_the_same_and_no_graph_breaks(
    stage: str, checkpointing: bool, most: int, tmp_path: Path, request: pytest.FixtureRequest
):
    """A form for each role, with padding and without; with checkpointing for each part of a layer. Evaluations, whose
    answers are written token by token, add none."""
    evaluated = request.getfixturevalue("stage1_file" if stage == "pretrain" else "questions_file")
    values = {"gradient_checkpointing": checkpointing, "eval_dataset": evaluated, "eval_steps": 2, "do_eval_gen": True}
    plain = losses(stage, tmp_path / "plain", request, **values)
    assert losses(stage, tmp_path / "compiled", request, **values, **CAPTURED) == pytest.approx(plain, rel=1e-6)
    assert 0 < counters["stats"]["unique_graphs"] <= most
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_compiled_it_learns_as_without(dropout: float, tmp_path: Path, request: pytest.FixtureRequest):
    settings = {"max_steps": 8, "lora_dropout": dropout}
    for name, more in (("plain", {}), ("compiled", {"torch_compile": True})):
        train(stage_config("pretrain", tmp_path / name, request, **settings, **more))
    plain, compiled = ([line["loss"] for line in history(tmp_path / name)] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=0.05 if dropout else 1e-5), "other masks with dropout"
    assert compiled[-1] < compiled[0]


def test_a_model_without_decoder_layers_is_refused():
    with pytest.raises(ClaraError, match="no decoder layers in Linear"):
        compiling.compile_layers(torch.nn.Linear(2, 2), {"torch_compile": True})
