"""The tables in the pages are those of the figures that ``clara-eval`` wrote beside them."""

import json
from pathlib import Path

import pytest

from trainers.evaluation import page

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [path for path in sorted(DOCS.glob("*.md")) if page.names(path)]


def test_there_are_tables():
    assert {"evaluation.md", "results.md"} <= {path.name for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_table_of_a_page_is_what_its_figures_make(path: Path):
    for name, shown in page.tables_in(path).items():
        assert shown == page.table(path, name), f"write it again: clara-eval report FOLDER --page {path.name} ({name})"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_figures_say_where_they_are_from(path: Path):
    for name in page.names(path):
        found = json.loads(page.figures(path, name).read_text(encoding="utf-8"))
        assert {"date", "processor", "torch", "transformers"} <= found["environment"].keys()
        assert found["environment"]["date"] in page.table(path, name)
        assert not any("/" in found["asked"][key] for key in ("model", "dataset"))
        assert not any(system["failed"] for system in found["systems"].values())
