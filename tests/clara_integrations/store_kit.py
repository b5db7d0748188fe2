"""A store of files that the retrievers' tests search, as `clara compress` makes it."""

from pathlib import Path

from small_model import TEXTS

from clara_model.documents.corpus import compress_corpus
from clara_model.inference.clara import Clara
from clara_model.store import StoredDocument, open_store


def filled(checkpoint: Path, folder: Path) -> Path:
    """The path of a store with one document for each of `TEXTS`: ``0.txt``, ``1.txt`` .. with their year."""
    files = folder / "files"
    files.mkdir()
    for number, text in enumerate(TEXTS):
        (files / f"{number}.txt").write_text(text, encoding="utf-8")
    with open_store(folder / "store") as store:
        with Clara.load(checkpoint, store=store, dtype="float32", device="cpu") as clara:
            compress_corpus(clara, store, [str(files)])
        for number, one in enumerate(list(store.documents())):
            kept = {"file": f"{number}.txt", "year": 1960 + number}
            store.record([StoredDocument(f"{number}.txt", one.windows, one.digest, kept)])
            store.forget([one.id])
    return folder / "store"
