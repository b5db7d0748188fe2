"""What holds for the readers of all formats: no input ends a run or takes long, and what is missing is named."""

import gzip
import io
import json
import random
import sys
import time
import zipfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_files import package, stream, write_pdf

from clara_model.documents.document import Document, Unread
from clara_model.documents.passages import SUFFIXES, read_source


def written(folder: Path, suffix: str, data: bytes) -> Path:
    file = folder / f"a{suffix}"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("suffix", [".pdf", ".docx", ".parquet", ".jsonl.gz"])
@pytest.mark.parametrize("data", [b"nothing of the kind", b"\0"], ids=["other", "short"])
def test_a_broken_file_is_one_sentence(tmp_path: Path, suffix: str, data: bytes):
    file = written(tmp_path, suffix, data)
    (left_out,) = read_source(file)
    assert isinstance(left_out, Unread) and left_out.file == str(file)
    assert left_out.reason.startswith(f"{file} cannot be ") and "\n" not in left_out.reason


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [
        *(("lxml.etree", "a.html", "lxml"), ("webencodings", "a.html", "webencodings")),
        *(("chardetng_py", "a.html", "chardetng-py"), ("lxml.etree", "a.docx", "lxml"), ("pypdf", "a.pdf", "pypdf")),
        *(("pyarrow.parquet", "a.parquet", "pyarrow"), ("datasets", "hf://datasets/a/b", "datasets")),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch, module, name, package):
    monkeypatch.setitem(sys.modules, module, None)
    source = name if ":" in name else tmp_path / name
    if isinstance(source, Path):
        source.write_bytes(b"x")
    (left_out,) = read_source(source)
    assert f"{source} needs the package {package}; install it with: pip install" in left_out.reason
    assert "[documents]" in left_out.reason


def test_a_file_that_is_gone_or_may_not_be_read_is_named(tmp_path: Path):
    for suffix in SUFFIXES:
        file = tmp_path / f"gone{suffix}"
        (left_out,) = read_source(file)
        assert left_out.reason.startswith(f"{file}: ") and left_out.reason.endswith("No such file or directory")
        file.mkdir()
        (left_out,) = read_source(file)
        assert left_out.reason.startswith(f"{file}: ") and "s a directory" in left_out.reason


@cache
def good(suffix: str) -> bytes:
    """A file of this format with text in it."""
    words = "The mill was rebuilt in 1962."
    data = io.BytesIO()
    if suffix == ".pdf":
        return write_pdf(words, words, words)
    if suffix == ".docx":
        import docx

        document = docx.Document()
        document.add_paragraph(words)
        document.add_table(rows=2, cols=2).cell(0, 0).text = words
        document.save(data)
        return data.getvalue()
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": [words] * 9, "year": [1962] * 9}), data)
        return data.getvalue()
    rows = "".join(json.dumps({"text": words, "year": year}) + "\n" for year in range(9)).encode()
    page = f"<html><head><title>Mill</title></head><body><p>{words}<table><tr><td>1<td>2</table>".encode()
    return {".jsonl": rows, ".jsonl.gz": gzip.compress(rows), ".html": page, ".htm": page}.get(suffix, words.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def spoiled(data: bytes, seed: int) -> bytes:
    """Some bytes changed, left out, doubled or put in; or a file that ends too early."""
    drawn = random.Random(seed)
    parts = bytearray(data)
    for _ in range(drawn.randint(1, 8)):
        at, size = drawn.randrange(len(parts) + 1), drawn.choice((1, 1, 2, 20, 200))
        new = (drawn.randbytes(size), b"", parts[at : at + size] * 2, b"9" * size, b"<![", b"\xff", b"\0" * size)
        parts[at : at + drawn.choice((0, size))] = drawn.choice(new)
    return bytes(parts[: drawn.choice((len(parts), drawn.randrange(len(parts) + 1)))])


def in_word(data: bytes, seed: int) -> bytes:
    """A document of Word that unpacks well, and whose text is spoiled."""
    new = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as parts, zipfile.ZipFile(new, "w") as target:
        for name in parts.namelist():
            part = parts.read(name)
            target.writestr(name, spoiled(part, seed) if name == "word/document.xml" else part)
    return new.getvalue()


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.binary(max_size=300), seed=st.integers(0, 1 << 30), own=st.booleans())
def test_no_bytes_end_a_run(folder: Path, suffix: str, data: bytes, seed: int, own: bool):
    """What is read is documents, and what is not is named in one sentence."""
    spoil = in_word if suffix == ".docx" and seed % 2 else spoiled
    file = written(folder, suffix, spoil(good(suffix), seed) if own else data)
    start = time.process_time()
    for one in read_source(file, keep=["year"]):
        if isinstance(one, Document):
            assert one.file == str(file) and one.text.strip()
            one.text.encode()
        else:
            assert one.file == str(file) and str(file) in one.reason and "\n" not in one.reason
    assert time.process_time() - start < 10


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_good_file_is_read(folder: Path, suffix: str):
    assert all(
        "The mill was rebuilt in 1962." in one.text for one in read_source(written(folder, suffix, good(suffix)))
    )


