"""Accuracy and recall in the README, the cards and the pages are numbers of files that commands wrote."""

import json
import re
import sys
from pathlib import Path

import pytest

from clara_model.checkpoint.files import BUNDLED

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples" / "evaluation"))
import page_numbers  # noqa: E402

pytestmark = pytest.mark.pages
LISTED = list(page_numbers.places())
CARDS = [path.parent for path in sorted(BUNDLED.glob("*/figures.json"))]
WHOLE = [
    "README.md",
    "docs/llama_index.md",
    "docs/haystack.md",
    *(f"clara_model/bundled/{c.name}/README.md" for c in CARDS),
]
ACCURACY = re.compile(r"\b0\.\d{2,}\b(?! (?:s|ms|times)\b)|\b\d+ (?=of 100\b)")
"""A share, with two digits or as so many of 100; times are other pages' concern."""


@pytest.mark.parametrize("place", LISTED, ids=lambda place: f"{place.page.name}: {place.text[:40]}")
def test_a_sentence_says_what_its_file_says(place: page_numbers.Place):
    said = list(place.found().groups())
    assert said == place.numbers, "write them again: python examples/evaluation/page_numbers.py"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_shows_all_figures_and_no_others(card: Path):
    figures = json.loads((card / "figures.json").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| ([\w@]+) \| ([\d.]+) \|", (card / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    shown = {name: f"{value:.3f}" for name, value in figures.items()}
    beside = {name for name in figures if name.endswith("_plus_minus")} | {"seed", "questions", "pools"}
    assert dict(rows) == {name: value for name, value in shown.items() if name not in beside}


def test_both_bundles_keep_their_figures():
    assert {card.name for card in CARDS} == {"clara-small", "clara-tiny"}


@pytest.mark.parametrize("page", WHOLE)
def test_no_share_stands_in_a_page_without_a_file(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    known = [match.span() for place in LISTED if place.page == ROOT / page for match in [place.found()]]
    known += [match.span() for match in re.finditer(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)]
    if page.startswith("clara_model"):  # a card's table has its own test
        known += [match.span() for match in re.finditer(r"^\| [\w@]+ \| [\d.]+ \|.*$", text, re.MULTILINE)]
    free = [one for one in ACCURACY.finditer(text) if not any(a <= one.start() < b for a, b in known)]
    assert [text[max(0, one.start() - 40) : one.end() + 20] for one in free] == []


def test_numbers_are_put_into_a_page(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("It has the right one\nfor 98 of 100, and answers 91 of 100.\n")
    pattern = re.compile(r"right\s+one\s+for\s+(\d+)\s+of\s+100,\s+and\s+answers\s+(\d+)")
    place = page_numbers.Place(page, pattern, ["100", "9"], "..")
    assert place.write() == ["page.md: 98 -> 100", "page.md: 91 -> 9"]
    assert page.read_text() == "It has the right one\nfor 100 of 100, and answers 9 of 100.\n"
    assert place.write() == []
    page.write_text("nothing of it\n")
    with pytest.raises(ValueError, match="holds 0 times"):
        place.write()


def test_every_source_is_in_the_table_of_commands():
    table = (ROOT / "docs" / "experiments" / "commands.md").read_text(encoding="utf-8")
    for source in json.loads(page_numbers.LIST.read_text(encoding="utf-8"))["sources"].values():
        assert f"`{source['command']}`" in table
        assert (ROOT / source["file"]).is_file()
