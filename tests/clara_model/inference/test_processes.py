"""What happens to loaded models in a forked process, and when files are replaced on the disk while a model is held."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import small_model
import torch
from safetensors.torch import load_file, save_file
from scheduling import busy

from clara_model import Clara
from clara_model.windows import content_key

TEXTS, QUESTIONS = small_model.TEXTS, small_model.QUESTIONS


def in_child(work: Callable[[], bool], seconds: float = 60) -> int | None:
    """The exit code of a forked child that does the work, 0 if it gave true; None if it hangs."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks")
def test_a_child_that_is_forked_in_the_middle_of_a_pass_can_answer(tiny_clara_folder: Path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child of a process with OpenMP threads hangs in torch itself
    try:
        with Clara.load(tiny_clara_folder, device="cpu", dtype="float32") as clara:
            expected = clara.answer(QUESTIONS[0], TEXTS, max_new_tokens=4).text
            scheduler, made = clara.shared.scheduler, clara.compress(TEXTS).vectors
            keys = [(clara.fingerprint, content_key(text)) for text in TEXTS]
            with busy(scheduler), scheduler.making(keys), clara.stream(QUESTIONS[0], TEXTS):
                assert clara.threads.submit(lambda: 4).result(10) == 4
                found = in_child(
                    lambda: (
                        clara.answer(QUESTIONS[0], TEXTS, max_new_tokens=4).text == expected
                        and torch.equal(clara.compress(TEXTS).vectors, made)
                        and Clara.load(tiny_clara_folder, device="cpu", dtype="float32").model is clara.model
                        and clara.threads.submit(lambda: 5).result(10) == 5
                    )
                )
            assert found == 0
            assert clara.answer(QUESTIONS[0], TEXTS, max_new_tokens=4).text == expected
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("change", ["weights", "tokenizer", "same size and time"])
@pytest.mark.parametrize("named", [True, False])
def test_a_base_that_is_replaced_while_held_is_another_model(
    tiny_clara_folder: Path, base_folder: Path, tmp_path: Path, change: str, named: bool
):
    base, folder = tmp_path / "clara" / "base", tmp_path / "clara"
    shutil.copytree(tiny_clara_folder, folder)
    shutil.copytree(base_folder, base)
    if not named:  # by the checkpoint itself
        config = (folder / "config.json").read_text().replace(str(base_folder), "./base")
        (folder / "config.json").write_text(config)
    options = {"device": "cpu", "dtype": "float32", **({"base_model": base} if named else {})}
    with Clara.load(folder, **options) as clara:
        assert Clara.load(folder, **options).model is clara.model
        path = base / ("tokenizer.json" if change == "tokenizer" else "model.safetensors")
        before = path.stat()
        if change == "tokenizer":
            path.write_text(path.read_text().replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}'))
        else:
            tensors = load_file(path)
            tensors["model.norm.weight"] += 1
            save_file(tensors, path, metadata={"format": "pt"})
        if change == "same size and time":
            assert path.stat().st_size == before.st_size
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with Clara.load(folder, **options) as again:
            assert again.model is not clara.model and again.fingerprint != clara.fingerprint
