"""Write a folder of documents and a file of questions about them, to try ``clara-eval --docs`` on.

`FOLDER/documents/*.txt` and `FOLDER/questions.jsonl`, `{"question", "answer"}` a line. For clara-tiny they are of its
invented world, with names that it has never seen; for clara-small they are the held-out passages of Wikipedia that
`clara demo` shows. With files of your own it goes the same way.

    python examples/evaluation/own_documents.py FOLDER [--model clara-tiny] [--documents 40] [--seed 20031]
    clara-eval --dataset FOLDER/questions.jsonl --docs FOLDER/documents --model clara-tiny --batch_size 1
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny"))

from world import World

from clara_model.cli.demo import DemoSet, set_of

Asked = list[tuple[str, object]]


def invented(count: int, seed: int) -> tuple[list[str], Asked]:
    """Documents of the invented world, and a question about each."""
    world = World(seed, held_out=True)
    entities = world.entities(count)
    return [world.document(one) for one in entities], [world.questions(one, 1)[0] for one in entities]


def real(count: int) -> tuple[list[str], Asked]:
    """Passages of Wikipedia, and the questions about them."""
    held = DemoSet.read(set_of("clara-small"))
    return list(held.texts[:count]), list(zip(held.questions, map(list, held.answers), strict=True))


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=("clara-tiny", "clara-small"), default="clara-tiny", help="whom they suit")
    parser.add_argument("--documents", type=int, default=40, help="how many at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20_031)
    args = parser.parse_args()
    texts, asked = invented(args.documents, args.seed) if args.model == "clara-tiny" else real(args.documents)
    folder = args.folder / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text + "\n", encoding="utf-8")
    lines = [json.dumps({"question": text, "answer": answer}, ensure_ascii=False) + "\n" for text, answer in asked]
    (args.folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
