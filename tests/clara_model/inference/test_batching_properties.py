"""Properties of batching that hold for any lengths and any memory: every item once, within the budget."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_model.errors import ClaraError
from clara_model.inference import batching
from clara_model.inference.batching import Batches, plan_batches

pytestmark = pytest.mark.usefixtures("quick")
LENGTHS = st.lists(st.integers(0, 300), max_size=40)


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Collecting garbage takes long and shows nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "release_memory", lambda: None)
        yield


@given(lengths=LENGTHS, budget=st.integers(1, 1000), most=st.none() | st.integers(1, 8))
def test_every_item_is_in_one_batch_within_the_budget(lengths: list[int], budget: int, most: int | None):
    batches = plan_batches(lengths, budget, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * max(lengths[index] for index in batch) <= budget or len(batch) == 1
        assert len(batch) <= (most or len(batch))
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)


def run(planned: list[list[int]], fits: Callable[[int], bool]) -> Iterator[tuple[list[int], bool]]:
    """What is run, and whether there was memory for it."""
    batches = Batches(planned, "document")
    for batch in batches:
        fitted = fits(len(batch))
        yield batch, fitted
        if not fitted:
            batches.retry(batch, MemoryError("no more"))


@given(lengths=LENGTHS, budget=st.integers(1, 1000), memory=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_every_item_is_run_once_however_memory_shrinks(lengths: list[int], budget: int, memory: list[int]):
    """Each failure leaves room for the next, smaller number of items; the last of these numbers stays."""
    room = sorted(memory, reverse=True)

    def fits(items: int) -> bool:
        fitted = items <= room[0]
        if not fitted and len(room) > 1:
            room.pop(0)
        return fitted

    done = [index for batch, fitted in run(plan_batches(lengths, budget), fits) if fitted for index in batch]
    assert sorted(done) == list(range(len(lengths)))


@given(count=st.integers(1, 64))
def test_no_memory_for_one_item_is_an_error_after_few_tries(count: int):
    tried: list[int] = []
    with pytest.raises(ClaraError, match="not enough memory for one document"):
        tried.extend(len(batch) for batch, _ in run([list(range(count))], lambda _: False))
    assert tried == sorted(tried, reverse=True) and tried[-1] == 1
    assert len(tried) <= 1 + count.bit_length()
