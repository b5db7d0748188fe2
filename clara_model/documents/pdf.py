"""The text of a PDF's pages and what is written into its forms; a page that cannot be read is named.

Leaves out pictures and scanned pages: text recognition is another program's work.
"""

from __future__ import annotations

import io
from typing import Any, cast

from clara_model.documents.document import Document, Unread, Unreadable, lines_of, needing, one_line, reading

_INVISIBLE = 1 << 1 | 1 << 5
"""Flags of a note on a page: hidden, not on the screen."""
_PASSWORD = 1 << 13
_NOTHING = 16
"""Bytes that nothing at all may take, compressed."""
_DEEPEST = 32
"""Fields in each other; a broken file may hold a circle."""


def pdf(data: bytes, name: str) -> list[Document | Unread]:
    """One document of all pages that can be read, after those that cannot."""
    with needing("pypdf", name):
        from pypdf import PdfReader
        from pypdf.errors import DependencyError

    with reading(name, "PDF"):
        try:
            reader = PdfReader(io.BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                raise Unreadable(f"{name} is encrypted; save it without a password first.")
        except DependencyError as error:
            with needing("cryptography", name):
                raise ImportError from error
        count = len(reader.pages)
        promised = cast(Any, reader.root_object["/Pages"]).get("/Count", count)
    found: list[Document | Unread] = []
    texts = []
    for number in range(count):
        try:
            page = reader.pages[number]
            lines = "\n".join([page.extract_text(), *_written(page)]).splitlines()
            texts.append(lines_of("\n".join(line.strip() for line in lines)))
            lost = "" if texts[-1] else _lost(page)
        except Exception as error:  # packages raise errors of their own, and whatever a broken page leads them to
            lost = f"cannot be read: {one_line(error)}"
        if lost:
            found.append(Unread(file=name, reason=f"{name}, page {number + 1} {lost}."))
    if isinstance(promised, int) and promised > count:
        missing = f"{name} has {promised:,} pages, of which {promised - count:,} cannot be found."
        found.append(Unread(file=name, reason=missing))
    return [*found, Document(text="\n\n".join(filter(None, texts)), file=name)]


def _written(page: Any) -> dict[str, None]:
    """What stands in the fields of a form, with the fields' names, and what was typed onto the page; each once."""
    found: dict[str, None] = {}
    for note in (one.get_object() for one in _get(page, "/Annots") or ()):
        kind = _get(note, "/Subtype")
        if int(_get(note, "/F") or 0) & _INVISIBLE:
            continue
        if kind == "/FreeText":
            found[_text(_get(note, "/Contents") or "")] = None
        if kind == "/Widget" and (value := _value(note)):
            label = _inherited(note, "/TU") or _inherited(note, "/T")
            found[f"{label}: {value}" if label else value] = None
    return found


def _value(field: Any) -> str:
    kind, value = _inherited(field, "/FT"), _inherited(field, "/V")
    if kind == "/Btn":
        return str(_get(field, "/AS") or "/Off").lstrip("/").replace("Off", "")
    if kind not in ("/Tx", "/Ch") or value is None or int(_inherited(field, "/Ff") or 0) & _PASSWORD:
        return ""
    pairs = (one.get_object() for one in _inherited(field, "/Opt") or ())
    shown = {str(one[0]): str(one[1]) for one in pairs if isinstance(one, list) and len(one) == 2}
    return ", ".join(shown.get(one, one) for one in map(_text, value if isinstance(value, list) else [value]))


def _text(value: Any) -> str:
    value = value.get_object()
    value = value.get_data() if hasattr(value, "get_data") else value
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _inherited(field: Any, key: str) -> Any:
    """Of a field, or of the group that it is in."""
    for _ in range(_DEEPEST):
        if key in field or "/Parent" not in field:
            break
        field = field["/Parent"]
    return _get(field, key)


def _get(entries: Any, key: str) -> Any:
    """An entry itself, where it stands elsewhere too."""
    return entries[key] if key in entries else None


def _lost(page: Any) -> str:
    """Why a page has no text; nothing where it is blank."""
    if page.images.keys():
        return "is a picture without text; have its text recognised by another program first"
    contents = _get(page, "/Contents") or []
    streams = (one.get_object() for one in (contents if isinstance(contents, list) else [contents]))
    damaged = any(len(one._data) > _NOTHING and not one.get_data() for one in streams)
    return "cannot be read: its content is damaged" if damaged else ""
