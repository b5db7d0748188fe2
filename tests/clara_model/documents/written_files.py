"""PDFs written by hand, object by object, and documents of Word, part by part."""

from __future__ import annotations

import io
import zipfile


def stream(data: bytes, more: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), more, data)


def line(text: str) -> bytes:
    """The content of a page that shows it."""
    return stream(b"BT /F1 12 Tf 72 700 Td (%s) Tj ET" % text.encode("latin-1"))


def write_pdf(*pages: str | bytes, notes: bytes = b"", more: tuple[bytes, ...] = (), resources: bytes = b"") -> bytes:
    """A file of these pages.

    Args:
        pages: a line of text, or a content stream.
        notes: what `/Annots` of each page holds.
        more: objects that follow the pages' own, the first of them number `4 + 2 * len(pages)`.
        resources: of each page, beside its font.
    """
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        objects.append(line(page) if isinstance(page, str) else page)
        used = b"/Resources << /Font << /F1 3 0 R >> %s >> /MediaBox [0 0 612 792]" % resources
        extra = b"%s /Contents %d 0 R /Annots [%s]" % (used, len(objects), notes)
        objects.append(b"<< /Type /Page /Parent 2 0 R %s >>" % extra)
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    data, places = b"%PDF-1.5\n", []
    for number, body in enumerate([*objects, *more], start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(places) + 1
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (size, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + end


OPEN = "http://schemas.openxmlformats.org"
W = f"{OPEN}/wordprocessingml/2006/main"
NAMES = " ".join(
    f'xmlns:{short}="{name}"'
    for short, name in {
        "w": W,
        "r": f"{OPEN}/officeDocument/2006/relationships",
        "m": f"{OPEN}/officeDocument/2006/math",
        "mc": f"{OPEN}/markup-compatibility/2006",
        "v": "urn:schemas-microsoft-com:vml",
        "wps": "http://schemas.microsoft.com/office/word/2010/wordprocessingShape",
    }.items()
)


def package(body: str, *, before: str = "", **parts: str) -> bytes:
    """A document of Word with these parts, such as ``footnotes``, ``header1`` and ``settings``."""

    def related(**targets: str) -> str:
        kind = f"{OPEN}/officeDocument/2006/relationships"
        more = (
            f'<Relationship Id="{name}" Type="{kind}/{name.rstrip("123")}" Target="{target}"/>'
            for name, target in targets.items()
        )
        return f'<Relationships xmlns="{OPEN}/package/2006/relationships">{"".join(more)}</Relationships>'

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("_rels/.rels", related(officeDocument="/word/document.xml"))
        file.writestr("word/_rels/document.xml.rels", related(**{name: f"{name}.xml" for name in parts}))
        file.writestr("word/document.xml", f"{before}<w:document {NAMES}><w:body>{body}</w:body></w:document>")
        for name, content in parts.items():
            file.writestr(f"word/{name}.xml", f"<w:{name} {NAMES}>{content}</w:{name}>")
    return data.getvalue()
