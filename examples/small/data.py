"""Make clara-small's training and held-out rows: real passages and questions, split by article, in seeded order.

    python examples/small/data.py ../shared/data ~/.cache/clara-small/data

Held out: eight articles each of SQuAD and the newer Wikipedia set, and whatever shares eight words in a row, a title or
a question with the gold passages of the NQ evaluation rows. A passage is cut at sentence ends into windows of at most
so many tokens; a question goes to the window that holds its answer and most of its words. Written: ``short.jsonl`` (the
text reader), ``long.jsonl`` (stage 1), ``several.jsonl`` (stage 2, five windows), ``candidates.jsonl`` (stage 3, ten
windows, negatives by BM25), ``served.jsonl`` (stage 2 again, three windows as they are found, or one, and questions
that none of them answers), ``heldout.jsonl``. All but ``short.jsonl`` leave out sources whose answers are sentences.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
from train import BASE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from clara_model.checkpoint import gguf
from clara_model.checkpoint.prompts import PromptSet
from clara_model.documents.passages import split_text

PROMPTS = Path(__file__).with_name("prompts.json")
SHORT, LONG, MOST = 56, 118, 128
SPLIT_SOURCES, HELD_ARTICLES = ("squad", "squadshifts_wiki"), 8
TITLED = (*SPLIT_SOURCES, "nq")
ABSTRACTIVE = ("fairytale", "scp")
"""Sources whose answers need not stand in the passage."""
GRAM = 8
ALONE, NOTHING = 0.15, 0.22
"""Shares of the rows of ``served.jsonl`` with the right window alone, and with none that holds the answer."""
PLACES = (0.6, 0.22, 0.18)
"""How often the right one of three windows is first, second, third."""
EXACT = 3
"""How much rather a question is taken whose answer holds a number or a name."""
SMALL_WORDS = frozenset(
    "the a an of in on to is was were are did do does what who when where which how why for and or by with that it he "
    "she his her as at from be this".split()
)


@dataclass(frozen=True)
class Source:
    """One passage with its questions."""

    name: str
    article: str
    title: str
    text: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass
class Window:
    """A stretch of a passage with the questions it answers: question, answer to learn, accepted answers."""

    article: str
    text: str
    questions: list[tuple[str, str, tuple[str, ...]]]


def words(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"\w+", text.lower())


def grams(text: str) -> set[tuple[str, ...]]:
    """All runs of `GRAM` words."""
    found = words(text)
    return {tuple(found[i : i + GRAM]) for i in range(len(found) - GRAM + 1)}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON lines file, packed or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from map(json.loads, file)


def sources(folder: Path) -> list[Source]:
    """Every passage in a fixed order."""
    found = []
    for path in sorted((folder / "qa").glob("*.jsonl.gz")):
        name = path.name.split(".")[0]
        for number, row in enumerate(read(path)):
            first, _, rest = row["doc"].partition("\n")
            title, text = (first, rest) if name in TITLED else ("", row["doc"])
            if name in ("squadshifts_amazon", "squadshifts_reddit"):
                text = rest  # their first line names the collection
            pairs = tuple((q["question"], tuple(a for a in q["answers"] if a.strip())) for q in row["qas"])
            article = title or f"{name} {number}"
            found.append(Source(name, article, title.replace("_", " "), " ".join(text.split()), pairs))
    for number, row in enumerate(read(folder / "scp" / "pretrain_data.jsonl.gz")):
        text = re.sub(r"^This a document about .*?\. \s*\n", "", row["docs"][0], flags=re.DOTALL)
        pairs = tuple((q, (a,)) for q, a in zip(row["question"], row["answers"], strict=True))
        found.append(Source("scp", f"scp {number}", "", " ".join(text.split()), pairs))
    return found


def split(found: Sequence[Source], nq: Sequence[dict[str, Any]], rng: random.Random) -> tuple[list[Source], ...]:
    """Training and held-out passages; what overlaps with a held-out or NQ gold passage is in neither."""
    gold = [row["docs"][i] for row in nq for i in row["pos_index"]]
    titles = {text.partition("\n")[0] for text in gold}
    held_titles: set[str] = set()
    asked = {" ".join(words(row["question"])) for row in nq}
    for name in SPLIT_SOURCES:
        articles = sorted({s.article for s in found if s.name == name})
        rng.shuffle(articles)
        held_titles |= set(articles[:HELD_ARTICLES])
    titles |= held_titles
    held = [s for s in found if s.name in SPLIT_SOURCES and s.article in held_titles]
    taken = set().union(*(grams(text) for text in [*gold, *(s.text for s in held)]))
    train = [
        s for s in found if s.article not in titles and not grams(s.text) & taken
        and not any(" ".join(words(question)) in asked for question, _ in s.questions)
    ]  # fmt: skip
    return train, held


def windows(source: Source, tokenizer: PreTrainedTokenizerFast, most: int) -> list[Window]:
    """A passage's windows, each with its questions; those beyond `MOST` tokens with their title are left out."""

    def count(text: str) -> int:
        return len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    head = f"{source.title}\n" if source.title else ""
    found = [Window(source.article, head + text, []) for text in split_text(source.text, count, most)]
    for question, answers in source.questions:
        if not answers or len(words(answer := min(answers, key=len))) > 12:
            continue
        best = max(found, key=lambda window: _fit(window.text, question, answer))
        if answer.lower() in best.text.lower() or source.name in ABSTRACTIVE:
            best.questions.append((question.strip(), answer, answers))
    return [window for window in found if count(window.text) <= MOST]


