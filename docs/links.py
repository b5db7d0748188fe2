"""Makes pages that are written for the repository fit the site: a hook of mkdocs.

README, CONTRIBUTING and CHANGELOG lie outside ``docs/`` and link into it; pages in ``docs/`` link to files of the
repository, which the site does not hold: their paths are shown instead.
"""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(!?)\[([^]]*)]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")
_SIDE_BY_SIDE = re.compile(
    r"<table>\n<tr><th>(.*?)</th><th>(.*?)</th></tr>\n<tr><td valign=\"top\">\n(.*?)\n</td><td valign=\"top\">\n(.*?)\n"
    r"</td></tr>\n</table>",
    re.DOTALL,
)
_AT_TOP = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site, and the files at the top of the repository that they show."""


def _rewritten(match: re.Match[str], page: str) -> str:
    """A link or picture of a page (its path in ``docs/``) as the site has it."""
    picture, text, target, place = match.groups()
    folder = "" if page in _AT_TOP else posixpath.dirname(f"docs/{page}")
    path = posixpath.normpath(posixpath.join(folder, target))
    shown = {source: name for name, source in _AT_TOP.items()}.get(path, path.removeprefix("docs/"))
    if shown != path and posixpath.splitext(path)[1]:
        return f"{picture}[{text}]({posixpath.relpath(shown, posixpath.dirname(page) or '.')}{place or ''})"
    return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"


def _grid(match: re.Match[str]) -> str:
    """Two cells with code, which Markdown does not read inside a table, as two columns."""
    titles, blocks = match.groups()[:2], match.groups()[2:]
    columns = [
        f'<div markdown="block">\n\n**{title}**\n\n{block.strip()}\n\n</div>'
        for title, block in zip(titles, blocks, strict=True)
    ]
    return '<div class="grid" markdown="block">\n\n' + "\n\n".join(columns) + "\n\n</div>"


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Rewrite the links of a page, and show two blocks side by side as the theme does."""
    markdown = re.sub(r'--8<-- "(.*)"', lambda found: open(found[1], encoding="utf-8").read(), markdown)
    markdown = _SIDE_BY_SIDE.sub(_grid, re.sub(r"^```(sh|python) \w+$", r"```\1", markdown, flags=re.M))
    return _LINK.sub(lambda link: _rewritten(link, page.file.src_uri), markdown)
