"""Random sequences of calls on a store by two processes, some of them killed, against a plain dictionary.

200 sequences on each kind of store; ``--fuzz-examples`` says how many instead. On SQLite the other process is a forked
child, a new one in each sequence, and killed where the sequence says so; on Lance, whose threads do not survive a fork,
one process serves all sequences, and `store/test_lance.py` kills.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_model.search.store_search import StoreSearch
from clara_model.store import Block, DurableStore, StoredDocument, Window, open_store
from clara_model.store.opening import evict
from clara_model.store.protocol import MissingBlocks, content_key

SEQUENCES = settings.get_profile("sequences")
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A disk that need not be waited for: a process that is killed loses nothing that it has written."""
FINGERPRINT = "f"
NAMES, IDS = [str(number) for number in range(12)], ["a", "b", "c", "ü"]
Op = tuple[Any, ...]

some = st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True)
document = st.tuples(st.sampled_from(IDS), st.lists(st.sampled_from(NAMES), max_size=4), st.integers(1990, 1993))
CHANGES = st.one_of(
    st.tuples(st.just("put"), some, st.integers(0, 2)),
    st.tuples(st.just("put"), st.just(NAMES), st.integers(0, 2)),
    st.tuples(st.just("record"), st.lists(document, min_size=1, max_size=3, unique_by=lambda one: one[0])),
    st.tuples(st.just("delete"), some),
    st.tuples(st.just("forget"), st.lists(st.sampled_from(IDS), min_size=1, max_size=2)),
    st.just(("clear",)),
    st.just(("compact",)),
)
OTHERS = st.one_of(
    CHANGES,
    st.tuples(st.just("evict"), st.floats(0.3, 0.9)),
    st.just(("reopen",)),
    st.just(("mend",)),
    st.just(("search",)),
)
CALLS = st.tuples(st.sampled_from(["here", "there"]), OTHERS)
KILLED = st.tuples(st.just("killed"), st.lists(CHANGES, min_size=1, max_size=4), st.floats(0, 0.01))


def block(name: str, version: int) -> Block:
    draw = torch.Generator().manual_seed(int(name) * 10 + version)
    return Block(torch.randn(2, 48, generator=draw), int(name), f"{name} {version}")


def done(store: DurableStore, op: Op) -> object:
    """Do it; what a caller is told."""
    match op:
        case ("put", names, version):
            return store.put(FINGERPRINT, {content_key(one): block(one, version) for one in names})
        case ("record", documents):
            made = [
                StoredDocument(one, tuple(Window(content_key(name), 0, 1) for name in names), "d", {"year": year})
                for one, names, year in documents
            ]
            try:
                return store.record(made)
            except MissingBlocks as error:
                return sorted(error.keys)
        case ("delete", names):
            return store.delete([content_key(one) for one in names])
        case ("forget", ids):
            return store.forget(ids)
        case ("evict", share):
            return evict(store, int(store.stats().nbytes * share))
        case ("mend",):
            return sorted(one.where for one in store.verify(mend=True))
        case ("clear",):
            return store.clear()
        case ("compact",):
            return store.compact()
    raise AssertionError(op)


class Model:
    """What a store should hold: versions by name in the order of their last `put`, documents by id."""

    def __init__(self) -> None:
        self.blocks: dict[str, int] = {}
        self.documents: dict[str, tuple[list[str], int]] = {}

    def copy(self) -> "Model":
        made = Model()
        made.blocks, made.documents = dict(self.blocks), dict(self.documents)
        return made

    def done(self, op: Op) -> object:
        """As `done`."""
        match op:
            case ("put", names, version):
                for one in names:
                    self.blocks.pop(one, None)
                    self.blocks[one] = version
            case ("record", documents):
                missing = {name for _, names, _ in documents for name in names} - self.blocks.keys()
                if missing:
                    return sorted(map(content_key, missing))
                before = [name for one, _, _ in documents for name in self.documents.get(one, ([], 0))[0]]
                self.documents |= {one: (names, year) for one, names, year in documents}
                self._drop_unused(before)
            case ("delete", names):
                return sum(self.blocks.pop(one, None) is not None for one in names)
            case ("forget", ids):
                gone = [self.documents.pop(one) for one in dict.fromkeys(ids) if one in self.documents]
                self._drop_unused([name for names, _ in gone for name in names])
                return len(gone)
            case ("mend",):
                return sorted(
                    one for one, (names, _) in self.documents.items() for name in names if name not in self.blocks
                )
            case ("clear",):
                self.blocks, self.documents = {}, {}
        return None

    def _drop_unused(self, names: list[str]) -> None:
        used = {name for kept, _ in self.documents.values() for name in kept}
        for one in names:
            if one not in used:
                self.blocks.pop(one, None)

    def differs(self, store: DurableStore) -> str:
        """Where the store is not as it should be; empty where it is."""
        keys = [content_key(one) for one in NAMES]
        for name, found in zip(NAMES, store.get(FINGERPRINT, keys), strict=True):
            version = self.blocks.get(name)
            right = None if version is None else block(name, version)
            if (found is None) != (right is None):
                return f"block {name} is {'not ' if found is None else ''}there"
            if found and right and (not torch.equal(found.vector, right.vector) or found.text != right.text):
                return f"block {name} is another"
        numbers = store.numbers(keys)
        rows = list(store.iterate())
        if not far(store) and [row.block.text for row in rows] != [f"{n} {v}" for n, v in self.blocks.items()]:
            return "order"
        if not store.all_numbers() == [row.number for row in rows] == sorted(numbers.values()):
            return "numbers"
        kept = {one.id: one for one in store.documents()}
        if {one: ([w.key for w in d.windows], d.metadata["year"]) for one, d in kept.items()} != {
            one: ([content_key(name) for name in names], year) for one, (names, year) in self.documents.items()
        }:
            return f"documents {kept}"
        late = sorted({one for one, (names, year) in self.documents.items() if year > 1991 and names})
        if sorted({place.document for place in store.find(where={"year": {"$gt": 1991}})}) != late:
            return "filter"
        fitting = {numbers[content_key(n)] for one in late for n in self.documents[one][0] if n in self.blocks}
        return "" if store.matching({"year": {"$gt": 1991}}) == sorted(fitting) else "matching"


