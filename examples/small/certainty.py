"""How sure clara-small is that what it reads answers: the weights of `Certainty`, fitted on held-out questions.

Each question has 20 candidates, the nearest of all held-out windows by words: once with its own window among them (it
counts where that is read), once without it and without all that hold an accepted answer. The weights are those of a
logistic regression; ``refuse_below`` is chosen so that one answerable question in fifty is refused (then one in ten of
NQ's is, whose words are less often those of its passages). They are written
into the checkpoint's config.json.

    python examples/small/certainty.py CHECKPOINT [--data DATA] [--count 300]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import trust
from package import WORDS
from sklearn.linear_model import LogisticRegression
from train import RUNS

from clara_model import Clara, ClaraModel
from clara_model.checkpoint.certainty import Certainty
from clara_model.search.bm25 import BM25, largest, shared_words
from trainers.data.rows import Row, read_rows

CANDIDATES, SEED, REFUSED = 20, 11, 0.02


def pairs(rows: Sequence[Row], count: int) -> Iterator[tuple[Row, Row]]:
    """Each question with candidates of which the first answers it, and with others alone."""
    windows = list(dict.fromkeys(row.documents[0] for row in rows))
    index = BM25(windows)
    for row in random.Random(SEED).sample(list(rows), min(count, len(rows))):
        gold = row.documents[0]
        near = [windows[place] for place in largest(index.scores(row.questions[0]), 3 * CANDIDATES)]
        others = [text for text in near if text != gold and not trust.holds(text, row.references)][:CANDIDATES]
        yield replace(row, documents=(gold, *others[:-1])), replace(row, documents=tuple(others))


def signs(clara: Clara, row: Row, *, answerable: bool) -> tuple[float, float, float] | None:
    """What `Certainty` weighs: the odds, the latents' score, the words; None where its own window is not read."""
    question = row.questions[0]
    answer = clara.answer(question, list(row.documents), max_new_tokens=1)
    if answerable and 0 not in answer.selected:
        return None
    sure, best = min(max(answer.confidence or 0.0, 1e-9), 1 - 1e-9), answer.ranking[0]
    return math.log(sure / (1 - sure)), best.latents or 0.0, shared_words(question, row.documents[best.index])


def fitted(yes: np.ndarray, no: np.ndarray) -> Certainty:
    """The weights that tell the first questions ``[N, 3]`` from the others."""
    found = LogisticRegression(C=1e4, max_iter=1000).fit(np.concatenate([yes, no]), [1] * len(yes) + [0] * len(no))
    odds, latents, words = map(float, found.coef_[0])
    _, usual_latents, usual_words = map(float, yes.mean(axis=0))
    least = float(np.quantile(found.predict_proba(yes)[:, 1], REFUSED))
    return Certainty(
        odds=odds, latents=latents, words=words, bias=float(found.intercept_[0]),
        usual_latents=usual_latents, usual_words=usual_words, refuse_below=least,
    )  # fmt: skip


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, default=RUNS / "data", help="folder that data.py wrote")
    parser.add_argument("--count", type=int, default=300, help="questions")
    args = parser.parse_args()
    model = ClaraModel.from_pretrained(args.checkpoint, device="cpu")
    prompts = replace(model.config.prompts, certainty=Certainty())  # odds alone
    model.config = replace(model.config, prompts=prompts, word_weight=WORDS, expand=1)
    rows = list(read_rows([str(args.data / "heldout.jsonl")]))
    with Clara(model) as clara:
        both = [
            (signs(clara, a, answerable=True), signs(clara, b, answerable=False)) for a, b in pairs(rows, args.count)
        ]
    yes, no = (np.array([one for one in part if one is not None]) for part in zip(*both, strict=True))
    found = fitted(yes, no)
    path = args.checkpoint / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["prompts"]["certainty"] = asdict(found)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    sure = [[found.of(found.prior(*one[1:]), one[0]) for one in part] for part in (yes, no)]
    refused = [trust.share_below(part, found.refuse_below) for part in sure]
    print(json.dumps(asdict(found), indent=1))
    print(f"{len(yes)} and {len(no)} questions: AUC {trust.auc(*sure):.3f}, refused {refused[0]:.3f}, {refused[1]:.3f}")


if __name__ == "__main__":
    main()
