"""Every Python and `clara` snippet of the README runs as it stands, a published checkpoint up to the missing hub."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from clara_model.checkpoint import bundled_models, devices
from clara_model.cli.main import main
from clara_model.errors import ClaraError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("clara ")
]
needs_base = pytest.mark.skipif(
    bundled_models.default_model() != bundled_models.SMALL, reason="clara-small's base model is not installed"
)


@needs_base
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_answer_is_the_one_that_it_states_on_every_machine(capsys, monkeypatch, dtype):
    monkeypatch.setattr(devices, "default_dtype", lambda device: dtype)
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    (answer,) = capsys.readouterr().out.splitlines()
    assert f"print(answer.text)  # {answer}\n" in snippet


def test_a_published_checkpoint_says_in_one_sentence_that_the_hub_is_out_of_reach():
    page = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python published\n(.*?)```", page, re.DOTALL)
    with pytest.raises(ClaraError, match="apple/CLaRa-7B-E2E") as error:
        exec(compile("from clara_model import Clara\n" + snippet, "start.md", "exec"), {})
    assert "\n" not in str(error.value)


def test_the_commands_run_in_order_on_files_of_the_repository(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "examples/notes", tmp_path / "examples/notes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(COMMANDS) == 4 and COMMANDS.pop() == "clara serve --store latents"  # test_start.py serves
    for command in COMMANDS:
        assert main(shlex.split(command)[1:]) == 0, command
        assert capsys.readouterr().out
