"""The built site: every picture and link leads somewhere, and no Markdown or HTML stands there as text."""

import re
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
