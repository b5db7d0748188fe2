"""Write ``trajectories.json`` anew, after a change that is meant to change what is trained.

python tests/trainers/pin_trajectories.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
STAGES = ("pretrain", "instruct", "end_to_end", "pretrain_retrieval")


def main() -> None:
    """Run each stage as the test does and keep its losses and gradient norms."""
    pinned = {}
    for stage in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            test = f"{HERE}/training/test_trainer.py::test_ten_steps_stay_as_pinned[{stage}]"
            subprocess.run([sys.executable, "-m", "pytest", "-q", test, "--basetemp", f"{folder}/t"], check=False)
            log = next(Path(folder).rglob("test_ten_steps*/log.jsonl"))
            lines = [json.loads(line) for line in log.read_text().splitlines()]
        steps = [line for line in lines if "grad_norm" in line]
        pinned[stage] = {name: [round(line[name], 6) for line in steps] for name in ("loss", "grad_norm")}
    (HERE / "trajectories.json").write_text(json.dumps(pinned, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
