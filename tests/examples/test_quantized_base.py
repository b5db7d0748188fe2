"""The benchmark of a base in 8 and 4 bits, on few questions of clara-tiny."""

import importlib
from pathlib import Path

import pytest

pytest.importorskip("bitsandbytes")
BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


def test_smaller_bases_are_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("quantized_base")
    script.table("clara-tiny", importlib.import_module("element_types").questions(None, 4), 1)
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    found = {line[0]: line for line in lines[2:]}
    assert list(found) == ["bfloat16", "int8", "int4"]
    size = {name: float(line[1]) for name, line in found.items()}
    assert size["bfloat16"] > size["int8"] > size["int4"]
    changes = {name: float(line[2]) for name, line in found.items()}
    assert 0 == changes["bfloat16"] < changes["int8"] < changes["int4"] < 0.2
