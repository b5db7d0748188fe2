"""Data sets of the hub: their names, their rows, and streams that break. A folder stands in place of the hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clara_model.documents.document import Unread
from clara_model.documents.passages import read_source
from clara_model.documents.rows import _parts

HUB = "hf://datasets/owner/name"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a data set with two splits, which the real reader reads."""
    import datasets

    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        lines = [{"text": f"{split} {number}", "id": number} for number in range(3)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    real = datasets.load_dataset

    def here(name: str, revision: str | None = None, **options: object) -> object:
        (tmp_path / "asked").write_text(str(revision))
        return real(str(tmp_path / name), **options)

    monkeypatch.setattr(datasets, "load_dataset", here)
    return folder


def read(name: str, **options: object) -> tuple[list[str], list[tuple[str, str]]]:
    """The texts; what could not be read, and why."""
    found = list(read_source(name, **options))
    unread = [(one.file, one.reason) for one in found if isinstance(one, Unread)]
    return [one.text for one in found if not isinstance(one, Unread)], unread


def test_the_rows_of_all_splits(folder: Path):
    found = list(read_source(f"{HUB}@v1"))
    assert sorted(one.text for one in found) == sorted(f"{s} {n}" for s in ("train", "test") for n in range(3))
    assert {(one.file, one.line) for one in found} >= {(f"{HUB}/train", 3)}
    assert (folder.parents[1] / "asked").read_text() == "v1"
    assert read(f"{HUB}/train.jsonl") == (["train 0", "train 1", "train 2"], [])
    (folder / "train.jsonl").write_text('{"body": "one"}')
    (folder / "test.jsonl").write_text('{"body": "two"}\n{"body": null}')
    assert read(HUB, text_key="body") == (
        ["one", "two"],
        [(f"{HUB}/test", f'{HUB}/test:2: "body" must be a string or a list of strings.')],
    )
    texts, unread = read(HUB)
    assert texts == []
    assert [reason.partition(" and must")[0] for _, reason in unread] == [
        f"{HUB}/{split} has the columns body" for split in ("train", "test")
    ]


def test_a_split_that_breaks_is_named_and_the_next_is_read(folder: Path):
    (folder / "train-2.jsonl").write_text('{"text": "more", "id": 4}\n{"text": nothing of the kind')
    texts, ((place, reason),) = read(HUB)
    assert place == f"{HUB}/train"
    assert reason.startswith(f"{HUB}/train cannot be read as rows: ") and "\n" not in reason
    assert set(texts) >= {"test 0", "test 1", "test 2"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ReadTimeout("the read timed out"), f"{HUB}/train cannot be read as rows: the read timed out."),
        (ConnectionResetError(104, "Connection reset by peer"), f"{HUB}/train: Connection reset by peer"),
        (RuntimeError(), f"{HUB}/train cannot be read as rows: RuntimeError."),
    ],
)
def test_a_connection_that_ends_loses_only_what_comes_after(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
):
    import datasets

    def rows() -> Iterator[dict[str, str | None]]:
        yield from ({"text": "one"}, {"text": None})
        raise error

    def stream(*_: object, **__: object) -> dict[str, datasets.IterableDataset]:
        other = datasets.IterableDataset.from_generator(lambda: iter([{"text": "three"}]))
        return {"train": datasets.IterableDataset.from_generator(rows), "test": other}

    monkeypatch.setattr(datasets, "load_dataset", stream)
    left_out = f'{HUB}/train:2: "text" must be a string or a list of strings.'
    assert read(HUB) == (["one", "three"], [(f"{HUB}/train", left_out), (f"{HUB}/train", said)])


def test_a_data_set_that_is_not_there(folder: Path):
    texts, ((place, reason),) = read("hf://datasets/owner/other@v1")
    assert (texts, place) == ([], "hf://datasets/owner/other")
    assert reason.startswith("hf://datasets/owner/other")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("", (None, None)),
        ("/", (None, None)),
        ("@v1.0/data/train-*.parquet", ("v1.0", "data/train-*.parquet")),
        ("/data/a.jsonl", (None, "data/a.jsonl")),
        ("@refs/convert/parquet", ("refs/convert/parquet", None)),
        ("@refs/convert/parquet/default/train/*.parquet", ("refs/convert/parquet", "default/train/*.parquet")),
        ("@refs%2Fconvert%2Fparquet/x.parquet", ("refs/convert/parquet", "x.parquet")),
        ("@~parquet/x.parquet", ("refs/convert/parquet", "x.parquet")),
        ("@refs/pr/12", ("refs/pr/12", None)),
    ],
)
def test_names_as_the_hub_writes_them(name: str, parts: tuple[str | None, str | None]):
    assert _parts(HUB + name) == ("owner/name", *parts)


@pytest.mark.parametrize("name", ["hf://datasets/", "hf://datasets/name", "hf://models/a/b", f"{HUB}@"])
def test_names_that_are_no_data_set(name: str):
    assert read(name) == (
        [],
        [(name, f"{name} is not a data set of the hub; write hf://datasets/OWNER/NAME, or with a file: .../FILE")],
    )
