"""Write the data of the three training stages and the held-out sets as JSON lines, in the published formats.

* `stage1.jsonl`: `{"data_type": "qa", "question": [..], "answers": [..], "docs": [text]}` and
  `{"data_type": "paraphrase", "question": "", "answers": [paraphrase], "docs": [text]}`.
* `stage2.jsonl`: `{"question", "docs": [1 or 5 texts], "gold_answer", "pos_index": [i]}`, the texts in the order in
  which a keyword search gives them (the right one mostly first), and paraphrases as in stage 1.
* `stage3.jsonl`: `{"question", "docs": [20 texts], "gold_answer", "pos_index": [i]}`, the texts in random order.
* `heldout_gold.jsonl`, `heldout_20.jsonl`: the same 500 questions with the gold document alone, and among 20
  candidates; names never seen in training.

In stages 2 and 3 groups of rows draw their documents from one pool (`GROUP`, `POOL`), so that a batch that is such a
group compresses few distinct texts. A share of stage 1's texts are questions, told again in another wording: the query
reasoner starts as the compressor, which so has seen questions. `named_rows` and `lookalike_rows` are stage 2's rows for
`names.py`, which writes them.

    python examples/tiny/data.py DATA_FOLDER --seed 100
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from world import Entity, World

READ, CANDIDATES = 5, 20
"""Documents of a question in stage 2, candidates in stage 3."""
POOL, GROUP = 40, 96
"""Documents of a pool, and the questions that share it."""
STAGE1_PARAPHRASES, STAGE1_QUESTIONS = 0.25, 0.2
"""Stage 1: share of groups that are paraphrases, and of questions among the texts told again."""
STAGE2_PARAPHRASES, STAGE2_QUESTIONS = 0.33, 0.5
"""Stage 2: share of paraphrases, which keep names in the latents, and of questions among the texts told again."""
SHORT_SHARE, SINGLE_SHARE = 0.06, 0.2
"""Shares of short documents in stage 1 and of rows with one document in stage 2."""
NAMED_POOL, NAMED_GROUP, NAMED_ALONE = 8, 16, 0.08
"""Stage 2 by names: documents of a pool, the questions that share it, and the share of them with one document."""
ALIKE = 0.8
"""Stage 2: share of pools in which all documents are about people, or places, or works: only names tell them apart."""
GROUP_OF_ONE_KIND = 32
"""Stage 1: consecutive rows of one kind, whose sequences have similar lengths; a batch is such a group."""


def stage1_rows(world: World, count: int) -> Iterator[dict]:
    """Questions and answers about one document, or a paraphrase of it, in groups of one kind."""
    for start in range(0, count, GROUP_OF_ONE_KIND):
        paraphrases = world.rng.random() < STAGE1_PARAPHRASES
        for _ in range(min(GROUP_OF_ONE_KIND, count - start)):
            short = world.rng.random() < SHORT_SHARE
            (entity,) = world.entities(1, facts=(1, 2)) if short else world.entities(1)
            yield _paraphrase_row(world, entity, STAGE1_QUESTIONS) if paraphrases else _pairs_row(world, entity)


def _pairs_row(world: World, entity: Entity) -> dict:
    pairs = world.questions(entity)
    asked, answers = [q for q, _ in pairs], [a for _, a in pairs]
    return {"data_type": "qa", "question": asked, "answers": answers, "docs": [world.document(entity)]}


def _paraphrase_row(world: World, entity: Entity, questions: float) -> dict:
    """A document, or in a share of the rows a question, and the same in other words."""
    if world.rng.random() < questions:
        fact = world.rng.choice(entity.facts)
        text, again = world.ask(entity, fact), world.ask(entity, fact)
    else:
        text, again = world.document(entity), world.tell(entity)
    return {"data_type": "paraphrase", "question": "", "answers": [again], "docs": [text]}


def stage2_rows(
    world: World, count: int, alike: float = ALIKE, told: float = 0.0, pool: int = POOL, group: int = GROUP
) -> Iterator[dict]:
    """A question with its document among others of its pool, or alone; and many paraphrases, half of questions.

    Args:
        world: where names and facts come from.
        count: of rows.
        alike: share of pools of one kind of thing.
        told: share of rows that ask for all facts of a document, by its name, among others.
        pool: documents of a pool.
        group: rows that share it.
    """
    for entities, texts, gold in _asked(world, count, alike, pool, group):
        if told and world.rng.random() < told:
            yield _told_row(world, entities, texts, gold)
        elif world.rng.random() < STAGE2_PARAPHRASES:
            yield _paraphrase_row(world, entities[gold], STAGE2_QUESTIONS)
        else:
            yield _found_row(world, entities, texts, gold)


def _found_row(world: World, pool: list[Entity], texts: list[str], gold: int) -> dict:
    """A question and its document, alone or among others in the order of a keyword search."""
    single = world.rng.random() < SINGLE_SHARE
    return _keyword_order(_row(world, pool, texts, gold, 1 if single else READ))


def _told_row(world: World, pool: list[Entity], texts: list[str], gold: int) -> dict:
    """All facts of a document that only its name tells from the others: each word of the answer needs the right one."""
    row = _row(world, pool, texts, gold, READ)
    return {**row, "question": f"What is told of {pool[gold].name}?", "gold_answer": world.tell(pool[gold])}


def _keyword_order(row: dict) -> dict:
    """The row with its documents sorted by how many words of the question they hold; what is found comes first."""
    words = _words(row["question"])
    found = [len(words & _words(text)) for text in row["docs"]]
    order = sorted(range(len(found)), key=lambda i: -found[i])
    (gold,) = row["pos_index"]
    return {**row, "docs": [row["docs"][i] for i in order], "pos_index": [order.index(gold)]}


@lru_cache(maxsize=1024)
def _words(text: str) -> frozenset[str]:
    """A text's words; the rows of a pool ask for the same texts again."""
    return frozenset(re.findall(r"\w+", text))


