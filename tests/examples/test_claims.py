"""The page on the paper's claims is what its figures make; what a claim's word depends on; a run on clara-tiny."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "experiments"))
import claims

BETTER = (("a", "b", 0.05), ("c", "b", 0.0))


def test_the_page_shows_the_figures_beside_it():
    found = json.loads(claims.DATA.read_text(encoding="utf-8"))
    page = claims.PAGE.read_text(encoding="utf-8")
    assert claims.shown(page) == claims.table(found), "write it again: claims.py FOLDER --page"
    assert all((claims.DATA.parent / f"{name}.png").read_bytes()[1:4] == b"PNG" for name in found)
    assert all(set(map(str, claims.SEEDS)) == set(seeds) for seeds in found.values())


@pytest.mark.parametrize(
    ("a", "word"),
    [((0.5, 0.6), "holds"), ((0.5, 0.4), "cannot be told here"), ((0.3, 0.4), "does not")],
)
def test_a_claim_holds_where_it_is_so_with_every_seed(a, word):
    claim = claims.Claim("says", "paper", "rates", BETTER)
    seeds = {str(n): {"a": value, "b": 0.54, "c": 0.54} for n, value in enumerate(a)}
    assert claim.word(seeds) == word
    assert claim.word({}) == claims.Claim("says", "paper", "rates", (("a", "d", 0.0),)).word(seeds) == "not yet run"


def test_every_claim_is_about_points_that_its_group_measures(tmp_path: Path):
    for claim in claims.CLAIMS:
        names = [name for name, _ in claims.GROUPS[claim.group].points(claims.Work(tmp_path), 1)]
        for point in (point for pair in claim.better for point in pair[:2]):
            assert any(point == name or point.startswith(f"{name} ") for name in names), point


def test_what_is_measured_is_not_measured_again(tmp_path: Path, monkeypatch, capsys):
    words = ["claims.py", str(tmp_path), "--only", "distractors", "--seeds", "1", "--count", "2"]
    monkeypatch.setattr(sys, "argv", words)
    claims.main()
    found = json.loads((tmp_path / "figures.json").read_text())["distractors"]["1"]
    assert len(found) == 7 and all(0 <= value <= 1 for value in found.values())
    monkeypatch.setattr(claims, "asked", None)
    claims.main()
    assert json.loads((tmp_path / "figures.json").read_text())["distractors"]["1"] == found
    assert "| 19 distractors |" in capsys.readouterr().out


@pytest.mark.slow
def test_every_group_runs_from_its_data_to_its_figures(tmp_path: Path, monkeypatch):
    trained = [name for name, group in claims.GROUPS.items() if group.trained]
    words = ["claims.py", str(tmp_path), "--only", *trained, "--seeds", "1", "--count", "4", "--share", "0.001"]
    monkeypatch.setattr(sys, "argv", words)
    claims.main()
    found = json.loads((tmp_path / "figures.json").read_text())
    for claim in (one for one in claims.CLAIMS if one.group in trained):
        assert claim.word(found[claim.group]) != claims.MISSING
