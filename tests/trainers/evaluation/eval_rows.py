"""Records and rows for the tests of ``clara-eval``."""

from pathlib import Path

import training_rows

from trainers.evaluation.records import Record

RANDOM = ("--dtype", "float32", "--device", "cpu", "--max_new_tokens", "4")
"""Options for the small random model."""


def questions(folder: Path, count: int = 6, **more: object) -> Path:
    """A file in the published evaluation format."""
    rows = [{**row, **more} for row in training_rows.question_rows(count)]
    return training_rows.write(folder / "questions.jsonl", rows)


def record(number: int, f1: float = 1.0, **values: object) -> Record:
    """A question that was answered."""
    scores = {"em": float(f1 == 1), "f1": f1, "cover_em": float(f1 == 1)}
    known = {"question": f"q{number}", "answer": "a", "scores": scores, "cluster": str(number)}
    return Record(number=number, **{**known, **values})
