"""The package by whose name LlamaIndex finds the reranker: built, installed beside this project, imported."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "packages" / "llama-index-postprocessor-clara"
SETTINGS = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))


def test_its_wheel_holds_the_reranker_under_the_name_that_it_states(tmp_path):
    build = "from setuptools.build_meta import build_wheel; print(build_wheel(__import__('sys').argv[1]))"
    source = tmp_path / "source"
    subprocess.run(["cp", "-r", str(FOLDER), str(source)], check=True)
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        assert [name for name in wheel.namelist() if name.endswith(".py")] == [
            "llama_index/postprocessor/clara/__init__.py"
        ]
        wheel.extractall(tmp_path / "site")
    (name,) = SETTINGS["tool"]["llamahub"]["class_authors"]
    code = f"""
import sys; sys.path.append({str(tmp_path / "site")!r})
from {SETTINGS["tool"]["llamahub"]["import_path"]} import {name}
print({name}.class_name())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ClaraRerank\n"), done.stderr


def test_it_wants_this_project_at_its_version():
    own = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert SETTINGS["project"]["dependencies"] == [f"clara-integrations[llama-index]>={own}"]
    assert SETTINGS["project"]["version"] == own
