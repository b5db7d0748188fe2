"""What compressing once buys: a corpus compressed into a store, then questions answered from all of it.

Prints the seconds of compressing what is new, of a second run that finds nothing to do, and of answers: one pass for
the question, the search, one generation. Beside it, the answer from as many passages that no store holds.

    python examples/benchmarks/compress_once.py INPUT.. --store FOLDER [--questions FILE] [--model clara-tiny]

``--questions`` is a text file with one question a line; without it, the first words of some passages are asked for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from clara_model import Clara
from clara_model.documents.corpus import CorpusReport, compress_corpus
from clara_model.store import DurableStore, open_store

CANDIDATES = 20
"""Passages that are compressed and ranked for an answer without a store."""
ASKED = 20


def compressed(clara: Clara, store: DurableStore, args: argparse.Namespace) -> CorpusReport:
    done = compress_corpus(clara, store, args.inputs, text_key=args.text_key)
    print(f"{done.documents:,} documents, {done.unchanged:,} unchanged: {done.compressed:,} passages compressed, "
          f"{done.tokens:,} tokens, {done.seconds:.1f} s")  # fmt: skip
    return done


def asked(clara: Clara, store: DurableStore, file: Path | None) -> list[str]:
    if file is not None:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()][:ASKED]
    texts = [found.text or "" for found in clara.search("What is said?", ASKED)]
    return [f"What is said of {' '.join(text.split()[:4])}?" for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("--store", required=True)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--model", default="clara-tiny")
    parser.add_argument("--text-key")
    args = parser.parse_args()
    with open_store(args.store) as store, Clara.load(args.model, store=store, cache_bytes=0) as clara:
        compressed(clara, store, args)
        compressed(clara, store, args)
        questions = asked(clara, store, args.questions)
        clara.search(questions[0])  # brings the index up to date
        times, whole = [], []
        for question in questions:
            start = time.perf_counter()
            found = clara.search(question)
            assert found.latents is not None
            answer = clara.answer(question, found.latents, len(found), rerank=False)
            whole.append(time.perf_counter() - start)
            times.append((found.timings.query, found.timings.rank, answer.timings.generate))
        texts = [one.text or "" for one in clara.search(questions[0], CANDIDATES)]
        stats = store.stats()
    query, search, generate = (1000 * statistics.median(part) for part in zip(*times, strict=True))
    held = f"{stats.documents:,} documents, {stats.blocks:,} passages, {stats.nbytes / 1e6:,.0f} MB"
    parts = f"query {query:.0f}, search {search:.0f}, generate {generate:.0f}"
    print(f"{held}: an answer takes {1000 * statistics.median(whole):.0f} ms ({parts})")
    with Clara.load(args.model, cache_bytes=0) as bare:
        seconds = []
        for question in questions[:5]:
            start = time.perf_counter()
            bare.answer(question, texts)
            seconds.append(time.perf_counter() - start)
    print(f"from {len(texts)} passages that no store holds: {1000 * statistics.median(seconds):.0f} ms")


if __name__ == "__main__":
    main()
