"""Accuracy against rate without training: a checkpoint whose slots are anchors, read with more or fewer of them.

    python examples/evaluation/rates.py clara-small --dataset nq --max_samples 30 --out runs/rates

Each rate gets a copy of the checkpoint below ``--out`` with as many memory tokens as it asks for. Every question is
answered from its first gold passage, so that nothing but the rate differs; the picture is ``rates.png``. The weights
were trained at the checkpoint's own rate, which the others are measured against.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from clara_model import ClaraModel
from clara_model.checkpoint.files import BUNDLED
from clara_model.checkpoint.options import LoadOptions
from trainers.evaluation import cli
from trainers.training.stages import at_rate


def copies(checkpoint: Path, rates: list[int], out: Path) -> list[Path]:
    """The checkpoint at each rate.

    Raises:
        SystemExit: its slots are not anchors, so their number is learned.
    """
    options = LoadOptions(dtype=torch.float32, device="cpu")
    model = ClaraModel.from_options(checkpoint, options)
    if model.config.residual != "anchors":
        sys.exit(f"the slots of {checkpoint.name} are not anchors: other rates have to be trained")
    made = [out / "checkpoints" / f"{checkpoint.name}-rate-{rate}" for rate in rates]
    for rate, folder in zip(rates, made, strict=True):
        at_rate(model, rate, options).save_pretrained(folder)
    return made


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder or bundled name")
    parser.add_argument("--rates", type=int, nargs="+", default=[2, 3, 4], help="text tokens of a slot")
    parser.add_argument("--out", type=Path, default=Path("runs/rates"))
    args, rest = parser.parse_known_args()
    bundled = BUNDLED / args.checkpoint
    found = copies(bundled if bundled.is_dir() else Path(args.checkpoint), args.rates, args.out)
    fixed = ["--setting", "oracle", "--stage", "stage1_2", "--generation_top_k", "1", "--out", str(args.out)]
    for number, folder in enumerate(found):  # text and closed book are the same at every rate
        systems = "clara,text,closed" if number == 0 else "clara"
        if code := cli.main(["--model", str(folder), "--systems", systems, *fixed, *rest]):
            sys.exit(code)
    sys.exit(cli.main(["report", str(args.out)]))


if __name__ == "__main__":
    main()
