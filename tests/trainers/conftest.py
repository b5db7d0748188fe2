"""Data files and checkpoints that the trainers' tests share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
import torch
import training_rows

from clara_model import ClaraModel
from clara_model.modeling.tokens import Tokens
from trainers.training.run import train


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny passes are slower, and sums come in another order, with more threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stage1_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows of pairs and paraphrases."""
    return training_rows.write(tmp_path_factory.mktemp("data") / "stage1.jsonl", training_rows.stage1_rows())


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 questions with 5 candidates each."""
    return training_rows.write(tmp_path_factory.mktemp("data") / "questions.jsonl", training_rows.question_rows())


@pytest.fixture(scope="session")
def pretrained(base_folder: Path, stage1_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after three steps of stage 1."""
    folder = tmp_path_factory.mktemp("pretrained")
    start = {"pretrain": base_folder, "dataset": stage1_file, "lora_dropout": 0.0, "lr_scheduler": "cosine"}
    return train(training_rows.config("pretrain", folder, **start))


@pytest.fixture(scope="session")
def tokens(tiny_clara_folder: Path) -> Tokens:
    """The small model's tokens."""
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu").tokens
