"""clara-tiny's lessons in names: a run of either kind from the one before, two steps, through ``clara-train``."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
sys.path.insert(0, str(TINY))

import again  # noqa: E402
import names  # noqa: E402

from clara_model.checkpoint import files  # noqa: E402


def adapters(folder: Path) -> dict[str, torch.Tensor]:
    """Each role's adapter as one vector."""
    found = files.read(folder).adapters
    return {role: torch.cat([found[role][name].float().flatten() for name in sorted(found[role])]) for role in found}


@pytest.mark.slow
def test_the_generator_learns_first_and_then_the_compressor_too(tmp_path, monkeypatch):
    monkeypatch.setattr(again, "RUNS", tmp_path)
    monkeypatch.setattr(names, "BATCH", 4)
    few = {name: replace(names.RUNS_BY_NAME[name], steps=2) for name in ("frozen_pairs", "pairs")}
    for module in (names, again):
        monkeypatch.setattr(module, "RUNS_BY_NAME", few)
    begin = again.start(tmp_path / "start")
    last = names.teach(begin, tmp_path, again.train)
    folders = [begin, *(tmp_path / name for name in few)]
    assert last == folders[-1]
    found = [adapters(folder) for folder in folders]
    for before, after, run in zip(found[:-1], found[1:], few.values(), strict=True):
        frozen = run.recipe == "stage3.yaml"
        assert torch.equal(before["compressor"], after["compressor"]) == frozen
        assert not torch.equal(before["generator"], after["generator"])
    assert files.read(last).config.top_k == 5
    assert set(adapters(again.taught())) == {"compressor", "generator"}, "stage 3 starts a query reasoner of its own"