def _fit(text: str, question: str, answer: str) -> float:
    """How well a window suits a question: it holds the answer, then the answer's words and the question's."""
    here, wanted, asked = set(words(text)), set(words(answer)), set(words(question)) - SMALL_WORDS
    shares = 2 * len(wanted & here) / max(1, len(wanted)) + len(asked & here) / max(1, len(asked))
    return 5.0 * (answer.lower() in text.lower()) + shares


def stage1(found: Sequence[Window]) -> Iterator[dict[str, Any]]:
    """Questions of a window together."""
    for window in found:
        pairs = {"question": [q for q, _, _ in window.questions], "answers": [a for _, a, _ in window.questions]}
        yield {"data_type": "qa", **pairs, "docs": [window.text]}


def among(found: Sequence[Window], count: int, rng: random.Random, nearest: bool) -> Iterator[dict[str, Any]]:
    """One question a row among ``count`` windows, the right one at a random place; the others by chance or by BM25."""
    index = bm25s.BM25()
    if nearest:
        index.index(bm25s.tokenize([w.text for w in found], stopwords="en", show_progress=False), show_progress=False)
    for window in found:
        question, answer, answers = rng.choice(window.questions)
        others = rng.sample(found, count)
        if nearest:
            asked = bm25s.tokenize([question], stopwords="en", show_progress=False)
            best = index.retrieve(asked, k=3 * count, show_progress=False).documents[0]
            others = [found[i] for i in best]
        texts = [w.text for w in others if w.text != window.text and answer.lower() not in w.text.lower()]
        texts = texts[: count - 1]
        place = rng.randrange(len(texts) + 1)
        texts.insert(place, window.text)
        row = {"question": question, "docs": texts, "answer": answer, "golden_answers": list(answers)}
        yield {**row, "pos_index": [place]}


def served(found: Sequence[Window], rng: random.Random, no_answer: str) -> Iterator[dict[str, Any]]:
    """One question a row with what a search might find for it: three windows, of which the others are BM25's best."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize([w.text for w in found], stopwords="en", show_progress=False), show_progress=False)
    count = len(PLACES)
    for window in found:
        weights = [EXACT if re.search(r"\d|[A-Z]", answer) else 1 for _, answer, _ in window.questions]
        question, answer, answers = rng.choices(window.questions, weights)[0]
        row = {"question": question, "answer": answer, "golden_answers": list(answers)}
        drawn = rng.random()
        if drawn < ALONE:
            yield {**row, "docs": [window.text], "pos_index": [0]}
            continue
        asked = bm25s.tokenize([question], stopwords="en", show_progress=False)
        best = [found[i] for i in index.retrieve(asked, k=4 * count, show_progress=False).documents[0]]
        held = [one.lower() for one in (answer, *answers)]
        others = [w.text for w in best if w.text != window.text and not any(one in w.text.lower() for one in held)]
        if drawn < ALONE + NOTHING:
            texts = others[: rng.choice((1, count, count))]
            if texts:
                yield {**row, "docs": texts, "answer": no_answer, "golden_answers": [no_answer], "pos_index": []}
            continue
        texts = others[: count - 1]
        place = min(len(texts), rng.choices(range(count), PLACES)[0])
        texts.insert(place, window.text)
        yield {**row, "docs": texts, "pos_index": [place]}


def write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path.name}: {len(lines)} rows")


def main() -> None:
    """Read, split, cut, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.target.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(gguf.base_folder(BASE, None, None))
    train, held = split(sources(args.source), list(read(args.source / "eval" / "nq.jsonl")), rng)
    print(f"{len(train)} passages to train on, {len(held)} held out")
    rng.shuffle(train)
    short = [w for s in train for w in windows(s, tokenizer, SHORT) if w.questions]
    extractive = [s for s in train if s.name not in ABSTRACTIVE]
    long = [w for s in extractive for w in windows(s, tokenizer, LONG) if w.questions]
    rng.shuffle(held)
    asked = [w for s in held for w in windows(s, tokenizer, LONG) if w.questions]
    write(args.target / "short.jsonl", stage1(short))
    write(args.target / "long.jsonl", stage1(long))
    write(args.target / "several.jsonl", among(long, 5, rng, nearest=False))
    write(args.target / "candidates.jsonl", among(long, 10, rng, nearest=True))
    no_answer = PromptSet.from_file(PROMPTS).no_answer
    write(args.target / "served.jsonl", served(long, rng, no_answer))
    write(args.target / "heldout.jsonl", among(asked, 1, rng, nearest=False))


if __name__ == "__main__":
    main()
