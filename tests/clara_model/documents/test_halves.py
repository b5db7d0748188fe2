"""Several `clara compress`, each with a part of the files, into one store: what one command with all of them makes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_model import TEXTS

from clara_model.errors import ClaraError
from clara_model.store import open_store

COMMAND = """
import sys
from clara_model.cli.main import main
from clara_model.documents import corpus
corpus.CHARACTERS_AT_ONCE = 100
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two files; some texts stand in both."""
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for part, file in enumerate(files):
        rows = [{"text": f"{number}. {text}"} for number in range(6 * part, 6 * part + 8) for text in TEXTS]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def compress(model: Path, store: Path, *files: Path) -> subprocess.Popen:
    words = ["compress", *files, "--store", store, "--model", model, "--dtype", "float32", "--device", "cpu", "--json"]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(child: subprocess.Popen) -> dict:
    out, err = child.communicate()
    assert child.returncode == 0, err
    return json.loads(out)


def contents(place: Path) -> tuple[dict[str, object], list[str]]:
    with open_store(place) as store:
        assert store.verify() == []
        return {one.id: one.windows for one in store.documents()}, sorted(row.key for row in store.iterate())


def documents(place: Path) -> int:
    try:
        with open_store(place) as store:
            return store.stats().documents
    except ClaraError:  # it is being made
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["latents", "latents.lance"])
def test_two_commands_fill_one_store_and_one_of_them_is_killed(
    name: str, parts: list[Path], tmp_path: Path, tiny_clara_folder: Path
):
    shared, alone = tmp_path / name, tmp_path / "alone"
    with open_store(shared):
        pass
    first, second = (compress(tiny_clara_folder, shared, file) for file in parts)
    while documents(shared) < 4:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    again = compress(tiny_clara_folder, shared, parts[0])
    done = [finished(second), finished(again)]
    assert [one["documents"] for one in done] == [8 * len(TEXTS)] * 2
    finished(compress(tiny_clara_folder, alone, *parts))
    assert contents(shared) == contents(alone)
    assert finished(compress(tiny_clara_folder, shared, *parts))["compressed"] == 0
