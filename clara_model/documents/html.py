"""A page's text as a browser would show it, without scripts, style sheets and layout.

libxml2 (by `lxml`) reads tags as HTML 5 does; what is shown, and what stands apart from what, is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clara_model.documents.document import lines_of, needing

_NO_TEXT = {"script", "style", "iframe", "noembed", "noframes"}
"""Code, or the source of another page."""
_NOT_SHOWN = {"title", "template", "datalist", "annotation", "annotation-xml", "desc", "metadata"}
_BLOCKS = {
    *("p", "div", "section", "article", "main", "header", "footer", "aside", "nav", "search", "address", "blockquote"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "hgroup", "ul", "ol", "dir", "menu", "li", "dl", "dt", "dd", "table", "form"),
    *("fieldset", "details", "dialog", "figure", "figcaption", "center", "hr", "pre", "listing", "plaintext", "xmp"),
}
_LINES = {"tr", "caption", "summary", "legend", "option", "optgroup", "text"}
_APART = {"td", "th", "label", "button", "input", "select", "textarea", "output", "img"}
_AS_WRITTEN = {"pre", "listing", "plaintext", "xmp", "textarea"}
"""Their line ends and blanks are kept."""
_HIDDEN = re.compile(r"(?:^|;)\s*display\s*:\s*none\b", re.IGNORECASE)
_LAST_TAGS = re.compile(r"</(?:body|html)\s*>", re.IGNORECASE)
"""They end what was never closed, and nothing needs them."""
_LABEL = re.compile(r"charset\s*=\s*[\"']?([^\s\"';]+)", re.IGNORECASE)
_XML_LABEL = re.compile(rb"""\s*<\?xml[^>]{1,200}?encoding\s*=\s*["']([\w.:-]+)""")
_GAPS = ("", " ", "\n", "\n\n")
_WORD, _LINE, _BLOCK = 1, 2, 3
_GAP = dict.fromkeys(_APART, _WORD) | dict.fromkeys(_LINES, _LINE) | dict.fromkeys(_BLOCKS, _BLOCK)
_PIECE = 65_536
_DEEPEST = 500
"""Tags in each other that are kept apart (browsers know 512): an end tag is looked for among all that are open."""


def html(data: bytes, name: str) -> str:
    """The visible text of a page, its title first.

    Hidden and ``display: none`` elements are left out where the page says so in the tag. The encoding is found as
    browsers find it: byte order mark, then what the page declares, then what the bytes look like; a byte that is
    wrong in it becomes U+FFFD.
    """
    with needing("lxml", name):
        import lxml.etree  # noqa: F401
    page = _read(_decoded(data, name))
    return lines_of(f"{page.title}\n\n{page.text}")


def _read(text: str) -> _Page:
    from lxml.etree import HTMLParser

    page = _Page()
    parser = HTMLParser(target=page, encoding="utf-8", huge_tree=True)
    data = _LAST_TAGS.sub("", text).replace("\0", "").encode("utf-8", "replace")
    for piece in (b"\n", *_pieces(data)):  # a page of nothing is one
        parser.feed(piece)
        if len(page.open) > _DEEPEST:
            parser.feed("".join(f"</{tag}>" for tag in reversed(page.open[_DEEPEST // 2 :])).encode())
    page.ending = True
    parser.close()
    return page


def _pieces(data: bytes) -> Iterator[bytes]:
    """Each ends before a tag."""
    start = 0
    while start < len(data):
        end = data.find(b"<", start + _PIECE)
        yield data[start : None if end < 0 else end]
        start = len(data) if end < 0 else end


def _decoded(data: bytes, name: str) -> str:
    with needing("webencodings", name):
        import webencodings
    with needing("chardetng-py", name):
        import chardetng_py

    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    in_xml = _XML_LABEL.match(data)
    labels = [*_read(data.decode("latin-1")).charsets, *([in_xml[1].decode()] if in_xml else [])]
    known = (webencodings.lookup(label) for label in labels)
    declared = next((one.name for one in known if one is not None and one.name != "replacement"), None)
    if declared in ("utf-8", "utf-16le", "utf-16be"):  # a declaration of UTF-16 that could be read is not in it
        return data.decode("utf-8", "replace")
    if declared in (None, "windows-1252", "x-user-defined"):  # also what editors and servers declare everywhere
        text = data.decode("utf-8", "replace")
        if 10 * text.count("\ufffd") <= len(text) - len(text.encode("ascii", "ignore")):
            return text
        if declared is None:
            return data.decode(chardetng_py.detect(data), "replace")
        declared = "windows-1252"
    return str(webencodings.lookup(declared).codec_info.decode(data, "replace")[0])


class _Page:
    """What libxml2 calls while it reads."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.charsets: list[str] = []
        self.title = ""
        self.ending = False
        """Elements that end now were never closed."""
        self._parts: list[str] = []
        self._gap = 0
        self._after_link = False
        self._left_out: tuple[int, int, int] | None = None
        """Of an element that is not shown: elements, parts and gap before it."""
        self._as_written = 0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._left_out is None and _is_hidden(tag, attributes):
            self._left_out = (len(self.open), len(self._parts), self._gap)
        self.open.append(tag)
        self._as_written += tag in _AS_WRITTEN
        if tag == "meta":
            pragma = attributes.get("http-equiv", "").lower() == "content-type"
            label = _LABEL.search(attributes.get("content", "")) if pragma else None
            self.charsets += [attributes["charset"]] if "charset" in attributes else [label[1]] if label else []
        if tag == "a" and self._after_link:
            self._part(_WORD)
        if tag == "br":
            self._gap = min(self._gap + _LINE, _BLOCK) if self._gap >= _LINE else _LINE
        self._part(_GAP.get(tag, 0))

    def end(self, tag: str) -> None:
        self.open.pop()
        self._as_written -= tag in _AS_WRITTEN
        self._part(_GAP.get(tag, 0))
        self._after_link = self._after_link or tag == "a"
        if self._left_out is None or len(self.open) > self._left_out[0]:
            return
        _, parts, gap = self._left_out
        self._left_out = None
        if tag == "title" and not self.title and "svg" not in self.open:
            self.title = "".join(self._parts[parts:])
        elif self.ending and tag not in _NO_TEXT:
            return
        del self._parts[parts:]
        self._gap = gap

    def data(self, text: str) -> None:
        if self._as_written:
            self._add(text)
            return
        words = " ".join(text.split())
        if text[:1].isspace():
            self._part(_WORD)
        if words:
            self._add(words)
        if words and text[-1].isspace():
            self._part(_WORD)

    def comment(self, text: str) -> None: ...

    def pi(self, target: str, data: str | None = None) -> None: ...

    def close(self) -> None: ...

    def _part(self, gap: int) -> None:
        self._gap = max(self._gap, gap)

    def _add(self, words: str) -> None:
        self._parts += (_GAPS[self._gap if self._parts else 0], words)
        self._gap, self._after_link = 0, False


def _is_hidden(tag: str, attributes: dict[str, str]) -> bool:
    if tag in _NO_TEXT or tag in _NOT_SHOWN:
        return True
    hidden = attributes.get("hidden", "until-found").lower() != "until-found"
    return tag not in ("html", "body") and (hidden or bool(_HIDDEN.search(attributes.get("style", ""))))
