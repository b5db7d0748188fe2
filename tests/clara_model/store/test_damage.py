"""What is not as it was written is never returned as a latent; and stores that cannot be opened say why."""

import logging
import random
import sqlite3
from pathlib import Path

import pytest
import torch
from faults import reachable_folder, without_privileges
from kit import FINGERPRINT, block, blocks, key, same

from clara_model.errors import ClaraError
from clara_model.store import StoredDocument, Window, copy_store, open_store
from clara_model.store.sqlite.store import FILE

DATA = "data-1.bin"

SIZES = {"slots": 8, "width": 512}
NAMES = range(60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of 60 blocks and two documents."""
    with open_store(tmp_path / "latents") as store:
        store.put(FINGERPRINT, blocks(NAMES, **SIZES))
        windows = tuple(Window(key(name), name, name + 1) for name in NAMES)
        store.record([StoredDocument("a", windows, "d", {"file": "x"}), StoredDocument("b", windows[:3], "d")])
    return tmp_path / "latents"


def test_a_thousand_flipped_bytes(folder: Path):
    draw = random.Random(0)
    files = {file: file.read_bytes() for file in (folder / FILE, folder / DATA)}
    used = [(file, place) for file, data in files.items() for place in range(len(data)) if data[place]]
    wrong = raised = missing = unseen = 0
    for file, place in draw.sample(used, 1000):
        changed = bytearray(files[file])
        changed[place] ^= draw.randrange(1, 256)
        file.write_bytes(changed)
        try:
            with open_store(folder) as store:
                found = store.get(FINGERPRINT, [key(name) for name in NAMES])
            wrong += sum(one is not None and not same(one, block(name, **SIZES)) for name, one in enumerate(found))
            missing += None in found
            unseen += None not in found
        except ClaraError as error:
            assert str(folder) in str(error)
            raised += 1
        for name, data in files.items():
            if name.read_bytes() != data:
                name.write_bytes(data)
        for suffix in ("-wal", "-shm"):
            (folder / f"{FILE}{suffix}").unlink(missing_ok=True)
    assert wrong == 0
    assert missing > 900
    assert unseen < 50  # documents, indexes and room that is free
    with open_store(folder) as store:
        assert store.verify() == []


def test_a_flipped_byte_is_never_returned_as_a_place_or_metadata(folder: Path):
    with open_store(folder) as store:
        store.record([StoredDocument(f"d{i}", (Window(key(i), 0, 3),), "d", {"year": 1900 + i}) for i in NAMES])
        right = {(one.document, one.key, one.start, one.end, str(one.metadata)) for one in store.find()}
    draw, data, less = random.Random(0), (folder / FILE).read_bytes(), 0
    used = [place for place in range(len(data)) if data[place]]
    for place in draw.sample(used, 200):
        changed = bytearray(data)
        changed[place] ^= 1 << draw.randrange(8)
        (folder / FILE).write_bytes(changed)
        try:
            with open_store(folder) as store:
                for found in (
                    store.find(),
                    store.find(where={"year": {"$gt": 0}}),
                    store.places(list(map(key, NAMES))),
                ):
                    there = {(one.document, one.key, one.start, one.end, str(one.metadata)) for one in found}
                    assert there <= right
                    less += len(there) < 60
        except ClaraError as error:
            assert str(folder) in str(error)
        (folder / FILE).write_bytes(data)
        for suffix in ("-wal", "-shm"):
            (folder / f"{FILE}{suffix}").unlink(missing_ok=True)
    assert less > 5


@pytest.mark.parametrize("name", ["latents", "latents.lance"])
def test_damage_is_dropped_on_request_and_then_named_as_missing(tmp_path: Path, name: str):
    with open_store(tmp_path / name) as store:
        store.put(FINGERPRINT, blocks(range(6), **SIZES))
        store.record([StoredDocument(f"d{i}", (Window(key(i), 0, 3),), "d", {"year": 1900 + i}) for i in range(6)])
    for file in (tmp_path / name).rglob("*"):
        if file.is_file() and file.read_bytes().count(numbers_of(3)) == 1:
            flipped(file, numbers_of(3))
    with open_store(tmp_path / name) as store:
        assert [one.where for one in store.verify()] == [key(3)]
        assert [one.where for one in store.verify(["d3", "d4"])] == [key(3)]
        assert store.verify(["d1", "d4"]) == store.verify([]) == store.verify(["no such"]) == []
        assert [one.where for one in store.verify(mend=True)] == [key(3), "d3"]
        assert [(one.where, one.what) for one in store.verify()] == [
            ("d3", "the latents of its window 0 are not there")
        ]
        assert store.numbers([key(3), key(4)]).keys() == {key(4)}
        store.put(FINGERPRINT, blocks([3], **SIZES))
        assert store.verify() == []


def test_a_damaged_document_is_dropped_on_request(folder: Path):
    flipped(folder / FILE, b'{"file": "x"}', 2)
    with open_store(folder) as store:
        assert store.find("a") == []
        assert [one.number for one in store.places([key(1)])] == [1]  # of "b"
        assert [one.where for one in store.verify(["a", "b"], mend=True)] == ["a"]
        assert store.digests().keys() == {"b"}
        assert store.stats().blocks == 3
        assert store.verify() == []


def test_a_copy_leaves_out_a_document_whose_latents_are_damaged(folder: Path, tmp_path: Path, caplog):
    flipped(folder / DATA, numbers_of(7))
    with open_store(folder) as store, open_store(tmp_path / "copy") as copy:
        assert copy_store(store, copy) == len(NAMES) - 1
        assert "1 documents whose latents are damaged or missing are not copied (the first is a)" in caplog.text
        assert copy.digests().keys() == {"b"}
        assert copy.verify() == []


def test_half_a_store_is_refused(folder: Path, tmp_path: Path):
    """As ``cp`` of a store that is in use may leave: all is still in SQLite's log, which came later or not at all."""
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / DATA).write_bytes((folder / DATA).read_bytes())
    for content in (None, b""):
        if content is not None:
            (copied / FILE).write_bytes(content)
        with pytest.raises(ClaraError, match=r"is half a store: .* copied by: clara store copy STORE --to OTHER"):
            open_store(copied)
        assert (copied / DATA).read_bytes() == (folder / DATA).read_bytes()


