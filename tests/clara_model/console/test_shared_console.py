"""What all commands share: how flags are spelled, and that each load option which words can say has one."""

import subprocess
import sys

import pytest

from clara_model.checkpoint.options import NAMES
from clara_model.cli import main as clara
from clara_model.console import command
from trainers.evaluation import cli as evaluation


@pytest.mark.parametrize("flag", ["--base-model", "--base_model", "--base_model=b", "--base-model=b"])
def test_a_flag_has_dashes_or_underscores(flag: str):
    words = [flag] if "=" in flag else [flag, "b"]
    assert clara._parser().parse_args(["info", *words]).base_model == "b"
    assert evaluation.parser().parse_args(["--dataset", "d", "--model", "m", *words]).base_model == "b"


def test_a_value_is_left_as_it_is():
    asked = clara._parser().parse_args(["ask", "a_b --top_k", "--docs", "a_b.txt", "--where=a_b=c_d"])
    assert (asked.question, asked.docs, asked.where) == ("a_b --top_k", ["a_b.txt"], ["a_b=c_d"])


def test_every_load_option_but_the_token_has_a_flag():
    parser = command.Parser()
    command.add_load_options(parser)
    assert set(vars(parser.parse_args([]))) == set(NAMES) - {"token"}


def test_reading_data_files_loads_no_torch():
    code = "import sys; import trainers.data.cli; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
