"""A few rows of each stage, and settings for runs that take a second on the small random model."""

import json
import random
from pathlib import Path

import pytest

from trainers.training.train_config import TrainConfig

NAMES = ["Ada Kell", "Tomas Reyl", "Mei Lin", "Oskar Brandt", "Priya Nair", "Ilse Moor"]
PLACES = ["Larkhaven", "Osmere", "Tolvik", "Cold Harbour"]


def documents(count: int, seed: int = 0) -> list[str]:
    """Sentences, each with a number of its own."""
    chance = random.Random(seed)
    return [f"{chance.choice(NAMES)} came to {chance.choice(PLACES)} in {1700 + n}." for n in range(count)]


def stage1_rows(count: int = 24) -> list[dict]:
    """Pairs and paraphrases in turn."""
    rows = []
    for n, text in enumerate(documents(count)):
        if n % 2:
            rows.append({"data_type": "paraphrase", "answers": ["That is: " + text], "docs": [text]})
        else:
            pairs = {"question": ["Who came?", "When?"], "answers": [text.split(" came")[0], text[-5:-1]]}
            rows.append({"data_type": "qa", **pairs, "docs": [text]})
    return rows


def question_rows(count: int = 16, candidates: int = 5) -> list[dict]:
    """One question with candidates, the gold one anywhere among them."""
    texts, chance, rows = documents(count * candidates, seed=1), random.Random(2), []
    for n in range(count):
        docs = texts[n * candidates : (n + 1) * candidates]
        gold = chance.randrange(candidates)
        row = {"question": f"When did {docs[gold].split(' came')[0]} come?", "docs": docs}
        rows.append({**row, "answer": docs[gold][-5:-1], "pos_index": [gold]})
    return rows


def uneven_rows(stage: str, count: int = 21) -> list[dict]:
    """What a split of a step can get wrong: rows that share documents, or have no gold one, and no whole last step."""
    if stage == "pretrain":
        rows = stage1_rows(count)
        for n in range(0, count - 3, 3):
            rows[n + 1]["docs"] = rows[n]["docs"]
        return rows
    rows = question_rows(count)
    for n, row in enumerate(rows):
        row["docs"] = rows[n // 2 * 2]["docs"][: 5 - n % 3]
        row["pos_index"] = [0] if n % 3 else []
    return rows


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(stage: str, save_path: Path, **values: object) -> TrainConfig:
    """Settings of a quick run."""
    fresh = {"compress_rate": 8, "doc_max_length": 32, "lora_rank": 4} if "pretrain" in values else {}
    defaults = {"train_batch_size": 8, "micro_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True}
    return TrainConfig.for_stage(stage, **{**fresh, **defaults, "save_path": save_path, **values})


def stage_config(stage: str, folder: Path, request: pytest.FixtureRequest, **values: object) -> TrainConfig:
    """A ten-step run of a stage."""
    if stage == "pretrain":
        base = request.getfixturevalue("base_folder")
        values = {"pretrain": base, "dataset": request.getfixturevalue("stage1_file"), **values}
    else:
        start = request.getfixturevalue("pretrained")
        values = {"pretrain_checkpoint": start, "dataset": request.getfixturevalue("questions_file"), **values}
    published = "stage2_pretrain_retrieval" if stage == "pretrain_retrieval" else stage
    return config(published, folder, **{"max_epochs": 6, "max_steps": 10, **values})


def history(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]
