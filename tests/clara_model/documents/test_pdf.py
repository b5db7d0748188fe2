"""Pages of a PDF, what is written into its forms, and pages that cannot be read."""

import io
import subprocess
import sys
import zlib

import pytest
from written_files import stream, write_pdf

from clara_model.documents.document import Document, Unread, Unreadable
from clara_model.documents.pdf import pdf


def read(data: bytes) -> tuple[str, list[str]]:
    """The text, and why pages were left out."""
    *unread, document = pdf(data, "a.pdf")
    assert isinstance(document, Document) and all(isinstance(one, Unread) and one.file == "a.pdf" for one in unread)
    return document.text, [one.reason for one in unread]


def test_the_text_of_all_pages():
    assert read(write_pdf("The mill was rebuilt.", "", "Page three.")) == ("The mill was rebuilt.\n\nPage three.", [])


BAD = {
    "an unknown filter": (stream(b"abc", b"/Filter /NoDecode"), "cannot be read: Unsupported filter /NoDecode."),
    "a content without end": (stream(b"BT /F1 12 Tf (open Tj ET"), "cannot be read: Stream has ended unexpectedly."),
    "damaged data": (
        stream(b"nothing packed " * 9, b"/Filter /FlateDecode"),
        "cannot be read: its content is damaged.",
    ),
}


@pytest.mark.parametrize(("page", "reason"), BAD.values(), ids=BAD)
def test_a_bad_page_loses_itself_and_no_other(page: bytes, reason: str):
    assert read(write_pdf("One.", page, "Three.")) == ("One.\n\nThree.", [f"a.pdf, page 2 {reason}"])


def test_a_blank_page_is_no_bad_one():
    packed = stream(zlib.compress(b""), b"/Filter /FlateDecode")
    assert read(write_pdf("One.", packed, stream(b""))) == ("One.", [])


def test_pages_that_cannot_be_found_are_counted():
    broken = write_pdf("One.", "Two.", "Three.").replace(b"/Type /Page /", b"/Type /Pag_ /", 1)
    assert read(broken) == ("Two.\n\nThree.", ["a.pdf has 3 pages, of which 1 cannot be found."])


SCAN = stream(
    b"\x80" * 4, b"/Type /XObject /Subtype /Image /Width 2 /Height 2 /ColorSpace /DeviceGray /BitsPerComponent 8"
)


def test_a_page_that_is_a_picture_is_named():
    picture = stream(b"q 612 0 0 792 0 0 cm /I1 Do Q")
    resources = b"/XObject << /I1 %d 0 R >>" % (4 + 2 * 3)
    text, left_out = read(write_pdf("One.", picture, picture, more=(SCAN,), resources=resources))
    assert text == "One."
    reason = "is a picture without text; have its text recognised by another program first."
    assert left_out == [f"a.pdf, page {number} {reason}" for number in (2, 3)]


FIELDS = {
    "text": (b"/FT /Tx /T (name) /V (Ada Reyl)", "name: Ada Reyl"),
    "text with a title": (b"/FT /Tx /T (f1) /TU (Full name) /V (Ada)", "Full name: Ada"),
    "text in UTF-16": (b"/FT /Tx /T (a) /V <FEFF005A00FC>", "a: Zü"),
    "lines": (b"/FT /Tx /T (a) /V (one\\ntwo)", "a: one\ntwo"),
    "no name": (b"/FT /Tx /V (Ada)", "Ada"),
    "choice": (b"/FT /Ch /T (tree) /V (o) /Opt [[(o) (Oak)] [(a) (Ash)]]", "tree: Oak"),
    "choices": (b"/FT /Ch /T (tree) /V [(Oak) (Ash)] /Opt [(Oak) (Ash)]", "tree: Oak, Ash"),
    "ticked": (b"/FT /Btn /T (paid) /V /Yes /AS /Yes", "paid: Yes"),
    "not ticked": (b"/FT /Btn /T (paid) /V /Off /AS /Off", ""),
    "button": (b"/FT /Btn /T (send)", ""),
    "empty": (b"/FT /Tx /T (name)", ""),
    "password": (b"/FT /Tx /T (word) /V (secret) /Ff 8192", ""),
    "hidden": (b"/FT /Tx /T (name) /V (Ada) /F 2", ""),
    "signature": (b"/FT /Sig /T (sign) /V << /Name (Ada) >>", ""),
}


@pytest.mark.parametrize(("field", "right"), FIELDS.values(), ids=FIELDS)
def test_what_a_form_was_filled_with(field: bytes, right: str):
    data = write_pdf("Name:", notes=b"6 0 R", more=(b"<< /Type /Annot /Subtype /Widget %s >>" % field,))
    assert read(data) == (f"Name:\n{right}".strip(), [])


def test_fields_have_what_their_group_has_and_stand_once():
    kid = b"<< /Subtype /Widget /Parent 8 0 R >>"
    group = b"<< /FT /Tx /T (name) /V (Ada) /Kids [6 0 R 7 0 R] >>"
    assert read(write_pdf("A", notes=b"6 0 R 7 0 R", more=(kid, kid, group))) == ("A\nname: Ada", [])
    circle = b"<< /Parent 8 0 R >>"
    assert read(write_pdf("A", notes=b"6 0 R 7 0 R", more=(kid, kid, circle))) == ("A", [])


def test_what_was_typed_onto_a_page_is_read_and_a_remark_is_not():
    typed, remark = (b"<< /Subtype /%s /Contents (Paid in May.) >>" % kind for kind in (b"FreeText", b"Text"))
    assert read(write_pdf("Bill.", notes=b"6 0 R", more=(typed,))) == ("Bill.\nPaid in May.", [])
    assert read(write_pdf("Bill.", notes=b"6 0 R", more=(remark,))) == ("Bill.", [])


@pytest.fixture
def encrypted(request: pytest.FixtureRequest) -> bytes:
    from pypdf import PdfWriter

    algorithm, password = request.param
    writer = PdfWriter(clone_from=io.BytesIO(write_pdf("No printing.")))
    writer.encrypt(password, owner_password="other", algorithm=algorithm)
    data = io.BytesIO()
    writer.write(data)
    return data.getvalue()


@pytest.mark.parametrize("encrypted", [(one, "") for one in ("RC4-128", "AES-128", "AES-256")], indirect=True)
def test_a_file_that_may_only_not_be_changed_is_read(encrypted: bytes):
    assert read(encrypted) == ("No printing.", [])


@pytest.mark.parametrize("encrypted", [("RC4-128", "word"), ("AES-256", "word")], indirect=True)
def test_a_file_with_a_password_is_said(encrypted: bytes):
    with pytest.raises(Unreadable, match=r"^a.pdf is encrypted; save it without a password first\.$"):
        read(encrypted)


WITHOUT = """
import sys
sys.modules["cryptography"] = sys.modules["Crypto"] = None
from clara_model.documents.pdf import pdf
try:
    list(pdf(sys.stdin.buffer.read(), "a.pdf"))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("encrypted", [("AES-256", "")], indirect=True)
def test_the_package_that_decrypts_is_named(encrypted: bytes):
    done = subprocess.run([sys.executable, "-c", WITHOUT], input=encrypted, capture_output=True, check=True)
    assert done.stdout.decode().startswith(
        "Unreadable a.pdf needs the package cryptography; install it with: pip install"
    )


def test_what_is_no_pdf_is_said():
    for data in (b"", b"text", b"%PDF-1.5\n" + b"9" * 5000):
        with pytest.raises(Unreadable, match=r"^a.pdf cannot be read as PDF: [^\n]+\.$"):
            read(data)