def flipped(file: Path, content: bytes, offset: int = 0) -> None:
    """Change one byte of something that is in the file once."""
    data = bytearray(file.read_bytes())
    assert data.count(content) == 1
    data[data.index(content) + offset] ^= 1
    file.write_bytes(data)


def numbers_of(name: int) -> bytes:
    return bytes(block(name, **SIZES).vector.view(torch.uint8).flatten()[100:200].numpy())


def test_a_damaged_block_is_named_left_out_and_made_anew(folder: Path, caplog: pytest.LogCaptureFixture):
    flipped(folder / DATA, numbers_of(7))
    flipped(folder / DATA, numbers_of(17))
    with open_store(folder) as store:
        with caplog.at_level(logging.WARNING):
            assert store.get(FINGERPRINT, [key(7), key(8)])[0] is None
        assert f"block {key(7)} is left out: its bytes have changed" in caplog.text
        assert {one.where for one in store.verify()} == {key(7), key(17)}
        assert len(list(store.iterate())) == len(NAMES) - 2
        store.put(FINGERPRINT, {key(7): block(7, **SIZES)})
        assert same(store.get(FINGERPRINT, [key(7)])[0], block(7, **SIZES))
        store.compact()  # lets go of the other one
        assert [one.where for one in store.verify()] == ["a"]
        assert store.stats().blocks == len(NAMES) - 1


def test_a_text_that_is_no_text_any_more_costs_its_own_block_only(folder: Path):
    data = bytearray((folder / FILE).read_bytes())
    data[data.index(b"text of 12")] = 0xFF
    (folder / FILE).write_bytes(data)
    with open_store(folder) as store:
        found = store.get(FINGERPRINT, [key(name) for name in NAMES])
        assert [name for name, one in enumerate(found) if one is None] == [12]


def test_a_damaged_document_is_named(folder: Path, caplog: pytest.LogCaptureFixture):
    flipped(folder / FILE, b'{"file": "x"}', 2)
    with open_store(folder) as store:
        assert [one.where for one in store.verify()] == ["a"]
        with caplog.at_level(logging.WARNING):
            assert [one.id for one in store.documents()] == ["b"]
        assert "document a is left out" in caplog.text


