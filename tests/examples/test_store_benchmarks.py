"""The benchmarks of what is kept: element types, product quantisation, and `clara compress` on its whole way."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from small_model import QUESTIONS, TEXTS

from clara_model import Clara, ClaraModel
from trainers.data.row import Row

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"
ROWS = [Row(documents=tuple(TEXTS), questions=(one,), answers=("1962",), references=("1962",)) for one in QUESTIONS]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def cells(printed: str) -> dict[str, list[str]]:
    """The lines of a table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def test_bfloat16_changes_little_and_int4_more(model: ClaraModel, script, capsys):
    types = script("element_types")
    with Clara(model) as clara:
        types.on_answers(clara, ROWS, map(types.element_type, ("bfloat16", "int4")))
    table = cells(capsys.readouterr().out)
    assert table["float32"][1:4] == ["0.00000", "1.000", "1.000"]
    assert table["float32"][-1] == "1.000"
    assert 0 < float(table["bfloat16"][1]) < float(table["int4"][1])
    nbytes = {name: int(table[name][0].replace(",", "")) for name in ("float32", "bfloat16", "int4")}
    assert nbytes["float32"] == 2 * nbytes["bfloat16"] > 4 * nbytes["int4"]


def test_questions_of_a_file_are_its_first_rows(script, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    rows = ({"question": question, "docs": TEXTS, "golden_answers": ["1962", "in 1962"]} for question in QUESTIONS)
    file.write_text("\n".join(map(json.dumps, rows)))
    found = script("element_types").questions(str(file), 2)
    assert [row.questions[0] for row in found] == QUESTIONS[:2]
    assert found[0].references == ("1962", "in 1962")


def test_codebooks_bring_back_what_they_were_learned_from(script):
    pytest.importorskip("faiss", reason="extra search")
    product = script("product_quantisation")
    torch.manual_seed(0)
    few_8D = torch.randn(8, 16)
    learned = few_8D[torch.arange(10_000) % 8]
    kind = product.product(2, learned[:, None])
    blocks = torch.cat([3 * few_8D, torch.zeros(1, 16)]).view(3, 3, 16)
    torch.testing.assert_close(kind.restored(blocks), blocks, rtol=1e-3, atol=1e-3)
    assert kind.nbytes(3, 16) == 3 * (4 + 8)


def test_levels_for_normal_numbers_come_nearer_to_them_than_even_steps(script):
    pytest.importorskip("faiss", reason="extra search")
    product, even = script("product_quantisation"), script("element_types").element_type("int4")
    torch.manual_seed(0)
    blocks = torch.cat([torch.randn(4, 8, 512), torch.zeros(1, 8, 512)])
    levels = product.fixed_levels()
    errors = [(kind.restored(blocks) - blocks).square().mean() for kind in (levels, even)]
    assert errors[0] < 0.6 * errors[1]
    assert not levels.restored(blocks)[-1].any()
    assert levels.nbytes(8, 512) == even.nbytes(8, 512)


def test_passages_that_are_asked_about_teach_nothing(script):
    pytest.importorskip("faiss", reason="extra search")
    offered, other = Row(documents=tuple(TEXTS[:3]), questions=("?",), answers=("x",)), TEXTS[4]
    behind = Row(documents=(TEXTS[0], other, other), questions=("?",), answers=("x",))
    assert script("product_quantisation").others([behind], [offered]) == [other]


@pytest.mark.parametrize("kind", ["random", "base", "model"])
def test_compressing_says_where_its_time_goes(
    kind: str, script, base_folder: Path, tiny_clara_folder: Path, tmp_path: Path, monkeypatch, capsys
):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"doc": text}) for text in TEXTS))
    small = ["--hidden", "32", "--layers", "2", "--intermediate", "64", "--heads", "4", "--kv-heads", "2"]
    how = {"random": small, "base": ["--base", str(base_folder)], "model": ["--model", str(tiny_clara_folder)]}[kind]
    monkeypatch.setattr(sys, "argv", ["compressing", str(file), "--text-key", "doc", "--documents", "4", *how])
    script("compressing").main()
    printed = capsys.readouterr().out
    assert "4 documents, 4 passages" in printed
    shares = [float(share) for share in re.findall(r"\((-?\d+\.\d)%\)", printed)]
    assert len(shares) == 4  # tokenising, passes, store, the rest
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert re.search(r"ratio \d\.\d\d \(goal 0\.7\)", printed)
