"""Makes pages that are written for the repository fit the site: a hook of mkdocs.

README, CONTRIBUTING and CHANGELOG lie outside ``docs/`` and link into it; pages in ``docs/`` link to files of the
repository, which the site does not hold: their paths are shown instead.
"""

import re

_LINK = re.compile(r"(?<!!)\[([^]]+)]\((?!https?:|#)([^)]+)\)")
_PICTURE = re.compile(r"(!\[[^]]*]\()(?:\.\./)?docs/")
_SIDE_BY_SIDE = re.compile(
    r"<table>\n<tr><th>(.*?)</th><th>(.*?)</th></tr>\n<tr><td valign=\"top\">\n(.*?)\n</td><td valign=\"top\">\n(.*?)\n"
    r"</td></tr>\n</table>",
    re.DOTALL,
)
_AT_TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def _rewritten(match: re.Match[str]) -> str:
    text, target = match.groups()
    target = target.removeprefix("../")
    if target in _AT_TOP:
        return f"[{text}]({_AT_TOP[target]})"
    if target.startswith("docs/") or ("/" not in target and target.partition("#")[0].endswith(".md")):
        return f"[{text}]({target.removeprefix('docs/')})"
    return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"


def _grid(match: re.Match[str]) -> str:
    """Two cells with code, which Markdown does not read inside a table, as two columns."""
    titles, blocks = match.groups()[:2], match.groups()[2:]
    columns = [
        f'<div markdown="block">\n\n**{title}**\n\n{block.strip()}\n\n</div>'
        for title, block in zip(titles, blocks, strict=True)
    ]
    return '<div class="grid" markdown="block">\n\n' + "\n\n".join(columns) + "\n\n</div>"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Rewrite the links of a page, and show two blocks side by side as the theme does."""
    markdown = re.sub(r'--8<-- "(.*)"', lambda found: open(found[1], encoding="utf-8").read(), markdown)
    markdown = _PICTURE.sub(r"\1", markdown).replace("```python before", "```python")
    return _LINK.sub(_rewritten, _SIDE_BY_SIDE.sub(_grid, markdown))
