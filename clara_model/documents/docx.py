"""The text of a Word document as its reader sees it: changes accepted, every word once.

Headers come first, footers last; text boxes and notes stand after their paragraph, and a row of a table is a line.
Leaves out comments, pictures, numbers that Word counts itself, and text that is marked as hidden.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator
from typing import Any
from zipfile import ZipFile

from clara_model.documents.document import Unreadable, lines_of, needing, reading

_MOST = 1 << 29
"""Bytes of one part, unpacked."""
_LEFT_OUT = {"pPr", "rPr", "sdtPr", "del", "moveFrom"}
"""What is no text, and what was deleted."""
_SIGNS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_GREEK = "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ", "αβχδεφγηιϕκλμνοπθρστυϖωξψζ"
_SYMBOLS = {
    start + at: sign for start, signs in zip((0xF041, 0xF061), _GREEK, strict=True) for at, sign in enumerate(signs)
}
"""Letters of the font Symbol."""


def docx(data: bytes, name: str) -> str:
    """Text boxes, controls, fields, equations, notes, headers and footers included."""
    with needing("lxml", name):
        import lxml.etree  # noqa: F401
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable(f"{name} is encrypted or of Word before 2007; save it as DOCX without a password first.")
    with reading(name, "DOCX"), ZipFile(io.BytesIO(data)) as archive:
        return lines_of("\n\n".join(_Document(archive).blocks()))


class _Document:
    def __init__(self, archive: ZipFile) -> None:
        self._archive = archive
        self._codes: list[bool] = []
        """Of the fields around a place in a paragraph, whether it is in their code."""
        top = next((path for kind, path in self._related("").values() if kind == "officeDocument"), None)
        if top is None:
            raise ValueError("it holds no document")
        self._top = self._part(top)
        self._parts = self._related(top)
        self._notes = {
            (kind, _value(note, "id")): note
            for kind, path in self._parts.values()
            if kind in ("footnotes", "endnotes")
            for note in self._part(path)
        }

    def blocks(self) -> Iterator[str]:
        """Paragraphs and tables."""
        yield from self._margins("headerReference")
        yield from self._blocks(self._top)
        yield from self._margins("footerReference")

    def _part(self, path: str) -> Any:
        from lxml import etree

        if (size := self._archive.getinfo(path).file_size) > _MOST:
            raise ValueError(f"{path} has {size:,} bytes when it is unpacked")
        plain = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
        return etree.fromstring(self._archive.read(path), plain)

    def _related(self, path: str) -> dict[str, tuple[str, str]]:
        """Kind and path of the parts that a part names, by its name for them."""
        folder, file = posixpath.split(path)
        place = posixpath.join(folder, "_rels", f"{file}.rels")
        if place not in self._archive.namelist():
            return {}
        found = {}
        for one in self._part(place):
            path = posixpath.normpath(posixpath.join("/", folder, one.get("Target", ""))).lstrip("/")
            if one.get("TargetMode") != "External":
                found[one.get("Id", "")] = (one.get("Type", "").rpartition("/")[2], path)
        return found

    def _margins(self, reference: str) -> Iterator[str]:
        """The headers or footers that are shown, each once."""
        settings = [self._part(path) for kind, path in self._parts.values() if kind == "settings"]
        even = ["even"] if any(_is_on(one, "evenAndOddHeaders") for one in settings) else []
        paths = []
        for section in self._top.iter("{*}sectPr"):
            shown = {"default", *even, *(["first"] if _is_on(section, "titlePg") else [])}
            named = [_value(one, "id") for one in section if _kind(one) == reference and _value(one, "type") in shown]
            paths += [self._parts[one][1] for one in named if one in self._parts]
        yield from dict.fromkeys("\n\n".join(self._blocks(self._part(path))) for path in dict.fromkeys(paths))

    def _blocks(self, parent: Any) -> Iterator[str]:
        begun = ""  # of a paragraph whose end was deleted
        for child in parent:
            kind = _kind(child)
            if kind == "p":
                words: list[str] = []
                aside: list[str] = []
                outside, self._codes = self._codes, []
                self._read(child, words, aside)
                self._codes = outside
                begun += "".join(words)
                mark = child.find("{*}pPr/{*}rPr")
                if mark is None or (mark.find("{*}del") is None and mark.find("{*}moveFrom") is None):
                    yield begun
                    begun = ""
                yield from aside
            elif kind == "tbl":
                yield "\n".join(self._rows(child))
            elif kind in ("oMath", "oMathPara"):
                yield _equation(child)
            elif kind not in _LEFT_OUT:
                yield from self._blocks(_shown(child))
        if begun:
            yield begun

    def _read(self, parent: Any, words: list[str], aside: list[str]) -> None:
        """The words of a paragraph, and the blocks that it holds beside them."""
        for child in parent:
            kind = _kind(child)
            if kind == "fldChar":
                self._field(_value(child, "fldCharType"))
            elif any(self._codes[:-1]):  # of a field inside a field's code
                self._read(child, [], [])
            elif kind == "t":
                words.append(child.text or "")
            elif kind in _SIGNS:
                words.append(_SIGNS[kind])
            elif kind == "sym":
                code = int(_value(child, "char"), 16)
                words.append(_SYMBOLS.get(code, "") if 0xE000 <= code < 0xF900 else chr(code))
            elif kind == "oMath":
                words.append(_equation(child))
            elif kind == "ruby":  # characters, and above them how they are read
                self._read(child.findall("{*}rubyBase"), words, aside)
                words.append("(")
                self._read(child.findall("{*}rt"), words, aside)
                words.append(")")
            elif kind in ("footnoteReference", "endnoteReference"):
                note = self._notes.pop((kind.replace("Reference", "s"), _value(child, "id")), ())
                aside += self._blocks(note)
            elif kind == "txbxContent":
                aside += self._blocks(child)
            elif kind not in _LEFT_OUT and not (kind == "r" and _is_on(child.find("{*}rPr"), "vanish")):
                self._read(_shown(child), words, aside)

    def _field(self, mark: str) -> None:
        """Begins a field's code, then what it gives, then the text after it."""
        if mark == "begin":
            self._codes.append(True)
        elif self._codes:
            self._codes.pop()
            self._codes += [False] if mark == "separate" else []

    def _rows(self, table: Any) -> Iterator[str]:
        for row in _inside(table, "tr"):
            if row.find("{*}trPr/{*}del") is not None:
                continue
            cells = [list(self._blocks(cell)) for cell in _inside(row, "tc") if not _is_covered(cell)]
            if len(cells) == 1:  # a frame around text, or a heading
                yield "\n\n".join(cells[0])
            else:
                yield " | ".join(" ".join(" ".join(cell).split()) for cell in cells)


