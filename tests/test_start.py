"""docs/start.md as a newcomer pastes it: all blocks in order, in one shell and an empty folder; store.md's block."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clara_model.checkpoint import bundled_models

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.pages,
    pytest.mark.skipif(bundled_models.default_model() != bundled_models.SMALL, reason="clara-small's base is missing"),
]


def script(page: str, port: int) -> str:
    """The blocks of a page as one script, without what installs; Python is run where it stands."""
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    parts = [text if kind == "sh" else f"python - <<'PYTHON'\n{text}PYTHON\n" for kind, text in blocks]
    return "set -em\ntrap 'kill %1 2> /dev/null || true' EXIT\n" + "".join(parts).replace("8080", str(port))


def test_ten_minutes_from_an_empty_folder_to_a_server(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        ["bash", "-c", script(page, port)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("six months\n")
    assert re.search(r"^twelve.*\nUsage\(", done.stdout, re.MULTILINE)
    assert re.search(r'"content":\s*"[^"]*twelve', done.stdout)


def test_the_block_of_the_page_on_the_store_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", block]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("twelve"), done.stderr
