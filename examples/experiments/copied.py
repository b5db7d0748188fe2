"""What is right where the answer must be a stretch of what was read (``copy=True``), and where the generator writes.

Held-out questions with their gold window alone, with the one sentence of it that holds the answer where that is no
longer as text than as slots, and NQ's questions with the best three of 20 candidates; from latents and with the best
passage as text. Greedy; the first questions of a seeded order. Prints EM, F1, tokens of the prompt, seconds of writing.

    python examples/experiments/copied.py [--model clara-small] [--heldout FILE] [--nq FILE] [--count 60]
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path

from clara_model import Clara
from trainers.data.rows import Row, read_rows
from trainers.evaluation.metrics import mean_scores, score_answer

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "eval"
HELDOUT = Path.home() / ".cache" / "clara-small" / "data" / "heldout.jsonl"
NEW_TOKENS, READ, LEAST = 16, 3, 8
"""Of an answer at most; passages that are read; tokens of the shortest sentence."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def rows_of(file: Path, seed: int) -> list[Row]:
    """The rows of a file in a seeded order."""
    rows = list(read_rows([str(file)], prefer_gold=True))
    random.Random(seed).shuffle(rows)
    return rows


def sentence(clara: Clara, row: Row) -> list[str]:
    """The first sentence of the gold window, its title left out, that holds an accepted answer and is short."""
    sentences = _SENTENCE.split(row.documents[row.positives[0]].partition("\n")[2])
    holding = (one for one in sentences if any(answer in one for answer in row.references))
    first = next(holding, "")
    return [first] if LEAST <= clara.count_tokens(first) <= clara.model.config.memory_tokens else []


def measure(clara: Clara, name: str, asked: Sequence[tuple[Row, list[str]]]) -> None:
    """Print a line for each form and each way to answer."""
    questions, texts = [row.questions[0] for row, _ in asked], [some for _, some in asked]
    for expand in (0, 1):
        with Clara(clara.model, expand=expand) as reading:
            for copy in (False, True):
                answers = reading.answers(questions, texts, READ, copy=copy, max_new_tokens=64 if copy else NEW_TOKENS)
                pairs = zip(answers, asked, strict=True)
                found = mean_scores([score_answer(one.text.strip(), row.references) for one, (row, _) in pairs])
                prompt, seconds = (
                    sum(values) / len(answers)
                    for values in zip(*((a.usage.prompt_tokens, a.timings.generate) for a in answers), strict=True)
                )
                print(
                    f"{name} ({len(asked)}), expand={expand}, copy={copy}: EM {found['em']:.3f}, F1 {found['f1']:.3f}, "
                    f"{prompt:.1f} tokens, {seconds:.2f} s",
                    flush=True,
                )


def main() -> None:
    """Measure the three sets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="clara-small")
    parser.add_argument("--heldout", type=Path, default=HELDOUT, help="rows that train.py holds back")
    parser.add_argument("--nq", type=Path, default=SHARED / "nq.jsonl")
    parser.add_argument("--count", type=int, default=60, help="questions of each set (default: %(default)s)")
    args = parser.parse_args()
    with Clara.load(args.model) as clara:
        held = [(row, [row.documents[row.positives[0]]]) for row in rows_of(args.heldout, 5)]
        short = [(row, some) for row in rows_of(args.heldout, 7) if (some := sentence(clara, row))]
        asked = [(row, list(row.documents)) for row in rows_of(args.nq, 5)]
        for name, some in (("gold windows", held), ("one sentence", short), ("nq", asked)):
            measure(clara, name, some[: args.count])


if __name__ == "__main__":
    main()
