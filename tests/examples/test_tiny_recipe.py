"""clara-tiny's recipe from nothing to a bundle: base, every stage, names and figures, a step or a few of each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "tiny"))
import base  # noqa: E402

from clara_model import Clara  # noqa: E402
from clara_model.checkpoint.files import BUNDLED  # noqa: E402


def recipe(home: Path, target: Path) -> str:
    """The one command with its cache in a folder of its own, and no compiler needed."""
    command = [sys.executable, "examples/tiny/train.py", "--share", "0.001", "--target", str(target)]
    variables = {"PYTHONPATH": str(ROOT), "HOME": str(home), "TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_one_command_makes_a_bundle_from_nothing_and_makes_no_stage_twice(tmp_path):
    target = tmp_path / "bundled" / "clara-tiny"
    first = recipe(tmp_path, target)
    assert first.count("$ python -m trainers.training.cli") == 1 + 6 + 1, "stage 1, names, stage 3"
    card, figures = target / "README.md", json.loads((target / "figures.json").read_text())
    assert figures["questions"] == 10 and "examples/tiny/train.py" in card.read_text()
    shown = json.loads((target.parent / "demo.json").read_text())
    texts = [one["text"] for one in shown["documents"]]
    with Clara.load(target) as clara:
        assert len(clara.answer(shown["questions"][0]["question"], texts).selected) == 5
    assert "trainers.training.cli" not in recipe(tmp_path, target)


def test_the_larger_base_has_eight_million_parameters():
    code = (ROOT / "examples" / "tiny" / "train.py").read_text(encoding="utf-8")
    words = re.search(r'"8m": \(([^)]*)\)', code)[1].replace('"', "").split(", ")
    sizes = dict(zip([word.removeprefix("--") for word in words[::2]], map(int, words[1::2]), strict=True))
    with torch.device("meta"):
        model = base.build_model(
            base.BaseConfig(**sizes), AutoTokenizer.from_pretrained(BUNDLED / "clara-tiny" / "base")
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(8e6, rel=0.05)
