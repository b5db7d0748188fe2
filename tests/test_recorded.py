"""The small set of recorded numbers is part of the full one, where that is here."""

import pytest
import recorded
from safetensors.torch import load_file

FILES = sorted(path.relative_to(recorded.SMALL) for path in recorded.SMALL.rglob("*.*") if path.name != "README.md")


def test_the_small_set_is_small():
    sizes = {path: (recorded.SMALL / path).stat().st_size for path in FILES}
    assert sum(sizes.values()) < 1_200_000
    assert max(size for path, size in sizes.items() if path.parts[0] == "cases") < 64_000


@pytest.mark.skipif(not recorded.FULL.is_dir(), reason="the full set of recorded numbers is not here")
def test_the_small_set_is_as_recorded():
    for path in FILES:
        ours, full = recorded.SMALL / path, recorded.FULL / path
        if path.name == "generate_from_questions.safetensors":
            numbers, all_numbers = load_file(ours), load_file(full)
            assert {name for name in all_numbers if not name.endswith("inputs_embeds")} == set(numbers)
            assert all(tensor.equal(all_numbers[name]) for name, tensor in numbers.items())
        else:
            assert ours.read_bytes() == full.read_bytes(), path
