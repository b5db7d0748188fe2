"""Rows of JSON lines and tables: a document each, with metadata; a bad one is named and the rest is read."""

import datetime
import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest

from clara_model.documents.document import Unread
from clara_model.documents.passages import read_documents, read_source
from clara_model.errors import ClaraError


def write_parquet(file: Path, **columns: list) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), file)
    return file


def texts(*names: Path | str, **options: str) -> list[str]:
    return [document.text for document in read_documents(list(map(str, names)), **options)]


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
    "an object as metadata": ('{"text": "two", "by": {"a": 1}}', '"by" must be a string, a number, true or false, or'),
    "objects as metadata": ('{"text": "two", "by": [{}]}', '"by" must be a string, a number, true or false, or a list'),
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
    lines.write_text('{"text": "one", "year": NaN, "tags": ["a", 2, "\\ud800"]}')
    assert [one.metadata for one in read_source(lines, keep=["year", "tags"])] == [{"tags": ["a", 2, "\ufffd"]}]


def test_of_several_keys_the_one_with_a_text_counts(tmp_path: Path):
    rows = ['{"text": "", "contents": "one"}', '{"text": null, "docs": ["two"]}', '{"text": "three", "docs": ["no"]}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    assert texts(tmp_path / "a.jsonl") == ["one", "two", "three"]


def test_zipped_lines(tmp_path: Path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert [(one.text, one.line) for one in read_documents([str(tmp_path)])] == [("one", 1), ("two", 2)]
    file.write_bytes(b"no zip")
    with pytest.raises(ClaraError, match=r"a.jsonl.gz cannot be unzipped"):
        texts(file)


def test_keys_and_columns_become_metadata(tmp_path: Path):
    rows = [{"text": "a", "year": 1904, "by": "Ada"}, {"text": "b", "year": None, "by": "x\ud800"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"text": ["a", "b"], "year": [1904, None], "by": ["Ada", "x\ufffd"], "more": [{"a": 1}, {"a": 2}]}
    write_parquet(tmp_path / "a.parquet", **columns)
    for name in ("a.jsonl", "a.parquet"):
        found = list(read_source(tmp_path / name, keep=["year", "by", "other"]))
        assert [one.metadata for one in found] == [{"year": 1904, "by": "Ada"}, {"by": "x\ufffd"}]
    (left_out,) = read_source(tmp_path / "a.parquet", keep=["more"])
    assert 'a.parquet:1 to 2: "more" must be a string, a number, true or false' in left_out.reason
