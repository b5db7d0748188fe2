"""Every Python and `clara` snippet of the README runs as it stands, published checkpoints up to the missing network."""

import re
import shlex
from pathlib import Path

import pytest

from clara_model.checkpoint import bundled_models
from clara_model.cli.main import main
from clara_model.errors import ClaraError

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("clara ")
]


def test_the_python_snippet_prints_the_answer_that_it_states(capsys):
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    answer, ranking, costs = capsys.readouterr().out.splitlines()
    assert f"print(answer.text)  # {answer}\n" in PYTHON[0]
    assert ranking.count("Ranked(") == 2
    assert "Usage(" in costs


@pytest.mark.skipif(
    bundled_models.default_model() != bundled_models.SMALL, reason="clara-small's base model is not installed"
)
def test_the_snippet_with_real_text_prints_what_it_states(capsys):
    (snippet,) = [s for s in PYTHON if "clara-small" in s]
    exec(compile("from clara_model import Clara\n" + snippet, "README.md", "exec"), {})
    (answer,) = capsys.readouterr().out.splitlines()
    assert f"print(answer.text)  # {answer}\n" in snippet


@pytest.mark.parametrize("snippet", [s for s in PYTHON if "apple/" in s])
def test_a_published_checkpoint_says_in_one_sentence_that_the_hub_is_out_of_reach(snippet):
    with pytest.raises(ClaraError, match="apple/CLaRa-7B-E2E") as error:
        exec(compile("from clara_model import Clara\n" + snippet, "README.md", "exec"), {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_or_says_in_one_sentence_what_is_missing(command, tmp_path, monkeypatch, capsys):
    for name in ("notes.txt", "notes.md", "letters/one.txt", "papers/one.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("Ranvun Mepos was born in Jiwas.", encoding="utf-8")
    (tmp_path / "facts.jsonl").write_text('{"text": "Ponwis Kilos was born in Tenga."}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    if "--store" in command:  # the page's lines follow each other
        assert main(["compress", "letters/", "--store", "latents"]) == 0
        capsys.readouterr()
    code = main(shlex.split(command)[1:])
    out, err = capsys.readouterr()
    if "apple/" in command:
        assert code == 2
        assert err.count("\n") == 1
    else:
        assert code == 0, err
        assert out
