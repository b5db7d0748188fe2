"""Whole corpora into a store: once, resumable, in step with the files."""

import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from counting import counted
from small_model import QUESTIONS, TEXTS

from clara_model import Clara, ClaraModel
from clara_model.documents import corpus
from clara_model.documents.corpus import compress_corpus
from clara_model.store import open_store
from clara_model.windows import content_key


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


def test_a_text_is_hashed_and_split_once(loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch):
    hashed, split = counted(monkeypatch)
    _, documents = run(loaded, files)
    assert split == dict.fromkeys([*TEXTS[:5], " ".join(TEXTS)], 1)
    long = max(documents.values(), key=lambda one: len(one.windows)).windows
    assert hashed == Counter([*split, *(" ".join(TEXTS)[one.start : one.end] for one in long)])


def test_a_second_run_does_nothing(loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch):
    _, before = run(loaded, files)
    monkeypatch.setattr(ClaraModel, "encode_rows", None)
    done, after = run(loaded, files)
    assert (done.documents, done.unchanged, done.compressed) == (6, 6, 0)
    assert before == after


def test_a_document_whose_latents_are_damaged_or_missing_is_made_anew(loaded: ClaraModel, files: Path):
    _, before = run(loaded, files)
    with open_store(files.parent / "store") as store:
        numbers = bytes(next(store.iterate()).block.vector.flatten()[:64].view(torch.uint8).numpy())
        last = list(store.iterate())[-1].key
        store.delete([last])
    data = files.parent / "store" / "data-1.bin"
    content = bytearray(data.read_bytes())
    content[content.index(numbers)] ^= 1
    data.write_bytes(content)
    done, after = run(loaded, files)
    assert (done.documents, done.compressed) == (6, 2)
    assert done.unchanged < 5
    assert before == after


def test_blocks_that_another_run_deletes_meanwhile_are_made_anew(loaded: ClaraModel, tmp_path: Path, monkeypatch):
    """The other changes the last document that had them, between this run's look and its record."""
    for name, text in (("a/1.txt", TEXTS[0]), ("b/2.txt", TEXTS[1])):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    with open_store(tmp_path / "s") as store, open_store(tmp_path / "s") as other, Clara(loaded, store=store) as clara:
        compress_corpus(clara, store, [str(tmp_path / "a")])
        (tmp_path / "a/1.txt").write_text(TEXTS[2])
        (tmp_path / "b/2.txt").write_text(TEXTS[0])
        real = other.record

        def late(documents):
            compress_corpus(clara, store, [str(tmp_path / "a")])
            real(documents)

        monkeypatch.setattr(other, "record", late)
        compress_corpus(clara, other, [str(tmp_path / "b")])
        assert store.verify() == []
        assert len(store.digests()) == 2
        assert compress_corpus(clara, store, [str(tmp_path)]).unchanged == 2


def test_a_rows_own_file_and_line_are_kept_under_their_names(loaded: ClaraModel, tmp_path: Path):
    row = {"text": TEXTS[0], "file": "letters/report.pdf", "line": 40}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with open_store(tmp_path / "s") as store, Clara(loaded, store=store) as clara:
        compress_corpus(clara, store, [str(tmp_path / "rows.jsonl")])
        compress_corpus(clara, store, [str(tmp_path / "rows.jsonl")], metadata=["file", "line"])
        (place,) = store.find(where={"file": "letters/report.pdf", "line": 40})
        assert place.document == f"{tmp_path}/rows.jsonl:1"


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
    (files / "2.txt").unlink()
    (files / "worse.jsonl").write_text("{")
    (files / "photo.jpg").write_bytes(b"\xff\xd8")
    done, documents = run(loaded, files, sync=True)
    assert [Path(name).name for name, _ in done.bad] == ["photo.jpg", "1.txt", "worse.jsonl"]
    assert "photo.jpg is of no type that is read" in done.bad[0][1]
    assert "not UTF-8" in done.bad[1][1]
    assert (len(documents), done.removed) == (5, 1)  # what cannot be read has not vanished
    assert done.kept == [(1, done.bad[1][1])]


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


