"""HTML, PDF, DOCX, Parquet, zipped lines and data sets of the hub as documents; what is broken or missing is said."""

import datetime
import gzip
import json
import logging
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from clara_model.documents.document import Unread
from clara_model.documents.passages import read_documents, read_source, sources_of
from clara_model.errors import ClaraError

PAGE = """<!doctype html><html><head><meta charset="latin-1"><title>The mill</title><style>p {{}}</style></head>
<body><script>var hidden = 1;</script><h1>Mill &amp; clock</h1>
<p>The <b>copper</b> mill
was rebuilt by caf\xe9 owners.<br>Twice.</p><ul><li>One</li><li>Two</li></ul>
<table><tr><td>year</td><td>1962</td></tr></table><pre>a
  b</pre><!-- not this --></body></html>"""


def write_pdf(file: Path, *pages: str) -> Path:
    """A PDF with one line of text on each page, written by hand."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {len(objects)} 0 R >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    data, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    file.write_bytes(f"{data}xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode("latin-1"))
    return file


def write_docx(file: Path) -> Path:
    import docx

    document = docx.Document()
    document.add_heading("The mill", 1)
    document.add_paragraph("It was rebuilt.")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "year", "1962"
    document.add_paragraph("The end.")
    document.save(str(file))
    return file


def write_parquet(file: Path, **columns: list) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), file)
    return file


def texts(*names: Path | str, **options: str) -> list[str]:
    return [document.text for document in read_documents(list(map(str, names)), **options)]


@pytest.mark.parametrize("name", ["page.html", "page.HTM"])
def test_html_is_the_visible_text_in_paragraphs(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(PAGE.encode("latin-1"))
    (text,) = texts(tmp_path / name)
    assert text.split("\n") == [
        *("The mill", "", "Mill & clock", "", "The copper mill was rebuilt by caf\xe9 owners.", "Twice.", ""),
        *("One", "", "Two", "", "year 1962", "", "a", "b"),
    ]


def test_pdf_is_the_text_of_its_pages(tmp_path: Path):
    assert texts(write_pdf(tmp_path / "a.pdf", "The mill was rebuilt.", "Page two.")) == [
        "The mill was rebuilt.\n\nPage two."
    ]


def test_a_pdf_without_text_is_empty(tmp_path: Path):
    with pytest.raises(ClaraError, match=r"scan.pdf is empty: it holds no text"):
        texts(write_pdf(tmp_path / "scan.pdf", ""))


def test_an_encrypted_pdf(tmp_path: Path):
    from pypdf import PdfWriter

    writer = PdfWriter(clone_from=write_pdf(tmp_path / "a.pdf", "Hush."))
    writer.encrypt("word", algorithm="RC4-128")
    writer.write(tmp_path / "b.pdf")
    with pytest.raises(ClaraError, match=r"b.pdf is encrypted; save it without a password first"):
        texts(tmp_path / "b.pdf")


def test_docx_is_paragraphs_and_tables_in_order(tmp_path: Path):
    assert texts(write_docx(tmp_path / "a.docx")) == ["The mill\n\nIt was rebuilt.\n\nyear | 1962\n\nThe end."]


def test_parquet_is_one_document_a_row(tmp_path: Path):
    file = write_parquet(tmp_path / "a.parquet", id=[1, 2, 3, 4], text=["one", None, " ", "four"])
    assert [(one.text, one.line) for one in read_documents([str(file)])] == [("one", 1), ("four", 4)]
    lists = write_parquet(tmp_path / "b.parquet", docs=[["a", "b"], []])
    assert [(one.text, one.line) for one in read_documents([str(lists)])] == [("a", 1), ("b", 1)]


def test_another_key_or_column(tmp_path: Path):
    table = write_parquet(tmp_path / "a.parquet", passage=["one"], number=[1])
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"passage": "two"}')
    assert texts(table, lines, text_key="passage") == ["one", "two"]
    with pytest.raises(ClaraError, match=r"has the columns passage, number .* \"text\", .*: --text-key"):
        texts(table)
    with pytest.raises(ClaraError, match=r'a.jsonl:1: must be a JSON object with the key "body"'):
        texts(lines, text_key="body")
    with pytest.raises(ClaraError, match=r'a.parquet:1: "number" must be a string'):
        texts(table, text_key="number")


ROWS = {
    "null": ('{"text": null}', '"text" must be a string or a list of strings'),
    "null in a list": ('{"docs": ["no", null]}', '"docs" must be a string or a list of strings'),
    "NaN": ('{"text": NaN}', '"text" must be a string or a list of strings'),
    "no key": ('{"id": 7}', 'must be a JSON object with one of the keys "text", "contents", "docs"'),
    "no object": ('["two"]', 'must be a JSON object with one of the keys "text", "contents", "docs"'),
    "cut": ('{"text": "tw', "not valid JSON: Unterminated string starting at"),
    "a list as metadata": (
        '{"text": "two", "by": ["Ada"]}',
        '"by" must be a string, a number, true or false to be kept',
    ),
    "infinite metadata": ('{"text": "two", "by": Infinity}', '"by" must be a string, a number, true or false'),
}


@pytest.mark.parametrize(("row", "reason"), ROWS.values(), ids=ROWS)
def test_a_bad_row_is_left_out_and_named_and_the_rest_is_read(tmp_path: Path, row: str, reason: str):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(['{"text": "one"}', row, '{"text": "three"}', "", row, row]))
    first, two, three, last = read_source(file, keep=["by"])
    assert [(first.text, first.line), (three.text, three.line)] == [("one", 1), ("three", 3)]
    assert two.reason.startswith(f"{file}:2: {reason}")
    assert last.reason.startswith(f"{file}:5 to 6: {reason}")
    assert (two.file, two.lines, last.lines) == (str(file), range(2, 3), range(5, 7))


def test_a_row_of_a_table_without_text_is_named(tmp_path: Path):
    file = write_parquet(tmp_path / "a.parquet", text=["one", None, None, "four"])
    assert [getattr(one, "text", one) for one in read_source(file)] == [
        *(
            "one",
            Unread(
                file=str(file),
                reason=f'{file}:2 to 3: "text" must be a string or a list of strings.',
                lines=range(2, 4),
            ),
            "four",
        )
    ]


def test_days_decimals_and_what_is_not_there_as_metadata(tmp_path: Path):
    """What tables hold and JSON has no form of."""
    file = write_parquet(
        tmp_path / "a.parquet",
        text=["one", "two"],
        day=[datetime.date(2024, 1, 31), None],
        at=[datetime.datetime(2024, 1, 31, 9, 5), None],
        price=[Decimal("12.50"), Decimal("3.00")],
        number=[Decimal(12345678901234567890), None],
        share=[0.5, float("nan")],
    )
    one, two = read_source(file, keep=["day", "at", "price", "number", "share"])
    assert one.metadata == {
        **{"day": "2024-01-31", "at": "2024-01-31T09:05:00", "price": 12.5, "number": 12345678901234567890},
        "share": 0.5,
    }
    assert two.metadata == {"price": 3.0}
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "one", "year": NaN}')
    assert [one.metadata for one in read_source(lines, keep=["year"])] == [{}]


def test_zipped_lines(tmp_path: Path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert [(one.text, one.line) for one in read_documents([str(tmp_path)])] == [("one", 1), ("two", 2)]
    file.write_bytes(b"no zip")
    with pytest.raises(ClaraError, match=r"a.jsonl.gz cannot be unzipped"):
        texts(file)


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.parquet"])
@pytest.mark.parametrize("data", [b"nothing of the kind", b""], ids=["other", "empty"])
def test_a_broken_file_is_one_sentence_and_of_a_folder_it_is_left_out(tmp_path: Path, caplog, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ClaraError, match=rf"{name} cannot be read as \w+: ") as caught:
        texts(tmp_path / name)
    assert "\n" not in str(caught.value)
    (tmp_path / "b.txt").write_text("Good.")
    with caplog.at_level(logging.WARNING):
        assert texts(tmp_path) == ["Good."]
    assert name in caplog.text


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [
        *(("bs4", "a.html", "beautifulsoup4"), ("pypdf", "a.pdf", "pypdf"), ("docx", "a.docx", "python-docx")),
        *(("pyarrow.parquet", "a.parquet", "pyarrow"), ("datasets", "hf://datasets/a/b", "datasets")),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch, module, name, package):
    monkeypatch.setitem(sys.modules, module, None)
    place = name if ":" in name else str(tmp_path / name)
    if ":" not in name:
        Path(place).write_bytes(b"x")
    with pytest.raises(ClaraError, match=rf"{name} needs the package {package}; .*\[documents\]"):
        texts(place)


def test_a_data_set_is_read_row_by_row_from_all_its_splits(tmp_path: Path, monkeypatch):
    """The real reader on a folder in place of the hub."""
    import datasets

    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        lines = [{"text": f"{split} {number}", "id": number} for number in range(3)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    real = datasets.load_dataset
    asked = []

    def here(name, **options):
        asked.append((name, options.pop("revision")))
        return real(str(tmp_path / name), **options)

    monkeypatch.setattr(datasets, "load_dataset", here)
    found = list(read_source("hf://datasets/owner/name@v1"))
    assert sorted(one.text for one in found) == sorted(f"{s} {n}" for s in ("train", "test") for n in range(3))
    assert {(one.file, one.line) for one in found} >= {("hf://datasets/owner/name/train", 3)}
    assert texts("hf://datasets/owner/name/train.jsonl") == ["train 0", "train 1", "train 2"]
    assert asked == [("owner/name", "v1"), ("owner/name", None)]
    with pytest.raises(ClaraError, match="has the columns text, id"):
        texts("hf://datasets/owner/name", text_key="body")


@pytest.mark.parametrize("name", ["hf://datasets/", "hf://datasets/name", "hf://models/a/b"])
def test_names_that_are_no_data_set(name: str):
    with pytest.raises(ClaraError, match="is not a data set of the hub; write hf://datasets/OWNER/NAME"):
        texts(name)


def test_sources_keep_their_order_and_come_once(tmp_path: Path):
    for name in ("b.txt", "a.html"):
        (tmp_path / name).write_text("x")
    names = [str(tmp_path / "b.txt"), "hf://datasets/a/b", str(tmp_path), "hf://datasets/a/b"]
    assert sources_of(names) == ([tmp_path / "b.txt", "hf://datasets/a/b", tmp_path / "a.html"], [])


def test_keys_and_columns_become_metadata(tmp_path: Path):
    rows = [{"text": "a", "year": 1904, "by": "Ada"}, {"text": "b", "year": None, "by": "x\ud800"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"text": ["a", "b"], "year": [1904, None], "by": ["Ada", "x\ufffd"], "more": [[1], [2]]}
    write_parquet(tmp_path / "a.parquet", **columns)
    for name in ("a.jsonl", "a.parquet"):
        found = list(read_source(tmp_path / name, keep=["year", "by", "other"]))
        assert [one.metadata for one in found] == [{"year": 1904, "by": "Ada"}, {"by": "x\ufffd"}]
    (left_out,) = read_source(tmp_path / "a.parquet", keep=["more"])
    assert 'a.parquet:1 to 2: "more" must be a string, a number, true or false' in left_out.reason
