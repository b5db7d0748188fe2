"""Write a folder of documents and a file of questions about them, to try ``clara-eval --docs`` on.

`FOLDER/documents/*.txt` and `FOLDER/questions.jsonl`, `{"question", "answer"}` a line. For clara-tiny they are of its
invented world, with names that it has never seen; for clara-small they are the held-out passages of Wikipedia that
`clara demo` shows, or with `--data` the candidates of the first questions of a data set, all together, each a document.
With files of your own it goes the same way.

    python examples/evaluation/own_documents.py FOLDER [--model clara-tiny] [--documents 40] [--seed 20031]
    python examples/evaluation/own_documents.py FOLDER --model clara-small --data nq.jsonl [--questions 20]
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
from trainers.data.rows import read_rows

Asked = list[tuple[str, object]]


def invented(count: int, seed: int) -> tuple[list[str], Asked]:
    """Documents of the invented world, and a question about each."""
    world = World(seed, held_out=True)
    entities = world.entities(count)
    return [world.document(one) for one in entities], [world.questions(one, 1)[0] for one in entities]


def real(count: int) -> tuple[list[str], Asked]:
    """Passages of Wikipedia, and those questions about them that one of the passages answers."""
    held = DemoSet.read(set_of("clara-small"))
    texts = list(held.texts[:count])
    asked = zip(held.questions, map(list, held.answers), strict=True)
    return texts, [(text, some) for text, some in asked if any(answer in one for answer in some for one in texts)]


def of_data(file: Path, questions: int) -> tuple[list[str], Asked]:
    """The candidates of the first questions, each once, and these questions with all their accepted answers."""
    rows = list(read_rows([str(file)], prefer_gold=True))[:questions]
    texts = list(dict.fromkeys(text for row in rows for text in row.documents))
    return texts, [(row.questions[0], list(row.references)) for row in rows]


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=("clara-tiny", "clara-small"), default="clara-tiny", help="whom they suit")
    parser.add_argument("--documents", type=int, default=40, help="how many at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=20_031, help="of the invented world (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="questions with candidates, e.g. nq.jsonl, instead of the demo's")
    parser.add_argument("--questions", type=int, default=20, help="of --data (default: %(default)s)")
    args = parser.parse_args()
    if args.data:
        texts, asked = of_data(args.data, args.questions)
    else:
        texts, asked = invented(args.documents, args.seed) if args.model == "clara-tiny" else real(args.documents)
    folder = args.folder / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text + "\n", encoding="utf-8")
    lines = [json.dumps({"question": text, "answer": answer}, ensure_ascii=False) + "\n" for text, answer in asked]
    (args.folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