@contextmanager
def without_root() -> Iterator[None]:
    """Permissions count: not as root, who may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write into, below none that they may not enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["cannot be listed", "cannot be entered"])
def test_what_stands_below_a_folder_that_cannot_be_read_is_not_removed(
    loaded: ClaraModel, open_folder: Path, mode: int
):
    docs, sub = open_folder / "docs", open_folder / "docs" / "sub"
    sub.mkdir(parents=True)
    for number, file in enumerate((docs / "a.txt", docs / "b.txt", sub / "c.txt")):
        file.write_text(TEXTS[number])
    with without_root(), open_store(open_folder / "store") as store, Clara(loaded, store=store) as clara:
        assert compress_corpus(clara, store, [str(docs)]).documents == 3
    (docs / "b.txt").unlink()
    sub.chmod(mode)
    with without_root(), open_store(open_folder / "store") as store, Clara(loaded, store=store) as clara:
        done = compress_corpus(clara, store, [str(docs)], sync=True)
        assert [name for name, _ in done.bad] == [str(sub if mode == 0 else sub / "c.txt")]
        assert "cannot be read: Permission denied" in done.bad[0][1]
        assert (done.removed, done.kept) == (1, [(1, done.bad[0][1])])
        assert sorted(store.digests()) == [str(docs / "a.txt"), str(sub / "c.txt")]
    sub.chmod(0o700)


def test_what_stood_below_a_folder_that_is_empty_now_may_not_be_gone(loaded: ClaraModel, files: Path):
    (files / "share" / "deep").mkdir(parents=True)
    (files / "share" / "deep" / "x.txt").write_text("On the share.")
    run(loaded, files)
    (files / "share" / "deep" / "x.txt").unlink()
    (files / "share" / "deep").rmdir()
    done, documents = run(loaded, files, sync=True)
    (why,) = done.kept
    assert why == (1, f"{files}/share is empty, as where nothing is mounted; delete it too if its documents are gone.")
    assert (done.removed, len(documents)) == (0, 7)
    (files / "share").rmdir()
    done, documents = run(loaded, files, sync=True)
    assert (done.removed, done.kept, len(documents)) == (1, [], 6)


def test_lock_files_are_no_documents_and_hold_up_nothing(loaded: ClaraModel, files: Path):
    run(loaded, files)
    (files / "~$report.docx").write_bytes(b"\x03owner")
    (files / "0.txt").unlink()
    done, documents = run(loaded, files, sync=True)
    assert (done.bad, done.kept, done.removed, len(documents)) == ([], [], 1, 5)


def test_what_a_file_no_longer_holds_is_gone_without_sync(loaded: ClaraModel, files: Path):
    run(loaded, files)
    (files / "0.txt").write_text(" ")
    (files / "1.txt").unlink()  # not read again, so it stays
    (files / "more.jsonl").write_text(json.dumps({"docs": [TEXTS[4]]}))
    done, documents = run(loaded, files)
    left = [f"{files}/{name}" for name in ("1.txt", "2.txt", "more.jsonl:1")]
    assert (done.removed, sorted(documents)) == (3, left)
    (files / "more.jsonl").write_text("{")  # the row is there, but who knows what it says
    done, documents = run(loaded, files)
    assert (done.removed, sorted(documents)) == (0, left)


def test_a_file_that_vanishes_before_its_turn_is_listed(
    loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 1)
    read = corpus.read_source

    def late(source: Path, *more: object):
        if source.name == "1.txt":
            source.unlink()
        return read(source, *more)

    monkeypatch.setattr(corpus, "read_source", late)
    done, documents = run(loaded, files)
    assert [reason for _, reason in done.bad] == [f"{files}/1.txt: No such file or directory"]
    assert (done.documents, len(documents)) == (5, 5)


def test_a_file_that_vanishes_before_its_size_is_asked_for_is_listed(
    loaded: ClaraModel, files: Path, monkeypatch: pytest.MonkeyPatch
):
    found = corpus.sources_of

    def slow(*args: object, **options: object):
        sources = found(*args, **options)
        (files / "1.txt").unlink()
        return sources

    monkeypatch.setattr(corpus, "sources_of", slow)
    done, documents = run(loaded, files)
    assert [name for name, _ in done.bad] == [f"{files}/1.txt"]
    assert (done.documents, len(documents)) == (5, 5)


@pytest.mark.skipif(os.name == "nt", reason="names of bytes")
@pytest.mark.parametrize("kind", ["store", "store.lance"])
def test_a_name_that_is_not_utf8_is_written_with_its_bytes(loaded: ClaraModel, tmp_path: Path, kind: str):
    if kind.endswith("lance"):
        pytest.importorskip("lance")
    folder = tmp_path / "files"
    folder.mkdir()
    (Path(os.fsdecode(os.fsencode(folder) + b"/b\xfcro.txt"))).write_text(TEXTS[0])
    (folder / "good.txt").write_text(TEXTS[1])
    name = f"{folder}/b\\xfcro.txt"
    with open_store(tmp_path / kind) as store, Clara(loaded, store=store) as clara:
        assert compress_corpus(clara, store, [str(folder)]).compressed == 2
        assert sorted(store.digests()) == [name, f"{folder}/good.txt"]
        assert compress_corpus(clara, store, [str(folder)], sync=True).unchanged == 2
        assert [one.text for one in clara.search(QUESTIONS[0], 5, where={"file": name})] == [TEXTS[0]]


def test_a_document_is_named_by_the_path_at_which_it_was_found(loaded: ClaraModel, tmp_path: Path):
    """As Kubernetes mounts a ConfigMap: `a.txt` leads to `..data/a.txt`, and `..data` to the version of the day."""
    folder = tmp_path / "config"
    for version, text in (("..v1", TEXTS[0]), ("..v2", TEXTS[1])):
        (folder / version).mkdir(parents=True)
        (folder / version / "a.txt").write_text(text)
    (folder / "a.txt").symlink_to("..data/a.txt")
    with open_store(tmp_path / "store") as store, Clara(loaded, store=store) as clara:
        for version, text in (("..v1", TEXTS[0]), ("..v2", TEXTS[1])):
            (folder / "..data").unlink(missing_ok=True)
            (folder / "..data").symlink_to(version)
            assert compress_corpus(clara, store, [str(folder)]).bad == []
            assert list(store.digests()) == [f"{folder}/a.txt"]
            assert [one.text for one in clara.search(QUESTIONS[0], 5)] == [text]
        dotted = f"{folder}/../{folder.name}/a.txt"
        assert compress_corpus(clara, store, [dotted]).unchanged == 1


def test_a_link_to_a_folder_is_named_unless_its_files_are_found_anyway(loaded: ClaraModel, files: Path):
    (files.parent / "elsewhere").mkdir()
    (files.parent / "elsewhere" / "x.txt").write_text("Elsewhere.")
    (files / "shared").symlink_to("../elsewhere")
    (files / "self").symlink_to(".")
    (files / "b").mkdir()
    (files / "b" / "again").symlink_to("..")
    (files / "lost.txt").symlink_to("nowhere.txt")
    done, documents = run(loaded, files)
    assert [reason for _, reason in done.bad] == [
        f"{files}/lost.txt cannot be read: No such file or directory.",
        f"{files}/shared is a link to a folder, which is not followed.",
    ]
    assert len(documents) == 6
