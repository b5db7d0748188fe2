"""Random sequences of calls on a store by two processes, some of them killed, against a plain dictionary.

200 sequences on each kind of store; ``--fuzz-examples`` says how many instead. The other process is a child of a server
that holds the libraries and has no thread (Lance's own do not outlive a fork): a new one where one was killed.
"""

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_calls import FINGERPRINT, Op, block, done, serve

from clara_model.errors import ClaraError
from clara_model.search.store_search import StoreSearch
from clara_model.store import DurableStore, open_store
from clara_model.store.protocol import content_key

SEQUENCES = settings.get_profile("sequences")
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A disk that need not be waited for: a process that is killed loses nothing that it has written."""
NAMES, IDS = [str(number) for number in range(12)], ["a", "b", "c", "ü"]

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
KILLED = st.tuples(st.just("killed"), st.lists(CHANGES, min_size=1, max_size=4), st.floats(0, 1))


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

    def halfway(self, op: Op) -> "Model":
        """Where a kill may leave Lance: `clear` begins with the documents, the others with blocks that go."""
        made, after = self.copy(), self.copy()
        after.done(op)
        if op == ("clear",):
            made.documents = {}
        elif op[0] in ("record", "forget"):
            made.blocks = after.blocks
        return made

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


class Other:
    """Another process with the store open, from when it is first asked; a new one where it was killed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.process: multiprocessing.Process | None = None

    def start(self) -> Connection:
        if self.process is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["lance", "clara_model.store"])
            self.asked, asked = context.Pipe()
            self.process = context.Process(target=serve, args=(str(self.place), asked), daemon=True)
            self.process.start()
            asked.close()
            assert self.asked.recv() == "ready"
        return self.asked

    def __call__(self, op: Op) -> object:
        self.start().send(op)
        return self.asked.recv()

    def killed(self, ops: list[Op], after: float) -> None:
        """Kill it while it does these."""
        asked = self.start()
        for op in ops:
            asked.send(op)
        time.sleep(after)
        self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.asked.close()
            self.process = None


def check(there: Other, calls: list[Any]) -> None:
    """Do the calls and compare after each of them."""
    place = there.place
    model, here = Model(), open_store(place)
    search = StoreSearch(here)
    for turn, (who, op, *delay) in enumerate(calls):
        if who == "killed":
            states = [model.copy()]
            for one in op:
                before = states[-1]
                if far(here):
                    states.append(before.halfway(one))
                states.append(before.copy())
                states[-1].done(one)
            there.killed(op, delay[0] * (0.2 if far(here) else 0.01))
            with open_store(place) as fresh:
                wrong = [one.differs(fresh) for one in states]
            assert "" in wrong, wrong
            model = states[len(wrong) - 1 - wrong[::-1].index("")]
            continue
        if op == ("search",):
            try:
                found = search.best(torch.ones(2, 48), 20)
                assert {one.row.block.text for one in found} == {f"{n} {v}" for n, v in model.blocks.items()}
            except ClaraError as error:
                assert "emptied after it was opened" in str(error) and not model.blocks, error
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


@pytest.mark.parametrize("name", ["latents", "latents.lance"])
@SEQUENCES
@given(st.lists(st.one_of(CALLS, CALLS, CALLS, KILLED), min_size=3, max_size=12))
def test_a_store_is_a_dictionary_whoever_is_killed(name: str, calls: list[Any]):
    with TemporaryDirectory(dir=MEMORY) as folder:
        there = Other(Path(folder) / name)
        try:
            check(there, calls)
        finally:
            there.kill()
