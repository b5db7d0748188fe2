"""Tables in a Markdown page that come from files beside it: what ``clara-eval`` has measured goes into both.

    python examples/evaluation/page.py FOLDER docs/experiments/text-rag.md    # FOLDER: an --out of clara-eval

A page marks where they stand, ``<!-- clara-eval: NAME -->`` .. ``<!-- end -->``; ``NAME.json`` in the folder beside the
page that has its name holds the figures of that evaluation. Leaves out the rest of the page.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clara_model.errors import ClaraError
from trainers.evaluation import report

KEPT = ("setting", "stage", "top_k", "rate", "slots", "dtype", "max_new_tokens", "batch_size", "fingerprint")
"""What a page's figures keep of what was asked for; names of files are kept without their folders."""
MARKED = re.compile(r"(<!-- clara-eval: (?P<name>[\w.-]+) -->\n)(?P<table>.*?)(<!-- end -->)", re.DOTALL)


def figures(page: Path, name: str) -> Path:
    """Where the figures behind a table of a page lie."""
    return page.with_suffix("") / f"{name}.json"


def names(page: Path) -> list[str]:
    """The tables that a page marks."""
    return [found["name"] for found in MARKED.finditer(page.read_text(encoding="utf-8"))]


def tables_in(page: Path) -> dict[str, str]:
    """The tables that stand between the marks of a page."""
    return {found["name"]: found["table"] for found in MARKED.finditer(page.read_text(encoding="utf-8"))}


def table(page: Path, name: str) -> str:
    """A table as its figures make it."""
    return "\n" + report.markdown(json.loads(figures(page, name).read_text(encoding="utf-8"))) + "\n"


def write(page: Path, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write figures beside a page, and the tables between its marks.

    Args:
        page: a Markdown file.
        found: summaries by name, which is what a mark names.

    Returns:
        The tables that were written.

    Raises:
        ClaraError: no such page, or it has a mark for none of them.
    """
    if not page.is_file():
        raise ClaraError(f"there is no page {page}")
    marked = [name for name in names(page) if name in found]
    if not marked:
        listed = ", ".join(found)
        raise ClaraError(f"{page} marks no table of these: write <!-- clara-eval: NAME --> and <!-- end --> ({listed})")
    for name in marked:
        file = figures(page, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_figures(found[name]), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = MARKED.sub(lambda one: _replaced(page, one, marked), page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    return marked


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    asked = summary["asked"]
    named = {name: Path(asked[name]).name for name in ("model", "dataset")}
    return {**summary, "asked": named | {name: asked[name] for name in KEPT}}


def _replaced(page: Path, found: re.Match[str], marked: list[str]) -> str:
    return found[1] + table(page, found["name"]) + found[4] if found["name"] in marked else found[0]


def put(folder: Path, page: Path) -> list[str]:
    """Put every evaluation in a folder into a page that has a mark for it; the tables that were written."""
    return write(page, {place.name: dict(one) for place, one in report.summaries_in(folder).items()})


def main() -> None:
    """Write one page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an --out of clara-eval")
    parser.add_argument("page", type=Path, help="a Markdown page with marks")
    args = parser.parse_args()
    print(f"{args.page}: {', '.join(put(args.folder, args.page))}")


if __name__ == "__main__":
    main()
