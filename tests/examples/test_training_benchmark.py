"""The benchmark of training counts what ran, and its table has every stage, with a base of one's own too."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FEW = ["--steps", "1", "--rounds", "1", "--rows", "2", "--micro", "1"]
SIZES = "--hidden 64 --layers 1 --intermediate 64 --heads 2 --kv-heads 2".split()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a benchmark as a user would; the cells of its table by their first."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    monkeypatch.setenv("COLUMNS", "200")

    def inner(name: str, *options: str) -> dict[str, list[str]]:
        monkeypatch.setattr(sys, "argv", [name, *options])
        importlib.import_module(name).main()
        lines = re.findall(r"^│(.*)│$", capsys.readouterr().out, re.MULTILINE)
        cells = [[cell.strip() for cell in line.split("│")] for line in lines]
        return {first: rest for first, *rest in cells}

    return inner


@pytest.mark.slow
def test_every_stage(run):
    table = run("training", *FEW)
    assert list(table) == ["pretrain", "instruct", "end_to_end"]
    for tokens, _, ratio, _, memory in table.values():
        assert int(tokens) > 0 and float(ratio) > 0 and float(memory) > 0.05
    # two questions over the same twenty documents: the second question's are all there
    assert [reused for _, _, _, reused, _ in table.values()] == ["", "", "0.50"]


def test_a_base_of_ones_own(run, tmp_path: Path):
    run("random_base", str(tmp_path / "base"), *SIZES)
    assert json.loads((tmp_path / "base" / "config.json").read_text())["hidden_size"] == 64
    assert list(run("training", str(tmp_path / "base"), *FEW, "--stages", "pretrain")) == ["pretrain"]


def test_padding_of_a_file(run, tmp_path: Path):
    long, short = ({"docs": ["Ada came. " * n], "question": "Who came?", "answer": "Ada"} for n in (16, 1))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [long, short] * 4)), encoding="utf-8")
    table = run("training", "--padding", str(tmp_path / "rows.jsonl"), "--rows", "8", "--micro", "2")
    shuffled, arranged, grouped = table.values()
    assert arranged == grouped == ["0.000"] * 3
    assert float(shuffled[0]) > 0.1 and shuffled[1] == "0.000" and 0 < float(shuffled[2]) < float(shuffled[0])


def test_products_are_counted_by_shape(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    bare = importlib.import_module("bare_products")
    layer, rows = torch.nn.Linear(8, 5, bias=False), torch.randn(3, 8, requires_grad=True)
    with bare.Shapes() as shapes:
        (layer(rows) + 1).sum().backward()
    found = {(first, second): count for (first, second, _, _), count in shapes.found.items()}
    # forward; the gradient of the weight, 5x3 by 3x8; that of the rows, 3x5 by 5x8
    assert found == {((3, 8), (8, 5)): 1, ((5, 3), (3, 8)): 1, ((3, 5), (5, 8)): 1}
    ran = bare.Shapes()
    with ran:
        bare.products(shapes.found)
    assert ran.found == shapes.found
