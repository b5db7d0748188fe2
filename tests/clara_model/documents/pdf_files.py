"""PDFs written by hand, object by object."""

from __future__ import annotations


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