PAGES = [
    *("<", ">", "</", "&", "&amp", "<!", "<![", "<!--", "-->", "<?", '="', " ", "\n", "\r", "\0", "x", "\xff", "<p>"),
    *(
        "<td>",
        "<tr>",
        "<table>",
        "<b class=N>",
        "</b>",
        "<a href=N>",
        "<div>",
        "</div>",
        "<p hidden>",
        "<svg>",
        "<pre>",
    ),
    *("<title>", "<template>", "</template>", "<script>", "</script>", "<select>", "<option>", "<font size=N>", "</i>"),
]
WORDS = [
    *("<w:p/>", "<w:r><w:t>x</w:t></w:r>", "<w:tbl><w:tr><w:tc><w:p/></w:tc></w:tr></w:tbl>", "<w:sectPr/>", "<w:tr/>"),
    *(
        "<w:p><w:pPr><w:rPr><w:del/></w:rPr></w:pPr><w:r><w:t>x</w:t></w:r></w:p>",
        "<w:sdt/>",
        "<m:oMath><m:d/></m:oMath>",
    ),
    *("<w:p><w:r><w:footnoteReference w:id='N'/></w:r></w:p>", "<mc:AlternateContent/>", "x", "<w:t>x</w:t>"),
]
SIGNS = [
    *("BT ", "ET ", "q ", "Q ", "(x) Tj ", "/F1 9 Tf ", "1 0 0 1 7 N Tm ", "0 -9 Td ", "T* ", "<< ", "[ "),
    "[(x) -900 (y)] TJ ",
]
LINES = ['{"text": "x"}', '{"text": null}', "{", "[", "]", '"', "\\", "\n", "\r", "\0", "\xff", "9", " ", "x. "]
PARTS = {".html": PAGES, ".docx": WORDS, ".pdf": SIGNS, ".jsonl": LINES, ".jsonl.gz": LINES, ".txt": LINES}


def seconds(folder: Path, suffix: str, parts: list[str], count: int) -> float:
    """To read a file in which they are repeated."""
    text = "".join("".join(parts).replace("N", str(number)) for number in range(count))
    data = text.encode("latin-1", "replace")
    if suffix == ".docx":
        data = package(text)
    elif suffix == ".pdf":
        data = write_pdf(stream(data))
    elif suffix == ".jsonl.gz":
        data = gzip.compress(data)
    file = written(folder, suffix, data)
    start = time.process_time()
    for _ in read_source(file):
        pass
    return time.process_time() - start


@pytest.mark.parametrize("suffix", PARTS)
@settings(max_examples=10)
@given(data=st.data())
def test_time_grows_with_the_file_not_its_square(folder: Path, suffix: str, data: st.DataObject):
    parts = data.draw(st.lists(st.sampled_from(PARTS[suffix]), min_size=1, max_size=4))
    few = max(seconds(folder, suffix, parts, 300), 0.01)
    assert min(seconds(folder, suffix, parts, 2_400) for _ in range(2)) < 24 * few