def named_rows(
    world: World, count: int, documents: Sequence[int], kinds: Sequence[str], paraphrases: float = 0.0
) -> Iterator[dict]:
    """Questions about one of several documents, the right one at a random place.

    Args:
        world: where names and facts come from.
        count: of rows.
        documents: how many a row may have; drawn for each.
        kinds: of pools in turn (`_pool`). Where all are relatives, every document answers the question and only the
            name says which is asked about.
        paraphrases: share of rows that tell a document or a question again, as in stage 2.
    """
    for start in range(0, count, NAMED_GROUP):
        pool = _pool(world, kinds[start // NAMED_GROUP % len(kinds)])
        texts = [world.document(entity) for entity in pool]
        for _ in range(min(NAMED_GROUP, count - start)):
            if paraphrases and world.rng.random() < paraphrases:
                yield _paraphrase_row(world, world.rng.choice(pool), STAGE2_QUESTIONS)
                continue
            shown = 1 if world.rng.random() < NAMED_ALONE else world.rng.choice(documents)
            yield _row(world, pool, texts, world.rng.randrange(NAMED_POOL), shown)


def lookalike_rows(world: World, count: int, group: int, paraphrases: float = 0.0) -> Iterator[dict]:
    """Questions about one of five documents, those of a pool of stage 3 that a search would give, in random order.

    The others share the most words with the question: names, or what is asked about. A share of the rows tells a
    document or a question again, as in stage 2.
    """
    for pool, texts, gold in _asked(world, count, group=group):
        if paraphrases and world.rng.random() < paraphrases:
            yield _paraphrase_row(world, pool[gold], STAGE2_QUESTIONS)
            continue
        row = _keyword_order(_row(world, pool, texts, gold, len(texts)))
        (right,) = row["pos_index"]
        others = [place for place in range(len(texts)) if place != right]
        shown = 0 if world.rng.random() < NAMED_ALONE else READ - 1
        chosen = world.rng.sample([right, *others[:shown]], shown + 1)
        yield {**row, "docs": [row["docs"][place] for place in chosen], "pos_index": [chosen.index(right)]}


def _pool(world: World, kind: str) -> list[Entity]:
    """``relatives`` (one kind of thing, the same relations), ``alike`` (one kind of thing) or ``mixed``."""
    if kind == "relatives":
        return world.relatives(NAMED_POOL, world.rng.choice((4, 5)))
    return world.entities(NAMED_POOL, alike=kind == "alike")


def stage3_rows(world: World, count: int, candidates: int = CANDIDATES) -> Iterator[dict]:
    """A question with its candidates."""
    for pool, texts, gold in _asked(world, count):
        yield _row(world, pool, texts, gold, candidates)


def _asked(
    world: World, count: int, alike: float = 0.0, size: int = POOL, group: int = GROUP
) -> Iterator[tuple[list[Entity], list[str], int]]:
    """Pools, their documents, and which document is asked about; a share of the pools is of one kind of thing."""
    for start in range(0, count, group):
        pool = world.entities(size, alike=world.rng.random() < alike)
        texts = [world.document(entity) for entity in pool]
        for _ in range(min(group, count - start)):
            yield pool, texts, world.rng.randrange(size)


def _row(world: World, pool: list[Entity], texts: list[str], gold: int, documents: int) -> dict:
    """A question about one document of a pool, which stands at a random place among others."""
    others = world.rng.sample([i for i in range(len(pool)) if i != gold], documents - 1)
    chosen = world.rng.sample([gold, *others], documents)
    ((question, answer),) = world.questions(pool[gold], 1)
    return {
        "question": question,
        "docs": [texts[i] for i in chosen],
        "gold_answer": answer,
        "pos_index": [chosen.index(gold)],
    }


def gold_only(row: dict) -> dict:
    """The same question with its gold document alone."""
    return {**row, "docs": [row["docs"][i] for i in row["pos_index"]], "pos_index": [0]}


def write(path: Path, rows: Iterable[dict]) -> None:
    """Write rows as JSON lines; the file is there once all of them are."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    part.replace(path)


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=100, help="seed of the training data; file n uses 10 * seed + n")
    parser.add_argument("--heldout-seed", type=int, default=20_001)
    parser.add_argument("--stage1", type=int, default=76_800, help="rows")
    parser.add_argument("--stage2", type=int, default=46_080, help="rows")
    parser.add_argument("--stage3", type=int, default=57_600, help="rows")
    parser.add_argument(
        "--alike",
        type=float,
        default=ALIKE,
        help="share of stage 2's pools that are of one kind (default: %(default)s)",
    )
    parser.add_argument(
        "--told",
        type=float,
        default=0.0,
        help="share of stage 2's rows that ask for all facts of one of five documents (default: %(default)s)",
    )
    parser.add_argument("--pool", type=int, default=POOL, help="documents of a pool of stage 2 (default: %(default)s)")
    parser.add_argument("--group", type=int, default=GROUP, help="its rows, a batch (default: %(default)s)")
    parser.add_argument("--heldout", type=int, default=500, help="held-out questions")
    parser.add_argument("--share", type=float, default=1.0, help="of all rows (default: %(default)s)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in ("stage1", "stage2", "stage3", "heldout"):
        setattr(args, name, math.ceil(getattr(args, name) * args.share))
    first, second, third = (World(10 * args.seed + number) for number in (1, 2, 3))
    write(args.folder / "stage1.jsonl", stage1_rows(first, args.stage1))
    write(args.folder / "stage2.jsonl", stage2_rows(second, args.stage2, args.alike, args.told, args.pool, args.group))
    write(args.folder / "stage3.jsonl", stage3_rows(third, args.stage3))
    held_out = list(stage3_rows(World(args.heldout_seed, held_out=True), args.heldout))
    write(args.folder / "heldout_gold.jsonl", map(gold_only, held_out))
    write(args.folder / "heldout_20.jsonl", held_out)  # the last one: `train.py` and `again.py` look for it


if __name__ == "__main__":
    main()