@pytest.mark.parametrize("name", [FILE, DATA])
def test_a_file_cut_short(folder: Path, name: str):
    data = (folder / name).read_bytes()
    for size in (0, 1, 100, 8192, len(data) // 2, len(data) - 1):
        (folder / name).write_bytes(data[:size])
        try:
            with open_store(folder) as store:
                found = store.get(FINGERPRINT, [key(name) for name in NAMES])
            assert all(one is None or same(one, block(name, **SIZES)) for name, one in enumerate(found))
        except ClaraError as error:
            assert str(folder) in str(error)
        for suffix in ("-wal", "-shm"):
            (folder / f"{FILE}{suffix}").unlink(missing_ok=True)


def test_the_file_of_blocks_is_gone(folder: Path):
    (folder / DATA).unlink()
    with open_store(folder) as store:
        assert store.get(FINGERPRINT, [key(1), key(2)]) == [None, None]
        assert len([one for one in store.verify() if one.where != "a" and one.where != "b"]) == len(NAMES)
        store.put(FINGERPRINT, blocks([1], **SIZES))
        assert same(store.get(FINGERPRINT, [key(1)])[0], block(1, **SIZES))


def test_another_file_in_its_place(folder: Path):
    (folder / FILE).write_bytes(b"not a database at all" * 1000)
    with pytest.raises(ClaraError, match="the store is damaged"):
        open_store(folder)
    (folder / FILE).unlink()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("CREATE TABLE about (name, value)")
    connection.close()
    with pytest.raises(ClaraError, match="not a store of latents"):
        open_store(folder)


def test_another_programs_file_of_the_same_name_is_left_as_it_is(tmp_path: Path):
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("CREATE TABLE notes (text)")
        connection.execute("INSERT INTO notes VALUES ('precious')")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ClaraError, match="not a store of latents; choose another folder"):
        open_store(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def about(folder: Path, name: str, value: str) -> None:
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("UPDATE about SET value = ? WHERE name = ?", (value, name))
    connection.close()


def test_a_newer_format(folder: Path):
    about(folder, "format", "2")
    with pytest.raises(ClaraError, match="format 2 and this version reads up to 1; install a newer"):
        open_store(folder)


@pytest.mark.parametrize(("name", "value"), [("format", "x"), ("encoding", "int3"), ("identity", "")])
def test_what_it_says_about_itself_makes_no_sense(folder: Path, name: str, value: str):
    about(folder, name, value)
    with pytest.raises(ClaraError, match="makes no sense"):
        open_store(folder)


def test_another_fingerprint_in_the_file_makes_every_block_damaged(folder: Path):
    about(folder, "fingerprint", "f2")
    with open_store(folder) as store:
        assert store.get("f2", [key(1)]) == [None]
        assert len(store.verify()) == len(NAMES)


def test_the_path_is_a_file(tmp_path: Path):
    (tmp_path / "latents").write_text("")
    with pytest.raises(ClaraError, match="is a file; a store is a folder"):
        open_store(tmp_path / "latents")
    with pytest.raises(ClaraError, match="cannot be made"):
        open_store(tmp_path / "latents" / "inside")


def test_a_folder_that_can_only_be_read_is_read_and_not_written():
    with reachable_folder() as top:
        with open_store(top / "latents") as store:
            store.put(FINGERPRINT, blocks([1]))
        (top / "latents" / FILE).chmod(0o444)
        (top / "latents").chmod(0o555)
        with without_privileges(), open_store(top / "latents") as store:
            assert same(store.get(FINGERPRINT, [key(1)])[0], block(1))
            assert store.stats().blocks == 1
            for call in (lambda: store.put(FINGERPRINT, blocks([2])), lambda: store.delete([key(1)]), store.compact):
                with pytest.raises(ClaraError, match="cannot be written to"):
                    call()
        (top / "latents").chmod(0o755)


def test_no_permission():
    with reachable_folder() as top:
        open_store(top / "latents").close()
        (top / "latents" / FILE).chmod(0o000)
        with without_privileges():
            with pytest.raises(ClaraError, match="cannot be read"):
                open_store(top / "latents")
            with pytest.raises(ClaraError, match="cannot be made"):
                open_store(top / "new" / "store")
        (top / "latents").chmod(0o000)
        with without_privileges(), pytest.raises(ClaraError, match="cannot be opened"):
            open_store(top / "latents")
        (top / "latents").chmod(0o755)
        (top / "empty").mkdir(mode=0o555)
        with without_privileges(), pytest.raises(ClaraError, match="holds no store and cannot be written to"):
            open_store(top / "empty")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/store", "unknown scheme ftp://"),
        ("http://host/x", "unknown scheme http://"),
        ("", "is empty"),
        (" ", "is empty"),
    ],
)
def test_urls_that_are_no_store(url: str, message: str):
    with pytest.raises(ValueError, match=message):
        open_store(url)


def test_an_unknown_element_type(tmp_path: Path):
    with pytest.raises(ValueError, match=r"encoding must be one of exact, .* got 'int2'"):
        open_store(tmp_path, encoding="int2")
