"""Makes pages that are written for the repository fit the site: a hook of mkdocs.

README, CONTRIBUTING and CHANGELOG lie outside ``docs/`` and link into it; pages in ``docs/`` link to files of the
repository, which the site does not hold: their paths are shown instead.
"""

import re

_LINK = re.compile(r"\[([^]]+)]\((?!https?:|#)([^)]+)\)")
_AT_TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def _rewritten(match: re.Match[str]) -> str:
    text, target = match.groups()
    target = target.removeprefix("../")
    if target in _AT_TOP:
        return f"[{text}]({_AT_TOP[target]})"
    if target.startswith("docs/") or ("/" not in target and target.partition("#")[0].endswith(".md")):
        return f"[{text}]({target.removeprefix('docs/')})"
    return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Rewrite the links of a page."""
    markdown = re.sub(r'--8<-- "(.*)"', lambda found: open(found[1], encoding="utf-8").read(), markdown)
    return _LINK.sub(
        _rewritten, markdown.replace("<table>", '<table markdown="1">').replace("<td ", '<td markdown="1" ')
    )
