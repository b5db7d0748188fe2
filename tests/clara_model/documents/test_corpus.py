"""Whole corpora into a store: once, resumable, in step with the files."""

import json
import threading
from pathlib import Path

import pytest
from small_model import QUESTIONS, TEXTS

from clara_model import Clara, ClaraModel
from clara_model.documents import corpus
from clara_model.documents.corpus import compress_corpus
from clara_model.store import open_store
from clara_model.store.cache import content_key


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of three text documents and a JSONL file of two lines, one of them with two texts."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, text in enumerate(TEXTS[:3]):
        (folder / f"{number}.txt").write_text(text)
    lines = [{"text": TEXTS[3]}, {"docs": [TEXTS[4], " ".join(TEXTS)]}]
    (folder / "more.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def run(loaded: ClaraModel, files: Path, **options: bool):
    with open_store(files.parent / "store") as store, Clara(loaded, store=store, cache_bytes=0) as clara:
        done = compress_corpus(clara, store, [str(files)], **options)
        assert store.verify() == []
        return done, {one.id: one for one in store.documents()}


def test_every_document_is_there_with_its_windows(loaded: ClaraModel, files: Path):
    done, documents = run(loaded, files)
    assert (done.documents, done.unchanged, done.bad) == (6, 0, [])
    names = [f"{files.resolve()}/{name}" for name in ("0.txt", "1.txt", "2.txt", "more.jsonl:1", "more.jsonl:2")]
    assert sorted(documents) == [*names, f"{names[-1]}#2"]
    long, text = documents[f"{names[-1]}#2"], " ".join(TEXTS)
    assert len(long.windows) > 1
    assert [window.key for window in long.windows] == [content_key(text[one.start : one.end]) for one in long.windows]
    assert documents[names[3]].metadata == {"file": f"{files.resolve()}/more.jsonl", "line": 1}
    assert done.windows == sum(len(one.windows) for one in documents.values())
    assert done.tokens > 0


def test_a_second_run_does_nothing(loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch):
    _, before = run(loaded, files)
    monkeypatch.setattr(ClaraModel, "encode_rows", None)
    done, after = run(loaded, files)
    assert (done.documents, done.unchanged, done.compressed) == (6, 6, 0)
    assert before == after


def test_metadata_of_rows_are_kept_and_their_change_compresses_nothing(loaded: ClaraModel, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    with open_store(tmp_path / "store") as store, Clara(loaded, store=store) as clara:
        for number, year in enumerate((1904, 1905)):
            file.write_text(json.dumps({"text": TEXTS[0], "year": year}) + "\n" + json.dumps({"text": TEXTS[1]}))
            done = compress_corpus(clara, store, [str(file)], metadata=["year"])
            assert (done.unchanged, done.compressed) == ((0, 2), (1, 0))[number]
            assert {one.text for one in clara.search(QUESTIONS[0], 5, where={"year": year})} == {TEXTS[0]}
        assert clara.search(QUESTIONS[0], 5, where={"year": 1904}).found == ()
        assert next(store.documents()).metadata == {"file": str(file.resolve()), "line": 1, "year": 1905}
        assert compress_corpus(clara, store, [str(file)]).unchanged == 1  # without them, the first is recorded anew


def test_changed_documents_are_replaced_and_vanished_ones_removed_on_request(loaded: ClaraModel, files: Path):
    run(loaded, files)
    (files / "0.txt").write_text("Something else was written here.")
    (files / "1.txt").unlink()
    done, documents = run(loaded, files)
    assert (done.unchanged, done.compressed, done.removed, len(documents)) == (4, 1, 0, 6)
    done, documents = run(loaded, files, sync=True)
    assert (done.compressed, done.removed, len(documents)) == (0, 1, 5)
    with open_store(files.parent / "store") as store:
        kept = {window.key for one in documents.values() for window in one.windows}
        assert {row.key for row in store.iterate()} == kept


def test_a_run_that_ends_in_the_middle_goes_on_where_it_was(
    loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 1)
    with open_store(files.parent / "store") as store, Clara(loaded, store=store) as clara:

        def stop(done: corpus.CorpusReport) -> None:
            if done.windows == 3:  # more may have been read
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            compress_corpus(clara, store, [str(files)], progress=stop)
    done, documents = run(loaded, files)
    assert (done.unchanged, len(documents)) == (3, 6)


def test_bad_files_are_listed_and_do_not_end_the_run(loaded: ClaraModel, files: Path):
    run(loaded, files)
    (files / "1.txt").write_bytes(b"\xff\xfe\x00bad")
    (files / "worse.jsonl").write_text("{")
    done, documents = run(loaded, files, sync=True)
    assert [Path(name).name for name, _ in done.bad] == ["1.txt", "worse.jsonl"]
    assert "not UTF-8" in done.bad[0][1]
    assert (len(documents), done.removed) == (6, 0)  # what cannot be read has not vanished


def test_it_says_how_far_it_is(loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 1)
    shares = []
    with open_store(files.parent / "store") as store, Clara(loaded, store=store) as clara:

        def show(done: corpus.CorpusReport) -> None:
            shares.append((done.source_bytes, done.all_bytes))

        done = compress_corpus(clara, store, [str(files)], progress=show)
    whole = sum(file.stat().st_size for file in files.iterdir())
    assert [share for share, _ in shares] == sorted(share for share, _ in shares)
    assert {every for _, every in shares} == {whole}
    assert 0 < shares[0][0] < whole == done.source_bytes


def test_what_breaks_in_the_reading_thread_ends_the_run_and_is_made_up_for(
    loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 1)
    read = corpus.read_source

    def breaking(source: Path, *more: object):
        if source.name == "2.txt":
            raise MemoryError("no room to read")
        return read(source, *more)

    with monkeypatch.context() as broken, pytest.raises(MemoryError, match="no room to read"):
        broken.setattr(corpus, "read_source", breaking)
        run(loaded, files)
    assert not [thread for thread in threading.enumerate() if thread.name == "reading ahead"]
    done, documents = run(loaded, files)
    assert (done.unchanged, len(documents)) == (2, 6)


def test_rows_of_another_key(loaded: ClaraModel, tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"passage": TEXTS[0]}))
    with open_store(tmp_path / "store") as store, Clara(loaded, store=store) as clara:
        assert len(compress_corpus(clara, store, [str(file)]).bad) == 1
        assert compress_corpus(clara, store, [str(file)], text_key="passage").compressed == 1


def test_what_was_compressed_is_found(loaded: ClaraModel, files: Path):
    run(loaded, files)
    with Clara(loaded, store=files.parent / "store") as clara:
        results = clara.search(QUESTIONS[0], 3)
        assert all(one.document is not None and one.document.startswith(str(files.resolve())) for one in results)
        assert all(one.text is not None for one in results)
