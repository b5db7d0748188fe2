"""Optimizer and weights in the machine's memory under ZeRO: two processes on the CPU against one without."""

from pathlib import Path

import pytest
import torch
import training_rows
from safetensors.torch import load_file
from test_deepspeed_utils import job, launch, log

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

KINDS = {"optimizer": 2, "weights": 3}
"""What is moved, and the ZeRO stage it is tried with."""


@pytest.fixture(scope="module")
def runs(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process; two with each kind of offload, left alone and gone on with from step 2."""
    folder = tmp_path_factory.mktemp("offload")
    rows = training_rows.write(folder / "pretrain.jsonl", training_rows.uneven_rows("pretrain"))
    sources = {"base": base_folder, "pretrain": rows}
    launch([job("pretrain", folder / "one", sources)], folder, 1)
    jobs = []
    for kind, stage in KINDS.items():
        values = {"zero_stage": stage, "zero_offload": kind}
        jobs += [job("pretrain", folder / f"{which}-{kind}", sources, **values) for which in ("alone", "again")]
        jobs.append(job("pretrain", folder / f"again-{kind}", sources, resume=2, load_checkpoint=True, **values))
    launch(jobs, folder, 2)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_and_weights_equal_one_processs(runs: Path, kind: str):
    for one, two in zip(log(runs / "one"), log(runs / f"alone-{kind}"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=2e-5)
    expected, found = torch.load(runs / "one.pt"), torch.load(runs / f"alone-{kind}.pt")
    scale = float(max(gradient.abs().max() for gradient in expected.values()))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=2e-6 * scale, msg=name)
    one, two = (load_file(runs / which / "adapters.safetensors") for which in ("one", f"alone-{kind}"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_one_left_alone(runs: Path, kind: str):
    one, two = (load_file(runs / f"{which}-{kind}" / "adapters.safetensors") for which in ("alone", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
