"""``constraints-lowest.txt`` pins the lowest version that ``pyproject.toml`` allows of each dependency of the tests."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = dict(
    re.match(r"([\w.-]+)==(\S+)$", line).groups()
    for line in (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


def requirements(listed: list[str]) -> dict[str, Requirement]:
    """By name; our own extras are followed."""
    found = {}
    for one in map(Requirement, listed):
        if one.name == PROJECT["name"]:
            for extra in one.extras:
                found |= requirements(PROJECT["optional-dependencies"][extra])
        else:
            found[one.name] = one
    return found


TESTED = requirements(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])


def test_what_the_tests_need_is_pinned_and_nothing_else():
    assert set(PINNED) == set(TESTED)


def test_the_lowest_version_is_the_declared_bound():
    for name in sorted(TESTED):
        (bound,) = [one.version for one in TESTED[name].specifier if one.operator == ">="]
        declared, pinned = Version(bound).release, Version(PINNED[name]).release
        assert pinned[: len(declared)] == declared, name
        assert Version(PINNED[name]) in TESTED[name].specifier, name
