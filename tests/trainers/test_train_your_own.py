"""The page "Train your own", command by command in one folder: from text files to an answer.

Three things are put in the place of what the page assumes: the small random base model, a rule on loopback as the chat
model, and files of a few rows in the official form.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import chat_server
from official_files import hotpotqa, write_json

PAGE = (Path(__file__).parents[2] / "docs" / "train-your-own.md").read_text(encoding="utf-8")
BASES = ("mistralai/Mistral-7B-Instruct-v0.2", "SMALL_BASE")
MODULES = {
    "clara": "clara_model.cli.main",
    "clara-data": "trainers.data.cli",
    "clara-eval": "trainers.evaluation.cli",
    "clara-train": "trainers.training.cli",
    "torchrun": "torch.distributed.run",
}


def commands() -> list[list[str]]:
    """Every command of the page as words, ``VARIABLE=value`` in front left out."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line) for line in blocks.splitlines() if line.strip()]
    return [line[1:] if "=" in line[0] else line for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents to learn from and official files to convert."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_documents").mkdir()
    for number in range(4):
        text = f"Tower {number} is tall. Bridge {number} is old. Clock {number} is loud."
        (folder / "my_documents" / f"{number}.txt").write_text(text, encoding="utf-8")
    for name in ("hotpot_train_v1.1.json", "hotpot_dev_distractor_v1.json"):
        write_json(folder / name, [hotpotqa(number) for number in range(4)])
    return folder


def run(words: list[str], folder: Path, base_folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """One command of the page in the folder."""
    words = [str(base_folder) if word in BASES else word for word in words]
    words = [url if word == "http://localhost:8000/v1" else word for word in words]
    if words[0] in ("clara-train", "torchrun"):
        words += ["--doc_max_length", "32"] if "pretrain" in words else []
        words += ["--train_batch_size", "2", "--micro_train_batch_size", "1", "--use_cpu"]
        words = [word for word in words if word != "--bf16"]
    program = ["-m", MODULES[words[0]]] if words[0] in MODULES else []
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "none"}
    return subprocess.run(
        [sys.executable, *program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_the_page_goes_from_documents_to_an_answer(folder: Path, base_folder: Path):
    with chat_server() as server:
        for words in commands():
            if words[0] != "torchrun":
                done = run(words, folder, base_folder, server.url)
                assert done.returncode == 0, (words, done.stdout[-500:], done.stderr[-1500:])
    assert done.stdout.strip()
    assert (folder / "ckpt" / "end_to_end" / "adapters.safetensors").is_file()


@pytest.mark.slow
def test_its_two_processes_train(folder: Path, base_folder: Path, tmp_path: Path):
    rows = '{"data_type": "qa", "question": ["What is Tower 1?"], "answers": ["tall"], "docs": ["Tower 1 is tall."]}\n'
    (folder / "pretrain.jsonl").write_text(rows * 64, encoding="utf-8")
    (words,) = [words for words in commands() if words[0] == "torchrun"]
    words = [str(tmp_path / "try") if word == "/tmp/try" else word for word in words]
    done = run(words, folder, base_folder, "")
    assert done.returncode == 0, done.stderr[-8000:]
    assert (tmp_path / "try" / "adapters.safetensors").is_file()
