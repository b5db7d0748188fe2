"""The quick start of a process that is ``clara``'s own: what it leaves out, and that all of it is still to be had."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clara_model import Clara
from clara_model.cli import start

ROOT = Path(__file__).parents[3]
LEFT_OUT = ("torch._dynamo", "torch.distributed.tensor", "scipy", "sympy")
ASK = """
import sys
from clara_model.cli.main import program
sys.argv[1:] = {words!r}
assert program() == 0
print([name for name in {names!r} if name in sys.modules])
{more}
"""
COMPILES = """
import torch
compiled = torch.compile(lambda x: torch.relu(x) + 1, backend="eager")
assert compiled(torch.zeros(2)).tolist() == [1.0, 1.0]
import scipy.optimize, torch.distributed.tensor
"""


def run(code: str, folder: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_command_brings_in_no_compiler_and_what_it_leaves_out_still_works(tmp_path: Path, tiny_clara_folder: Path):
    text = "Ranvun Mepos was born in Jiwas."
    (tmp_path / "notes.txt").write_text(text)
    words = ["ask", "Where?", "--docs", "notes.txt", "--model", str(tiny_clara_folder), "--json", "--no-store"]
    shown = run(ASK.format(words=words, names=LEFT_OUT, more=COMPILES), tmp_path)
    assert shown[-1] == "[]"
    with Clara.load(tiny_clara_folder, device="cpu") as clara:
        whole = clara.answer("Where?", [text])
    found = json.loads("\n".join(shown[:-1]))
    assert found["answer"] == whole.text
    assert found["passages"][0]["score"] == pytest.approx(whole.ranking[0].score, abs=1e-6)


def test_what_is_asked_of_the_compiler_beyond_a_mark_imports_it(monkeypatch: pytest.MonkeyPatch):
    import torch._dynamo as real

    monkeypatch.setitem(sys.modules, start.COMPILER, real)
    marks = start._marks()
    function = marks.allow_in_graph(test_what_is_asked_of_the_compiler_beyond_a_mark_imports_it)
    assert function is test_what_is_asked_of_the_compiler_beyond_a_mark_imports_it
    assert marks.disable(recursive=False)(function) is function
    assert marks.config is real.config
    assert not hasattr(marks, "__nothing__")


def test_a_package_is_hidden_only_inside_the_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
    with start._in_place_of("tabnanny", None), pytest.raises(ImportError):
        importlib.import_module("tabnanny")
    tabnanny = importlib.import_module("tabnanny")
    with start._in_place_of("tabnanny", None):  # it is there already, and stays
        assert sys.modules["tabnanny"] is tabnanny
