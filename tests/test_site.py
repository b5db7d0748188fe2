"""The built site: every picture and link leads somewhere, and no Markdown or HTML stands there as text."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.pages
pytest.importorskip("mkdocs", reason="the documentation's packages (extra docs) are not installed")
bs4 = pytest.importorskip("bs4")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, "bs4.BeautifulSoup"]:
    """Every page of a fresh build, parsed; a warning ends it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = [path for path in folder.rglob("*.html") if path.name != "404.html"]
    return {path: bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "lxml") for path in files}


def test_pictures_and_links_lead_somewhere(pages):
    for path, page in pages.items():
        targets = [image["src"] for image in page.find_all("img")] + [link["href"] for link in page.select("a[href]")]
        files = [target.partition("#")[0] for target in targets if not re.match(r"https?:|mailto:|data:|#", target)]
        assert [name for name in files if name and not (path.parent / name).resolve().exists()] == [], path.name


def test_nothing_is_fetched_from_elsewhere(pages):
    for path, page in pages.items():
        fetched = [one["src"] for one in page.select("script[src]")]
        fetched += [one["href"] for one in page.select("link[rel=stylesheet], link[rel=icon]")]
        assert [name for name in fetched if re.match("https?:|//", name)] == [], path.name


@pytest.mark.skipif(shutil.which("chromium") is None, reason="wants chromium")
def test_search_finds_without_a_server(pages, tmp_path):
    """In a browser that reads the folder: the field is shown, and there are results."""
    (start,) = [path for path in pages if path.name == "start.html"]
    more = ["--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom"]
    command = ["chromium", "--headless", "--window-size=1400,900", *more, f"{start.as_uri()}?q=compress"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    page = bs4.BeautifulSoup(done.stdout, "lxml")
    (search,) = page.select(".md-search")
    assert not search.has_attr("hidden")
    assert re.match(r"\d+ matching documents", page.select(".md-search-result__meta")[0].get_text().strip())


def test_versions_stand_beside_each_other(tmp_path):
    """Two deployed into a branch of a clone: each has its pages, the alias the last's, and the root leads there."""
    pytest.importorskip("mike")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path)], check=True)
    who = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
    where = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **who, "PATH": where}, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    for version in ("0.2", "0.3"):
        run("mike", "deploy", "--update-aliases", version, "latest")
    run("mike", "set-default", "latest")
    kept = run("git", "ls-tree", "-r", "--name-only", "gh-pages").splitlines()
    assert {"index.html", "versions.json", "0.2/start.html", "0.3/start.html"} <= set(kept)
    assert "latest" in run("git", "show", "gh-pages:index.html")
    (newest, oldest) = json.loads(run("git", "show", "gh-pages:versions.json"))
    assert (newest["version"], newest["aliases"], oldest["aliases"]) == ("0.3", ["latest"], [])


def test_all_pictures_of_the_pages_are_shown(pages):
    for path in (ROOT / "docs").rglob("*.md"):
        written = len(re.findall(r"!\[", path.read_text(encoding="utf-8")))
        built = str(path.relative_to(ROOT / "docs").with_suffix(".html"))
        (page,) = [page for file, page in pages.items() if str(file).endswith(f"site0/{built}")]
        assert len(page.select("article img")) >= written, path.name


def test_no_markdown_or_html_is_left_as_text(pages):
    for path, page in pages.items():
        for code in page.select("code, pre, script, style"):
            code.decompose()
        text = page.get_text()
        assert re.findall(r"</?t[dr]>|```|\]\([\w./]+\)|`", text) == [], path.name


def test_llms_txt_lists_the_main_pages(pages):
    (folder,) = {path.parent for path in pages if path.name == "start.html"}
    listed = re.findall(r"\]\(([^)]+)\)", (folder / "llms.txt").read_text(encoding="utf-8"))
    assert [link for link in listed if not (folder / link).is_file()] == []
    shown = {path.name for path in pages if path.parent == folder} - {"index.html", "contributing.html"}
    assert shown <= set(listed)