def far(store: DurableStore) -> bool:
    return store.url.endswith(".lance")


class Forked:
    """Another process with the store open, forked from this one when it is first asked."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.pid = 0

    def start(self) -> None:
        asked, ask = os.pipe()
        answered, answer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                for one in (ask, answered):
                    os.close(one)
                serve(os.fdopen(asked, "rb"), os.fdopen(answer, "wb"))
            finally:
                os._exit(1)
        os.close(asked), os.close(answer)
        self.ask, self.answer = os.fdopen(ask, "wb"), os.fdopen(answered, "rb")

    def __call__(self, op: Op) -> object:
        self.send([op])
        return pickle.load(self.answer)

    def send(self, ops: list[Op]) -> None:
        if not self.pid:
            self.start()
        for op in ops:
            pickle.dump((str(self.place), op), self.ask)
        self.ask.flush()

    def kill(self) -> None:
        if not self.pid:
            return
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.ask.close(), self.answer.close()
        self.pid = 0


def serve(asked: Any, answer: Any) -> None:
    """What the other process does."""
    stores: dict[str, DurableStore] = {}
    while True:
        try:
            place, op = pickle.load(asked)
        except EOFError:
            return
        if op == ("reopen",):
            stores.clear()
            result: object = None
        else:
            if place not in stores:
                stores.clear()
                stores[place] = open_store(place)
            result = done(stores[place], op)
        pickle.dump(result, answer)
        answer.flush()


def check(place: Path, calls: list[Any], there: Any) -> None:
    """Do the calls and compare after each of them."""
    model, here = Model(), open_store(place)
    search = StoreSearch(here)
    for turn, (who, op, *delay) in enumerate(calls):
        if who == "killed":
            states = [model.copy()]
            for one in op:
                states.append(states[-1].copy())
                states[-1].done(one)
            there.send(op)
            time.sleep(delay[0])
            there.kill()
            with open_store(place) as fresh:
                wrong = [one.differs(fresh) for one in states]
            assert "" in wrong, wrong
            model = states[len(wrong) - 1 - wrong[::-1].index("")]
            continue
        if op == ("search",):
            if here.fingerprint is not None:
                found = search.best(torch.ones(2, 48), 20)
                assert {one.row.block.text for one in found} == {f"{n} {v}" for n, v in model.blocks.items()}
            continue
        if op == ("reopen",):
            search.close()
            here.close()
            here = open_store(place)
            search = StoreSearch(here)
            there(op)
            continue
        told = done(here, op) if who == "here" else there(op)
        if op[0] == "evict":
            assert isinstance(told, int)
            names = list(model.blocks)
            if far(here):  # of one call, Lance has those that replace others behind the rest
                there_still = here.numbers([content_key(name) for name in names])
                names.sort(key=lambda name: content_key(name) in there_still)
            for name in names[:told]:
                del model.blocks[name]
        else:
            assert told == model.done(op), op
        if not far(here) or turn % 3 == 2:  # Lance takes ten times as long
            assert model.differs(here) == "", op
    with open_store(place) as fresh:
        assert model.differs(fresh) == ""
        assert sorted(one.where for one in fresh.verify()) == model.done(("mend",))
    search.close()
    here.close()


@SEQUENCES
@given(st.lists(st.one_of(CALLS, CALLS, CALLS, KILLED), min_size=3, max_size=12))
def test_sqlite_is_a_dictionary_whoever_is_killed(calls: list[Any]):
    with TemporaryDirectory(dir=MEMORY) as folder:
        there = Forked(Path(folder) / "latents")
        try:
            check(there.place, calls, there)
        finally:
            there.kill()


@pytest.fixture(scope="module")
def other_process() -> Iterator[subprocess.Popen]:
    """One with Lance of its own."""
    served = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.argv = ['']; "
    served += "from hypothesis import settings; settings.register_profile('sequences', max_examples=1); "
    served += "from test_store_fuzz import serve; serve(sys.stdin.buffer, sys.stdout.buffer)"
    with subprocess.Popen([sys.executable, "-c", served], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@SEQUENCES
@given(st.lists(CALLS, min_size=3, max_size=8))
def test_lance_is_a_dictionary(other_process: subprocess.Popen, calls: list[Any]):
    with TemporaryDirectory(dir=MEMORY) as folder:
        place = Path(folder) / "latents.lance"

        def there(op: Op) -> object:
            pickle.dump((str(place), op), other_process.stdin)
            other_process.stdin.flush()
            return pickle.load(other_process.stdout)

        check(place, calls, there)
