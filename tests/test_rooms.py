"""The house has no arrow back up: a room imports only from rooms above it in the table of CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parents[1]
PACKAGES = ("clara_model", "trainers", "haystack_integrations", "clara_integrations")


def rooms() -> dict[str, int]:
    """Every room and its floor, the first line of the table being the lowest."""
    floors = {}
    _, _, table = (HERE / "CONTRIBUTING.md").read_text().partition("| room | what is in it |")
    for floor, line in enumerate(re.findall(r"^\| (`[^|]+) \|", table, re.M)):
        folder = ""
        for name in re.findall(r"`([^`]+)`", line):
            folder = name.rpartition("/")[0] or folder
            path = name if (HERE / name).exists() else f"{folder}/{name}"
            assert (HERE / path).exists(), f"the table names {name}, which is not there"
            floors[path.removesuffix(".py").replace("/", ".")] = floor
    return floors


ROOMS = rooms()
MODULES = sorted(path for package in PACKAGES for path in (HERE / package).rglob("*.py"))


def room_of(module: str) -> str | None:
    """The innermost room of a module; None for `clara_model` itself and what stands beside the rooms."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len, default=None)


def imported(path: Path) -> set[str]:
    """Modules of the house that a file imports, also inside functions, but not for type checkers alone."""
    tree = ast.parse(path.read_text())
    typing = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.partition(".")[0] in PACKAGES}


def test_the_table_names_every_room():
    folders = {path.parent.name for path in (HERE / "clara_model").glob("*/__init__.py")} - {"bundled"}
    assert folders == {room.split(".")[1] for room in ROOMS if (HERE / room.replace(".", "/")).is_dir() and "." in room}


def test_no_arrow_back_up():
    for path in MODULES:
        own = room_of(".".join(path.relative_to(HERE).with_suffix("").parts))
        for name in imported(path):
            other = room_of(name)
            if own is not None and other is not None:
                assert ROOMS[other] <= ROOMS[own], f"{path} imports {name}, which stands on a floor above it"


def test_no_two_classes_of_a_package_have_one_name():
    for package in PACKAGES:
        places: dict[str, list[Path]] = {}
        for path in (HERE / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(path)
        twice = {name: found for name, found in places.items() if len(found) > 1}
        assert not twice, f"{package} has several classes of one name: {twice}"


def test_no_two_test_files_have_one_name():
    """They are collected without packages, where the second of a name is not found."""
    names = [path.name for path in (HERE / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert len(names) == len(set(names)), [name for name in set(names) if names.count(name) > 1]
