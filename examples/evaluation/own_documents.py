"""Write a folder of documents and a file of questions about them, to try ``clara-eval --docs`` on.

The documents are of clara-tiny's invented world, with names that it has never seen: `FOLDER/documents/*.txt` and
`FOLDER/questions.jsonl`, `{"question", "answer"}` a line. With files of your own it goes the same way.

    python examples/evaluation/own_documents.py FOLDER [--documents 40] [--seed 20031]
    clara-eval --dataset FOLDER/questions.jsonl --docs FOLDER/documents --model clara-tiny --batch_size 1
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny"))

from world import World


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=40, help="how many, one question each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20_031)
    args = parser.parse_args()
    world = World(args.seed, held_out=True)
    folder = args.folder / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, entity in enumerate(world.entities(args.documents)):
        (folder / f"{number:03}.txt").write_text(world.document(entity) + "\n", encoding="utf-8")
        ((question, answer),) = world.questions(entity, 1)
        lines.append(json.dumps({"question": question, "answer": answer}, ensure_ascii=False) + "\n")
    (args.folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
