"""The scripts and YAML files of ``examples/train``: every flag is known, and the settings are what the paper used."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from trainers.training.cli import build_parser
from trainers.training.train_config import TrainConfig, read_yaml

FOLDER = Path(__file__).parents[2] / "examples" / "train"
STAGES = ("pretrain", "instruct", "end_to_end")
TRAINS = r"(clara-train|torchrun|deepspeed) .*--stage"


def script_settings(stage: str, tmp_path: Path, **environment: str) -> tuple[list[str], TrainConfig]:
    """What the script hands to torchrun, and the run it asks for."""
    stand_in = tmp_path / "torchrun"
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
    stand_in.chmod(0o755)
    values = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DATA": "rows.jsonl", **environment}
    done = subprocess.run([FOLDER / f"{stage}.sh"], env=values, capture_output=True, text=True, check=True)
    words = done.stdout.split("\n")[:-1]
    at = words.index("trainers.training.cli") + 1
    given = vars(build_parser().parse_args(words[at:]))
    return words[:at], TrainConfig.for_stage(given.pop("stage"), **given)


@pytest.mark.parametrize("stage", STAGES)
def test_script_and_yaml_ask_for_the_same_run(stage: str, tmp_path: Path):
    _, script = script_settings(stage, tmp_path)
    values = read_yaml(FOLDER / f"{stage}.yaml")
    config = TrainConfig.for_stage(values.pop("stage"), **values)
    same = {**script.to_dict(), "dataset": config.to_dict()["dataset"]}
    assert same == config.to_dict()


def test_several_machines(tmp_path: Path):
    words, config = script_settings(
        "pretrain", tmp_path, NODES="4", NODE_RANK="2", MASTER="first", GPUS="8", EXTRA="--seed 7"
    )
    line = shlex.join(words)
    for part in ("--nnodes 4", "--node_rank 2", "--master_addr first", "--nproc_per_node 8"):
        assert part in line
    assert config.seed == 7


def test_a_script_without_data_says_so(tmp_path: Path):
    values = {name: value for name, value in os.environ.items() if name != "DATA"}
    done = subprocess.run([FOLDER / "instruct.sh"], env=values, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "set DATA" in done.stderr


def page_commands() -> list[list[str]]:
    """The words of the training commands of docs/training.md; ``...`` stands for a base and a data set."""
    page = (FOLDER.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    lines = [line.split("#")[0] for line in page.splitlines()]
    cut = r"clara-train|trainers\.training\.cli"
    found = [re.split(cut, line, maxsplit=1)[1] for line in lines if re.match(TRAINS, line)]
    return [shlex.split(line.replace("...", "--pretrain BASE --dataset rows.jsonl")) for line in found]


@pytest.mark.parametrize("words", page_commands(), ids=" ".join)
def test_the_pages_commands_are_settings_of_a_run(words: list[str]):
    given = vars(build_parser().parse_args(words))
    assert TrainConfig.for_stage(given.pop("stage"), **given).dataset
