"""``clara-eval`` on two processes: every question once, in order, with the figures of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import eval_rows
import pytest

from trainers.evaluation.cli import main

ROOT = Path(__file__).parents[3]
LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"],
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_write_what_one_writes(tmp_path: Path, tiny_clara_folder: Path, launcher: str):
    file = eval_rows.questions(tmp_path, 7)
    words = ["--dataset", str(file), "--model", str(tiny_clara_folder), *eval_rows.RANDOM, "--batch_size", "2"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    module, *rest = LAUNCHERS[launcher]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", module, *rest, "-m", "trainers.evaluation.cli", *words]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "two")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (next((tmp_path / name).glob("*/summary.json")).parent for name in ("one", "two"))
    for path in sorted(one.glob("*.jsonl")):
        pairs = zip(path.read_text().splitlines(), (two / path.name).read_text().splitlines(), strict=True)
        for ours, theirs in pairs:
            ours, theirs = json.loads(ours), json.loads(theirs)
            for costs in ("seconds", "peak_bytes"):
                ours.pop(costs), theirs.pop(costs)
            assert ours == theirs
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (one, two))
    assert ours["systems"]["clara"]["metrics"] == theirs["systems"]["clara"]["metrics"]
    assert done.stdout.count("┃ system ") == done.stdout.count("any two systems") == 1  # one process prints
