"""HTML, PDF, DOCX and Parquet to text, by packages of the extra ``documents`` that are imported when a file needs them.

What is kept is the text in reading order: paragraphs are apart, tables are a line a row. Leaves out pictures, layout
and scanned pages (text recognition is another program's work).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clara_model.documents.document import Document, Unread, Unreadable, column_of, needing, of_rows, without_surrogates
from clara_model.errors import ClaraError

_NOT_TEXT = ("script", "style", "noscript", "template", "svg", "head")
_BLOCKS = (
    *("p", "div", "section", "article", "main", "header", "footer", "aside", "nav", "blockquote", "figure", "pre"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "dl", "dt", "dd", "table", "tr", "form", "hr"),
)
_ROWS_AT_ONCE = 256


def html(data: bytes, name: str) -> str:
    """The visible text of a page, its title first; the encoding is the one that it names."""
    with needing("beautifulsoup4", name):
        from bs4 import BeautifulSoup, NavigableString

    soup = BeautifulSoup(data, "html.parser")
    title = soup.title.get_text() if soup.title else ""
    for tag in soup.find_all(_NOT_TEXT):
        tag.decompose()
    for words in soup.find_all(string=True):
        if type(words) is NavigableString and not words.find_parent("pre"):  # comments are kinds of it
            words.replace_with(re.sub(r"\s+", " ", words))
    for tag in soup.find_all(("br", *_BLOCKS)):
        tag.insert_before("\n") if tag.name == "br" else (tag.insert_before("\n\n"), tag.insert_after("\n\n"))
    for cell in soup.find_all(("td", "th")):
        cell.insert_after(" ")
    return _paragraphs(f"{title}\n\n{soup.get_text()}")


def pdf(data: bytes, name: str) -> str:
    """The text of all pages."""
    with needing("pypdf", name):
        from pypdf import PdfReader

    with _readable(name, "PDF"):
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(f"{name} is encrypted; save it without a password first.")
        return _paragraphs("\n\n".join(page.extract_text() for page in reader.pages))


def docx(data: bytes, name: str) -> str:
    """Paragraphs and tables in their order."""
    with needing("python-docx", name):
        import docx as python_docx
        from docx.table import Table

    with _readable(name, "DOCX"):
        parts = []
        for part in python_docx.Document(io.BytesIO(data)).iter_inner_content():
            if isinstance(part, Table):
                parts.append("\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in part.rows))
            else:
                parts.append(part.text)
        return _paragraphs("\n\n".join(parts))


def parquet(file: Path, key: str | None, keep: Sequence[str] = ()) -> Iterator[Document | Unread]:
    """The texts of a table's column, row by row, with other columns as metadata; the file is never whole in memory."""
    with needing("pyarrow", str(file)):
        from pyarrow.parquet import ParquetFile

    def rows() -> Iterator[dict[str, Any]]:
        with _readable(str(file), "Parquet"):
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=list({column, *keep} & set(names))):
                yield from batch.to_pylist()

    with _readable(str(file), "Parquet"):
        table = ParquetFile(file)
    with table:
        names = table.schema_arrow.names
        column = column_of(names, key, str(file))
        yield from of_rows(rows(), column, str(file), keep)


@contextmanager
def _readable(name: str, kind: str) -> Iterator[None]:
    """Whatever a package says about a file that it cannot read, in one sentence."""
    try:
        yield
    except (ClaraError, OSError, MemoryError):
        raise
    except Exception as error:  # packages raise errors of their own, and whatever a broken file leads them to
        raise Unreadable(f"{name} cannot be read as {kind}: {_one_line(error)}") from error


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _paragraphs(text: str) -> str:
    """Lines without blanks at their ends, at most one empty line between two."""
    lines = "\n".join(line.strip() for line in without_surrogates(text).replace("\0", "").splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()
