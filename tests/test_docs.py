"""The pages: links lead somewhere, the reference has every module, and what the workflow runs is there."""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
        *ROOT.glob("clara_model/bundled/*/*.md"),
    ]
)
PACKAGES = ("clara_model", "trainers", "clara_integrations", "haystack_integrations")
WORKFLOWS = [
    yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))
]
NAVIGATION = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)["nav"]
WORDS = {"README.md": 700, "before the README's first code": 120, "main navigation": 15_000}
"""So many at most."""
STEPS = [step for workflow in WORKFLOWS for job in workflow["jobs"].values() for step in job["steps"]]


def main_pages(entries=NAVIGATION) -> list[Path]:
    """Pages of the navigation but for the reference and the changelog."""
    found = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            found += main_pages(target) if title != "Reference" else []
        elif target != "changelog.md":
            at_top = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
            found.append(ROOT / at_top.get(target, f"docs/{target}"))
    return found


def test_pages_are_no_longer_than_they_may_be():
    """Prints the words of each; code counts."""
    texts = {page.name: page.read_text(encoding="utf-8") for page in main_pages()}
    words = {name: len(text.split()) for name, text in texts.items()}
    counts = words | {
        "before the README's first code": len(texts["README.md"].partition("\n```")[0].split()),
        "main navigation": sum(words.values()),
    }
    sys.stdout.writelines(f"{count:6,}  {name}\n" for name, count in sorted(counts.items(), key=lambda item: item[1]))
    assert {name: counts[name] for name, most in WORDS.items() if counts[name] > most} == {}


def test_main_pages_tell_no_history():
    for page in main_pages():
        text = page.read_text(encoding="utf-8")
        assert (
            re.findall(r"goal (?:is )?missed|script that is not kept|\.\./shared|\bcommit [0-9a-f]{7}", text) == []
        ), page


def test_links_to_files_lead_somewhere():
    for page in PAGES:
        links = re.findall(r"]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = [ROOT, ROOT / "clara_model"]
    named = set(re.findall(r"`([\w./]+\.(?:py|md|txt|toml|yaml))`", text))
    assert len(named) > 5
    assert [name for name in sorted(named) if not any((place / name).exists() for place in places)] == []


def test_examples_and_modules_that_a_page_runs_are_there():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        scripts = re.findall(r"(?:python|bash) (examples/[\w./]+)", text)
        assert [name for name in scripts if not (ROOT / name).is_file()] == [], page
        modules = re.findall(r"(?:python|torchrun[^\n`]*) -m ((?:clara_model|trainers|clara_integrations)[\w.]*)", text)
        assert [name for name in modules if not (ROOT / (name.replace(".", "/") + ".py")).is_file()] == [], page


def test_options_that_a_page_gives_an_example_are_its_own():
    text = "\n".join(page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES)
    for script, words in re.findall(r"python (examples/[\w./]+\.py)([^`\n|#]*)", text):
        code = (ROOT / script).read_text(encoding="utf-8")
        if "ArgumentParser(" not in code:
            continue  # run as it stands by another test
        beside = [(ROOT / script).with_name(f"{name}.py") for name in re.findall(r"^(?:from|import) (\w+)", code, re.M)]
        code += "".join(path.read_text(encoding="utf-8") for path in beside if path.is_file())
        if "parse_known_args" in code:  # the rest goes to clara-eval
            code += (ROOT / "trainers/evaluation/cli.py").read_text(encoding="utf-8")
        assert [word for word in re.findall(r"(?<!\S)--[\w-]+", words) if f'"{word}"' not in code] == [], script


def test_the_reference_has_every_module():
    shown = {
        name
        for page in (ROOT / "docs/reference").glob("*.md")
        for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)
    }
    shown.remove("clara_model")  # its public names alone
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
            hidden = any(part.startswith("_") for part in parts)
            assert hidden or names & shown, f"{'.'.join(parts)} is on no page of docs/reference"


def test_the_plan_for_a_billion_passages_has_the_figures_that_its_script_prints(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    monkeypatch.setattr("sys.argv", ["scale.py"])
    __import__("scale").main()
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def test_actions_are_pinned_to_a_commit():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []


def test_what_the_workflow_makes_can_be_made():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    made = {word for step in STEPS for word in re.findall(r"^make ([\w-]+)", step.get("run", ""))}
    assert {"test", "slow", "docs", "lowest", "dist"} <= made
    assert made <= targets
