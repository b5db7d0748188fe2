"""integrations/clara.md: the front matter that Haystack's list of integrations asks for, and blocks that run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clara_model.checkpoint import bundled_models

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "integrations" / "clara.md").read_text(encoding="utf-8")
ASKED = {"layout", "name", "description", "authors", "type", "version", "toc"}
KINDS = {
    "Document Store",
    "Model Provider",
    "Data Ingestion",
    "Monitoring Tool",
    "Evaluation Framework",
    "Custom Component",
}


def test_the_front_matter_has_what_is_asked():
    _, front, body = PAGE.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields.keys() >= ASKED and fields.keys() & {"pypi", "repo"}
    assert fields["layout"] == "integration" and fields["type"] in KINDS
    assert all(author["name"] for author in fields["authors"])
    headings = re.findall(r"^##+ (.*)$", body, re.MULTILINE)
    assert all(
        re.search(rf"\[{name}]\(#{name.lower()}\)", body) for name in ("Overview", "Installation", "Usage", "License")
    )
    assert {"Overview", "Installation", "Usage", "Components", "License"} <= set(headings)


@pytest.mark.pages
@pytest.mark.skipif(bundled_models.default_model() != bundled_models.SMALL, reason="clara-small's base is missing")
@pytest.mark.parametrize(("place", "answer"), [(0, "every six months"), (1, "twelve")])
def test_each_block_runs_alone(place: int, answer: str, tmp_path: Path):
    pytest.importorskip("haystack")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", blocks[place]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout
