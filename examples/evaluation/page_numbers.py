"""The numbers in the pages' sentences, from the files that commands wrote.

    python examples/evaluation/page_numbers.py            # puts them into the pages
    python examples/evaluation/page_numbers.py --check    # changes nothing; exit code 1 where a page says otherwise

``docs/numbers.json`` names the files (``sources``, each with the command that writes it) and the sentences
(``places``): a sentence has fields, ``{recall@5:.3f}``, ``{systems>clara>metrics>f1>value:.2f}`` or, as a share of
100, ``{ranked_em:%}`` and ``{ranked_em:not%}`` (the rest). Line breaks do not matter. Leaves out the tables between
marks, which ``examples/evaluation/page.py`` writes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "docs" / "numbers.json"
FIELD = re.compile(r"\{([^{}]+):(\.\df|%|not%)\}")
SHARES = ("%", "not%")
NUMBER = r"-?\d[\d,]*(?:\.\d+)?"


@dataclass(frozen=True)
class Place:
    """One sentence of a page."""

    page: Path
    pattern: re.Pattern[str]
    """Matches the sentence with whatever numbers; each is a group."""
    numbers: list[str]
    """What the file says."""
    text: str

    def found(self) -> re.Match[str]:
        """Where it stands.

        Raises:
            ValueError: the page has no such sentence, or several.
        """
        matches = list(self.pattern.finditer(self.page.read_text(encoding="utf-8")))
        if len(matches) != 1:
            raise ValueError(
                f"{self.page.name} holds {len(matches)} times: {self.text!r}; change docs/numbers.json too"
            )
        return matches[0]

    def write(self) -> list[str]:
        """Put the numbers in; what has changed, as ``old -> new``."""
        match, page = self.found(), self.page.read_text(encoding="utf-8")
        changed, end = [], len(page)
        for group in range(len(self.numbers), 0, -1):
            old, new = match[group], self.numbers[group - 1]
            if old != new:
                page = page[: match.start(group)] + new + page[match.end(group) : end] + page[end:]
                changed.append(f"{self.page.name}: {old} -> {new}")
        if changed:
            self.page.write_text(page, encoding="utf-8")
        return changed[::-1]


def places() -> Iterator[Place]:
    """All sentences of ``docs/numbers.json``."""
    listed = json.loads(LIST.read_text(encoding="utf-8"))
    figures = {
        name: json.loads((ROOT / one["file"]).read_text(encoding="utf-8")) for name, one in listed["sources"].items()
    }
    for one in listed["places"]:
        text, values = one["text"], figures[one["source"]]
        parts = FIELD.split(text)
        fixed, names, forms = parts[::3], parts[1::3], parts[2::3]
        pattern = f"({NUMBER})".join(r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in fixed)
        numbers = [shown(value_of(values, name), form) for name, form in zip(names, forms, strict=True)]
        yield Place(ROOT / one["page"], re.compile(pattern), numbers, text)


def value_of(values: Mapping[str, Any], name: str) -> float:
    """A figure of a file by its keys, which ``>`` divides."""
    found: Any = values
    for key in name.split(">"):
        found = found[key]
    return float(found)


def shown(value: float, form: str) -> str:
    """As a page shows it."""
    if form in SHARES:
        return f"{100 * (value if form == '%' else 1 - value):.0f}"
    return f"{value:,{form}}"


def main() -> int:
    """Write or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what differs, and write nothing")
    check = parser.parse_args().check
    differing = []
    for place in places():
        if check:
            said = list(place.found().groups())
            differing += [f"{place.page.name}: {a} -> {b}" for a, b in zip(said, place.numbers, strict=True) if a != b]
        else:
            differing += place.write()
    sys.stdout.write("".join(f"{line}\n" for line in differing) or "every number is its file's\n")
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