def _kind(element: Any) -> str:
    """Its name without the namespace, of which there are two: transitional and strict."""
    return element.tag.rpartition("}")[2]


def _value(element: Any, name: str = "val") -> str:
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _is_on(parent: Any, name: str) -> bool:
    found = None if parent is None else parent.find(f"{{*}}{name}")
    return found is not None and _value(found) not in ("0", "false", "off")


def _shown(element: Any) -> Any:
    """Of one content in two forms, the first."""
    return element[0] if _kind(element) == "AlternateContent" and len(element) else element


def _inside(parent: Any, kind: str) -> Iterator[Any]:
    """Rows of a table or cells of a row, also those in controls, and not those of what is inside them."""
    for child in parent:
        if _kind(child) == kind:
            yield child
        elif _kind(child) not in _LEFT_OUT:
            yield from _inside(child, kind)


def _is_covered(cell: Any) -> bool:
    """Whether another cell reaches over it, or it was deleted."""
    merges = [one for kind in ("vMerge", "hMerge") for one in cell.findall(f"{{*}}tcPr/{{*}}{kind}")]
    return cell.find("{*}tcPr/{*}cellDel") is not None or any(_value(one) in ("", "continue") for one in merges)


def _equation(element: Any) -> str:
    """In one line: `(a+b)/2`, `x^2`, `√(y)`."""
    kind = _kind(element)
    if kind == "t":
        return element.text or ""
    if kind.endswith("Pr"):
        return ""
    sign = {_kind(one): _value(one) for one in element.findall(f"{{*}}{kind}Pr/*")}
    parts = [_equation(child) for child in element if not _kind(child).endswith("Pr")]
    text = "".join(parts)
    if kind == "d":
        return sign.get("begChr", "(") + sign.get("sepChr", "|").join(parts) + sign.get("endChr", ")")
    if kind == "nary":
        return sign.get("chr", "∫") + text
    if kind == "rad":
        return f"√({text})"
    if kind in ("num", "den", "sup", "sub"):
        text = text if len(text) < 2 or text.isalnum() else f"({text})"
        return {"num": "", "den": "/", "sup": "^", "sub": "_"}[kind] + text if text else ""
    return text
