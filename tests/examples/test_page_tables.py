"""The tables in the pages are those of the figures that ``clara-eval`` wrote beside them."""

import json
import sys
from pathlib import Path

import pytest

from clara_model.errors import ClaraError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "evaluation"))
import page  # noqa: E402

DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if page.names(path)]


def test_there_are_tables():
    assert {"evaluation.md", "text-rag.md"} <= {path.name for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_table_of_a_page_is_what_its_figures_make(path: Path):
    for name, shown in page.tables_in(path).items():
        assert shown == page.table(path, name), f"write {name} again: examples/evaluation/page.py FOLDER {path}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_figures_say_where_they_are_from(path: Path):
    for name in page.names(path):
        found = json.loads(page.figures(path, name).read_text(encoding="utf-8"))
        assert {"date", "processor", "torch", "transformers"} <= found["environment"].keys()
        assert found["environment"]["date"] in page.table(path, name)
        assert not any("/" in found["asked"][key] for key in ("model", "dataset"))
        assert not any(system["failed"] for system in found["systems"].values())


def test_tables_go_into_a_page_between_its_marks(tmp_path: Path):
    """Figures of two evaluations in a folder, of which the page marks one."""
    figures = page.figures(DOCS / "evaluation.md", page.names(DOCS / "evaluation.md")[0])
    for name in ("one", "other"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "summary.json").write_text(figures.read_text(encoding="utf-8"))
    results = tmp_path / "results.md"
    results.write_text("# R\n\n<!-- clara-eval: one -->\nold\n<!-- end -->\n\nafter\n")
    assert page.put(tmp_path / "out", results) == ["one"]
    text = results.read_text()
    assert "\nold\n" not in text and text.startswith("# R\n") and text.endswith("<!-- end -->\n\nafter\n")
    assert "| clara |" in text and [file.name for file in (tmp_path / "results").iterdir()] == ["one.json"]
    assert page.tables_in(results) == {"one": page.table(results, "one")}
    with pytest.raises(ClaraError, match="marks no table of these"):
        page.write(results, {"something": {}})
